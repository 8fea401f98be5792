"""The dispatcher's decisions, one by one: steps that fail, workers that die, disks that are full."""

from __future__ import annotations

import pytest

from dispatch_world import World, digests, ready, small
from passel.cluster.coordinator.dispatch import STALL_S
from passel.cluster.coordinator.setbacks import FULL_S, HOLD_S, MOST_STRIKES
from passel.cluster.coordinator.status import capacity_of
from passel.cluster.wire.drivers import Ended
from passel.cluster.wire.workers import LEASE_S, Failure

DIED = Failure("died", "the step's process died with SIGSEGV")


@pytest.fixture
def world() -> World:
    w = World()
    w.job()
    return w


def test_a_step_that_dies_is_tried_elsewhere_then_alone_then_given_up(world: World) -> None:
    workers = [small(n) for n in "abc"]
    for worker in workers:
        world.poll(worker)
    world.submit(ready("x"), ready("y", 1))
    seen = []
    for turn in range(3):
        for worker in workers:
            world.poll(worker)
            for ticket, held in list(worker.held.items()):
                worker.run(ticket)
                world.poll(worker)
                if held.assignment.digest == "x":
                    seen.append(worker.name)
                    assert turn < 2 or len(worker.held) == 1, "the third try was not alone"
                    worker.finish(ticket, DIED)
                else:
                    worker.finish(ticket)
            world.poll(worker)
    assert len(set(seen)) == 3, f"tried on {seen}"
    ended = world.ended["x"]
    assert ended.failure == DIED
    assert ended.attempts == MOST_STRIKES
    assert world.ended["y"].failure is None


def test_a_step_that_takes_workers_with_it_is_given_up_and_the_others_are_made(world: World) -> None:
    a, b = small("a"), small("b")
    world.submit(ready("poison"), *(ready(f"good{i}", i) for i in range(1, 6)))
    for _ in range(12):
        for worker in (a, b):
            world.poll(worker)
            for ticket in list(worker.held):
                worker.run(ticket)
            world.poll(worker)
            if "poison" in digests(worker):
                worker.restart()
                continue
            for ticket in list(worker.held):
                worker.finish(ticket)
            world.poll(worker)
    assert all(world.ended[f"good{i}"].failure is None for i in range(1, 6))
    failure = world.ended["poison"].failure
    assert failure is not None
    assert failure.kind == "died"
    assert "3 workers were lost" in failure.what


def test_a_leaving_worker_is_no_witness_against_its_steps(world: World) -> None:
    a = small("a", draining=False)
    world.submit(ready("x"))
    for _ in range(5):
        world.poll(a)
        a.run(next(iter(a.held)))
        a.draining = True
        world.poll(a)
        a.restart()  # a spot machine taken away
        a.draining = False
    world.work(a)
    assert world.ended["x"].failure is None


@pytest.mark.parametrize("kind", ["error", "crash"])
def test_a_known_failure_is_not_tried_again(world: World, kind: str) -> None:
    world.submit(ready("x"))
    world.work(small(), Failure(kind, "no"))
    assert world.ended["x"].failure == Failure(kind, "no")


def test_a_full_disk_sends_the_step_elsewhere_and_holds_it_when_all_are_full(world: World) -> None:
    a, b, full = small("a"), small("b"), Failure("storage", "The disk is full")
    world.poll(b)
    world.submit(ready("x"), ready("y", 1))
    world.poll(a)
    for ticket, held in list(a.held.items()):
        if held.assignment.digest == "x":
            a.finish(ticket, full)
    world.poll(a)
    world.poll(b)
    assert "x" in digests(b)
    for ticket, held in list(b.held.items()):
        if held.assignment.digest == "x":
            b.finish(ticket, full)
    b.full = True
    world.poll(b)
    a.full = True
    world.later(HOLD_S / 2, a, b)
    assert "x" not in world.ended
    assert capacity_of(world.dispatcher).full == 2
    b.full = False
    world.later(2.0, a, b)
    assert "x" in digests(b), "there is room again"


