"""When is a file of an artifact damaged? When it is gone, holds something else, or lies where the disk no longer reads: then it is made
again. Not when the system does not let it be read (rights, too many open files): that is an error to be told, and nothing is removed."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

from passel.pipeline.manifest import ArtifactFile

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO)


def file_sha256(path: Path) -> str:
    """Of what is in the file, in hexadecimal digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def says_gone(error: OSError) -> bool:
    """Whether the system says that there is no such file, or that the disk has lost what was in it; else it only cannot be read now."""
    return error.errno in _GONE


def is_damaged(path: Path, file: ArtifactFile) -> bool:
    """Reads it. Raises OSError when the system does not let it be read."""
    try:
        return path.stat().st_size != file.size_bytes or file_sha256(path) != file.sha256
    except OSError as error:
        if says_gone(error):
            return True
        raise
