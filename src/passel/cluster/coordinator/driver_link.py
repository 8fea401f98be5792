"""The coordinator's end of the unix socket on which the drivers of its jobs hand over ready steps and get the outcomes."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from passel.cluster.wire.drivers import (
    MOST_LINE_BYTES,
    Hello,
    ReadyStep,
    ToDriver,
    WantFiles,
    Withdraw,
    from_line,
    to_line,
)
from passel.cluster.wire.workers import WireError
from passel.errors import StorageError
from passel.pipeline.store import storage_error

_log = logging.getLogger("passel.coordinator")


class DriverEvents(Protocol):
    """Who is told what drivers say."""

    def driver_came(self, hello: Hello) -> None: ...

    def step_ready(self, job: str, step: ReadyStep) -> None: ...

    def files_wanted(self, job: str, digest: str) -> None: ...

    def driver_left(self, job: str, withdrawn: bool) -> None: ...


class DriverLink:
    """Listens on `path`, which only this user may open. One driver a job: a later one takes the place of an earlier one."""

    def __init__(self, path: Path, events: DriverEvents) -> None:
        self._path, self._events = path, events
        self._server: asyncio.Server | None = None
        self._writers: dict[str, asyncio.StreamWriter] = {}

    async def start(self) -> None:
        """Raises StorageError."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._path.unlink(missing_ok=True)  # of a coordinator that was killed
            before = os.umask(0o177)
            try:
                listener.bind(str(self._path))
            finally:
                os.umask(before)
        except OSError as error:
            listener.close()
            if len(os.fsencode(self._path)) > 100:
                raise StorageError("The path is too long for a socket", str(self._path), "use a shorter one") from error
            raise storage_error(error, self._path) from error
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=MOST_LINE_BYTES)

    async def close(self) -> None:
        """Drivers see the end of their link, and end."""
        for writer in self._writers.values():
            writer.close()
        if self._server:
            self._server.close()
        self._path.unlink(missing_ok=True)

    def tell(self, job: str, record: ToDriver) -> None:
        """Sends a record to a job's driver, if it is there."""
        if self.has(job):
            self._writers[job].write(to_line(record))

    def has(self, job: str) -> bool:
        """Whether the job's driver is there."""
        writer = self._writers.get(job)
        return writer is not None and not writer.is_closing()

    def tell_all(self, record: ToDriver) -> None:
        for job in self._writers:
            self.tell(job, record)

    def dismiss(self, job: str) -> None:
        """Ends a job's link, and so its driver."""
        writer = self._writers.get(job)
        if writer is not None:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        job, withdrawn = "", False
        try:
            hello = from_line(await reader.readline())
            if not isinstance(hello, Hello):
                raise WireError("A driver did not say which job it is")
            job = hello.job
            self.dismiss(job)
            self._writers[job] = writer
            self._events.driver_came(hello)
            while (line := await reader.readline()) and not writer.is_closing():
                record = from_line(line)
                if isinstance(record, ReadyStep):
                    self._events.step_ready(job, record)
                elif isinstance(record, WantFiles):
                    self._events.files_wanted(job, record.digest)
                elif isinstance(record, Withdraw):
                    withdrawn = True
        except (WireError, ValueError) as error:  # ValueError: a line without end
            _log.error("the driver of job %s is not understood: %s", job or "?", error)
        except ConnectionError:
            pass  # it was killed; the same as an end
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            if job and self._writers.get(job) is writer:
                del self._writers[job]
                self._events.driver_left(job, withdrawn)
