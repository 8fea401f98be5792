"""The runner when the server itself is at fault: a bug, a list of jobs that cannot be written, a full disk."""

from __future__ import annotations

import asyncio
import errno
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NoReturn

import pytest

from passel.server import archive
from passel.server import runner as runner_module
from passel.server.clock import now_ms
from passel.server.console import Console
from passel.server.folders import JobFolder
from passel.server.job_store import Call, JobStore, JobsUnwritableError
from passel.server.jobs import Job, Order, State
from passel.server.outgoing import Gate
from passel.server.runner import Runner
from passel.server.settings import ServerSettings
from passel.server.webhooks import Webhooks
from server_world import PHOTO

TELL_END = 'import json; print("hello"); print(json.dumps({"event": "end", "code": 0}))'


def well(*_: object) -> tuple[str, ...]:
    return sys.executable, "-c", TELL_END


def run_one(
    data: Path,
    command: Callable[..., tuple[str, ...]],
    meddle: Callable[[JobStore], None] = lambda s: None,
    max_runtime_s: float = 0.0,
) -> tuple[Job, list[str]]:
    """How one committed job ends, and its output."""

    async def run() -> tuple[Job, list[str]]:
        data.mkdir(exist_ok=True)
        store = JobStore(data / "jobs.sqlite")
        runner = Runner(ServerSettings(data, max_runtime_s=max_runtime_s), store, command)
        folder = runner.folder("u")
        folder.make()
        (folder.photos / "a.jpg").write_bytes(PHOTO)
        await store.write(Job("u", "", Order("x", 1), State.COMMITTING, 0))
        meddle(store)
        runner.start()
        async with asyncio.timeout(60):
            while (job := store.get("u")) is None or job.state not in {State.COMPLETED, State.FAILED}:
                await asyncio.sleep(0.02)
            await runner.gone("u")
        await runner.close()
        store.close()
        return job, Console(folder.console).lines(0)

    return asyncio.run(run())


