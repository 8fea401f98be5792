"""A fleet in a simulated world, for tests that play through hours in milliseconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from fake_clouds.simulated import Clock, SimCloud, SimCoordinator, SimMachine
from passel.fleet.config import Account, Boot, Budget, FleetConfig, HetznerAccount, Kind, Limits, Size
from passel.fleet.ledger import Ledger, Machine
from passel.fleet.loop import Fleet, Surroundings
from passel.fleet.secret import Secret

TURN_S = 10.0
RATES = {"small": 0.5, "large": 2.0}
LIMITS = Limits(
    machines=4, photos_per_machine=100, boot_s=300.0, idle_s=60.0, drain_s=300.0, silent_s=120.0, turn_s=TURN_S
)


def config(limits: Limits = LIMITS, budget: float | None = None, regions: tuple[str, ...] = ("here",)) -> FleetConfig:
    account: Account = HetznerAccount(Secret("token"), "image")
    return FleetConfig(
        provider="aws",  # billed by the second
        kind=Kind.WORKER,
        account=account,
        regions=regions,
        sizes=(Size("small", 500, memory_mb=8_000), Size("large", 1000, memory_mb=32_000)),
        limits=limits,
        boot=Boot(url="https://passel.example.org:3000"),
        budget=None if budget is None else Budget(budget, "USD", monthly=False),
    )


class World:
    """Everything around a fleet, and the fleet."""

    def __init__(self, folder: Path, setup: FleetConfig) -> None:
        self.clock = Clock()
        self.cloud = SimCloud(self.clock, dict(RATES))
        self.coordinator = SimCoordinator(self.cloud)
        self.path = folder / "fleet.db"
        self.config = setup
        self.said: list[str] = []
        self.start()

    def start(self) -> None:
        """The coordinator's process starts."""
        self.ledger = Ledger(self.path)
        self.fleet = Fleet(
            self.ledger, Surroundings(self.config, self.cloud, self.coordinator, None, self.said.append, self.clock)
        )

    def turns(self, count: int) -> None:
        for _ in range(count):
            self.clock.now_s += TURN_S
            self.fleet.turn()

    def until(self, done: Callable[[], bool], most: int = 200) -> None:
        """Turns until something is true."""
        for _ in range(most):
            self.turns(1)
            if done():
                return
        raise AssertionError(f"not within {most} turns: {self.book()} {self.said[-10:]}")

    def alive(self) -> list[SimMachine]:
        return self.cloud.ours()

    def book(self) -> dict[str, Machine]:
        return {m.name: m for m in self.ledger.machines()}

    def only(self) -> Machine:
        """The book's one machine."""
        (machine,) = self.ledger.machines()
        return machine

    def change(self, **limits: float) -> None:
        """Other limits from the next start on."""
        self.config = dataclasses.replace(self.config, limits=dataclasses.replace(self.config.limits, **limits))
        self.ledger.close()
        self.start()
