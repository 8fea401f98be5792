"""The reconcile loop, one behaviour at a time, in a simulated cloud."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_clouds.simulated import Killed
from fleet_world import LIMITS, World, config
from passel.errors import StorageError
from passel.fleet.ledger import State
from passel.fleet.loop import Fleet, Surroundings
from passel.fleet.machine import Power


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, config())
    yield made
    made.ledger.close()


def test_grows_with_the_work_and_is_empty_afterwards(world: World) -> None:
    world.coordinator.photos = 250
    world.turns(1)
    assert len(world.alive()) == 3
    world.until(lambda: all(m.state is State.UP for m in world.book().values()))
    world.coordinator.photos = 0
    world.coordinator.finish_steps()
    world.until(lambda: not world.alive())
    world.until(lambda: all(m.state is State.GONE for m in world.book().values()))
    assert world.coordinator.forgotten == set(world.book())


def test_never_more_than_the_limit(world: World) -> None:
    world.coordinator.photos = 100_000
    for _ in range(10):
        world.turns(1)
        assert len(world.alive()) <= 4


def test_size_follows_photos_and_declared_memory(world: World) -> None:
    world.coordinator.photos = 90
    world.turns(1)
    assert world.only().size == "small"
    world.coordinator.memory_mb = 20_000
    world.turns(1)
    assert sorted(m.size for m in world.book().values()) == ["large", "small"]


def test_few_photos_make_no_machine(tmp_path: Path) -> None:
    world = World(tmp_path, config(dataclasses.replace(LIMITS, min_photos=50)))
    world.coordinator.photos = 49
    world.turns(3)
    assert not world.alive()
    world.coordinator.photos = 50
    world.turns(1)
    assert len(world.alive()) == 1
    world.ledger.close()


def test_eight_short_tasks_are_no_reason_for_eight_machines(world: World) -> None:
    """The prototype made a machine for each: those on their way out were not counted and not called back."""
    for _ in range(8):
        world.coordinator.photos = 80
        world.turns(6)
        world.coordinator.photos = 0
        world.coordinator.finish_steps()
        world.turns(5)
    assert len(world.book()) == 1


def test_a_machine_on_its_way_out_is_called_back(world: World) -> None:
    world.coordinator.photos = 80
    world.until(lambda: world.only().state is State.UP)
    world.coordinator.finish_steps()
    world.coordinator.photos = 0
    world.until(lambda: world.only().state is State.DRAINING)
    world.coordinator.photos = 80
    world.turns(1)
    assert world.only().state is State.UP
    assert not world.alive()[0].drained


def test_busy_machines_finish_before_they_go(world: World) -> None:
    world.coordinator.photos = 80
    world.until(lambda: world.alive()[0].busy)
    world.ledger.close_fleet(True)
    world.turns(5)
    assert world.alive()
    assert world.only().state is State.DRAINING
    assert world.alive()[0].drained
    world.coordinator.finish_steps()
    world.turns(3)
    assert not world.alive()


def test_a_drain_that_never_ends_is_ended(world: World) -> None:
    world.coordinator.photos = 80
    world.until(lambda: world.alive()[0].busy)
    world.ledger.close_fleet(True)
    world.turns(int(LIMITS.drain_s / 10) + 3)
    assert not world.alive()


def test_a_dead_boot_is_replaced_early_and_destroyed_at_its_limit(world: World) -> None:
    world.cloud.boots.append(None)
    world.coordinator.photos = 80
    world.turns(1)
    (dead,) = world.alive()
    world.until(lambda: len(world.alive()) == 2)
    assert world.clock() - dead.created_s < LIMITS.boot_s / 2, "its place is not blocked until the limit"
    world.until(lambda: dead.ended_s is not None)
    assert "did not join within 300 s" in world.book()[dead.name].reason
    assert len(world.alive()) == 1


def test_no_capacity_goes_to_the_next_region(tmp_path: Path) -> None:
    world = World(tmp_path, config(dataclasses.replace(LIMITS, create_retries=2), regions=("full", "free")))
    world.cloud.create_faults.append("no capacity")
    world.coordinator.photos = 80
    world.turns(1)
    assert [m.region for m in world.alive()] == ["free"]
    world.ledger.close()


@pytest.mark.parametrize(("fault", "pause_turns"), [("busy", 2), ("refused", 30), ("no capacity", 3)])
def test_refusals_are_not_hammered(world: World, fault: str, pause_turns: int) -> None:
    world.cloud.create_faults.extend([fault] + [""] * 9)
    world.coordinator.photos = 80
    world.turns(1)
    assert len(world.cloud.create_faults) == 9
    world.until(lambda: bool(world.alive()), pause_turns + 1)


def test_an_answer_that_got_lost_makes_no_second_machine(world: World) -> None:
    world.cloud.create_faults.append("made, no answer")
    world.cloud.lags.append(35.0)
    world.coordinator.photos = 80
    world.until(lambda: world.only().state is State.UP)
    assert len(world.cloud.machines) == 1


def test_a_create_that_came_to_nothing_is_made_again(world: World) -> None:
    world.cloud.create_faults.append("lost")
    world.coordinator.photos = 80
    world.until(lambda: len(world.alive()) == 1)
    world.until(lambda: sorted(m.reason for m in world.book().values()) == ["", "was never seen"])


@pytest.mark.parametrize("moment", range(6))
def test_killed_at_any_moment_and_started_again(world: World, moment: int) -> None:
    world.coordinator.photos = 180
    world.cloud.tripwire = moment
    with pytest.raises(Killed):
        world.turns(1)
    world.ledger.close()
    world.start()
    world.until(lambda: sum(m.state is State.UP for m in world.book().values()) == 2)
    assert len(world.alive()) == 2
    world.coordinator.photos = 0
    world.coordinator.finish_steps()
    world.until(lambda: not world.alive())


def test_a_lost_line_is_adopted_with_its_cost(world: World) -> None:
    world.coordinator.photos = 80
    world.until(lambda: world.only().state is State.UP)
    world.turns(60)
    spent = world.fleet.spent()
    assert spent == pytest.approx(0.5 * (world.clock() - world.only().started_s) / 3600)
    world.ledger._db.execute("delete from machine")
    world.turns(2)
    assert world.only().state is State.UP
    assert len(world.cloud.machines) == 1
    assert world.fleet.spent() > spent


def test_foreign_machines_are_left_alone_and_told(world: World) -> None:
    world.coordinator.photos = 80
    world.turns(1)
    world.cloud.machines.append(dataclasses.replace(world.alive()[0], id="77", name="database"))
    world.turns(30)
    assert any(m.name == "database" for m in world.alive())
    assert any("left alone: database" in text for text in world.said)


def test_a_machine_made_twice_is_kept_once(world: World) -> None:
    world.coordinator.photos = 80
    world.turns(1)
    world.cloud.machines.append(dataclasses.replace(world.alive()[0], id="77"))
    world.until(lambda: len(world.alive()) == 1)
    assert world.alive()[0].id == "1"


def test_spot_eviction_and_workers_that_retire_are_drained(world: World) -> None:
    world.coordinator.photos = 80
    world.until(lambda: world.alive()[0].busy)
    first = world.alive()[0]
    first.evicted = True
    world.turns(2)
    assert first.drained
    assert world.book()[first.name].reason == "the cloud takes it back"
    assert len(world.alive()) == 2, "another is made meanwhile"


@pytest.mark.parametrize("how", ["off", "silent", "vanished"])
def test_broken_machines_go_and_are_replaced(world: World, how: str) -> None:
    world.coordinator.photos = 80
    world.until(lambda: world.only().state is State.UP)
    world.turns(6)
    broken = world.alive()[0]
    if how == "off":
        broken.power, broken.silent = Power.OFF, True
    elif how == "silent":
        broken.silent = True
    else:
        broken.ended_s = world.clock()
    world.until(lambda: broken.ended_s is not None and len(world.alive()) == 1)
    world.until(lambda: any(m.state is State.UP for m in world.book().values()))


def test_old_machines_go(tmp_path: Path) -> None:
    world = World(tmp_path, config(dataclasses.replace(LIMITS, runtime_s=600.0)))
    world.coordinator.photos = 80
    world.until(lambda: world.alive()[0].busy)
    first = world.alive()[0]
    world.until(lambda: first.drained)
    assert 600 <= world.clock() - first.created_s <= 620
    world.ledger.close()


def test_a_wanted_machine_that_does_nothing_is_not_paid_for_ever(world: World) -> None:
    world.coordinator.photos = 80
    world.until(lambda: bool(world.alive()))
    world.alive()[0].drained = False
    world.coordinator.workers = _idle(world.coordinator.workers)  # type: ignore[method-assign]
    world.until(lambda: not world.alive())
    world.turns(100)
    assert len(world.cloud.machines) == 1, "nor another of its kind made at once"


def _idle(workers):  # type: ignore[no-untyped-def]
    return lambda: tuple(dataclasses.replace(w, busy=False) for w in workers())


def test_the_budget_drains_in_time(tmp_path: Path) -> None:
    world = World(tmp_path, config(budget=1.0))
    world.coordinator.photos = 400
    world.until(lambda: len(world.alive()) == 4)
    world.until(lambda: not world.alive(), 1000)
    assert 0.5 < world.fleet.spent() <= 1.0, "used, and not exceeded although every step ran to its limit"
    assert any("budget of 1 USD in all is used up" in text for text in world.said)
    world.turns(50)
    assert not world.alive()
    world.ledger.close()
    world.start()
    world.turns(5)
    assert not world.alive(), "remembered over a restart"
    world.ledger.close()


def test_a_budget_without_prices_allows_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, config(budget=10.0))
    world.cloud.rates.clear()
    world.coordinator.photos = 80
    world.turns(3)
    assert not world.cloud.machines
    assert any("price is not known" in text for text in world.said)
    world.ledger.close()


def test_an_api_that_is_down_changes_nothing(world: World) -> None:
    world.coordinator.photos = 80
    world.until(lambda: world.only().state is State.UP)
    world.cloud.list_faults.extend(["down"] * 20)
    world.turns(20)
    assert world.only().state is State.UP
    assert len([t for t in world.said if "cannot be read" in t]) <= 20


def test_the_event_book_keeps_every_reason(world: World) -> None:
    world.coordinator.photos = 80
    world.until(lambda: world.only().state is State.UP)
    world.coordinator.photos = 0
    world.coordinator.finish_steps()
    world.until(lambda: world.only().state is State.GONE)
    texts = [e.text.split(" after")[0] for e in world.ledger.events()]
    assert texts == [
        "wanted: small",
        "made in here",
        "joined",
        "is drained: no work for it",
        "is being destroyed: no work for it",
        "gone: no work for it",
    ]


def test_a_full_disk_does_not_let_machines_run_for_ever(tmp_path: Path) -> None:
    world = World(tmp_path, config(budget=1.0))
    world.coordinator.photos = 400
    world.until(lambda: len(world.alive()) == 4)
    world.ledger._db.execute("pragma query_only=on")
    stop = threading.Event()
    count = itertools.count()

    def later() -> float:
        world.clock.now_s += 10
        if not world.alive() or next(count) > 1000:
            stop.set()
        return world.clock.now_s

    limits = dataclasses.replace(world.config.limits, turn_s=0.0)
    around = Surroundings(
        dataclasses.replace(world.config, limits=limits), world.cloud, world.coordinator, None, world.said.append, later
    )
    Fleet(world.ledger, around).run(stop)
    assert not world.alive()
    bill = sum((m.ended_s - m.created_s) * 0.5 / 3600 for m in world.cloud.machines if m.ended_s)
    assert bill <= 1.0
    assert any("book cannot be used" in text for text in world.said)
    world.ledger.close()


@pytest.mark.parametrize("trouble", [KeyError("a bug"), TimeoutError()])
def test_trouble_in_the_coordinator_does_not_overrun_the_budget(tmp_path: Path, trouble: Exception) -> None:
    world = World(tmp_path, config(dataclasses.replace(LIMITS, turn_s=0.01), budget=1.0))
    world.coordinator.photos = 400
    world.until(lambda: len(world.alive()) == 4)
    stop = threading.Event()
    count = itertools.count()

    def broken() -> None:
        world.clock.now_s += 10
        if not world.alive() or next(count) > 2000:
            stop.set()
        raise trouble

    world.coordinator.workers = broken  # type: ignore[method-assign]
    world.fleet.run(stop)
    assert not world.alive()
    assert sum((m.ended_s - m.created_s) * 0.5 / 3600 for m in world.cloud.machines if m.ended_s) <= 1.0
    world.ledger.close()


def test_under_a_budget_no_machine_runs_whose_price_nobody_knows(tmp_path: Path) -> None:
    world = World(tmp_path, config(budget=5.0))
    world.coordinator.photos = 80
    world.until(lambda: world.only().state is State.UP)
    world.ledger._db.execute("update machine set per_hour = null")
    world.cloud.rates.clear()
    world.ledger.close()
    world.start()
    world.coordinator.finish_steps()
    world.until(lambda: not world.alive())
    assert "nobody knows its price" in world.only().reason
    world.ledger.close()


def test_a_line_of_the_book_that_is_none_is_told(world: World) -> None:
    world.coordinator.photos = 80
    world.turns(1)
    world.ledger._db.execute("update machine set state = 'married'")
    with pytest.raises(StorageError, match="book cannot be used"):
        world.fleet.turn()


def test_a_bug_ends_no_loop(world: World) -> None:
    stop = threading.Event()

    def broken() -> None:
        world.clock.now_s += 1
        if world.clock() > 1_800_000_003:
            stop.set()
        raise KeyError("a bug")

    world.coordinator.workers = broken  # type: ignore[method-assign]
    world.change(turn_s=0.0)
    world.fleet.run(stop)
    assert len([t for t in world.said if "KeyError('a bug')" in t]) == 1, "told once, tried again"
