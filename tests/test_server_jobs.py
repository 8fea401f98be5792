"""Jobs: every transition, the record on disk, who is next."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from passel.errors import StorageError
from passel.server import jobs
from passel.server.job_notes import Note
from passel.server.job_store import Call, JobStore
from passel.server.jobs import CODES, ENDED, GivenOption, Job, JobError, Order, RunEnd, State
from passel.server.scheduling import expired, next_job

ORDER = Order(
    "a", 5, (GivenOption("dsm", True), GivenOption("split", 400)), ("huh",), True, "", ("x/y",), "", ("http://x/",), 3
)
OK, BAD = RunEnd(0), RunEnd(1, "no photo fits", "fly lower", "a.jpg")


def job_in(state: State, **fields: object) -> Job:
    return replace(Job("u", "o", ORDER, state, 0), **fields)  # type: ignore[arg-type]


MOVES = {
    "commit": (lambda j: jobs.committed(j, 2, 9), {State.UPLOADING: State.COMMITTING}),
    "prepare": (lambda j: jobs.prepared(j, 2, 9), {State.COMMITTING: State.QUEUED}),
    "start": (lambda j: jobs.started(j, 9), {State.QUEUED: State.RUNNING}),
    "end well": (lambda j: jobs.driver_ended(j, OK, 9), {State.RUNNING: State.ZIPPING}),
    "end badly": (lambda j: jobs.driver_ended(j, BAD, 9), {State.RUNNING: State.FAILED}),
    "pack": (lambda j: jobs.packed(j, 9), {State.ZIPPING: State.COMPLETED}),
    "fail": (
        lambda j: jobs.failed(j, "why", 9),
        {s: State.FAILED for s in (State.COMMITTING, State.RUNNING, State.ZIPPING)},
    ),
    "cancel": (
        lambda j: jobs.canceled(j, 9),
        {s: State.CANCELED for s in CODES},
    ),
    "restart": (lambda j: jobs.restarted(j, ORDER, 9), {s: State.COMMITTING for s in ENDED}),
    "remove": (lambda j: jobs.removing(j, 9), {s: State.REMOVING for s in State}),
    "recover": (
        lambda j: jobs.recovered(j, 9),
        {s: State.QUEUED if s is State.RUNNING else s for s in State},
    ),
}


@pytest.mark.parametrize(("move", "state"), list(itertools.product(MOVES, State)))
def test_every_transition(move, state):
    change, allowed = MOVES[move]
    if state in allowed:
        assert change(job_in(state)).state is allowed[state]
    else:
        with pytest.raises(JobError):
            change(job_in(state))


def test_clients_see_nodeodms_codes():
    assert {s.value: c for s, c in CODES.items()} == {
        **{"committing": 20, "queued": 10, "running": 20, "zipping": 20},
        **{"completed": 40, "failed": 30, "canceled": 50},
    }
    assert not job_in(State.UPLOADING).is_task
    assert not job_in(State.REMOVING).is_task


def test_processing_time_begins_with_the_run_and_stands_still_after_it():
    job = job_in(State.QUEUED)
    assert job.processing_time_ms(1000) == -1
    job = jobs.started(job, 1000)
    assert job.processing_time_ms(1500) == 500
    job = jobs.packed(jobs.driver_ended(job, OK, 3000), 4000)
    assert job.processing_time_ms(9999) == 3000
    assert jobs.canceled(job, 5000).processing_time_ms(9999) == -1


def test_the_clock_runs_on_over_a_crash():
    job = jobs.started(jobs.recovered(jobs.started(job_in(State.QUEUED), 1000), 5000), 6000)
    assert job.processing_time_ms(7000) == 6000
    assert job.runs == 2


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True)))
def test_progress_never_falls_and_leaves_room_for_packing(told):
    job, before = job_in(State.RUNNING), 0.0
    for percent in told:
        job = jobs.progressed(job, percent)
        assert before <= job.progress <= 90.0
        before = job.progress


def test_a_restart_forgets_the_run_but_not_the_photos():
    ended = jobs.failed(job_in(State.RUNNING, runs=1, images_count=7, progress=50.0, started_ms=1), "why", 2)
    again = jobs.restarted(ended, replace(ORDER, options=()), 77)
    assert (again.state, again.progress, again.error, again.images_count) == (State.QUEUED, 0.0, "", 7)
    assert again.order.created_ms == 77
    assert again.processing_time_ms(99) == -1


def test_failures_say_what_where_and_what_to_do():
    assert BAD.text == "no photo fits [a.jpg] → fly lower"
    assert RunEnd(137).text == "Not enough memory"
    assert RunEnd(9).text == "Processing failed (9)"


class History(RuleBasedStateMachine):
    """Any history of requests and ends: the job is always somewhere from which it can go on."""

    def __init__(self) -> None:
        super().__init__()
        self.job = jobs.new_job("u", "o", ORDER, 0)
        self.now = 0

    @rule(move=st.sampled_from([m for m in MOVES if m != "remove"]))
    def try_to(self, move: str) -> None:
        self.now += 1
        try:
            self.job = MOVES[move][0](self.job)
        except JobError:
            return

    @precondition(lambda self: self.job.is_task)
    @rule()
    def restart_after_cancel(self) -> None:
        assert jobs.restarted(jobs.canceled(self.job, 1), ORDER, 2).state in {State.COMMITTING, State.QUEUED}

    @invariant()
    def survives_the_disk(self) -> None:
        assert Note.of_text(Note(self.job, 7).text()) == Note(self.job, 7)


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=30, deadline=None)


def test_the_store_keeps_jobs_in_order_and_over_a_restart(tmp_path):
    async def fill(store: JobStore) -> None:
        await store.write(*(replace(job_in(State.QUEUED), uuid=f"u{i}") for i in range(5)))
        await store.write(replace(job_in(State.RUNNING), uuid="u3"))
        await store.delete("u1")
        await store.end(replace(job_in(State.FAILED), uuid="u4"), [Call("u4", "http://x/", "{}", 7)])

    store = JobStore(tmp_path / "jobs.sqlite")
    asyncio.run(fill(store))
    inside = list(store.all())
    store.close()
    again = JobStore(tmp_path / "jobs.sqlite")
    assert [(j.uuid, j.state.value) for j in again.all()] == [
        ("u0", "queued"),
        ("u2", "queued"),
        ("u3", "running"),
        ("u4", "failed"),
    ]
    assert list(again.all()) == inside
    assert [(c.uuid, c.url, c.due_ms, c.attempts) for c in asyncio.run(again.calls())] == [("u4", "http://x/", 7, 0)]
    again.close()


def test_a_write_that_its_caller_gave_up_leaves_memory_and_disk_equal(tmp_path):
    store = JobStore(tmp_path / "jobs.sqlite")

    async def give_up() -> None:
        task = asyncio.create_task(store.write(job_in(State.QUEUED)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        while asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.sleep(0.01)

    asyncio.run(give_up())
    assert store.get("u") is not None
    store.close()
    again = JobStore(tmp_path / "jobs.sqlite")
    assert again.get("u") is not None
    again.close()


def test_a_list_of_jobs_that_cannot_be_read_is_told(tmp_path):
    (tmp_path / "jobs.sqlite").mkdir()
    with pytest.raises(StorageError, match="list of jobs"):
        JobStore(tmp_path / "jobs.sqlite")


def queue(*entries: tuple[str, str, int]) -> list[Job]:
    """Queued jobs from (uuid, owner, priority)."""
    return [Job(u, o, replace(ORDER, priority=p), State.QUEUED, 0) for u, o, p in entries]


def served(waiting: list[Job], slots: int) -> list[str]:
    """The order in which jobs start when each runs until `slots` others have started after it."""
    order: list[str] = []
    last: dict[str, int] = {}
    while (job := next_job(waiting, last)) is not None:
        order.append(job.uuid)
        last[job.owner] = len(order)
        waiting = [replace(j, state=State.RUNNING) if j.uuid == job.uuid else j for j in waiting]
        if len(order) >= slots:
            waiting = [j for j in waiting if j.uuid != order[len(order) - slots]]
    return order


def test_nobody_waits_behind_anothers_hundred_jobs():
    jobs_of_a = [(f"a{i}", "a", 0) for i in range(100)]
    order = served(queue(*jobs_of_a, ("b0", "b", 0), ("b1", "b", 0)), slots=1)
    assert order[:5] == ["a0", "b0", "a1", "b1", "a2"]
    order = served(queue(*jobs_of_a, ("b0", "b", 0)), slots=4)
    assert "b0" in order[:2]


def test_priority_counts_within_an_owner():
    assert served(queue(("a0", "a", 0), ("a1", "a", 5), ("b0", "b", 0)), slots=1) == ["a1", "b0", "a0"]


def test_a_job_that_a_crash_cut_off_goes_first():
    waiting = queue(("a0", "a", 0), ("a1", "a", 0))
    waiting[1] = replace(waiting[1], started_ms=3)
    assert next_job(waiting, {}).uuid == "a1"


def test_what_is_old_and_ended_expires():
    every = [replace(job_in(s), uuid=s.value) for s in State]
    assert {j.uuid for j in expired(every, 10_001, 10, 10)} == {"uploading", "completed", "failed", "canceled"}
    assert {j.uuid for j in expired(every, 10_001, 10, 0)} == {"completed", "failed", "canceled"}
    assert expired(every, 9_999, 10, 10) == []
