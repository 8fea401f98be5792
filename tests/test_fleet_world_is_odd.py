"""A world that is not as a fleet would like it: other clocks, other fleets, machines without address, workers that leave."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_clouds.simulated import SimCoordinator
from fleet_world import RATES, World, config
from passel.fleet.config import Kind
from passel.fleet.ledger import State
from passel.fleet.loop import Fleet, Surroundings
from passel.fleet.machine import Power
from passel.fleet.ports import WorkerSeen


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, config())
    yield made
    made.ledger.close()


@pytest.mark.parametrize("told_apart", [True, False])
def test_a_worker_that_leaves_while_we_drain_it_is_not_called_back_for_long(world: World, told_apart: bool) -> None:
    """Idle, drained, and then its cloud wants it back just when work comes: another machine gets the work."""
    world.coordinator.told_apart = told_apart
    world.coordinator.photos = 80
    world.until(lambda: world.alive()[0].busy)
    first = world.alive()[0]
    world.coordinator.photos = 0
    world.coordinator.finish_steps()
    world.until(lambda: first.drained)
    first.retiring, world.coordinator.photos = True, 80
    world.until(lambda: first.ended_s is not None and any(m.busy for m in world.alive()), 20)
    assert len(world.cloud.machines) == 2


@pytest.mark.parametrize("skew_s", [-7200.0, 7200.0])
def test_the_clouds_clock_may_be_another(world: World, skew_s: float) -> None:
    """Otherwise each machine would be too old to boot as soon as it was made."""
    world.cloud.skew_s = skew_s
    world.coordinator.photos = 80
    world.turns(1)
    world.alive()[0].power = Power.OFF  # some clouds make a machine first and start it then
    world.turns(2)
    world.alive()[0].power = Power.ON
    world.until(lambda: world.only().state is State.UP)
    world.turns(60)
    assert world.fleet.spent() <= RATES["small"] * (world.clock() - world.only().wanted_s) / 3600 + 0.01
    assert world.only().state is State.UP
    assert len(world.cloud.machines) == 1
    world.coordinator.photos = 0
    world.coordinator.finish_steps()
    world.until(lambda: not world.alive())


def test_two_coordinators_with_one_account_leave_each_others_machines_alone(world: World, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = World(tmp_path / "other", config())
    other.clock, other.cloud = world.clock, world.cloud
    other.coordinator = SimCoordinator(world.cloud)
    other.ledger.close()
    other.start()
    world.coordinator.photos = other.coordinator.photos = 180
    for _ in range(6):
        world.turns(1)
        other.fleet.turn()
    assert [len(w.book()) for w in (world, other)] == [2, 2]
    assert not set(world.book()) & set(other.book())
    world.ledger.close_fleet(True)
    world.coordinator.finish_steps()
    for _ in range(60):
        world.turns(1)
        other.fleet.turn()
    assert {m.fleet for m in world.alive()} == {other.ledger.fleet}
    assert len(world.alive()) == 2
    assert not any("left alone" in text for text in world.said + other.said)
    other.ledger.close()


def test_a_node_that_never_gets_an_address_is_replaced_and_destroyed(tmp_path: Path) -> None:
    world = World(tmp_path, dataclasses.replace(config(), kind=Kind.NODE))
    nodes: list[str] = []

    class Gateway:
        def nodes(self) -> tuple[WorkerSeen, ...]:
            return tuple(WorkerSeen(name, True) for name in nodes)

        def add(self, name: str, host: str, port: int, token: str) -> None:
            nodes.append(name)

        def drain(self, name: str, on: bool) -> None:
            pass

        def remove(self, name: str) -> None:
            pass

    around = Surroundings(world.config, world.cloud, world.coordinator, Gateway(), world.said.append, world.clock)
    world.fleet = Fleet(world.ledger, around, b"key")
    world.cloud.addressless = 1
    world.coordinator.photos = 80
    world.until(lambda: bool(nodes) and len(world.alive()) == 1)
    first, second = world.cloud.machines
    assert first.ended_s is not None
    assert nodes[0] == second.name
    assert any("did not join within" in text for text in world.said)
    world.ledger.close()
