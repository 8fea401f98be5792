"""Results in a bucket: sent there when a job is done, fetched from there when its files were cleaned up here, removed with it.

The job's record says how far that is (`Sent`), written before the bucket is touched and after, so a kill at any moment is
gone on from. Nobody waits for the bucket: what it refuses is tried again, for ever.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from passel.errors import PasselError, StorageError
from passel.server.archive import ALL, ASSETS, PLAN, Archive
from passel.server.folders import JobFolder, inside
from passel.server.job_notes import NOTE
from passel.server.job_store import JobStore
from passel.server.jobs import Job, JobError, Sent, State
from passel.server.ports import Results
from passel.server.runtimes import Runtimes
from passel.server.settings import ServerSettings
from passel.server.uploads import check_room

log = logging.getLogger("passel.server")

RETRIES_S = (5.0, 30.0, 120.0, 600.0)
"""After each pass in which something failed; the last one again and again."""
T = TypeVar("T")


class _UnwantedError(PasselError):
    """The job was restarted, canceled or removed while its results were sent, or the server ends."""


class Keeper:
    """Brings results to the bucket. `run` is a task; `wake` it when a job has ended or is removed."""

    def __init__(self, settings: ServerSettings, store: JobStore, runtimes: Runtimes, results: Results) -> None:
        self._settings, self._store, self._runtimes, self._results = settings, store, runtimes, results
        self._wake = asyncio.Event()
        self._closing = False

    def wake(self) -> None:
        """Look again what is to be sent or removed."""
        self._wake.set()

    def close(self) -> None:
        """An upload ends with the part that is on its way; the next start goes on there."""
        self._closing = True

    async def run(self) -> None:
        """Send and remove what is due, for ever."""
        try:
            await _aside(self._results.check)
        except (PasselError, OSError) as e:
            log.warning("results cannot be kept in the bucket now: %s", e)
        failed = 0
        while True:
            self._wake.clear()
            failed = 0 if await self._do_all() else failed + 1
            wait_s = RETRIES_S[min(failed, len(RETRIES_S)) - 1] if failed else None
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()

    async def address(self, job: Job, asset: str) -> str | None:
        """Where a client can fetch an asset, None = its file is here. JobError in NodeODM's words."""
        if job.state is not State.COMPLETED or job.sent is not Sent.DONE or (self._folder(job).packed / PLAN).exists():
            return None
        name = ASSETS.get(asset, asset)
        if name not in {ALL, *ASSETS.values()}:
            raise JobError("Invalid asset")

        def ask() -> str:
            if not self._results.has(job.uuid, name):
                raise JobError("Invalid asset")
            return self._results.address(job.uuid, name)

        return await _aside(ask)

    async def _do_all(self) -> bool:
        """Whether everything that was due is done."""
        done = True
        for job in list(self._store.all()):
            try:
                if job.state is State.REMOVING and job.sent is not Sent.NO:
                    await self._remove(job)
                elif job.state is State.COMPLETED and job.sent is not Sent.DONE:
                    await self._send(job)
            except (PasselError, OSError) as e:
                log.warning("results of task %s in the bucket, to be tried again: %s", job.uuid, e)
                done = False
        return done

    async def _remove(self, job: Job) -> None:
        folder = self._folder(job).root
        if folder.is_dir() and any(path.name != NOTE for path in folder.iterdir()):
            return  # the service is about to take them away, and wakes us then
        await _aside(lambda: self._results.remove(job.uuid))
        await asyncio.to_thread(shutil.rmtree, folder, True)
        await self._store.delete(job.uuid)

    async def _send(self, job: Job) -> None:
        if not self._is_current(job):
            return
        if job.sent is Sent.STALE:
            await _aside(lambda: self._results.remove(job.uuid))
        if not await self._mark(job, Sent.BEGUN):
            return
        try:
            await _aside(lambda: self._upload(job))
        except (PasselError, OSError):
            if self._is_current(job):
                raise
            return  # not wanted any more, so its files may well be missing
        if await self._mark(job, Sent.DONE):
            log.info("task %s: its results are in the bucket", job.uuid)

    def _upload(self, job: Job) -> None:
        """all.zip, which for a while must lie on the disk as a file, and the products that have names of their own."""

        def go_on(_: int = 0) -> None:
            if self._closing or not self._is_current(job):
                raise _UnwantedError("These results are not wanted any more", job.uuid)

        folder = self._folder(job)
        archive = Archive(folder.output, folder.packed)
        check_room(self._settings.data, self._settings.limits, archive.size_bytes)
        products = {name: path for name in ASSETS.values() if (path := inside(folder.output, name)) and path.is_file()}
        try:
            with open(folder.whole, "wb") as whole:
                for chunk in archive.read(0, archive.size_bytes):
                    go_on()
                    whole.write(chunk)
            self._results.upload(job.uuid, {ALL: folder.whole, **products}, go_on)
        finally:
            folder.whole.unlink(missing_ok=True)

    async def _mark(self, job: Job, sent: Sent) -> bool:
        """Write how far it is; False when the job is another by now."""
        async with self._runtimes.of(job.uuid).lock:
            current = self._store.get(job.uuid)
            if current is None or not self._is_current(job):
                return False
            await self._store.write(replace(current, sent=sent))
            return True

    def _is_current(self, job: Job) -> bool:
        """Whether the job still is what it was: done, and not run again since."""
        now = self._store.get(job.uuid)
        return now is not None and now.state is State.COMPLETED and now.runs == job.runs

    def _folder(self, job: Job) -> JobFolder:
        return JobFolder(self._settings.jobs / job.uuid)


async def _aside(work: Callable[[], T]) -> T:
    """In a daemon thread: a bucket that hangs holds up neither the server's end nor the threads that serve clients."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def tell(end: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(lambda: None if future.done() else end())

    def run() -> None:
        error: PasselError | OSError = StorageError("Passel has a bug; the server's log tells more")
        try:
            result = work()
            tell(lambda: future.set_result(result))
            return
        except (PasselError, OSError) as e:
            error = e
        finally:
            tell(lambda: future.set_exception(error))

    threading.Thread(target=run, name="results", daemon=True).start()
    return await future
