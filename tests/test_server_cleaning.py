"""What is removed when, whatever happens to the clock: as when a computer that keeps no time gets the network, minutes after its start."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from passel.server import cleaning
from passel.server.app import create_app
from passel.server.clock import now_ms
from passel.server.job_store import JobStore, JobsUnwritableError
from passel.server.jobs import Job, Order, Sent, State
from passel.server.keeping import Keeper
from passel.server.runtimes import Runtimes
from passel.server.service import JobService
from passel.server.settings import ServerSettings, TestMode

UUID = "01234567-89ab-4def-8123-456789abcdef"
DAY_MS = 86_400_000
KEEP_S = 2 * DAY_MS / 1000


class Clock:
    """The computer's, which can be set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._real, self.ahead_ms = time.time_ns, 0
        monkeypatch.setattr(time, "time_ns", lambda: self._real() + self.ahead_ms * 1_000_000)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(cleaning, "CLEANUP_EVERY_S", 0.01)
    return Clock(monkeypatch)


def done(age_ms: int = 0) -> Job:
    return Job(UUID, "", Order("x", 1), State.COMPLETED, now_ms() - age_ms, runs=1)


def is_touched(job: Job, at_ms: int) -> bool:
    """To the second: how far a clock was set is told by another clock, which ticks otherwise."""
    return abs(job.touched_ms - at_ms) < 1000


@asynccontextmanager
async def serving(data: Path, job: Job) -> AsyncIterator[tuple[JobService, JobStore]]:
    store = JobStore(data / "jobs.sqlite")
    await store.write(job)
    store.close()
    service = create_app(ServerSettings(data, test=TestMode(), cleanup_tasks_after_s=KEEP_S)).service
    await service.start()
    yield service, service._store
    await service.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def passes() -> None:
    """Time for some passes, each of which could remove something."""
    await asyncio.sleep(0.2)


def test_a_clock_that_is_set_forward_removes_no_map(tmp_path, clock):
    async def run() -> None:
        async with serving(tmp_path, job := done()) as (service, _):
            clock.ahead_ms = 5 * DAY_MS
            await until(lambda: is_touched(service.task(UUID, ""), job.touched_ms + 5 * DAY_MS))
            await passes()
            assert service.get(UUID, "") is not None
        kept = JobStore(tmp_path / "jobs.sqlite")
        assert is_touched(kept._jobs[UUID], job.touched_ms + 5 * DAY_MS), "the next server would remove it"
        kept.close()

    asyncio.run(run())


def test_nothing_is_removed_while_the_list_cannot_be_written_after_the_clock_was_set(tmp_path, clock, monkeypatch):
    async def run() -> None:
        async with serving(tmp_path, job := done()) as (service, store):
            refused, write = [], store.write

            async def unwritable(*jobs: Job) -> None:
                refused.extend(jobs)
                raise JobsUnwritableError("The list of jobs cannot be written: disk I/O error")

            monkeypatch.setattr(store, "write", unwritable)
            clock.ahead_ms = 5 * DAY_MS
            await until(lambda: len(refused) > 3)
            clock.ahead_ms = 6 * DAY_MS
            await until(lambda: len(refused) > 6)
            assert service.get(UUID, "") == job
            monkeypatch.setattr(store, "write", write)
            await until(lambda: is_touched(service.task(UUID, ""), job.touched_ms + 6 * DAY_MS))
            await passes()
            assert service.get(UUID, "") is not None

    asyncio.run(run())


def test_a_clock_that_is_set_just_before_the_server_ends_removes_nothing_later(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(cleaning, "CLEANUP_EVERY_S", 60.0)

    async def run() -> None:
        async with serving(tmp_path, job := done()):
            await passes()
            clock.ahead_ms = 5 * DAY_MS
        kept = JobStore(tmp_path / "jobs.sqlite")
        assert is_touched(kept._jobs[UUID], job.touched_ms + 5 * DAY_MS)
        kept.close()

    asyncio.run(run())


def test_a_clock_that_is_set_forward_and_back_again_keeps_no_map_for_ever(tmp_path, clock):
    async def run() -> None:
        async with serving(tmp_path, job := done(age_ms=DAY_MS)) as (service, _):
            clock.ahead_ms = 3650 * DAY_MS
            await until(lambda: service.task(UUID, "").touched_ms > now_ms() - 2 * DAY_MS)
            clock.ahead_ms = 0
            await until(lambda: service.task(UUID, "").touched_ms < now_ms())
            assert is_touched(service.task(UUID, ""), job.touched_ms)

    asyncio.run(run())


def test_results_go_on_to_the_bucket_when_the_clock_is_set_meanwhile(tmp_path, clock, monkeypatch):
    """What the cleaner writes then must not look as if the task had been run again."""

    class Bucket:
        begun, go_on = threading.Event(), threading.Event()

        def check(self) -> None: ...

    async def run() -> None:
        store, runtimes, bucket = JobStore(tmp_path / "jobs.sqlite"), Runtimes(), Bucket()
        settings = ServerSettings(tmp_path, cleanup_tasks_after_s=KEEP_S)
        keeper = Keeper(settings, store, runtimes, bucket)

        def upload(job: Job) -> None:  # what it packs is not the matter here
            bucket.begun.set()
            assert bucket.go_on.wait(60)
            assert keeper._is_current(job)

        monkeypatch.setattr(keeper, "_upload", upload)
        cleaner = cleaning.Cleaner(settings, store, runtimes, lambda job: store.delete(job.uuid), in_bucket=True)
        await store.write(job := done())
        tasks = [asyncio.create_task(keeper.run()), asyncio.create_task(cleaner.run())]
        await until(bucket.begun.is_set)
        clock.ahead_ms = 5 * DAY_MS
        await until(lambda: store._jobs[UUID].touched_ms > job.touched_ms)
        bucket.go_on.set()
        await until(lambda: store._jobs[UUID].sent is Sent.DONE)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        store.close()

    asyncio.run(run())
