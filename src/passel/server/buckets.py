"""Photos that lie in object storage already: `urls` may name a bucket, or a folder in one, that the operator has opened.

Read with the server's own credentials (as fsspec and its `s3fs` find them), hence only below the prefixes in
`ServerSettings.buckets`. Blocking: call it in a thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import BinaryIO

import fsspec

from passel.server.jobs import JobError

MOST_FILES = 100_000
_NO_BUCKETS = frozenset({"http", "https", "file", "local", "memory"})


def bucket_prefix(text: str) -> str:
    """A prefix that an operator opens, checked: of a bucket, not of this machine's disk, and with its library installed."""
    scheme, mark, rest = text.partition("://")
    if not mark or not rest or scheme in _NO_BUCKETS:
        raise JobError(f"{text!r} is no bucket, like s3://surveys/field-7/")
    try:
        fsspec.get_filesystem_class(scheme)
    except (ValueError, ImportError) as e:
        raise JobError(f"{scheme}:// cannot be read here: {e}") from None
    return text


def is_in_buckets(url: str, buckets: Iterable[str]) -> bool:
    """Whether the URL lies below one of the prefixes; dots that would lead out of it do not."""
    below = any(url.rstrip("/") == b.rstrip("/") or url.startswith(b.rstrip("/") + "/") for b in buckets)
    return below and ".." not in url.split("/")


def files_at(url: str) -> list[str]:
    """URLs of all files at a URL: itself, or those below it. JobError when there are none or it cannot be read."""
    with _told(url):
        system, path = fsspec.core.url_to_fs(url)
        found = sorted(system.find(path, maxdepth=3))[: MOST_FILES + 1]
        names = [str(system.unstrip_protocol(p)) for p in found if not PurePosixPath(p).name.startswith(".")]
    if not names:
        raise JobError(f"There are no files at {url}")
    if len(names) > MOST_FILES:
        raise JobError(f"There are more than {MOST_FILES} files at {url}")
    return names


@contextmanager
def opened(url: str) -> Iterator[BinaryIO]:
    """The file, to be read. JobError when it cannot be."""
    with _told(url), fsspec.open(url, "rb") as f:
        yield f


@contextmanager
def _told(url: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, ImportError) as e:
        raise JobError(f"{url} cannot be read: {e}") from None
