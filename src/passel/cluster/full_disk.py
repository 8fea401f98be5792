"""A disk that was full: since when it refuses, and whether there is room on it again."""

from __future__ import annotations

import errno
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from passel.errors import StorageError
from passel.pipeline.store import is_full_disk, storage_errors

_SPARE_BYTES = 100_000_000
_MARGIN_BYTES = 2**20
_FORGOTTEN_S = 3900.0
"""Longer than a job waits for room: what it needed says nothing to the jobs after it, which must not wait for ever."""
_SAME_S = 60.0
"""Refused again within so long, it is still the same trouble: what gives up half an artifact makes room for a moment."""
_log = logging.getLogger("passel.disk")


def free_disk_bytes(folder: Path) -> int:
    """Free space on the disk of a folder, or where the folder will be."""
    for place in (folder, *folder.absolute().parents):
        with suppress(OSError):
            return shutil.disk_usage(place).free
    return 0


class FullDisk:
    """The disk of a folder, which is not full until it has refused something."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._full_below_bytes = 0
        self._refused_s = self._full_since_s = -math.inf
        self._taken_since = False

    @property
    def is_full(self) -> bool:
        """Whether it has had too little room ever since it refused, not long ago: another try takes some of it, and counts anew."""
        if self._full_below_bytes:
            long_ago = time.monotonic() - self._refused_s >= _FORGOTTEN_S
            if long_ago or free_disk_bytes(self._folder) >= self._full_below_bytes:
                self._full_below_bytes = 0
        return self._full_below_bytes > 0

    @property
    def full_s(self) -> float:
        """For how long it has been full, 0 when it is not; room that went again before anything found place does not end it."""
        return time.monotonic() - self._full_since_s if self.is_full else 0.0

    def note(self, more_bytes: int | None = None) -> None:
        """It refused, and what was written is gone again. more_bytes: that another try needs, beside what is free now; if nobody
        knows, twice the room and a bit more is waited for.
        """
        free_bytes = free_disk_bytes(self._folder)
        more_bytes = free_bytes + _SPARE_BYTES if more_bytes is None else more_bytes + _MARGIN_BYTES
        now_s = time.monotonic()
        anew = not self._full_below_bytes and now_s - self._refused_s > _SAME_S
        if anew or self._taken_since:
            self._full_since_s = now_s
        if anew:
            _log.warning("the disk of %s is full: waiting until %.1f GB more are free", self._folder, more_bytes / 1e9)
        self._full_below_bytes, self._refused_s, self._taken_since = free_bytes + more_bytes, now_s, False

    def refuse(self) -> None:
        """Before work that would find no room. Raises StorageError while it is full."""
        if self.is_full:
            with storage_errors(self._folder):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextmanager
    def watched(self, size_bytes: int) -> Iterator[None]:
        """For a block that writes so much or leaves nothing: not begun while the disk is full, and noted if it finds it full."""
        self.refuse()
        try:
            yield
        except StorageError as error:
            if is_full_disk(error):
                self.note(size_bytes)
            raise
        self._taken_since = True
