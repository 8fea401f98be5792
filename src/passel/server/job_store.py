"""Jobs on disk: SQLite with WAL and synchronous=FULL, so what was acknowledged survives kill -9 and a power cut.

The server is the only writer, therefore all jobs are also kept in memory (`JobStore.get` and friends never touch the disk);
memory changes only after the disk has. One thread owns the connection, so that fsync never holds up the event loop.
Each job's folder has a copy of it (`job_notes.py`), so a list that is damaged, or older than they are, is no loss.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from passel.databases import database_error, opened_database
from passel.errors import StorageError
from passel.server.job_notes import NOT_A_NOTE, Note, notes_in, write_note
from passel.server.jobs import Job

T = TypeVar("T")

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE jobs (seq INTEGER PRIMARY KEY AUTOINCREMENT, uuid TEXT NOT NULL UNIQUE, state TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE calls (id INTEGER PRIMARY KEY AUTOINCREMENT, uuid TEXT NOT NULL, url TEXT NOT NULL, body TEXT NOT NULL,
                    attempts INTEGER NOT NULL, due_ms INTEGER NOT NULL);
"""
_PUT = """INSERT INTO jobs (uuid, state, body) VALUES (?, ?, ?)
          ON CONFLICT (uuid) DO UPDATE SET state=excluded.state, body=excluded.body"""
_OWE = "INSERT INTO calls (uuid, url, body, attempts, due_ms) VALUES (?, ?, ?, ?, ?)"
_PATIENCE_S = 5.0
_RESERVED_BYTES = 1 << 18
log = logging.getLogger("passel.server")


class JobsUnwritableError(StorageError):
    """The list of jobs cannot be written now; nothing changed, and it may work later."""


@dataclass(frozen=True)
class Call:
    """A webhook call that is owed. id: 0 before it is stored. body: JSON text. attempts: made so far."""

    uuid: str
    url: str
    body: str
    due_ms: int
    attempts: int = 0
    id: int = 0


class _Reserve:
    """Room on the disk for the few bytes of a job's cancel or removal when all other room is taken: they may be what makes room."""

    def __init__(self, file: Path) -> None:
        self._file, self._is_kept = file, False

    def keep(self) -> None:
        """Take the room, if it is not taken and there is any."""
        if self._is_kept:
            return
        with suppress(OSError), self._file.open("wb") as f:
            try:
                os.posix_fallocate(f.fileno(), 0, _RESERVED_BYTES)
                self._is_kept = True
            except OSError:
                self._file.unlink()

    def give_up(self) -> bool:
        """Leave it to others; whether there was any."""
        self._is_kept = False
        try:
            self._file.unlink()
        except OSError:
            return False
        return True


