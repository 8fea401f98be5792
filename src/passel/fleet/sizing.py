"""How many machines of which size the demand wants, and which of them are there. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from passel.fleet.config import FleetConfig, Kind, Size
from passel.fleet.ledger import Machine, State
from passel.fleet.life import IDLE, USELESS, age_s
from passel.fleet.ports import Demand, JobDemand

_LATE = 1 / 3
"""A machine that has used this share of its time to boot is not counted on: another is made meanwhile."""
_USELESS_REST_S = 3600.0
"""After a machine of a size was of no use, no other of that size is made for so long."""


@dataclass(frozen=True)
class Plan:
    """What the demand means for the fleet."""

    needed: frozenset[str]
    """Machines that the demand speaks for."""
    missing: tuple[Size, ...]
    """Machines to make, the most urgent first; limits and money are not looked at."""
    remarks: tuple[str, ...] = ()


def size_for(job: JobDemand, config: FleetConfig) -> Size | None:
    """The smallest size that takes the job's photos and declared memory; None when there is none."""
    fitting = [s for s in config.sizes if s.memory_mb is None or s.memory_mb >= job.memory_mb]
    taking = [s for s in fitting if s.max_photos >= job.photos]
    if taking:
        return taking[0]
    # Workers share a job: any number of photos can be worked on by many of the largest.
    return fitting[-1] if fitting and config.kind is Kind.WORKER else None


def machines_for(job: JobDemand, config: FleetConfig) -> int:
    """How many machines a job wants: a node does a whole job, workers share it."""
    if job.photos < max(1, config.limits.min_photos):
        return 0
    return 1 if config.kind is Kind.NODE else math.ceil(job.photos / config.limits.photos_per_machine)


def plan(demand: Demand, book: Sequence[Machine], config: FleetConfig, now_s: float) -> Plan:
    """Matches wants with machines, the largest wants first, each to the smallest machine that is large enough."""
    ranks = {s.slug: n for n, s in enumerate(config.sizes)}
    wants, remarks = _wants(demand, config)
    resting = {m.size for m in book if m.reason == USELESS and now_s - (m.drain_s or 0.0) < _USELESS_REST_S}
    free = sorted(
        (m for m in book if _counts(m, config, now_s) and m.size in ranks), key=lambda m: (_order(m), m.wanted_s)
    )
    needed: set[str] = set()
    missing: list[tuple[int, Size]] = []
    for urgency, size in sorted(enumerate(wants), key=lambda w: -ranks[w[1].slug]):
        fitting = [m for m in free if ranks[m.size] >= ranks[size.slug]]
        if fitting:
            chosen = min(fitting, key=lambda m: ranks[m.size])
            free.remove(chosen)
            needed.add(chosen.name)
        elif size.slug not in resting:
            missing.append((urgency, size))
    return Plan(frozenset(needed), tuple(size for _, size in sorted(missing, key=lambda m: m[0])), tuple(remarks))


def _wants(demand: Demand, config: FleetConfig) -> tuple[list[Size], list[str]]:
    wants, remarks = [], []
    most = config.limits.machines if config.limits.machines is not None else 10_000
    for job in demand.jobs:
        count = machines_for(job, config)
        size = size_for(job, config) if count else None
        if count and size is None:
            remarks.append(f"job {job.job}: no size takes {job.photos} photos with {job.memory_mb} MB")
        if size is not None:
            wants += [size] * min(count, most)
    return wants[:most], remarks


def _counts(machine: Machine, config: FleetConfig, now_s: float) -> bool:
    """True for machines that work or may be expected to."""
    if machine.state is State.DRAINING:
        return machine.reason == IDLE  # it can be called back
    late = age_s(machine, now_s) > _LATE * config.limits.boot_s
    return machine.state is State.UP or (machine.state in {State.WANTED, State.BOOTING} and not late)


def _order(machine: Machine) -> int:
    """Working machines before booting ones before those on their way out."""
    return [State.UP, State.BOOTING, State.WANTED, State.DRAINING].index(machine.state)
