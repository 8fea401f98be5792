"""SQLite files that several processes may open at once, all in the same way."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from pathlib import Path

from passel.errors import StorageError

_STEP_S = 0.05
_MAKE_ROOM, _LOOK_AT_DISK, _LOOK_AT_RIGHTS = "make room", "check the disk", "see who may read and write there"
_END_OTHER = "another program holds it: end that one, then start again"
_MEND = "it is damaged: put a copy in its place, if there is one"
_NO_FOLDER = "there is no such folder: make it, or give another"
_SQLITE_TODO = {
    sqlite3.SQLITE_FULL: _MAKE_ROOM,
    sqlite3.SQLITE_BUSY: _END_OTHER,
    sqlite3.SQLITE_LOCKED: _END_OTHER,
    sqlite3.SQLITE_IOERR: _LOOK_AT_DISK,
    sqlite3.SQLITE_CORRUPT: _MEND,
    sqlite3.SQLITE_NOTADB: _MEND,
    sqlite3.SQLITE_READONLY: _LOOK_AT_RIGHTS,
    sqlite3.SQLITE_CANTOPEN: _LOOK_AT_RIGHTS,
    sqlite3.SQLITE_PERM: _LOOK_AT_RIGHTS,
}
_SYSTEM_TODO = {
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
    errno.EIO: _LOOK_AT_DISK,
    errno.EACCES: _LOOK_AT_RIGHTS,
    errno.EPERM: _LOOK_AT_RIGHTS,
    errno.ENOENT: _NO_FOLDER,
    errno.ENOTDIR: _NO_FOLDER,
    errno.EISDIR: "it is a folder: give another, or take it away",
    errno.EROFS: "the disk is read-only: " + _LOOK_AT_DISK,
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "allow more open files (ulimit -n)",
}


def database_error(what: str, error: Exception, path: Path, if_damaged: str = "") -> StorageError:
    """The user's words for an OSError or sqlite3.Error met with the database at `path`: each sort has a remedy of its own.

    if_damaged: what to know before a damaged one is taken away, for a new one to be made.
    """
    if isinstance(error, OSError):
        why, todo = error.strerror or str(error), _SYSTEM_TODO.get(error.errno or 0, "")
    else:
        # without a code it is `opened_database` that found the damage
        unnamed = sqlite3.SQLITE_CORRUPT if type(error) is sqlite3.DatabaseError else 0
        why, todo = str(error), _SQLITE_TODO.get(getattr(error, "sqlite_errorcode", unnamed) & 0xFF, "")
    if todo == _MEND and if_damaged:
        todo = f"{_MEND}; {if_damaged}"
    return StorageError(f"{what}: {why}", str(path), todo or f"{_LOOK_AT_DISK}, and {_LOOK_AT_RIGHTS}")


def opened_database(path: Path, schema: str, patience_s: float) -> sqlite3.Connection:
    """The database, made if it is not there, for this user alone; any thread may use it, and what is committed is on the disk.

    schema: statements that may run again. patience_s: how long other processes' locks are waited for. Raises OSError, sqlite3.Error.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite gives its other files the same mode
    path.chmod(0o600)
    database = sqlite3.connect(path, timeout=patience_s, isolation_level=None, check_same_thread=False)
    try:
        _write_ahead(database, time.monotonic() + patience_s)
        database.execute("pragma synchronous=full")
        database.executescript(schema)
        found = database.execute("pragma quick_check(1)").fetchone()[0]
        if found != "ok":  # damage that would show only when somebody comes to what it has hit
            raise sqlite3.DatabaseError(f"the file is damaged: {' '.join(str(found).split())}")
    except sqlite3.Error:
        database.close()
        raise
    return database


def _write_ahead(database: sqlite3.Connection, end_s: float) -> None:
    """SQLite does not wait for locks here: of two processes that open a new file at once, one is told that it is busy."""
    while True:
        try:
            database.execute("pragma journal_mode=wal")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end_s:
                raise
        time.sleep(_STEP_S)