class JobStore:
    """All jobs and owed webhook calls. Open one per data folder; `close` it."""

    def __init__(self, file: Path) -> None:
        """The jobs' folders lie beside the file, in `jobs`."""
        self._file, self._folders = file, file.with_name("jobs")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="job-store")
        self._jobs: dict[str, Job] = {}
        self._written: dict[str, Note] = {}  # the thread's own
        self._revision = self._inode = 0
        self._reserve = _Reserve(file.with_name("jobs.reserve"))
        try:
            self._base = self._thread.submit(self._begin).result()
        except (OSError, sqlite3.Error) as e:
            self._thread.shutdown()
            raise database_error("The list of jobs cannot be read", e, file) from None
        except StorageError:
            self._thread.shutdown()
            raise

    def _begin(self) -> sqlite3.Connection:
        try:
            base = self._open()
            rows = base.execute("SELECT CAST(uuid AS BLOB), CAST(body AS BLOB) FROM jobs ORDER BY seq").fetchall()
        except sqlite3.Error as e:
            if not _is_damage(e):
                raise
            log.error("The list of jobs was damaged (%s)%s", e, self._put_aside())
            base, rows = self._open(), []
        listed = {n.job.uuid: n for n in _notes_of(rows)}
        noted = {n.job.uuid: n for n in notes_in(self._folders)}
        later = [n for n in noted.values() if n.job.uuid not in listed or n.revision > listed[n.job.uuid].revision]
        if later:
            log.warning(
                "%d jobs were taken from their folders: the list lacked them, or their last changes", len(later)
            )
            later.sort(key=lambda n: n.job.order.created_ms)
            base.executemany(_PUT, map(_row, later))
        self._written = listed | {n.job.uuid: n for n in later}
        for uuid, note in self._written.items():
            if noted.get(uuid) != note:  # of an earlier version of Passel, of a moment when the disk was full
                write_note(self._folders, note)
        self._jobs = {uuid: note.job for uuid, note in self._written.items()}
        self._revision = max((n.revision for n in self._written.values()), default=0)
        self._inode = self._file.stat().st_ino
        self._reserve.keep()
        return base

    def _open(self) -> sqlite3.Connection:
        base = opened_database(self._file, "", _PATIENCE_S)
        (version,) = base.execute("PRAGMA user_version").fetchone()
        if version == 0:
            base.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
        elif version != SCHEMA_VERSION:
            base.close()
            raise StorageError(
                f"The list of jobs is of another version of Passel ({version}, not {SCHEMA_VERSION})",
                str(self._file),
                "use that version, or another --data folder",
            )
        return base

    def _put_aside(self) -> str:
        """What is there now gets another name; returns words about it."""
        aside = self._file.with_name(f"{self._file.name}.damaged-{time.time_ns() // 1_000_000}")
        for end in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                Path(f"{self._file}{end}").rename(f"{aside}{end}")
        return f"; it is kept as {aside}" if aside.exists() else ""

    def _make_again(self, why: object) -> None:
        """The file was damaged or taken away while it was in use. What was written to it is known."""
        calls: list[tuple[object, ...]] = []
        with suppress(sqlite3.Error):
            calls = self._base.execute("SELECT uuid, url, body, attempts, due_ms FROM calls").fetchall()
        with suppress(sqlite3.Error):
            self._base.close()
        self._inode = 0
        log.error("The list of jobs was damaged (%s) and is made again%s", why, self._put_aside())
        base = self._open()
        base.execute("BEGIN IMMEDIATE")
        base.executemany(_PUT, map(_row, self._written.values()))
        base.executemany(_OWE, calls)
        base.execute("COMMIT")
        self._base, self._inode = base, self._file.stat().st_ino

    def _is_in_place(self) -> bool:
        try:
            return self._file.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Wait for pending writes and close the file."""
        self._thread.submit(self._base.close).result()
        self._thread.shutdown()

    def get(self, uuid: str) -> Job | None:
        """The job, in whatever state."""
        return self._jobs.get(uuid)

    def all(self) -> Iterable[Job]:
        """All jobs in the order in which they were made."""
        return self._jobs.values()

    async def write(self, *jobs: Job) -> None:
        """Add or replace jobs; returns when they are on disk. StorageError when they cannot be (then nothing changed)."""
        await self._transact(put=jobs)

    async def delete(self, uuid: str) -> None:
        """Forget a job and the calls it owes; no error when there is none."""
        await self._transact(gone=uuid)

    def show(self, job: Job) -> None:
        """Replace a job in memory only: progress, which need not survive a crash."""
        if job.uuid in self._jobs:
            self._jobs[job.uuid] = job

    async def end(self, job: Job, calls: Iterable[Call]) -> None:
        """Write a job's end and the webhook calls it owes, both or neither."""
        rows = [(c.uuid, c.url, c.body, c.attempts, c.due_ms) for c in calls]
        await self._transact(lambda: self._base.executemany(_OWE, rows), put=(job,))

    async def calls(self) -> tuple[Call, ...]:
        """Webhook calls that are owed, first due first."""

        def read() -> list[tuple[str, str, str, int, int, int]]:
            return self._base.execute(
                "SELECT uuid, url, body, due_ms, attempts, id FROM calls ORDER BY due_ms"
            ).fetchall()

        return tuple(Call(*row) for row in await self._in_thread(read))

    async def called(self, call: Call, next_due_ms: int | None) -> None:
        """A call was tried: forget it (None), or try again at `next_due_ms`."""

        def write() -> None:
            if next_due_ms is None:
                self._base.execute("DELETE FROM calls WHERE id=?", (call.id,))
            else:
                self._base.execute("UPDATE calls SET attempts=attempts+1, due_ms=? WHERE id=?", (next_due_ms, call.id))

        await self._transact(write)

    async def _transact(
        self, work: Callable[[], object] = lambda: None, put: Sequence[Job] = (), gone: str = ""
    ) -> None:
        """On disk first, then in memory; both or neither, also when the caller is canceled in between. work: what else to do on disk."""

        def run() -> None:
            notes = [Note(job, self._revision + number) for number, job in enumerate(put, 1)]
            if not self._is_in_place():
                self._make_again("it was taken away")
            try:
                self._commit(work, notes, gone)
            except sqlite3.DatabaseError as e:
                if _is_damage(e):
                    self._make_again(e)
                elif not (_is_full(e) and self._reserve.give_up()):
                    raise
                self._commit(work, notes, gone)
            else:
                self._reserve.keep()
            self._revision += len(notes)
            for note in notes:
                self._written[note.job.uuid] = note
                write_note(self._folders, note)
            self._written.pop(gone, None)

        async def both() -> None:
            await self._in_thread(run)
            self._jobs.update((job.uuid, job) for job in put)
            self._jobs.pop(gone, None)

        await asyncio.shield(asyncio.get_running_loop().create_task(both()))

    def _commit(self, work: Callable[[], object], notes: Iterable[Note], gone: str) -> None:
        self._base.execute("BEGIN IMMEDIATE")
        try:
            self._base.executemany(_PUT, map(_row, notes))
            if gone:
                self._base.execute("DELETE FROM jobs WHERE uuid=?", (gone,))
                self._base.execute("DELETE FROM calls WHERE uuid=?", (gone,))
            work()
            self._base.execute("COMMIT")
        except sqlite3.Error:
            if self._base.in_transaction:
                self._base.execute("ROLLBACK")
            raise

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (OSError, sqlite3.Error) as e:
            told = database_error("The list of jobs cannot be written", e, self._file)
            raise JobsUnwritableError(told.what, told.where, told.todo) from None


def _notes_of(rows: Iterable[tuple[bytes, bytes]]) -> Iterator[Note]:
    """What cannot be read (another version of Passel wrote it, or a bit is flipped) stays in the list, untouched, and is told."""
    for uuid, body in rows:
        try:
            note = Note.of_text(body.decode("utf-8"))
            if note.job.uuid != uuid.decode("utf-8"):
                raise ValueError("it is another job's")
        except NOT_A_NOTE as e:
            log.error("Job %s in the list cannot be read (%.200r)", uuid.decode("utf-8", "replace"), e)
        else:
            yield note


def _row(note: Note) -> tuple[str, str, str]:
    return note.job.uuid, note.job.state.value, note.text()


def _is_full(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL


def _is_damage(error: sqlite3.Error) -> bool:
    """Of the file; not a full disk, a lock, a right that is missing."""
    return type(error) is sqlite3.DatabaseError or "no such table" in str(error)
