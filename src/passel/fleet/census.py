"""Brings the book and the cloud's listing together. Pure.

Listings lie a little: a new machine is missing for a while, pages repeat, a region does not answer. So nothing is
believed to be gone before several full listings in a row say so, and what comes back is taken in again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from passel.fleet.ledger import Machine, State
from passel.fleet.machine import Listing, MachineSeen, Power

_OFF_GRACE_S = 60.0
"""So long may a new machine look switched off: some clouds make it first and start it then."""
_ABSENCES = 3
"""Believed after two, a machine that two listings in a row forget would have a double beside it, over the limit."""
NEVER_SEEN = "was never seen"


@dataclass(frozen=True)
class Change:
    """A machine as it is now known, and what to tell about it; an empty text tells nothing."""

    machine: Machine
    text: str = ""


def machine_name(fleet: str, serial: str) -> str:
    """A machine's name: a valid host name, different for every machine there ever was."""
    return f"passel-{fleet}-{serial}"


def fleet_of(name: str) -> str:
    """The fleet of a machine's name, '' when it is none of ours."""
    found = re.fullmatch(r"passel-([0-9a-f]+)-.+", name)
    return found[1] if found else ""


def take_census(book: Sequence[Machine], listing: Listing, fleet: str, grace_s: float, now_s: float) -> list[Change]:
    """What the listing changes in the book: only machines that changed. `grace_s`: so long may a new one be missing."""
    seen = {(m.region, m.id): m for m in listing.machines}  # pages may repeat a machine
    changes = []
    for machine in (m for m in book if m.alive):
        found = _find(machine, seen)
        if found is not None:
            del seen[found.region, found.id]
            change = _met(machine, found, now_s)
        elif machine.region in listing.silent_regions:
            change = Change(machine)
        else:
            change = _missed(machine, grace_s, now_s)
        changes.append(change)
    changes += _strangers(book, seen.values(), fleet, now_s)
    before = {m.name: m for m in book}
    return [c for c in changes if before.get(c.machine.name) != c.machine]


def foreign(listing: Listing, fleet: str) -> tuple[str, ...]:
    """Machines with our tag that do not bear our name: nobody's business of ours, but worth telling."""
    return tuple(sorted({m.name for m in listing.machines if not _ours(m, fleet)}))


def _ours(seen: MachineSeen, fleet: str) -> bool:
    return seen.name.startswith(machine_name(fleet, ""))


def _find(machine: Machine, seen: dict[tuple[str, str], MachineSeen]) -> MachineSeen | None:
    if machine.provider_id:
        return seen.get((machine.region, machine.provider_id))
    return next((s for s in seen.values() if s.name == machine.name), None)


def _met(machine: Machine, seen: MachineSeen, now_s: float) -> Change:
    # The cloud's clock may be another than ours, but nothing was made before we wanted it.
    started_s = max(machine.wanted_s, min(seen.created_s, now_s, machine.started_s or now_s))
    known = replace(
        machine,
        provider_id=seen.id,
        region=seen.region,
        started_s=started_s,
        address=seen.address or machine.address,
        missed=0,
    )
    text = ""
    if known.state is State.WANTED:
        known, text = replace(known, state=State.BOOTING), "made"
    if known.state is State.LEAVING:
        return Change(known, text)
    if seen.power is Power.LEAVING:
        return leave(known, "the cloud is taking it away")
    if seen.power is Power.OFF and now_s - machine.wanted_s > _OFF_GRACE_S:
        return leave(known, "switched off or broken")
    if seen.evicted and known.state is not State.DRAINING:
        return drain(known, "the cloud takes it back", now_s)
    return Change(known, text)


def _missed(machine: Machine, grace_s: float, now_s: float) -> Change:
    """Not in a listing of its region."""
    absent = replace(machine, missed=machine.missed + 1)
    young = now_s - machine.wanted_s <= grace_s
    if not machine.provider_id:
        if young or absent.missed < _ABSENCES:
            return Change(absent)
        # It may have been there unseen for a moment, so its time is counted.
        never = replace(absent, state=State.GONE, gone_s=now_s, started_s=machine.wanted_s, reason=NEVER_SEEN)
        return Change(never, NEVER_SEEN)
    if absent.missed < _ABSENCES or (young and machine.state is not State.LEAVING):
        return Change(absent)
    reason = machine.reason or "vanished"
    return Change(replace(absent, state=State.GONE, gone_s=now_s, reason=reason), f"gone: {reason}")


def _strangers(book: Sequence[Machine], seen: Iterable[MachineSeen], fleet: str, now_s: float) -> list[Change]:
    """Machines of ours that no living line of the book speaks for."""
    gone = {(m.region, m.provider_id): m for m in book if not m.alive and m.provider_id}
    given_up = {m.name: m for m in book if not m.alive and not m.provider_id}
    names = {m.name for m in book}
    changes = []
    for stranger in seen:
        known = gone.get((stranger.region, stranger.id)) or given_up.get(stranger.name)
        started_s = min(stranger.created_s, now_s)
        if known is not None:
            if stranger.power is Power.LEAVING:
                continue  # some clouds show the dead for a while
            alive = replace(
                known, state=State.LEAVING, gone_s=None, missed=0, provider_id=stranger.id, region=stranger.region,
                started_s=min(started_s, known.started_s or started_s),
            )  # fmt: skip
            changes.append(Change(alive, "came back after it was given up"))
        elif _ours(stranger, fleet):
            double = stranger.name in names
            found = Machine(
                name=f"{stranger.name}+{stranger.id}" if double else stranger.name,
                size=stranger.size,
                region=stranger.region,
                state=State.LEAVING if double else State.BOOTING,
                wanted_s=started_s,
                provider_id=stranger.id,
                started_s=started_s,
                address=stranger.address,
                reason="made twice" if double else "",
            )
            names.add(found.name)
            changes.append(Change(found, "found without a line in the book; adopted"))
    return changes


def leave(machine: Machine, reason: str) -> Change:
    """It is to be destroyed now."""
    reason = machine.reason or reason
    return Change(replace(machine, state=State.LEAVING, reason=reason), f"is being destroyed: {reason}")


def drain(machine: Machine, reason: str, now_s: float) -> Change:
    """It is to finish what it does and to be destroyed then."""
    return Change(replace(machine, state=State.DRAINING, drain_s=now_s, reason=reason), f"is drained: {reason}")
