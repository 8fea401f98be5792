"""From files as they were uploaded to a job that a driver can run: fetch what URLs name, unpack seeds, sort side files away
from the photos. It may die anywhere and be done again. Blocking: runs in a thread.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from passel.option_table import BY_NAME
from passel.server.api_options import notices, words_for_driver
from passel.server.buckets import files_at, is_in_buckets, opened
from passel.server.folders import JobFolder, safe_name, sync_folder
from passel.server.jobs import Job, JobError, Order
from passel.server.orders import name_in_url
from passel.server.outgoing import Gate
from passel.server.settings import Limits
from passel.server.unpacking import Bounds, unpack_flat, unpack_tree
from passel.server.uploads import Receiver, check_photos, write_all

SEED = "seed.zip"
ALIGN_SUFFIXES = (".las", ".laz", ".tif")
FETCH_CHUNK_BYTES = 1 << 20


class Readable(Protocol):
    """An answer or a file."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class Preparation:
    """What preparing needs.

    buckets: prefixes that clients may read from. stopped: asked often; JobError is raised when it says so. say: lines for
    the output.
    """

    folder: JobFolder
    limits: Limits
    gate: Gate
    buckets: tuple[str, ...]
    stopped: Callable[[], bool]
    say: Callable[[str], None]


def prepare(order: Order, to: Preparation) -> int:
    """Make the job ready; returns the number of photos. JobError says what is missing or wrong."""
    to.folder.output.mkdir(exist_ok=True)
    to.folder.side.mkdir(exist_ok=True)
    for url in order.urls:
        to.say(f"Fetching {name_in_url(url)}")
        if is_in_buckets(url, to.buckets):
            for file in files_at(url):
                _fetch_from_bucket(file, to)
        else:
            _fetch_photo(url, to)
    if order.zip_url:
        to.say("Fetching the ZIP file with the photos")
        _fetch_zip(order.zip_url, to)
    bounds = Bounds(to.limits.max_unzipped_bytes, to.limits.max_zip_members, to.limits.disk_floor_bytes)
    seed = to.folder.photos / SEED
    if seed.exists():
        to.say(f"{SEED}: {unpack_tree(seed, to.folder.output, bounds)} files")
        seed.unlink()
    _sort(to)
    sync_folder(to.folder.photos)
    count = count_photos(to.folder)
    if count == 0:
        raise JobError("Need at least 1 file.")
    check_photos(to.folder.photos, to.limits)
    return count


def count_photos(folder: JobFolder) -> int:
    """Files among the photos."""
    try:
        return sum(1 for entry in os.scandir(folder.photos) if entry.is_file())
    except FileNotFoundError:
        return 0


def write_options(job: Job, folder: JobFolder) -> list[str]:
    """Write the driver's command line and return what to tell the client about its options."""
    words = [*words_for_driver(job.order.options), f"--name={job.order.name}"]
    told = notices(job.order.options, job.order.ignored)
    for option, path in _side_files(folder).items():
        if BY_NAME[option].status == "supported":
            words.append(f"--{option}={path}")
        else:
            told.append(f"warning: {path.name} is not used yet: {BY_NAME[option].help}")
    aside = folder.options.with_suffix(".part")
    aside.write_text(json.dumps(words), encoding="utf-8")
    aside.rename(folder.options)
    return told


def _side_files(folder: JobFolder) -> dict[str, Path]:
    """Option → file, by the names that NodeODM gives a meaning; control points are any other text."""
    found: dict[str, Path] = {}
    for path in sorted(folder.side.iterdir()) if folder.side.is_dir() else []:
        name = path.name.lower()
        known = {"geo.txt": "geo", "image_groups.txt": "split-image-groups"}.get(name)
        option = known or ("gcp" if name.endswith(".txt") else "align")
        found.setdefault(option, path)
    return found


def _sort(to: Preparation) -> None:
    for path in sorted(to.folder.photos.iterdir()):
        name = path.name.lower()
        if name.endswith(".txt") or (name.startswith("align.") and name.endswith(ALIGN_SUFFIXES)):
            path.rename(to.folder.side / path.name)
        elif name.endswith(".zip"):
            to.say(f"warning: {path.name} is left out: photos are not sent as ZIP files")
            path.unlink()


def _fetch_photo(url: str, to: Preparation) -> None:
    with to.gate.get(url) as answer:
        _keep(answer, safe_name(name_in_url(url)), to, lambda: _check_complete(answer.length))


def _fetch_from_bucket(url: str, to: Preparation) -> None:
    with opened(url) as file:
        _keep(file, safe_name(name_in_url(url)), to, lambda: None)


def _keep(source: Readable, name: str, to: Preparation, check: Callable[[], None]) -> None:
    """Read a file to its end and make it a photo. check: called at the end; raises when it is not whole."""
    receiver = Receiver(to.folder, to.limits)
    sink = receiver.open("images", name)
    try:
        while chunk := source.read(FETCH_CHUNK_BYTES):
            _check_stopped(to)
            sink.write([chunk])
        check()
        sink.finish()
        sink.keep()
        receiver.settle()
    finally:
        receiver.discard()


def _fetch_zip(url: str, to: Preparation) -> None:
    archive = to.folder.incoming / "zipurl.zip"
    fd = os.open(archive, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        size = 0
        with to.gate.get(url) as answer:
            while chunk := answer.read(FETCH_CHUNK_BYTES):
                _check_stopped(to)
                size += len(chunk)
                if size > to.limits.max_file_bytes:
                    raise JobError("The ZIP file is too large")
                if shutil.disk_usage(to.folder.incoming).free < to.limits.disk_floor_bytes + len(chunk):
                    raise JobError("The server's disk is full")
                write_all(fd, [chunk])
            _check_complete(answer.length)
        if not zipfile.is_zipfile(archive):
            raise JobError("The URL does not lead to a ZIP file")
        _unpack_photos(archive, to)
    finally:
        os.close(fd)
        archive.unlink(missing_ok=True)


def _unpack_photos(archive: Path, to: Preparation) -> None:
    """Unpack aside, then place file by file: so nothing is doubled when this is done twice."""
    aside = to.folder.incoming / "unpacked"
    shutil.rmtree(aside, ignore_errors=True)
    names: list[tuple[Path, str]] = []

    def free_path(name: str) -> Path:
        path = aside / f"{len(names)}"
        names.append((path, name))
        return path

    bounds = Bounds(to.limits.max_unzipped_bytes, to.limits.max_zip_members, to.limits.disk_floor_bytes)
    unpack_flat(archive, free_path, bounds)
    receiver = Receiver(to.folder, to.limits)
    for path, name in names:
        _check_stopped(to)
        receiver.adopt(path, name)
    receiver.settle()
    shutil.rmtree(aside, ignore_errors=True)


def _check_stopped(to: Preparation) -> None:
    if to.stopped():
        raise JobError("It was stopped")


def _check_complete(missing: int | None) -> None:
    """`missing`: bytes that the other side announced and did not send; None when it announced nothing."""
    if missing:
        raise JobError("The download broke off")
