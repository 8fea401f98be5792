"""Removes what is older than the operator wants to keep; ages do not change when somebody sets the clock."""

from __future__ import annotations

import asyncio
import logging
import shutil
import uuid as uuids
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import reduce

from passel.errors import StorageError
from passel.server.clock import ClockWatch, Jump, now_ms
from passel.server.folders import JobFolder
from passel.server.job_store import JobStore
from passel.server.jobs import ENDED, Job, JobError, Sent, State
from passel.server.runtimes import Runtimes
from passel.server.scheduling import expired
from passel.server.settings import ServerSettings

log = logging.getLogger("passel.server")

CLEANUP_EVERY_S = 60.0


class Cleaner:
    """`run` is a task.

    remove: takes a job away. in_bucket: whether there is a bucket with the results, so that of done jobs only the files go.
    """

    def __init__(
        self,
        settings: ServerSettings,
        store: JobStore,
        runtimes: Runtimes,
        remove: Callable[[Job], Awaitable[None]],
        in_bucket: bool,
    ) -> None:
        self._settings, self._store, self._runtimes = settings, store, runtimes
        self._remove, self._in_bucket = remove, in_bucket
        self._clock = ClockWatch()
        self._jumps: dict[str, list[Jump]] = {}  # of the clock, of which the job's record does not know yet

    async def run(self) -> None:
        """Clean up, again and again, for ever."""
        while True:
            await self._clean_up()
            await asyncio.sleep(CLEANUP_EVERY_S)

    async def keep_ages(self) -> None:
        """Notes that the clock was set, if it was, in the ages of all that waits for its removal: also for a server that starts later."""
        if jump := self._clock.jump():
            log.warning("the clock was set by %+.1f hours; nothing is removed earlier for that", jump.by_ms / 3_600_000)
            for job in self._store.all():
                if job.state in ENDED or job.state is State.UPLOADING:
                    self._jumps.setdefault(job.uuid, []).append(jump)
        for uuid in list(self._jumps):
            await _tried(self._keep_age(uuid), f"the clock was set, and the age of {uuid} cannot be written")

    async def _clean_up(self) -> None:
        settings, now = self._settings, now_ms()
        await self.keep_ages()
        due = expired(self._store.all(), now, settings.cleanup_tasks_after_s, settings.cleanup_uploads_after_s)
        for job in due:
            if job.uuid not in self._jumps:  # else nobody knows how old it is
                kept = self._in_bucket and job.state is State.COMPLETED
                await _tried(self._drop_files(job.uuid) if kept else self._remove(job), f"removing {job.uuid}")

    async def _keep_age(self, uuid: str) -> None:
        """What waits for its removal is as old as it was before the clock was set. Raises StorageError, and then it is for later."""
        async with self._runtimes.of(uuid).lock:
            if (job := self._store.get(uuid)) is not None:
                touched_ms = reduce(lambda ms, jump: jump.moved(ms), self._jumps[uuid], job.touched_ms)
                await self._store.write(replace(job, touched_ms=touched_ms))
            del self._jumps[uuid]

    async def _drop_files(self, uuid: str) -> None:
        """What is large goes, once the bucket has the results; the task stays, with its output, until it is removed."""
        graves = []
        async with self._runtimes.of(uuid).lock:
            job, folder = self._store.get(uuid), JobFolder(self._settings.jobs / uuid)
            if job is None or job.state is not State.COMPLETED or job.sent is not Sent.DONE:
                return
            for part in (folder.packed, folder.output, folder.incoming, folder.side, folder.photos):
                if part.exists():
                    graves.append(self._settings.trash / f"{uuid}-{uuids.uuid4().hex[:8]}")
                    await asyncio.to_thread(part.rename, graves[-1])
        for grave in graves:
            await asyncio.to_thread(shutil.rmtree, grave, True)


async def _tried(work: Awaitable[None], what: str) -> None:
    try:
        await work
    except (JobError, StorageError, OSError) as e:
        log.warning("%s: %s", what, e)
