"""The coordinator's data folder: what lies where, and that only one `passel serve` uses it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from passel.cluster.coordinator.admin import SOCKET
from passel.errors import StorageError

_LONGEST_SOCKET_PATH_BYTES = 100  # the system allows 108, macOS 104


@dataclass(frozen=True)
class DataFolder:
    """Paths below `--data`. Jobs and their database are the server's (`server/settings.py`)."""

    root: Path

    @property
    def identity(self) -> Path:
        """The authority's and the coordinator's keys."""
        return self.root / "identity"

    @property
    def access(self) -> Path:
        """Tokens and workers."""
        return self.root / "access.sqlite"

    @property
    def wheels(self) -> Path:
        """The field kit."""
        return self.root / "wheels"

    @property
    def driver_socket(self) -> Path:
        """Where drivers of jobs reach the coordinator."""
        return self.root / "driver.sock"

    @property
    def admin_socket(self) -> Path:
        """Where `passel status` and the like reach it."""
        return self.root / SOCKET

    @property
    def local_worker(self) -> Path:
        """Identity and logs of the worker that the coordinator starts."""
        return self.root / "local-worker"

    def prepare(self) -> None:
        """Make the folder if need be and see that it can be used. Raises StorageError."""
        if self.root.exists() and not self.root.is_dir():
            raise StorageError("the data folder is a file", str(self.root), "choose another with --data")
        if len(os.fsencode(self.admin_socket)) > _LONGEST_SOCKET_PATH_BYTES:
            raise StorageError(
                "the data folder's path is too long for a socket", str(self.root), "choose a shorter --data"
            )
        trash = self.root / "trash"
        if trash.exists() and not (self.root / "lock").exists():  # the server empties its own at every start
            raise StorageError("this trash is of no passel serve", str(trash), "choose another folder with --data")
        probe = self.root / ".probe"
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            with probe.open("wb") as file:
                file.write(b"\0" * 2**20)  # what the databases need at once
                file.flush()
                os.fsync(file.fileno())
        except OSError as e:
            todo = "make room and make it writable, or choose another with --data"
            raise StorageError(f"the data folder cannot be written: {e.strerror}", str(self.root), todo) from e
        finally:
            with suppress(OSError):
                probe.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else serves from this folder while the block runs; a kill lets go as well. Raises StorageError."""
        handle = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT, 0o600)  # not inherited by children
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(handle, 20, 0).decode("ascii", "replace").strip()
                what = f"another passel serve uses this data folder (process {holder or 'unknown'})"
                raise StorageError(what, str(self.root), "stop it, or choose another with --data") from None
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(handle)
