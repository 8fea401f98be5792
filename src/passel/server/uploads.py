"""Files on their way to a job: streamed to disk beside the photos, hashed, flushed to the disk, and only then renamed to
be photos. What lies among the photos is complete; everything else may be thrown away at any time.

A repeated upload is recognised by name, size and bytes and adds nothing; another file of the same name is kept beside the
first as `x_.jpg`. The classes here block and run in threads.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from passel.server.folders import JobFolder, next_name, safe_name, sync_folder
from passel.server.jobs import JobError
from passel.server.multipart import Piece
from passel.server.settings import Limits

_CHECK_DISK_EVERY_BYTES = 64 << 20
_WRITE_BACK_BYTES = 4 << 20
_COMPARED_BYTES = 1 << 20
_SYNC_FILE_RANGE_WRITE = 2
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)  # Linux has it, Python does not show it
_placing = threading.Lock()  # one server owns the folder, so this makes 'look and rename' one act


@dataclass(frozen=True)
class Received:
    """A file as it was stored: clients compare size (bytes) and sha256 with theirs. repeated: it was here already."""

    name: str
    size: int
    sha256: str
    repeated: bool


def check_room(folder: Path, limits: Limits, size: int = 0) -> None:
    """JobError when `size` more bytes would leave too little free space."""
    free = shutil.disk_usage(folder).free
    if free < limits.disk_floor_bytes + size:
        words = f"{free / 1e6:.0f} MB are free, {limits.disk_floor_bytes / 1e6:.0f} MB are kept free"
        raise JobError(f"The server's disk is full ({words}); nothing more is accepted until there is room")


class Tally:
    """What a task has already: counted once and then kept, so that one that grows too large is refused before it is all here.
    JobError when it is larger than its owner may have.
    """

    def __init__(self, photos: Path, limits: Limits) -> None:
        files = [entry for entry in os.scandir(photos) if entry.is_file()]
        self._limits, self._bytes = limits, sum(entry.stat().st_size for entry in files)
        self._count = sum(_may_be_photo(entry.name) for entry in files)
        check_size(self._count, self._bytes, limits)

    def take(self, name: str, size: int) -> None:
        """One file more. JobError when that is too much for a task of this owner."""
        count = self._count + _may_be_photo(name)
        check_size(count, self._bytes + size, self._limits)
        self._count, self._bytes = count, self._bytes + size


def check_photos(photos: Path, limits: Limits) -> None:
    """JobError when these are more than the task's owner may have."""
    Tally(photos, limits)


def check_size(count: int, size: int, limits: Limits) -> None:
    """JobError when a task of so many photos and bytes is larger than its owner may have."""
    if limits.max_images is not None and count > limits.max_images:
        raise JobError(f"Max images count exceeded: {limits.max_images} photos a task are allowed")
    if limits.max_task_bytes is not None and size > limits.max_task_bytes:
        raise JobError(f"The photos are too large: {limits.max_task_bytes / 1e6:.0f} MB a task are allowed")


def _may_be_photo(name: str) -> bool:
    return not name.lower().endswith((".txt", ".zip", ".las", ".laz"))


class Receiver:
    """Takes the files of one request. `open` is the form reader's OpenFile; `settle` at the end makes the names durable.

    `close` from another thread: nothing becomes a photo any more (the job was committed or removed in between).
    """

    def __init__(self, folder: JobFolder, limits: Limits, field: str = "images", tally: Tally | None = None) -> None:
        self._folder, self._limits, self._field, self._tally = folder, limits, field, tally
        self._taken: set[str] = set()
        self._sinks: list[FileSink] = []
        self._closed = False

    def open(self, field_name: str, file_name: str) -> FileSink:
        """A sink for the file. JobError: wrong field, unusable name, full disk."""
        if field_name != self._field:
            raise JobError("Unexpected field")
        name = safe_name(file_name)
        check_room(self._folder.incoming, self._limits)
        aside = self._folder.incoming / f"{uuid.uuid4().hex}.part"
        sink = FileSink(aside, name, self, self._limits)
        self._sinks.append(sink)
        return sink

    def place(self, aside: Path, name: str, size: int, sha256: str) -> Received:
        """Rename a complete file to be a photo, under a free name, unless the very same is there. One file of the request
        after the other: two of the same bytes and name are two photos.
        """
        for count in range(1000):
            wanted = next_name(name, count)
            target = self._folder.photos / wanted
            if wanted in self._taken:
                continue
            with _placing:
                if self._closed:
                    raise JobError("Invalid uuid (not found)")
                if not target.exists():
                    if self._tally is not None:
                        self._tally.take(wanted, size)
                    aside.rename(target)
                    self._taken.add(wanted)
                    return Received(wanted, size, sha256, repeated=False)
            if is_same(target, aside):
                aside.unlink()
                self._taken.add(wanted)
                return Received(wanted, size, sha256, repeated=True)
        raise JobError(f"Too many files are called {name}")

    def adopt(self, path: Path, name: str) -> Received:
        """Make a complete file that lies on the same disk a photo."""
        return self.place(path, name, path.stat().st_size, digest_of(path))

    def settle(self) -> list[Received]:
        """What was received, now durable."""
        sync_folder(self._folder.photos)
        return [s.received for s in self._sinks if s.received is not None]

    def close(self) -> None:
        """Refuse everything from now on."""
        with _placing:
            self._closed = True

    def discard(self) -> None:
        """Throw away what is unfinished, after a failure."""
        for sink in self._sinks:
            sink.discard()


