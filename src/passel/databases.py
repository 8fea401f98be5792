"""SQLite files that several processes may open at once, all in the same way."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

_STEP_S = 0.05


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