def test_clients_are_not_told_where_the_server_keeps_a_job(tmp_path):
    """Also when the path to it has a link in it."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    root = tmp_path / "link" / "data" / "jobs" / "u"

    def command(*_: object) -> tuple[str, ...]:
        say = f'import json; print(json.dumps({{"event": "say", "text": "reads {root.resolve()}/photos/a.jpg"}}));'
        end = {"event": "end", "code": 1, "message": f"No map of {root}", "where": f"{root}/photos: a.jpg"}
        return sys.executable, "-c", f"{say} print(json.dumps({end!r}))"

    job, output = run_one(tmp_path / "link" / "data", command)
    assert job.error == "No map of the task's folder [photos: a.jpg]"
    assert output[-2:] == ["reads photos/a.jpg", f"error: {job.error}"]


def test_a_job_runs_to_its_end(tmp_path):
    job, output = run_one(tmp_path, well)
    assert job.state is State.COMPLETED
    assert "hello" in output


def test_a_bug_fails_the_job_in_the_open(tmp_path, caplog):
    def bug(*_: object) -> tuple[str, ...]:
        raise ZeroDivisionError("nobody thought of this")

    job, output = run_one(tmp_path, bug)
    assert job.state is State.FAILED
    assert "ZeroDivisionError" in job.error
    assert "ZeroDivisionError" in output[-1]
    assert "nobody thought of this" in caplog.text


def test_a_command_that_does_not_exist_is_told(tmp_path):
    job, _ = run_one(tmp_path, lambda *_: ("/no/such/program",))
    assert job.state is State.FAILED
    assert "No such file" in job.error


def test_a_job_that_runs_too_long_fails(tmp_path):
    job, _ = run_one(tmp_path, lambda *_: ("sleep", "1000"), max_runtime_s=0.3)
    assert (job.state, job.error) == (State.FAILED, "It ran longer than the 0.005 minutes that a task may run here")
    job, _ = run_one(tmp_path / "in_time", well, max_runtime_s=3600)
    assert job.state is State.COMPLETED


@pytest.mark.parametrize("failing_write", [1, 2])
def test_a_list_of_jobs_that_cannot_be_written_for_a_while_costs_no_job(tmp_path, monkeypatch, failing_write):
    monkeypatch.setattr(runner_module, "RETRY_STORE_S", 0.01)

    def meddle(store: JobStore) -> None:
        count = 0

        def failing(real: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
            async def write(*words: object) -> None:
                nonlocal count
                count += 1
                if count == failing_write:
                    raise JobsUnwritableError("The list of jobs cannot be written: disk full")
                await real(*words)

            return write

        monkeypatch.setattr(store, "write", failing(store.write))

    job, _ = run_one(tmp_path, well, meddle)
    assert job.state is State.COMPLETED


def test_a_line_that_cannot_be_written_is_lost_and_the_job_goes_on(tmp_path, monkeypatch):
    real = Console.say

    def say(self: Console, lines: list[str]) -> None:
        if "hello" in lines:
            raise OSError(28, "No space left on device")
        real(self, lines)

    monkeypatch.setattr(Console, "say", say)
    job, output = run_one(tmp_path, well)
    assert job.state is State.COMPLETED
    assert "hello" not in output


def test_results_are_packed_when_the_full_disk_has_room_again(tmp_path, monkeypatch):
    monkeypatch.setattr(runner_module, "RETRY_ROOM_S", 0.01)
    real, tries = archive.sync_folder, 0

    def sync(folder: Path) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(folder)

    monkeypatch.setattr(archive, "sync_folder", sync)
    job, output = run_one(tmp_path, well)
    assert (job.state, job.error) == (State.COMPLETED, "")
    assert output.count("The server's disk is full; the results are packed when there is room") == 1, "not at every try"
    assert (tmp_path / "jobs" / "u" / "packed" / "plan.json").exists()


def test_a_job_whose_turn_comes_while_the_disk_is_full_begins_when_there_is_room(tmp_path, monkeypatch):
    """Another job may have filled it, or the server was started again on it."""
    monkeypatch.setattr(runner_module, "RETRY_ROOM_S", 0.01)
    write, say, full = runner_module.write_options, Console.say, [False, True, True]

    def fail() -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    def write_options(job: Job, folder: JobFolder) -> list[str]:
        return write(job, folder) if not full.pop() else fail()

    monkeypatch.setattr(runner_module, "write_options", write_options)
    monkeypatch.setattr(Console, "say", lambda self, lines: fail() if full else say(self, lines))
    job, output = run_one(tmp_path, well)
    assert (job.state, job.error) == (State.COMPLETED, "")
    assert "hello" in output


def test_a_job_that_waits_for_room_can_be_canceled_and_leaves_no_half_plan(tmp_path, monkeypatch):
    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def run() -> Job | None:
        store = JobStore(tmp_path / "jobs.sqlite")
        runner = Runner(ServerSettings(tmp_path), store, well)
        folder = runner.folder("u")
        folder.make()
        await store.write(Job("u", "", Order("x", 1), State.ZIPPING, 0))
        runner.start()
        async with asyncio.timeout(60):
            while not folder.console.exists():
                await asyncio.sleep(0.02)
            assert not folder.packed.exists()
            await runner.stop("u")
            await runner.gone("u")
            job = store.get("u")
            await runner.close()
        store.close()
        return job

    monkeypatch.setattr(archive, "sync_folder", full)
    job = asyncio.run(run())
    assert job is not None
    assert job.state is State.ZIPPING


def test_webhooks_of_the_operator_lead_anywhere_and_a_clock_set_back_holds_none_up(tmp_path, monkeypatch):
    made: list[tuple[str, bool]] = []

    def post(gate: Gate, url: str, body: bytes) -> int:
        made.append((url, gate.allow_private))
        return 200

    async def run() -> None:
        store = JobStore(tmp_path / "jobs.sqlite")
        later_ms = now_ms() + 86_400_000
        calls = [Call("u", url, "{}", later_ms) for url in ("http://10.0.0.9/own", "http://example.org/theirs")]
        job = Job("u", "", Order("x", 1), State.COMPLETED, 0)
        await store.write(job)
        await store.end(job, calls)
        webhooks = Webhooks(store, Gate(allow_private=False), "http://10.0.0.9/own")
        running = asyncio.create_task(webhooks.run())
        async with asyncio.timeout(60):
            while await store.calls():
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        store.close()

    monkeypatch.setattr(Gate, "post", post)
    asyncio.run(run())
    assert sorted(made) == [("http://10.0.0.9/own", True), ("http://example.org/theirs", False)]
