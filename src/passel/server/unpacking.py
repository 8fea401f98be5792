"""ZIP files that clients send or point to, unpacked without trusting a word in them: names stay below the folder, no links,
no more bytes and members than allowed, whatever the headers promise. Blocking: call it in a thread.
"""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from passel.server.folders import safe_name
from passel.server.jobs import JobError

CHUNK_BYTES = 1 << 20
LONGEST_PATH = 1000
DEEPEST = 30


@dataclass(frozen=True)
class Bounds:
    """What may be unpacked: bytes and members in all, and the free space to leave on the disk."""

    max_bytes: int
    max_members: int
    disk_floor_bytes: int


def unpack_tree(archive: Path, folder: Path, bounds: Bounds) -> int:
    """Unpack with folders (seed.zip); returns the number of files. JobError names what is wrong with the archive.

    Hidden files are left out: the engine keeps its own store in a hidden folder, which no client may write.
    """

    def place(name: str) -> Path | None:
        path = _safe_path(name)
        return None if any(part.startswith(".") for part in path.parts) else folder / path

    return _unpack(archive, bounds, place)


def unpack_flat(archive: Path, free_path: Callable[[str], Path], bounds: Bounds) -> int:
    """Unpack all files into one folder (photos of a zipurl); `free_path` gives the place of a file of that name."""

    def place(name: str) -> Path | None:
        hidden = PurePosixPath(name).name.startswith(".") or name.startswith("__MACOSX/")
        return None if name.endswith("/") or hidden else free_path(safe_name(name))

    return _unpack(archive, bounds, place)


def _unpack(archive: Path, bounds: Bounds, place: Callable[[str], Path | None]) -> int:
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = zipped.infolist()
            if len(members) > bounds.max_members:
                raise JobError(f"ZIP file has {len(members)} members; at most {bounds.max_members} are allowed")
            left, count = bounds.max_bytes, 0
            for member in members:
                _check_kind(member)
                path = place(member.filename)
                if path is None:
                    continue
                if member.is_dir():
                    _make_folder(path)
                    continue
                _make_folder(path.parent)
                left -= _write(zipped, member, path, left, bounds.disk_floor_bytes)
                count += 1
            os.sync()  # once for all: a hundred thousand files would take minutes one by one
            return count
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, LookupError) as e:
        raise JobError(f"ZIP file cannot be unpacked: {e}") from None
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as e:
        raise JobError(f"ZIP file has a file and a folder of the same name: {Path(e.filename).name}") from None
    except OSError as e:  # a full disk; an archive whose offsets lead nowhere
        raise JobError(f"ZIP file cannot be unpacked: {e.strerror}") from None


def _check_kind(member: zipfile.ZipInfo) -> None:
    mode = member.external_attr >> 16
    if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_IFMT(mode) == 0):
        raise JobError(f"ZIP file holds {member.filename!r:.100}, which is neither a file nor a folder")
    if member.flag_bits & 1:
        raise JobError("ZIP file is encrypted")


def _safe_path(name: str) -> PurePosixPath:
    """The path as it is when it is harmless; JobError when it would leave the folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    bad = path.is_absolute() or ".." in path.parts or ":" in name or any(ord(c) < 32 for c in name)
    if bad or not path.parts or len(name) > LONGEST_PATH or len(path.parts) > DEEPEST:
        raise JobError(f"ZIP file has a member with the unsafe name {name!r:.100}")
    return path


def _make_folder(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)


def _write(zipped: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, left: int, floor: int) -> int:
    """Unpack a member and return its true size, which its header may lie about."""
    size = 0
    with zipped.open(member) as source, open(path, "wb") as target:
        for chunk in _chunks(source.read):
            size += len(chunk)
            if size > left:
                raise JobError("ZIP file unpacks to more than is allowed")
            if shutil.disk_usage(path.parent).free < floor + len(chunk):
                raise JobError("The server's disk is full", todo="free space on it, or wait")
            target.write(chunk)
    return size


def _chunks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while chunk := read(CHUNK_BYTES):
        yield chunk
