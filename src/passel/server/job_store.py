"""Jobs on disk: SQLite with WAL and synchronous=FULL, so what was acknowledged survives kill -9 and a power cut.

The server is the only writer, therefore all jobs are also kept in memory (`JobStore.get` and friends never touch the disk);
memory changes only after the disk has. One thread owns the connection, so that fsync never holds up the event loop.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from passel.errors import StorageError
from passel.server.jobs import GivenOption, Job, Order, Sent, State

T = TypeVar("T")

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE jobs (seq INTEGER PRIMARY KEY AUTOINCREMENT, uuid TEXT NOT NULL UNIQUE, state TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE calls (id INTEGER PRIMARY KEY AUTOINCREMENT, uuid TEXT NOT NULL, url TEXT NOT NULL, body TEXT NOT NULL,
                    attempts INTEGER NOT NULL, due_ms INTEGER NOT NULL);
"""


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


class JobStore:
    """All jobs and owed webhook calls. Open one per data folder; `close` it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="job-store")
        self._jobs: dict[str, Job] = {}
        try:
            self._base = self._thread.submit(self._open).result()
        except sqlite3.Error as e:
            self._thread.shutdown()
            raise StorageError(
                f"The list of jobs cannot be read: {e}", str(file), "restore it from a backup, or move it away"
            ) from None

    def _open(self) -> sqlite3.Connection:
        base = sqlite3.connect(self._file, isolation_level=None)
        base.execute("PRAGMA journal_mode=WAL")
        base.execute("PRAGMA synchronous=FULL")
        (version,) = base.execute("PRAGMA user_version").fetchone()
        if version == 0:
            base.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
        elif version != SCHEMA_VERSION:
            raise StorageError(
                f"The list of jobs is of another version of Passel ({version}, not {SCHEMA_VERSION})",
                str(self._file),
                "use that version, or another --data folder",
            )
        for (body,) in base.execute("SELECT body FROM jobs ORDER BY seq"):
            job = decode_job(body)
            self._jobs[job.uuid] = job
        return base

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
        rows = [(j.uuid, j.state.value, encode_job(j)) for j in jobs]

        def write() -> None:
            self._base.executemany(
                "INSERT INTO jobs (uuid, state, body) VALUES (?, ?, ?) "
                "ON CONFLICT (uuid) DO UPDATE SET state=excluded.state, body=excluded.body",
                rows,
            )

        await self._transact(write, lambda: self._jobs.update((j.uuid, j) for j in jobs))

    async def delete(self, uuid: str) -> None:
        """Forget a job and the calls it owes; no error when there is none."""

        def delete() -> None:
            self._base.execute("DELETE FROM jobs WHERE uuid=?", (uuid,))
            self._base.execute("DELETE FROM calls WHERE uuid=?", (uuid,))

        await self._transact(delete, lambda: self._jobs.pop(uuid, None))

    def show(self, job: Job) -> None:
        """Replace a job in memory only: progress, which need not survive a crash."""
        if job.uuid in self._jobs:
            self._jobs[job.uuid] = job

    async def end(self, job: Job, calls: Iterable[Call]) -> None:
        """Write a job's end and the webhook calls it owes, both or neither."""
        rows = [(c.uuid, c.url, c.body, c.attempts, c.due_ms) for c in calls]

        def write() -> None:
            self._base.execute(
                "UPDATE jobs SET state=?, body=? WHERE uuid=?", (job.state.value, encode_job(job), job.uuid)
            )
            self._base.executemany("INSERT INTO calls (uuid, url, body, attempts, due_ms) VALUES (?, ?, ?, ?, ?)", rows)

        await self._transact(write, lambda: self._jobs.update({job.uuid: job}))

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

    async def _transact(self, work: Callable[[], None], then: Callable[[], object] = lambda: None) -> None:
        """Do `work` on disk, then `then` in memory; both or neither, also when the caller is canceled in between."""

        def run() -> None:
            self._base.execute("BEGIN IMMEDIATE")
            try:
                work()
                self._base.execute("COMMIT")
            except sqlite3.Error:
                if self._base.in_transaction:
                    self._base.execute("ROLLBACK")
                raise

        async def both() -> None:
            await self._in_thread(run)
            then()

        await asyncio.shield(asyncio.get_running_loop().create_task(both()))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as e:
            raise JobsUnwritableError(
                f"The list of jobs cannot be written: {e}", str(self._file), "make room"
            ) from None


def encode_job(job: Job) -> str:
    """A job as JSON text."""
    return json.dumps(asdict(job), separators=(",", ":"))


def decode_job(text: str) -> Job:
    """The job that `encode_job` wrote."""
    fields: dict[str, Any] = json.loads(text)
    order: dict[str, Any] = fields["order"]
    order |= {name: tuple(order[name]) for name in ("ignored", "outputs", "urls")}
    order["options"] = tuple(GivenOption(o["name"], o["value"]) for o in order["options"])
    sent = Sent(fields.get("sent", Sent.NO))  # earlier versions knew no bucket
    return Job(**{**fields, "order": Order(**order), "state": State(fields["state"]), "sent": sent})
