"""Takes committed jobs through preparing, the driver and packing, several at once, until they are COMPLETED or FAILED.

Each stretch begins with the job as it is in the store and ends with one transition, so a stretch that a crash cut off is
simply begun again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

from passel.errors import PasselError
from passel.server import jobs
from passel.server.archive import DISK_FULL, USUAL_OUTPUTS, NoRoomError, pack, packing_errors
from passel.server.clock import now_ms
from passel.server.drivers import Driver, Event, Say, Stages, StepSeen
from passel.server.folders import JobFolder
from passel.server.job_store import Call, JobStore, JobsUnwritableError
from passel.server.jobs import Job, RunEnd, State
from passel.server.outgoing import Gate
from passel.server.ports import DriverCommand, Task
from passel.server.preparing import Preparation, prepare, write_options
from passel.server.runtimes import Live, Runtime, Runtimes
from passel.server.scheduling import next_job
from passel.server.settings import ServerSettings
from passel.server.wire import webhook_body

T = TypeVar("T")
log = logging.getLogger("passel.server")

MOST_DEATHS = 3
"""A driver that dies without a word so often, with no further step made in between, fails the job."""
PREPARED_AT_ONCE = 4
RETRY_STORE_S = 5.0
RETRY_ROOM_S = 5.0
LONGEST_RETRY_ROOM_S = 60.0
"""Each try to pack reads all results anew, so tries become rarer while the disk stays full."""
STOPPED = 130
"""How a driver ends that was told to stop, though not by us."""


class Runner:
    """The jobs' engine room. `start` in the event loop; `wake` it when something may have become possible."""

    def __init__(self, settings: ServerSettings, store: JobStore, command: DriverCommand) -> None:
        self.settings, self._store, self._command = settings, store, command
        self.runtimes = Runtimes()
        self._wake = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._last_start: dict[str, int] = {}
        self._starts = 0
        self._failing: asyncio.Task[None] | None = None
        self.on_end: Callable[[], None] = lambda: None
        self.more_tasks: Callable[[], int] = lambda: 0

    def folder(self, uuid: str) -> JobFolder:
        """Where the job's files lie."""
        return JobFolder(self.settings.jobs / uuid)

    def lanes(self) -> int:
        """Drivers that may run at once."""
        return self.settings.parallel_jobs + self.more_tasks()

    def start(self) -> None:
        """Begin to take jobs."""
        self._loop = asyncio.create_task(self._run())

    def wake(self) -> None:
        """Look again whether a job can start."""
        self._wake.set()

    async def close(self) -> None:
        """Stop all drivers, leaving their jobs as they are."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        working = [j.uuid for j in self._store.all() if (r := self.runtimes.find(j.uuid)) and r.task]
        await asyncio.gather(*(self.stop(uuid) for uuid in working))
        await asyncio.gather(*(self.gone(uuid) for uuid in working))

    async def stop(self, uuid: str) -> None:
        """End what works on the job; returns when its driver is gone."""
        runtime = self.runtimes.of(uuid)
        runtime.stop.set()
        if runtime.driver is not None:
            await runtime.driver.stop()

    async def gone(self, uuid: str) -> None:
        """Wait until nothing works on the job any more."""
        runtime = self.runtimes.find(uuid)
        if runtime is not None and runtime.task is not None:
            await asyncio.wait([runtime.task])

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            self._start_what_can()
            await self._wake.wait()

    def _start_what_can(self) -> None:
        everything = list(self._store.all())
        active = {j.uuid: r for j in everything if (r := self.runtimes.find(j.uuid)) and r.task}
        for job in everything:
            if job.uuid in active:
                continue
            preparing = len(active) - sum(r.drives for r in active.values())
            if job.state is State.ZIPPING:
                active[job.uuid] = self._begin(job, self._pack, drives=False)
            elif job.state is State.COMMITTING and preparing < PREPARED_AT_ONCE:
                active[job.uuid] = self._begin(job, self._prepare, drives=False)
        free = self.lanes() - sum(r.drives for r in active.values())
        while free > 0 and (job_next := next_job(everything, self._last_start, frozenset(active))) is not None:
            self._note_start(job_next)
            active[job_next.uuid] = self._begin(job_next, self._drive, drives=True)
            free -= 1

    def _is_next(self, job: Job) -> bool:
        """Whether this job, once queued, would start at once: then clients never see it wait. OpenDroneMap's own takes a
        queued task away again.
        """
        everything = [job if j.uuid == job.uuid else j for j in self._store.all()]
        active = {j.uuid: r for j in everything if (r := self.runtimes.find(j.uuid)) and r.task}
        busy = frozenset(active) - {job.uuid}
        free = self.lanes() - sum(r.drives for r in active.values())
        return free > 0 and next_job(everything, self._last_start, busy) is job

    def _note_start(self, job: Job) -> None:
        self._starts += 1
        self._last_start[job.owner] = self._starts

    def _begin(self, job: Job, work: Callable[[str, Runtime], Awaitable[None]], drives: bool) -> Runtime:
        runtime = self.runtimes.of(job.uuid)
        runtime.stop.clear()
        runtime.drives = drives
        runtime.task = asyncio.create_task(self._work(job.uuid, runtime, work))
        runtime.task.add_done_callback(partial(self._look_for_bug, job.uuid, runtime))
        return runtime

    def _look_for_bug(self, uuid: str, runtime: Runtime, task: asyncio.Task[None]) -> None:
        """What nobody expected ends the job, in the open; otherwise it would seem to run for ever."""
        bug = None if task.cancelled() else task.exception()
        if bug is not None:
            log.error("task %s", uuid, exc_info=bug)
            text = f"Passel has a bug: {type(bug).__name__}; the server's log tells more"
            self._failing = asyncio.create_task(self._fail(uuid, runtime, text))

    async def _work(self, uuid: str, runtime: Runtime, work: Callable[[str, Runtime], Awaitable[None]]) -> None:
        try:
            try:
                await work(uuid, runtime)
            except JobsUnwritableError:
                raise
            except (PasselError, OSError) as e:
                if not runtime.stop.is_set():
                    await self._fail(uuid, runtime, str(e))
        except JobsUnwritableError as e:
            log.error("task %s: %s", uuid, e)
            await asyncio.sleep(RETRY_STORE_S)
            job = self._store.get(uuid)
            if job is not None:  # as after a crash: the stretch is begun again
                self._store.show(jobs.recovered(job, now_ms()))
        finally:
            runtime.task = None
            self.wake()

    async def _prepare(self, uuid: str, runtime: Runtime) -> None:
        folder, job = self.folder(uuid), self._store.get(uuid)
        if job is None:
            return
        loop, console = asyncio.get_running_loop(), runtime.console_in(folder)

        def say(line: str) -> None:
            loop.call_soon_threadsafe(console.say, [line])

        gate, buckets = Gate(self.settings.allow_private_urls), self.settings.buckets
        preparation = Preparation(folder, self.settings.limits_for(job.owner), gate, buckets, runtime.stop.is_set, say)
        count = await asyncio.to_thread(prepare, job.order, preparation)

        def queued(j: Job) -> Job:
            return jobs.prepared(j, count, now_ms())

        job = self._store.get(uuid)
        if job is not None and job.state is State.COMMITTING and self._is_next(queued(job)):
            self._note_start(job)
            runtime.drives = True
            started = await self._move(uuid, runtime, State.COMMITTING, lambda j: jobs.started(queued(j), now_ms()))
            await self._run_driver(started, runtime)
        else:
            await self._move(uuid, runtime, State.COMMITTING, queued)

    async def _drive(self, uuid: str, runtime: Runtime) -> None:
        job = await self._move(uuid, runtime, State.QUEUED, lambda j: jobs.started(j, now_ms()))
        await self._run_driver(job, runtime)

    async def _run_driver(self, job: Job | None, runtime: Runtime) -> None:
        """The run of a job that is RUNNING; None: it was canceled before."""
        if job is None:
            return
        uuid, folder = job.uuid, self.folder(job.uuid)
        told = await self._with_room(uuid, runtime, partial(write_options, job, folder), "the task begins")
        if told is None:
            return
        if self.settings.test is None:  # canned tasks say only what NodeODM's canned tasks say
            self._say(uuid, runtime, *_greeting(self.settings, job), *told)
        runtime.live = Live()
        task = Task(uuid, folder.photos, folder.output, folder.options, job.started_ms or 0)
        late_s = asyncio.get_running_loop().time() + self._may_run_s(job)
        end = RunEnd(1)
        runtime.deaths, runtime.made = 0, set()
        while runtime.deaths < MOST_DEATHS:
            driver = runtime.driver = Driver(partial(self._command, task), folder.driver_log)
            try:
                async with _stopped_at(late_s, driver):
                    said = None if runtime.stop.is_set() else await driver.run(partial(self._hear, uuid, runtime))
            finally:
                runtime.driver = None
            if runtime.stop.is_set():
                return
            if asyncio.get_running_loop().time() >= late_s and (said is None or said.end.code != 0):
                end = RunEnd(
                    1, f"It ran longer than the {self.settings.max_runtime_s / 60:g} minutes that a task may run here"
                )
                break
            if said is not None and said.end.code != STOPPED:
                end = said.end
                runtime.live = replace(runtime.live, holes=said.holes)
                break
            runtime.deaths += 1
            end = RunEnd(driver.code or 1, "The engine ended without a word", _last_line(folder))
            self._say(uuid, runtime, f"The engine ended without a word (code {driver.code}); it goes on where it was")
        if end.code != 0:
            await self._fail(uuid, runtime, end.text)
        elif await self._move(uuid, runtime, State.RUNNING, lambda j: jobs.driver_ended(j, end, now_ms())):
            await self._pack(uuid, runtime)

    def _may_run_s(self, job: Job) -> float:
        """How long the job may still run; runs that the server's death cut off count."""
        most_s = self.settings.max_runtime_s
        return max(0.0, most_s - job.processing_time_ms(now_ms()) / 1000) if most_s else math.inf

    def _hear(self, uuid: str, runtime: Runtime, event: Event) -> None:
        live = runtime.live
        if isinstance(event, Say):
            self._say(uuid, runtime, event.text)
        elif isinstance(event, StepSeen):
            live.steps.add(event)
            if event.state == "done" and (event.stage, event.name) not in runtime.made:
                runtime.made.add((event.stage, event.name))
                runtime.deaths = 0
        elif isinstance(event, Stages):
            runtime.live = replace(live, stages=event)
            job = self._store.get(uuid)
            if job is not None:
                self._store.show(jobs.progressed(job, event.progress))

    async def _pack(self, uuid: str, runtime: Runtime) -> None:
        job, folder = self._store.get(uuid), self.folder(uuid)
        if job is None:
            return
        self._store.show(replace(job, progress=max(job.progress, jobs.PROGRESS_PACKED)))

        def work() -> bool:
            with packing_errors(folder.packed):
                folder.output.mkdir(exist_ok=True)
                if folder.console.exists():
                    shutil.copyfile(folder.console, folder.output / "task_output.txt")
                pack(folder.output, job.order.outputs or USUAL_OUTPUTS, folder.packed)
            return True

        if await self._with_room(uuid, runtime, work, "the results are packed"):
            await self._finish(uuid, runtime, lambda j: jobs.packed(j, now_ms()), State.ZIPPING)

    async def _with_room(self, uuid: str, runtime: Runtime, work: Callable[[], T], what: str) -> T | None:
        """What `work` gives, in a thread; tried again while it finds the disk full. None: told to stop meanwhile. what: is waited for."""
        pause_s = RETRY_ROOM_S
        while True:
            try:
                return await asyncio.to_thread(work)
            except (NoRoomError, OSError) as e:
                if isinstance(e, OSError) and e.errno not in DISK_FULL:
                    raise
                log.warning("task %s: %s; trying again in %g s", uuid, e, pause_s)
                if pause_s == RETRY_ROOM_S:
                    self._say(uuid, runtime, f"The server's disk is full; {what} when there is room")
                if await _is_stopped_within(runtime, pause_s):
                    return None
                pause_s = min(2 * pause_s, LONGEST_RETRY_ROOM_S)

    async def _fail(self, uuid: str, runtime: Runtime, error: str) -> None:
        error = self.folder(uuid).shown(error)
        self._say(uuid, runtime, f"error: {error}")
        running = (State.COMMITTING, State.RUNNING, State.ZIPPING)
        await self._finish(uuid, runtime, lambda j: jobs.failed(j, error, now_ms()), *running)

    def _say(self, uuid: str, runtime: Runtime, *lines: str) -> None:
        """Lines for the output. On a full disk they are lost, and the job goes on: there may be room again at its end."""
        folder = self.folder(uuid)
        with suppress(OSError):
            runtime.console_in(folder).say([folder.shown(line) for line in lines])

    async def _move(self, uuid: str, runtime: Runtime, expected: State, change: Callable[[Job], Job]) -> Job | None:
        """The job after the change; None when it is elsewhere by now (canceled, removed)."""
        async with runtime.lock:
            job = self._store.get(uuid)
            if job is None or job.state is not expected:
                return None
            job = change(job)
            await self._store.write(job)
            return job

    async def _finish(self, uuid: str, runtime: Runtime, change: Callable[[Job], Job], *expected: State) -> None:
        """The last change of a run, and the webhook calls that it owes."""
        async with runtime.lock:
            job = self._store.get(uuid)
            if job is None or job.state not in expected:
                return
            job, now = change(job), now_ms()
            urls = dict.fromkeys(u for u in (job.order.webhook, self.settings.webhook) if u)
            calls: list[Call] = []
            if urls:
                body = await asyncio.to_thread(webhook_body, job, now, self.folder(uuid).output / "images.json")
                calls = [Call(uuid, url, body, now) for url in urls]
            await self._store.end(job, calls)
        self.on_end()


