"""A cloud, a queue and a clock in memory. Time moves only when told; everything may go wrong on order."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from passel.fleet.machine import (
    BusyError,
    Listing,
    MachineSeen,
    NoCapacityError,
    Order,
    Power,
    Price,
    RefusedError,
    UncertainError,
)
from passel.fleet.ports import Demand, JobDemand, WorkerSeen


class Killed(BaseException):
    """The coordinator's process ends here."""


@dataclass
class Clock:
    now_s: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class SimMachine:
    id: str
    name: str
    size: str
    region: str
    created_s: float
    boots_after_s: float | None = 20.0
    shown_after_s: float = 0.0
    ended_s: float | None = None
    power: Power = Power.ON
    evicted: bool = False
    busy: bool = False
    drained: bool = False
    silent: bool = False
    retiring: bool = False
    fleet: str = ""
    script: str = ""


@dataclass
class SimCloud:
    """A provider. `create_faults` etc. are taken one by one, one for each call; empty means all goes well."""

    clock: Clock
    rates: dict[str, float] = field(default_factory=dict)
    name: str = "simulated"
    machines: list[SimMachine] = field(default_factory=list)
    create_faults: deque[str] = field(default_factory=deque)
    list_faults: deque[str] = field(default_factory=deque)
    destroy_faults: deque[str] = field(default_factory=deque)
    boots: deque[float | None] = field(default_factory=deque)
    lags: deque[float] = field(default_factory=deque)
    addressless: int = 0
    """So many machines, the first ones made, never get an address."""
    revoked: bool = False
    """The key to the account is worth nothing."""
    skew_s: float = 0.0
    """How far the cloud's clock is ahead of ours."""
    tripwire: int | None = None
    """After so many more moments the process is killed."""

    def moment(self) -> None:
        """A point where the process may be killed."""
        if self.tripwire is not None:
            self.tripwire -= 1
            if self.tripwire < 0:
                self.tripwire = None
                raise Killed

    def alive(self) -> list[SimMachine]:
        return [m for m in self.machines if m.ended_s is None]

    def ours(self) -> list[SimMachine]:
        return [m for m in self.alive() if m.fleet]

    def create(self, order: Order) -> str:
        self.moment()
        self._check_key()
        fault = self.create_faults.popleft() if self.create_faults else ""
        if fault == "no capacity":
            raise NoCapacityError("no such machine here now")
        if fault == "busy":
            raise BusyError("slow down", wait_s=15)
        if fault == "refused":
            raise RefusedError("quota")
        if fault == "lost":
            raise UncertainError("no answer, nothing made")
        machine = SimMachine(
            id=str(len(self.machines) + 1),
            name=order.name,
            size=order.size,
            region=order.region,
            created_s=self.clock(),
            boots_after_s=self.boots.popleft() if self.boots else 20.0,
            shown_after_s=self.lags.popleft() if self.lags else 0.0,
            fleet=order.fleet,
            script=order.boot_script,
        )
        self.machines.append(machine)
        self.moment()
        if fault == "made, no answer":
            raise UncertainError("500 after create")
        return machine.id

    def list(self, fleet: str, regions: Sequence[str]) -> Listing:
        self._check_key()
        fault = self.list_faults.popleft() if self.list_faults else ""
        if fault == "down":
            raise UncertainError("the API is down")
        shown = [
            MachineSeen(m.id, m.name, m.size, m.region, m.power, m.created_s + self.skew_s, self._address(m), m.evicted)
            for m in self.alive()
            if (not fleet or m.fleet == fleet) and self.clock() >= m.created_s + m.shown_after_s
        ]
        if fault == "twice":
            shown = shown + shown[:2]
        if fault == "forgets one":
            shown = shown[1:]
        return Listing(tuple(shown))

    def destroy(self, machine_id: str, region: str) -> None:
        self.moment()
        self._check_key()
        fault = self.destroy_faults.popleft() if self.destroy_faults else ""
        if fault == "down":
            raise UncertainError("the API is down")
        for machine in self.alive():
            if machine.id == machine_id:
                machine.ended_s = self.clock()
        self.moment()
        if fault == "done, no answer":
            raise UncertainError("500 after destroy")

    def _address(self, machine: SimMachine) -> str:
        return "" if int(machine.id) <= self.addressless else "203.0.113.7"

    def _check_key(self) -> None:
        if self.revoked:
            raise RefusedError("401 unauthorized", todo="check the key to the account")

    def price(self, size: str, region: str) -> Price | None:
        rate = self.rates.get(size)
        return None if rate is None else Price(rate, "USD", "simulated")


@dataclass
class SimCoordinator:
    """The queue: every unfinished photo keeps workers busy; the machines of the cloud are its workers once booted."""

    cloud: SimCloud
    photos: int = 0
    memory_mb: int = 0
    told_apart: bool = True
    """False: whoever is drained, for whatever reason, is reported as drained by us and by itself."""
    tokens: list[str] = field(default_factory=list)
    forgotten: set[str] = field(default_factory=set)

    def demand(self) -> Demand:
        return Demand((JobDemand("job", self.photos, 0, self.memory_mb),) if self.photos else ())

    def workers(self) -> tuple[WorkerSeen, ...]:
        now_s = self.cloud.clock()
        booted = [
            m
            for m in self.cloud.ours()
            if m.boots_after_s is not None and now_s >= m.created_s + m.boots_after_s and not m.silent
        ]
        for machine in booted:
            machine.busy = machine.busy or (bool(self.photos) and not machine.drained and not machine.retiring)
        return tuple(self._seen(m) for m in booted)

    def _seen(self, m: SimMachine) -> WorkerSeen:
        either = m.drained or m.retiring
        return WorkerSeen(m.name, m.busy, *((m.drained, m.retiring) if self.told_apart else (either, either)))

    def finish_steps(self) -> None:
        """What runs now ends."""
        for machine in self.cloud.machines:
            machine.busy = False

    def drain(self, worker: str, on: bool) -> None:
        self.cloud.moment()
        for machine in self.cloud.machines:
            if machine.name == worker:
                machine.drained = on

    def mint_join_token(self, machine: str, lifetime_s: float) -> str:
        self.cloud.moment()
        self.tokens.append(f"token-for-{machine}")
        return self.tokens[-1]

    def forget(self, worker: str) -> None:
        self.forgotten.add(worker)