def test_a_step_for_which_nobody_makes_room_is_given_up(world: World) -> None:
    a, full = small("a"), Failure("storage", "The disk is full")
    world.submit(ready("x"))
    world.poll(a)
    a.full = True
    a.finish(next(iter(a.held)), full)
    world.later(FULL_S, a)
    assert not world.ended
    world.later(HOLD_S + 2.0, a)
    assert world.ended["x"].failure == full


def test_a_step_that_kills_before_it_is_told_of_is_given_up_after_three_machines(world: World) -> None:
    workers = [small(n, session=str(100 * i)) for i, n in enumerate("abcd")]
    for worker in workers:
        world.poll(worker)
    world.submit(ready("poison"))
    met = []
    for worker in workers * 3:
        world.poll(worker)
        if worker.held:
            met.append(worker.name)
            worker.restart()
            world.poll(worker)
            assert not worker.held, "there are machines that have not met it"
    assert met == ["a", "b", "c"]
    assert world.ended["poison"].failure is not None


def test_a_full_disk_of_the_coordinator_holds_its_own_workers_steps_until_there_is_room(world: World) -> None:
    local = small("local", local=True)
    world.submit(ready("x"))
    world.poll(local)
    local.full = True
    local.finish(next(iter(local.held)), Failure("storage", "The disk is full"))
    world.later(HOLD_S / 2, local)
    assert "x" not in world.ended
    assert not capacity_of(world.dispatcher).takes_artifacts
    local.full = False
    world.later(2.0, local)
    assert "x" in digests(local)
    local.finish(
        next(iter(local.held)), Failure("storage", "The disk is full")
    )  # and before it tells, there is room again
    world.later(2.0, local)
    assert "x" in digests(local)


def test_nobody_is_blamed_for_our_own_sleep(world: World) -> None:
    a, b = small("a"), small("b")
    world.submit(ready("x"))
    world.poll(a)
    world.later(2.0, a, b)
    world.now_s += LEASE_S + STALL_S  # the coordinator's machine stood still
    world.dispatcher.tick(world.now_s)
    world.poll(b)
    assert not b.held
    world.later(LEASE_S, b)
    assert digests(b) == ["x"]


@pytest.mark.parametrize("deaths", [1, MOST_STRIKES])
def test_what_a_worker_has_delivered_is_not_made_again_when_it_dies(world: World, deaths: int) -> None:
    world.submit(ready("x"))
    for n in range(deaths):
        worker = small(f"w{n}")
        world.poll(worker)
        (ticket,) = worker.held
        worker.run(ticket)
        world.poll(worker)
        if n == deaths - 1:
            world.dispatcher.delivered("job", "x", worker.name)
            world.listen()
            assert not world.ended  # it will say so itself, with what it took
        world.later(LEASE_S + 1)
    assert world.ended["x"] == Ended("x", deaths, f"w{deaths - 1}", None, 0, 0)
    other = small("other")
    world.poll(other)
    assert not other.held


def test_what_a_worker_that_was_thought_lost_delivers_ends_the_step(world: World) -> None:
    a, b = small("a"), small("b")
    world.submit(ready("x"))
    world.poll(a)
    a.run(next(iter(a.held)))
    world.poll(a)
    world.later(LEASE_S + 1, b)
    world.poll(b)
    (ticket,) = b.held
    world.dispatcher.delivered("job", "x", "a")
    world.listen()
    assert world.ended["x"].failure is None
    assert world.poll(b).cancel == (ticket,)
    world.dispatcher.delivered("job", "x", "b")  # too late, and again
    world.dispatcher.delivered("gone", "x", "b")


def test_a_failure_told_after_the_artifact_has_come_is_none(world: World) -> None:
    a = small()
    world.submit(ready("x"))
    world.poll(a)
    (ticket,) = a.held
    world.dispatcher.delivered("job", "x", "a")
    a.finish(ticket, Failure("storage", "The disk is full"))
    world.poll(a)
    assert world.ended["x"].failure is None
    assert world.ended["x"].worker == "a"
    assert not a.held
