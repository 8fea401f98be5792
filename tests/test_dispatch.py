"""The dispatcher's decisions, one by one."""

from __future__ import annotations

import pytest

from dispatch_world import World, ready, small
from passel.cluster.coordinator.dispatch import STALL_S
from passel.cluster.coordinator.dispatch_state import ReplacedError, StalePollError
from passel.cluster.coordinator.placement import PATIENCE_S
from passel.cluster.coordinator.setbacks import FULL_S, HOLD_S, MOST_STRIKES
from passel.cluster.coordinator.status import capacity_of, status_of
from passel.cluster.wire.drivers import Ended
from passel.cluster.wire.workers import LEASE_S, Failure

DIED = Failure("died", "the step's process died with SIGSEGV")


@pytest.fixture
def world() -> World:
    w = World()
    w.job()
    return w


def digests(worker: object) -> list[str]:
    return [h.assignment.digest for h in worker.held.values()]  # type: ignore[attr-defined]


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


def test_a_step_larger_than_any_worker_runs_alone_on_the_largest(world: World) -> None:
    little, large = small("little", 2, 1000), small("large", 4, 4000)
    world.poll(large)
    world.submit(ready("huge", 0, memory_mb=50_000, threads=16), ready("x", 1), ready("y", 2))
    world.poll(little)
    assert set(digests(little)) == {"x", "y"}
    world.poll(large)
    assert digests(large) == ["huge"]
    assignment = next(iter(large.held.values())).assignment
    assert (assignment.memory_mb, assignment.threads) == (4000, 4)
    world.submit(ready("z", 3))
    world.poll(large)
    assert digests(large) == ["huge"]


def test_a_large_step_is_not_starved_by_small_ones(world: World) -> None:
    a = small("a", 4, 4000)
    world.submit(*(ready(f"s{i}", 100 + i) for i in range(4)))
    world.poll(a)
    world.submit(ready("large", 200, memory_mb=3500), *(ready(f"t{i}", 300 + i) for i in range(200)))
    for _ in range(20):
        world.now_s += PATIENCE_S / 5
        world.dispatcher.tick(world.now_s)
        a.finish(next(iter(a.held)))
        world.poll(a)
        if "large" in digests(a):
            return
    raise AssertionError("small steps went past it for ever")


def test_jobs_share_by_what_they_use(world: World) -> None:
    world.job("other", share=2.0)
    world.submit(*(ready(f"a{i}", i) for i in range(20)))
    world.submit(*(ready(f"b{i}", i) for i in range(20)), job="other")
    a = small(cpus=9, memory_mb=100_000)
    world.poll(a)
    assert sum(d.startswith("b") for d in digests(a)) == 6


def test_a_step_goes_where_its_inputs_are(world: World) -> None:
    a, b = small("a", 1, cached=("p",)), small("b", 1, cached=("q",))
    world.dispatcher.poll("a", a.request(), world.now_s)
    world.dispatcher.poll("b", b.request(), world.now_s)
    world.submit(ready("of_q", 0, q=100_000_000), ready("of_p", 1, p=100_000_000))
    world.poll(a)
    world.poll(b)
    assert digests(a) == ["of_p"]
    assert digests(b) == ["of_q"]
    # but not when the inputs are smaller than the wait is long
    world.submit(*(ready(f"n{i}", i) for i in range(5)), ready("late", 99, p=1000))
    a.finish(next(iter(a.held)))
    world.poll(a)
    assert digests(a) == ["n0"]


def test_a_step_with_large_inputs_waits_for_the_worker_that_has_them_but_not_for_ever(world: World) -> None:
    a, b = small(cpus=1, cached=("tiles",)), small("b")
    world.submit(ready("made"))
    world.work(a)  # a second, so others of its stage will take a second
    world.submit(ready("next"))
    world.poll(a)
    a.run(next(iter(a.held)))
    world.submit(ready("merge", tiles=1_000_000_000))  # 20 s of a link
    world.poll(a)
    world.poll(b)
    assert digests(a) == ["next"]
    assert not b.held, "a will have begun it before its inputs were at b"
    world.later(8.0, a, b)
    assert not b.held
    world.later(4.0, a, b)
    assert digests(b) == ["merge"], "who knows when a will be free"


def test_the_last_slow_step_of_a_stage_is_tried_twice_and_the_first_result_counts(world: World) -> None:
    a, b = small("a", 4, 4000), small("b", 4, 4000)
    world.submit(*(ready(f"x{i}", i) for i in range(4)))
    world.poll(a)
    for ticket in list(a.held):
        a.run(ticket)
    world.poll(a)
    *done, slow = list(a.held)
    for ticket in done:
        a.finish(ticket, seconds=1.0)
    world.poll(a)
    world.later(5.0, a, b)
    assert digests(b) == ["x3"]
    (copy,) = b.held
    b.run(copy)
    b.finish(copy)
    world.poll(b)
    assert world.ended["x3"].worker == "b"
    world.poll(a)
    assert slow not in a.held


def test_a_step_of_a_larger_kind_than_the_others_of_its_stage_is_not_slow(world: World) -> None:
    """As the orthophoto among the last files of a map: on recorded runs each of them had been copied."""
    a, b = small("a", 8, 8000), small("b", 4, 4000)
    world.submit(*(ready(f"x{i}", i) for i in range(4)), ready("large", 4, function="g"))
    world.poll(a)
    for ticket in list(a.held):
        a.run(ticket)
    world.poll(a)
    for ticket, held in list(a.held.items()):
        if held.assignment.digest in ("x0", "x1", "x2"):
            a.finish(ticket, seconds=1.0)
    world.poll(a)
    world.later(5.0, a, b)
    assert digests(b) == ["x3"], "that one is slow"
    world.later(60.0, a, b)
    assert digests(b) == ["x3"]


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


def test_a_busy_worker_fetches_ahead_and_gets_the_step_then(world: World) -> None:
    a, b = small("a", 1), small("b", 1, local=True)
    world.submit(*(ready(f"x{i}", i, **{f"k{i}": 200_000_000}) for i in range(4)))
    (hint,) = world.poll(a).prefetch
    assert [i.key for i in hint.inputs] == ["k1"]
    assert world.poll(a).prefetch == ()
    assert world.poll(b).prefetch == ()  # it sees the coordinator's disk
    assert digests(b) == ["x1"] or digests(b) == ["x2"]


def test_a_worker_that_is_cut_off_is_forgotten(world: World) -> None:
    a, b = small("a"), small("b")
    world.submit(ready("x"))
    world.poll(a)
    world.dispatcher.cut("a", world.now_s)
    world.poll(b)
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