class FileSink:
    """One file: written beside the photos, then placed. `received` is None until it is complete."""

    def __init__(self, aside: Path, name: str, receiver: Receiver, limits: Limits) -> None:
        self._aside, self._name, self._receiver, self._limits = aside, name, receiver, limits
        self._fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._size = 0
        self._digest = hashlib.sha256()
        self._unchecked = 0
        self._begun = 0
        self.received: Received | None = None

    def write(self, chunks: Sequence[Piece]) -> None:
        """More bytes. JobError: file too large, disk full."""
        size = sum(map(len, chunks))
        self._size += size
        self._unchecked += size
        if self._size > self._limits.max_file_bytes:
            raise JobError(f"File {self._name} is too large")
        if self._unchecked >= _CHECK_DISK_EVERY_BYTES:
            check_room(self._aside.parent, self._limits)
            self._unchecked = 0
        write_all(self._fd, chunks)
        for chunk in chunks:
            self._digest.update(chunk)
        if self._size - self._begun >= _WRITE_BACK_BYTES:
            begin_write_back(self._fd, self._begun, self._size - self._begun)
            self._begun = self._size

    def finish(self) -> None:
        """The file is complete: flush it to the disk."""
        os.fsync(self._fd)
        self._close()

    def keep(self) -> None:
        """Make it a photo."""
        self.received = self._receiver.place(self._aside, self._name, self._size, self._digest.hexdigest())

    def discard(self) -> None:
        """Throw it away unless it became a photo."""
        self._close()
        if self.received is None:
            self._aside.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class PartialFile:
    """A file that is sent in pieces and may be resumed after any failure, even of the server's machine.

    Its pieces lie in `incoming` under the digest of its name.
    """

    def __init__(self, folder: JobFolder, name: str, limits: Limits) -> None:
        self.name = safe_name(name)
        self._folder, self._limits = folder, limits
        self.aside = folder.incoming / f"resume-{hashlib.sha256(self.name.encode()).hexdigest()[:32]}"

    def offset(self) -> tuple[int, bool]:
        """How many bytes are here, and whether the file is complete."""
        if self.aside.exists():
            return self.aside.stat().st_size, False
        photo = self._folder.photos / self.name
        return (photo.stat().st_size, True) if photo.exists() else (0, False)

    def open(self, start: int, total: int) -> int:
        """A file descriptor to write from `start` on. 0 begins anew. JobError when that is not where the file ends, or it is
        too large.
        """
        have = self.aside.stat().st_size if self.aside.exists() else 0
        if start not in (0, have):
            raise JobError(f"The file has {have} bytes here; go on from there")
        if total > self._limits.max_file_bytes:
            raise JobError(f"File {self.name} is too large")
        check_room(self._folder.incoming, self._limits, total - have)
        anew = os.O_TRUNC if start == 0 else 0
        fd = os.open(self.aside, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | anew, 0o644)
        os.lseek(fd, start, os.SEEK_SET)
        return fd

    def finish(self, total: int, receiver: Receiver) -> Received | None:
        """Make it a photo if all bytes are here; None if more must come. JobError when there are too many."""
        size = self.aside.stat().st_size
        if size < total:
            return None
        if size > total:
            self.aside.unlink()
            raise JobError("More bytes arrived than were announced; send the file again")
        received = receiver.adopt(self.aside, self.name)
        receiver.settle()
        return received


def write_all(fd: int, chunks: Sequence[Piece]) -> None:
    """Write all chunks; a write may take only a part of them. JobError on a full disk."""
    views = [memoryview(c) for c in chunks]
    try:
        while views:
            written = os.writev(fd, views[:512])
            while views and written >= len(views[0]):
                written -= len(views.pop(0))
            if views and written:
                views[0] = views[0][written:]
    except OSError as e:
        raise JobError(f"The file cannot be stored: {e.strerror}") from None


def begin_write_back(fd: int, start: int, size: int) -> None:
    """Let the disk begin with these bytes while more arrive, so that less is left for fsync. A hint: it may do nothing."""
    if _sync_file_range is not None:
        _sync_file_range(fd, ctypes.c_int64(start), ctypes.c_int64(size), ctypes.c_uint(_SYNC_FILE_RANGE_WRITE))


def digest_of(path: Path) -> str:
    """The sha256 of a file's bytes."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def is_same(one: Path, other: Path) -> bool:
    """Whether two files have the same bytes."""
    if one.stat().st_size != other.stat().st_size:
        return False
    with open(one, "rb") as a, open(other, "rb") as b:
        while chunk := a.read(_COMPARED_BYTES):
            if chunk != b.read(_COMPARED_BYTES):
                return False
    return True
