"""What becomes of each machine: joined, idle, drained, destroyed. Pure; one machine, one turn."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from passel.fleet.census import Change, drain, leave
from passel.fleet.config import Limits
from passel.fleet.ledger import Machine, State
from passel.fleet.ports import WorkerSeen

IDLE = "no work for it"
USELESS = "idle although there is work: its steps may need more memory or another machine"
_USELESS_TIMES = 4
"""A machine that is wanted and idle for so many times the idle limit is of no use."""


def muster(book: Sequence[Machine], crew: Mapping[str, WorkerSeen], limits: Limits, now_s: float) -> list[Change]:
    """Machines that have joined since, and those that should have."""
    changes = [_boot(m, crew.get(m.name), limits, now_s) for m in book if m.state is State.BOOTING]
    return _changed(book, changes)


def attend(
    book: Sequence[Machine], crew: Mapping[str, WorkerSeen], needed: Collection[str], limits: Limits, now_s: float
) -> list[Change]:
    """What time and the workers' news change for those that joined. `needed`: names that the demand speaks for."""
    working = [_work(m, crew.get(m.name), m.name in needed, limits, now_s) for m in book if m.state is State.UP]
    finishing = [
        _finish(m, crew.get(m.name), m.name in needed, limits, now_s) for m in book if m.state is State.DRAINING
    ]
    return _changed(book, working + finishing)


def _changed(book: Sequence[Machine], changes: list[Change]) -> list[Change]:
    before = {m.name: m for m in book}
    return [c for c in changes if c.machine != before[c.machine.name]]


def age_s(machine: Machine, now_s: float) -> float:
    """How long it has been there, by our own clock: the cloud's may be another."""
    return now_s - machine.wanted_s


def _boot(machine: Machine, worker: WorkerSeen | None, limits: Limits, now_s: float) -> Change:
    if worker is not None:
        up = replace(machine, state=State.UP, joined_s=now_s, heard_s=now_s)
        return Change(_hear(up, worker, now_s), f"joined after {age_s(machine, now_s):.0f} s")
    if age_s(machine, now_s) > limits.boot_s:
        return leave(machine, f"did not join within {limits.boot_s:.0f} s")
    return Change(machine)


def _hear(machine: Machine, worker: WorkerSeen, now_s: float) -> Machine:
    """The worker's news."""
    if worker.busy:
        return replace(machine, heard_s=now_s, idle_s=None, worked=True)
    return replace(machine, heard_s=now_s, idle_s=now_s if machine.idle_s is None else machine.idle_s)


def _work(machine: Machine, worker: WorkerSeen | None, needed: bool, limits: Limits, now_s: float) -> Change:
    if worker is None:
        if now_s - (machine.heard_s or now_s) > limits.silent_s:
            return leave(machine, f"not heard of for {limits.silent_s:.0f} s")
        return Change(machine)
    heard = _hear(machine, worker, now_s)
    if worker.retiring:
        return drain(heard, "it takes no more work by itself", now_s)
    if limits.runtime_s is not None and age_s(heard, now_s) > limits.runtime_s:
        return drain(heard, f"older than {limits.runtime_s:.0f} s", now_s)
    idle_s = 0.0 if heard.idle_s is None else now_s - heard.idle_s
    patience_s = limits.idle_s if heard.worked else max(limits.idle_s, limits.upload_s or 0.0)
    if needed:
        useless = idle_s > _USELESS_TIMES * patience_s
        return drain(heard, USELESS, now_s) if useless else Change(heard)
    return drain(heard, IDLE, now_s) if idle_s > patience_s else Change(heard)


def _finish(machine: Machine, worker: WorkerSeen | None, needed: bool, limits: Limits, now_s: float) -> Change:
    drain_s = machine.drain_s if machine.drain_s is not None else now_s
    by_itself = worker is not None and worker.retiring and not worker.drained
    if worker is not None and needed and machine.reason == IDLE and not by_itself:
        return Change(
            replace(machine, state=State.UP, drain_s=None, idle_s=None, reason="", heard_s=now_s), "is wanted again"
        )
    if now_s - drain_s > limits.drain_s:
        return leave(machine, "")
    # The order to drain went out in an earlier turn, so a worker that is not busy now gets nothing any more.
    if now_s > drain_s and (worker is None or not worker.busy):
        return leave(machine, "")
    return Change(machine if worker is None else replace(machine, heard_s=now_s))
