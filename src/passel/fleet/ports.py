"""What the fleet needs from the rest of Passel; `serving/` fills these in.

All methods are called from the fleet's own thread, one at a time; they must answer within seconds and be safe beside the event loop
(`asyncio.run_coroutine_threadsafe(...).result(timeout)` does). An error they raise ends the turn, and the next turn tries again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class JobDemand:
    """What one unfinished job still needs."""

    job: str
    """The job's id."""
    waiting_photos: int
    """Photos in steps that nobody works on; for a job that has not started, all of its photos."""
    running_photos: int
    """Photos in steps that are being worked on."""
    memory_mb: int = 0
    """The largest memory that one of its steps declares; 0 when not known yet."""

    @property
    def photos(self) -> int:
        """Photos that are not done."""
        return self.waiting_photos + self.running_photos


@dataclass(frozen=True)
class Demand:
    """All jobs that want machines."""

    jobs: tuple[JobDemand, ...] = ()


@dataclass(frozen=True)
class WorkerSeen:
    """A worker (or a node) that is connected now."""

    name: str
    """The worker's name; for machines of the fleet it is the machine's name."""
    busy: bool
    """True while it runs a step or a task, or photos are on their way to it."""
    drained: bool = False
    """True while a `drain` order of ours is in force for it."""
    retiring: bool = False
    """True when it says itself that it takes no more work, for instance because its cloud takes the machine back.

    Who cannot tell this from a drain of ours may report both for either: then a machine that leaves by itself just while it
    is drained is called back for one turn (`tests/test_fleet_history.py` plays both).
    """


class Coordinator(Protocol):
    """The queue and its workers."""

    def demand(self) -> Demand:
        """What the unfinished jobs need now."""

    def workers(self) -> tuple[WorkerSeen, ...]:
        """Workers that are connected now, the fleet's and others."""

    def drain(self, worker: str, on: bool) -> None:
        """The worker gets no new steps (on) or may get steps again (off). Called again and again; unknown names are ignored."""

    def mint_join_token(self, machine: str, lifetime_s: float) -> str:
        """A token that lets one worker of this name join, once, within `lifetime_s`. A new one replaces an unused one."""

    def forget(self, worker: str) -> None:
        """The machine is gone for good: its token and certificate are worth nothing from now on. May be called again."""


class Nodes(Protocol):
    """The gateway's nodes: machines that run an image with the NodeODM API."""

    def nodes(self) -> tuple[WorkerSeen, ...]:
        """Nodes that answer now, by the names they were added with."""

    def add(self, name: str, host: str, port: int, token: str) -> None:
        """Attaches a node. Called again and again until it is seen; the same name again is no second node."""

    def drain(self, name: str, on: bool) -> None:
        """The node gets no new tasks (on) or may get tasks again (off)."""

    def remove(self, name: str) -> None:
        """Detaches a node; unknown names are ignored."""
