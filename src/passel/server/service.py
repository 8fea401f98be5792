"""Jobs as a service: what routes and the web UI call. Every answer that says "done" is on disk before it is given.

`JobService.get`, `tasks_of`, `output`, `live`, `folder` read; `create`, `receive`, `commit`, `cancel`, `remove`, `restart`
change. All take the owner (the token's name) and treat another's job as not found.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import uuid as uuids
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

from passel.errors import StorageError
from passel.server import jobs
from passel.server.canned import CONSOLE
from passel.server.cleaning import Cleaner
from passel.server.clock import now_ms
from passel.server.console import Console
from passel.server.folders import UUID_FORM, JobFolder
from passel.server.job_notes import NOTE
from passel.server.job_store import JobStore
from passel.server.jobs import Job, JobError, Order, Sent, State
from passel.server.keeping import Keeper
from passel.server.multipart import BodyWatch
from passel.server.preparing import count_photos
from passel.server.runner import Runner
from passel.server.runtimes import Live, Runtimes
from passel.server.settings import ServerSettings
from passel.server.uploads import Receiver, Tally, check_room
from passel.server.webhooks import Webhooks

log = logging.getLogger("passel.server")

DISK_THREADS = 24


class JobService:
    """All jobs of a server. `start` it in the event loop, `close` it there."""

    def __init__(
        self,
        settings: ServerSettings,
        store: JobStore,
        runner: Runner,
        webhooks: Webhooks,
        keeper: Keeper | None = None,
    ) -> None:
        self.settings, self._keeper = settings, keeper
        self._store, self._runner, self._webhooks = store, runner, webhooks
        self._runtimes: Runtimes = runner.runtimes
        self._cleaner = Cleaner(settings, store, self._runtimes, self._remove_old, in_bucket=keeper is not None)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Go on where the server ended, however it ended."""
        # Threads mostly wait for the disk: with asyncio's few, slow flushes would keep everything else waiting.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(DISK_THREADS, thread_name_prefix="disk"))
        self.settings.jobs.mkdir(parents=True, exist_ok=True)
        self.settings.trash.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(self._empty_trash)
        for job in list(self._store.all()):
            if job.state is State.REMOVING:
                await self._remove(job)
            elif job.state is State.UPLOADING:
                touched_ms = await asyncio.to_thread(_drop_unfinished, self.folder(job.uuid))
                self._store.show(replace(job, touched_ms=max(job.touched_ms, touched_ms)))
            else:
                again = jobs.recovered(job, now_ms())
                if again is not job:
                    await self._store.write(again)
        await asyncio.to_thread(self._drop_strangers)
        self._runner.start()
        self._tasks = [asyncio.create_task(self._cleaner.run()), asyncio.create_task(self._webhooks.run())]
        if self._keeper is not None:
            self._tasks.append(asyncio.create_task(self._keeper.run()))

    async def close(self) -> None:
        """Stop drivers and loops; running jobs go on at the next start."""
        if self._keeper is not None:
            self._keeper.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._cleaner.keep_ages()
        await self._runner.close()
        await asyncio.to_thread(self._store.close)

    # --- reading ---

    def get(self, uuid: str, owner: str) -> Job | None:
        """The task, or None if there is none that this owner may see. Uploads are none yet."""
        job = self._store.get(uuid.lower())
        return job if job is not None and job.owner == owner and job.is_task else None

    def task(self, uuid: str, owner: str) -> Job:
        """The task; JobError 'not found' in NodeODM's words otherwise."""
        job = self.get(uuid, owner)
        if job is None:
            raise JobError(f"{uuid[:100]} not found")
        return job

    def tasks_of(self, owner: str) -> Iterator[Job]:
        """The owner's tasks, oldest first."""
        return (j for j in self._store.all() if j.owner == owner and j.is_task)

    def all_tasks(self) -> Iterator[Job]:
        """Everybody's tasks, oldest first: for whoever runs the server, never for clients."""
        return (j for j in self._store.all() if j.is_task)

    def lanes(self) -> int:
        """Tasks that may run at once."""
        return self._runner.lanes()

    def look_again(self) -> None:
        """Something changed outside, so that a waiting task may be able to start."""
        self._runner.wake()

    def queue_count(self) -> int:
        """Tasks of everybody that wait or run."""
        return sum(1 for j in self._store.all() if j.is_task and j.state not in jobs.ENDED)

    def output(self, job: Job, start: int) -> list[str]:
        """Lines of the task's output from `start` on; negative: the last ones."""
        return self._console(job.uuid).lines(start)

    def live(self, job: Job) -> Live:
        """What the running driver last said: stages, forecast, steps; empty when it does not run."""
        runtime = self._runtimes.find(job.uuid)
        return runtime.live if runtime is not None else Live()

    def folder(self, uuid: str) -> JobFolder:
        """Where the job's files lie."""
        return self._runner.folder(uuid)

    async def address(self, job: Job, asset: str) -> str | None:
        """Where else a client finds an asset whose file was cleaned up here; None = look here."""
        return None if self._keeper is None else await self._keeper.address(job, asset)

    # --- changing ---

    async def create(self, order: Order, owner: str, set_uuid: str = "") -> Job:
        """A job that waits for its photos. An upload that was begun under the same `set_uuid` is gone on with."""
        uuid = set_uuid.lower() or str(uuids.uuid4())
        known = self._store.get(uuid)
        again = known is not None and known.state is State.UPLOADING and known.owner == owner
        if set_uuid and (UUID_FORM.fullmatch(set_uuid) is None or (known is not None and not again)):
            raise JobError(f"Invalid set-uuid: {set_uuid:.100}")
        self._check_quota(owner)
        folder = self.folder(uuid)
        check_room(self.settings.data, self.settings.limits)
        async with self._runtimes.of(uuid).lock:
            if known is None and await asyncio.to_thread(
                _holds_files, folder.root
            ):  # somebody's, see `_drop_strangers`
                raise JobError(f"Invalid set-uuid: {uuid}")
            await asyncio.to_thread(_made, folder)
            job = jobs.new_job(uuid, owner, order, now_ms())
            await self._store.write(job)
        return job

    def _check_quota(self, owner: str) -> None:
        limits = self.settings.limits_for(owner)
        mine = [j.state for j in self._store.all() if j.owner == owner]
        uploading = mine.count(State.UPLOADING)
        if uploading >= limits.max_uploads_a_owner:
            raise JobError(f"{uploading} uploads are unfinished; commit or remove some first")
        active = sum(1 for s in mine if s in {State.COMMITTING, State.QUEUED, State.RUNNING, State.ZIPPING})
        if active >= limits.max_tasks_a_owner:
            raise JobError(f"{active} tasks wait or run; wait until some are done")

    def uploading(self, uuid: str, owner: str) -> Job:
        """The job that takes uploads; JobError in NodeODM's words if there is none."""
        job = self._store.get(uuid.lower())
        if job is None or job.owner != owner or job.state is not State.UPLOADING:
            raise JobError("Invalid uuid (not found)")
        return job

    @contextmanager
    def receive(self, job: Job) -> Iterator[Receiver]:
        """A receiver for the files of one request; it closes itself when the job is committed or removed meanwhile."""
        runtime = self._runtimes.of(job.uuid)
        limits, folder = self.settings.limits_for(job.owner), self.folder(job.uuid)
        if runtime.tally is None and (limits.max_images, limits.max_task_bytes) != (None, None):
            runtime.tally = Tally(folder.photos, limits)
        receiver = Receiver(folder, limits, tally=runtime.tally)
        runtime.receivers.add(receiver)
        try:
            yield receiver
        finally:
            runtime.receivers.discard(receiver)
            receiver.discard()

    @asynccontextmanager
    async def exclusive(self, job: Job, name: str, watch: BodyWatch) -> AsyncIterator[None]:
        """The right to append to a file. The latest request has it: what came before is of a line that broke, and may not
        know it yet.
        """
        appending = self._runtimes.of(job.uuid).appending
        while (earlier := appending.get(name)) is not None:
            earlier.give_up(f"{name} is sent by another request now")
            await earlier.ended.wait()
        appending[name] = watch
        try:
            yield
        finally:
            del appending[name]
            watch.ended.set()

    def touch(self, job: Job) -> None:
        """Files arrived: the upload is not stale."""
        current = self._store.get(job.uuid)
        if current is not None and current.state is State.UPLOADING:
            self._store.show(replace(current, touched_ms=now_ms()))

    async def commit(self, uuid: str, owner: str) -> Job:
        """The upload is complete: make it a task."""
        async with self._runtimes.of(uuid.lower()).lock:
            job = self.uploading(uuid, owner)
            count = await asyncio.to_thread(count_photos, self.folder(job.uuid))
            if count == 0 and not job.order.zip_url and not job.order.urls:
                raise JobError("Need at least 1 file.")
            if count:
                await asyncio.to_thread(Tally, self.folder(job.uuid).photos, self.settings.limits_for(owner))
            runtime = self._runtimes.of(job.uuid)
            for receiver in list(runtime.receivers):
                receiver.close()
            job = jobs.committed(job, count, now_ms())
            await self._store.write(job)
            self._welcome(job)
        self._runner.wake()
        return job

    def _welcome(self, job: Job) -> None:
        """Canned tasks say all that they have to say at once: PyODM's doctests want it."""
        if self.settings.test is not None:
            self._console(job.uuid).say(CONSOLE)

    async def amend(self, job: Job, order: Order) -> Job:
        """Give an upload another order: /task/new learns its fields after the files."""
        async with self._runtimes.of(job.uuid).lock:
            job = replace(self.uploading(job.uuid, job.owner), order=order)
            await self._store.write(job)
        return job

    async def cancel(self, uuid: str, owner: str) -> None:
        """Stop the task; returns when nothing of it runs any more, within two seconds."""
        async with self._runtimes.of(uuid.lower()).lock:
            job = self.task(uuid, owner)
            await self._store.write(jobs.canceled(job, now_ms()))
        await self._runner.stop(job.uuid)

    async def restart(self, uuid: str, owner: str, change: Callable[[Order], Order]) -> None:
        """Begin the task again, with another order perhaps; what still holds of its steps is not run again."""
        job = self.task(uuid, owner)
        jobs.restarted(job, change(job.order), now_ms())  # refused before anything is waited for
        await self._runner.gone(job.uuid)
        async with self._runtimes.of(job.uuid).lock:
            job = self.task(uuid, owner)
            if job.sent is not Sent.NO and not self.folder(job.uuid).photos.exists():
                raise JobError("The photos of this task were cleaned up; send them as a new task")
            await self._store.write(jobs.restarted(job, change(job.order), now_ms()))
            await asyncio.to_thread(self._console(job.uuid).clear)
            self._runtimes.of(job.uuid).live = Live()
            self._welcome(job)
        self._runner.wake()

    async def remove(self, uuid: str, owner: str) -> None:
        """Delete the task, or an unfinished upload, and all its files. Returns when it is gone."""
        async with self._runtimes.of(uuid.lower()).lock:
            job = self._store.get(uuid.lower())
            if job is None or job.owner != owner or job.state is State.REMOVING:
                raise JobError(f"{uuid[:100]} not found")
            job = jobs.removing(job, now_ms())
            await self._store.write(job)
        await self._remove(job)

    async def _remove_old(self, job: Job) -> None:
        await self.remove(job.uuid, job.owner)

    async def _remove(self, job: Job) -> None:
        """The rest of a removal: may be begun again after a crash at any line."""
        runtime = self._runtimes.of(job.uuid)
        for receiver in list(runtime.receivers):
            receiver.close()
        await self._runner.stop(job.uuid)
        await self._runner.gone(job.uuid)
        folder = self.folder(job.uuid).root
        grave = self.settings.trash / f"{job.uuid}-{uuids.uuid4().hex[:8]}"
        if self._keeper is not None and job.sent is not Sent.NO:
            await asyncio.to_thread(_bury, folder, grave)
            self._keeper.wake()  # it forgets the job when the bucket has
        else:
            if folder.exists():
                await asyncio.to_thread(folder.rename, grave)
            await self._store.delete(job.uuid)
        self._runtimes.forget(job.uuid)
        await asyncio.to_thread(shutil.rmtree, grave, True)

    def _empty_trash(self) -> None:
        for folder in self.settings.trash.iterdir():
            shutil.rmtree(folder, ignore_errors=True)

    def _drop_strangers(self) -> None:
        """Folders that no job owns. Without a file, they were made by a `create` that died before it was acknowledged. Others may be all
        that is left of people's maps, when the list of jobs was moved away or is an older one from a backup.
        """
        for folder in self.settings.jobs.iterdir():
            if not UUID_FORM.fullmatch(folder.name) or self._store.get(folder.name) is not None:
                continue
            if _holds_files(folder):
                log.warning("%s is of no task in the list and stays: take out what is wanted, then remove it", folder)
            else:
                shutil.rmtree(folder, ignore_errors=True)

    def _console(self, uuid: str) -> Console:
        return self._runtimes.of(uuid).console_in(self.folder(uuid))


def _bury(folder: Path, grave: Path) -> None:
    """Move everything there but the job's note: it says what is in the bucket, should the list of jobs be lost."""
    grave.mkdir()
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name != NOTE:
            path.rename(grave / path.name)


def _holds_files(folder: Path) -> bool:
    return any(path.is_file() for path in folder.rglob("*"))


def _made(folder: JobFolder) -> None:
    try:
        folder.make()
    except OSError as e:
        raise StorageError(f"The job's folder cannot be made: {e.strerror}", todo="make room on the server") from None


def _drop_unfinished(folder: JobFolder) -> int:
    """Throw away uploads that a crash cut off; those that can be resumed stay. Returns when the last photo came, in ms."""
    for path in folder.incoming.glob("*.part") if folder.incoming.is_dir() else ():
        path.unlink(missing_ok=True)
    return int(1000 * folder.photos.stat().st_mtime) if folder.photos.is_dir() else 0
