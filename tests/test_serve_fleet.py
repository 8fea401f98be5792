"""What the fleet is told of the queue, and the tokens and workers that it makes and forgets."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from passel.cluster.coordinator.admin import JobLine, Overview, Pace, overview_of
from passel.cluster.coordinator.status import JobStatus, PasselStatus, RunningStep, WorkerStatus
from passel.cluster.trust.roster import Roster
from passel.cluster.trust.tokens import AccessBook, TokenRefused, Tokens
from passel.cluster.wire.workers import MachineInfo, Slots
from passel.commands.watch import overview_text
from passel.errors import UsageError
from passel.fleet.ports import JobDemand, WorkerSeen
from passel.serving.fleet import FleetCoordinator, demand_of


def step(job: str, memory_mb: int) -> RunningStep:
    return RunningStep(job, "digest", "tiles", "t", 1, "running", memory_mb, 1, 1.0)


def worker(name: str, state: str, *running: RunningStep) -> WorkerStatus:
    return WorkerStatus(name, state, MachineInfo(name, 4, 8000, 4000, 100), Slots(4, 7000), 1, 1, running, 0, 0, 0)


def overview() -> Overview:
    jobs = (
        JobLine("a", "half done", "running", 1000, 50.0, 60.0),
        JobLine("b", "waits", "queued", 300, 0.0, None),
        JobLine("c", "packs its map", "zipping", 100, 90.0, None),
    )
    workers = (
        worker("one", "working", step("a", 900), step("a", 2500)),
        worker("two", "draining"),
        worker("three", "lost"),
    )
    status = PasselStatus(workers, (JobStatus("a", 8, 2, 10, 0, ()),))
    return overview_of("field", 1.0, Pace(), jobs, status, ())


class Admin:
    """The coordinator's part of the test. Everything must be called in the event loop's thread."""

    def __init__(self, roster: Roster) -> None:
        self.roster, self.drained, self.thread = roster, {}, threading.get_ident()

    def overview(self) -> Overview:
        assert threading.get_ident() == self.thread
        return overview()

    def drain(self, worker: str, drained: bool) -> bool:
        assert threading.get_ident() == self.thread
        self.drained[worker] = drained
        return False

    def revoke(self, worker: str) -> None:
        self.roster.revoke(worker)


@pytest.fixture
def book(tmp_path: Path) -> Iterator[AccessBook]:
    made = AccessBook(tmp_path / "access.sqlite")
    yield made
    made.close()


def test_photos_that_are_not_done_are_shared_out_like_steps() -> None:
    assert demand_of(overview()).jobs == (JobDemand("a", 400, 100, 2500), JobDemand("b", 300, 0, 0))


def test_all_done_only_when_all_forecasts_are_known() -> None:
    assert overview().rest_s is None


def test_people_are_told_what_steps_wait_for() -> None:
    def told(*states: str) -> str:
        seen = overview()
        workers = tuple(worker(f"w{i}", state) for i, state in enumerate(states))
        text = overview_text(replace(seen, passel=replace(seen.passel, workers=workers)))
        return "".join(line for line in text.splitlines() if line.startswith("! ") and "the disk of" not in line)

    assert told("idle", "draining") == ""
    assert "no worker is connected" in told("lost")
    assert "every worker is draining" in told("draining", "lost")
    assert "have no room" in told("full", "draining")


def test_the_fleets_thread_asks_the_event_loop(book: AccessBook) -> None:
    tokens = Tokens(book, "f" * 24)
    roster = Roster(book, tokens)

    async def main() -> None:
        admin = Admin(roster)
        fleet = FleetCoordinator(admin, tokens, asyncio.get_running_loop())

        def turn() -> None:
            assert fleet.workers() == (WorkerSeen("one", True), WorkerSeen("two", False, True, True))
            fleet.drain("two", True)
            first = fleet.mint_join_token("m1", 60)
            second = fleet.mint_join_token("m1", 60)
            with pytest.raises(TokenRefused, match="revoked"):
                tokens.check("join", first)
            assert roster.admit(second, "m1", "key") == "m1"
            fleet.forget("m1")
            fleet.forget("m1")
            fleet.forget("never-joined")
            assert not roster.is_member("m1")

        await asyncio.to_thread(turn)
        assert admin.drained == {"two": True}

    asyncio.run(main())
    with pytest.raises(UsageError):
        roster.revoke("never-joined")


def test_the_pace_is_that_of_the_last_minutes() -> None:
    now = [0.0]
    pace = Pace(window_s=60.0, clock=lambda: now[0])
    assert pace.a_minute() == 0
    for now[0], count in ((0.0, 0), (30.0, 10), (60.0, 20), (120.0, 80)):
        pace.look(count)
    assert pace.a_minute() == 60.0  # from the look at 60 s on
    pace.look(3)  # a worker was forgotten, and its count with it
    assert pace.a_minute() == 0
