"""The dispatcher's decisions, one by one: which worker gets which step, and in which order."""

from __future__ import annotations

import pytest

from dispatch_world import World, digests, ready, small
from passel.cluster.coordinator.placement import PATIENCE_S


@pytest.fixture
def world() -> World:
    w = World()
    w.job()
    return w


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


def test_a_busy_worker_fetches_ahead_and_gets_the_step_then(world: World) -> None:
    a, b = small("a", 1), small("b", 1, local=True)
    world.submit(*(ready(f"x{i}", i, **{f"k{i}": 200_000_000}) for i in range(4)))
    (hint,) = world.poll(a).prefetch
    assert [i.key for i in hint.inputs] == ["k1"]
    assert world.poll(a).prefetch == ()
    assert world.poll(b).prefetch == ()  # it sees the coordinator's disk
    assert digests(b) == ["x1"] or digests(b) == ["x2"]