@asynccontextmanager
async def _stopped_at(late_s: float, driver: Driver) -> AsyncIterator[None]:
    """Stops the driver at that time of the loop's clock, if the block still runs then."""

    async def stop() -> None:
        await asyncio.sleep(late_s - asyncio.get_running_loop().time())
        await driver.stop()

    if math.isinf(late_s):
        yield
        return
    stopping = asyncio.create_task(stop())
    try:
        yield
    finally:
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)


async def _is_stopped_within(runtime: Runtime, most_s: float) -> bool:
    """Whether what works on the job is told to end in so many seconds, which are waited for. Takes no thread: many may wait."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + most_s
    while not runtime.stop.is_set() and (left_s := end_s - loop.time()) > 0:
        await asyncio.sleep(min(left_s, 0.25))
    return runtime.stop.is_set()


def _greeting(settings: ServerSettings, job: Job) -> list[str]:
    """The first lines of a run. OpenDroneMap's own client takes a task with fewer than three for one that waits."""
    given = " ".join(f"--{o.name} {o.value}" for o in job.order.options)
    first = f"{settings.engine} {settings.engine_version}, task {job.uuid}"
    lines = [first, f"{job.images_count} photo{'s' * (job.images_count != 1)}", f"options: {given or 'none'}"]
    return lines if job.started_ms == job.touched_ms else [*lines, "The run was interrupted; it goes on where it was"]


def _last_line(folder: JobFolder) -> str:
    """The last thing the driver said to its standard error, which often is the reason."""
    try:
        with open(folder.driver_log, "rb") as f:
            f.seek(max(0, folder.driver_log.stat().st_size - 4000))
            lines = f.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
