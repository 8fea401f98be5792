"""The dispatcher's decisions, one by one: jobs and workers that come, go and return."""

from __future__ import annotations

import pytest

from dispatch_world import World, digests, ready, small
from passel.cluster.coordinator.dispatch_state import ReplacedError, StalePollError
from passel.cluster.coordinator.status import capacity_of, status_of
from passel.cluster.wire.drivers import Ended
from passel.cluster.wire.workers import LEASE_S


@pytest.fixture
def world() -> World:
    w = World()
    w.job()
    return w


def test_steps_go_out_by_rank_as_memory_and_threads_allow(world: World) -> None:
    a = small(cpus=3, memory_mb=2000)
    world.submit(
        ready("third", 3), ready("first", 1, memory_mb=1200), ready("big", 2, memory_mb=900), ready("fourth", 4)
    )
    world.poll(a)
    assert digests(a) == ["first", "third"]  # big has no room beside first; fourth neither, beside these two
    for ticket in list(a.held):
        a.run(ticket)
    world.poll(a)
    assert [s.digest for s in world.started] == ["first", "third"]
    a.finish(next(iter(a.held)))
    world.poll(a)
    assert digests(a) == ["third", "big", "fourth"]
    assert world.ended["first"] == Ended("first", 1, "a", None, 10, 5)


def test_a_lost_answer_is_told_again_and_a_finish_is_acknowledged_as_often_as_needed(world: World) -> None:
    a = small()
    world.submit(ready("x"))
    world.poll(a, lost=True)
    assert not a.held
    world.poll(a)
    (ticket,) = a.held
    a.run(ticket)
    world.poll(a, lost=True)
    a.finish(ticket)
    world.poll(a, lost=True)
    assert world.poll(a).acknowledged == (ticket,)
    assert not a.finished
    assert world.ended["x"].attempts == 1


def test_an_overtaken_poll_changes_nothing(world: World) -> None:
    a = small()
    old = a.request()
    world.submit(ready("x"))
    world.poll(a)
    with pytest.raises(StalePollError):
        world.dispatcher.poll("a", old, world.now_s)
    world.poll(a)
    assert digests(a) == ["x"]


def test_an_agent_that_was_replaced_is_refused(world: World) -> None:
    a = small()
    old = a.request()
    world.poll(a)
    a.restart()
    world.poll(a)
    with pytest.raises(ReplacedError):
        world.dispatcher.poll("a", old, world.now_s)


def test_a_silent_worker_loses_its_steps_and_a_returning_one_goes_on_with_them(world: World) -> None:
    a, b = small("a"), small("b")
    world.submit(ready("x"))
    world.poll(a)
    (ticket,) = a.held
    a.run(ticket)
    world.poll(a)
    world.later(LEASE_S + 1, b)
    assert digests(b) == ["x"]
    world.poll(a)  # the link is back: both run it, the first result counts
    assert "x" not in world.ended
    a.finish(ticket)
    world.poll(a)
    assert world.ended["x"].worker == "a"
    world.poll(b)
    assert not b.held, "the copy was not cancelled"


def test_a_broken_connection_shortens_the_lease_unless_the_worker_is_back(world: World) -> None:
    a, b = small("a"), small("b")
    world.submit(ready("x"))
    request = a.request()
    world.dispatcher.poll("a", request, world.now_s)
    world.dispatcher.match(world.now_s)
    a.take(world.dispatcher.reply("a", a.seq, world.now_s))
    held = a.request()
    world.dispatcher.poll("a", held, world.now_s)
    world.dispatcher.connection_broke("a", request, world.now_s)  # of an earlier poll: no news
    world.later(4.0, b)
    assert not b.held
    world.dispatcher.connection_broke("a", held, world.now_s)
    world.later(4.0, b)
    assert digests(b) == ["x"]


def test_a_restarted_agent_is_known_to_have_lost_everything(world: World) -> None:
    a, b = small("a"), small("b")
    world.submit(ready("x"))
    world.poll(a)
    a.restart()
    a.draining = True
    world.poll(a)
    world.poll(b)
    assert digests(b) == ["x"]


def test_a_worker_that_left_is_not_called_lost(world: World) -> None:
    leaver, silent = small("leaver", draining=True), small("silent")
    world.poll(leaver)
    world.poll(silent)
    world.later(2 * LEASE_S)
    assert [(w.name, w.state) for w in status_of(world.dispatcher, world.now_s).workers] == [("silent", "lost")]
    leaver.draining = False
    world.poll(leaver)
    assert "leaver" in {w.name for w in status_of(world.dispatcher, world.now_s).workers}


def test_a_drained_worker_gets_nothing_more_and_is_told_so(world: World) -> None:
    a = small()
    world.poll(a)
    assert world.dispatcher.drain("a")
    capacity = capacity_of(world.dispatcher)
    assert (capacity.workers, capacity.draining) == (0, 1)
    world.submit(ready("x"))
    assert world.poll(a).drain
    assert not a.held
    assert not world.dispatcher.drain("nobody")
    world.dispatcher.drain("a", drained=False)
    world.poll(a)
    assert digests(a) == ["x"]


def test_what_runs_is_adopted_after_the_coordinator_was_restarted(world: World) -> None:
    a = small()
    world.submit(ready("x"), ready("y", 1))
    world.poll(a)
    for ticket in list(a.held):
        a.run(ticket)
    after = World()
    after.poll(a)  # before the driver is back
    assert len(a.held) == 2
    after.job()
    after.submit(ready("x"))
    assert after.poll(a).run == ()
    after.listen()
    assert [s.digest for s in after.started] == ["x"]
    for ticket in list(a.held):
        a.finish(ticket)
    after.poll(a)
    assert set(after.ended) == {"x"}


def test_a_withdrawn_job_is_stopped_everywhere_and_its_driver_may_come_again(world: World) -> None:
    a = small()
    world.submit(ready("x"), ready("y", 1), ready("z", 2))
    world.poll(a)
    a.run(next(iter(a.held)))
    world.poll(a)
    world.dispatcher.withdraw("job", world.now_s)
    world.poll(a)
    assert not a.held
    world.poll(a)
    world.job()
    world.submit(ready("x"))
    world.work(a)
    assert world.ended["x"].failure is None


def test_a_worker_that_is_cut_off_is_forgotten(world: World) -> None:
    a, b = small("a"), small("b")
    world.submit(ready("x"))
    world.poll(a)
    world.dispatcher.cut("a", world.now_s)
    world.poll(b)
    assert digests(b) == ["x"]
