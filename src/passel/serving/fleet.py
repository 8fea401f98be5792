"""What `serving/` gives the fleet: the queue's demand, the workers, and tokens for machines that are about to be made."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from passel.cluster.coordinator.admin import Overview
from passel.cluster.coordinator.admin import Passel as Admin
from passel.cluster.trust.tokens import Tokens
from passel.errors import UsageError
from passel.fleet.fleet_file import read_fleet_file
from passel.fleet.ports import Demand, JobDemand, WorkerSeen
from passel.server.ports import Results

_PATIENCE_S = 10.0
_TAKES_MACHINES = {"committing", "queued", "running"}
T = TypeVar("T")


@dataclass(frozen=True)
class FleetCoordinator:
    """The fleet's `Coordinator`. Its methods are called from the fleet's thread, so they go through the event loop."""

    admin: Admin
    tokens: Tokens
    loop: asyncio.AbstractEventLoop

    def demand(self) -> Demand:
        """What unfinished jobs still need. A job's photos that are not done are shared out like its steps."""
        return demand_of(self._in_loop(self.admin.overview))

    def workers(self) -> tuple[WorkerSeen, ...]:
        """Workers that are connected now."""
        seen = self._in_loop(self.admin.overview).passel.workers
        return tuple(
            WorkerSeen(w.name, bool(w.running), w.state == "draining", w.state == "draining")
            for w in seen
            if w.state != "lost"
        )

    def drain(self, worker: str, on: bool) -> None:
        """No new steps for this worker, or again some; unknown names are ignored."""
        self._in_loop(lambda: self.admin.drain(worker, on))

    def mint_join_token(self, machine: str, lifetime_s: float) -> str:
        """A token that lets one worker of this name join, once; an earlier one that was not used is void."""
        self._void_tokens(machine)
        return self.tokens.create("join", machine, lifetime_s, uses_allowed=1)

    def forget(self, worker: str) -> None:
        """The machine is gone for good."""
        self._void_tokens(worker)
        with suppress(UsageError):  # it never joined, or is forgotten already
            self._in_loop(lambda: self.admin.revoke(worker))

    def _void_tokens(self, machine: str) -> None:
        for token in self.tokens.list():
            if token.kind == "join" and token.name == machine and not token.revoked:
                self.tokens.revoke(token.id)

    def _in_loop(self, ask: Callable[[], T]) -> T:
        async def asked() -> T:
            return ask()

        return asyncio.run_coroutine_threadsafe(asked(), self.loop).result(_PATIENCE_S)


def results_bucket(file: Path) -> Results | None:
    """Where the fleet file wants results kept; None when it names no bucket. Raises UsageError."""
    wanted = read_fleet_file(file).results
    if wanted is None:
        return None
    if find_spec("boto3") is None:
        raise UsageError("The library for S3 is not installed", "boto3", "install it: pip install 'passel[cloud]'")
    from passel.fleet.results import ResultsBucket  # boto3 is large, and most passels need none

    try:
        return ResultsBucket(wanted)
    except ValueError as e:
        raise UsageError(f"The bucket's endpoint cannot be used: {e}", f"{file}: s3.endpoint", "correct it") from e


def demand_of(seen: Overview) -> Demand:
    """The overview as the fleet counts."""
    live = {j.job: j for j in seen.passel.jobs}
    memory_mb: dict[str, int] = {}
    for worker in seen.passel.workers:
        for step in worker.running:
            memory_mb[step.job] = max(step.memory_mb, memory_mb.get(step.job, 0))
    jobs = []
    for line in seen.jobs:
        if line.state not in _TAKES_MACHINES:
            continue
        rest = round(line.photos * (1.0 - line.progress / 100.0))
        job = live.get(line.uuid)
        steps = job.waiting + job.running if job is not None else 0
        running = round(rest * job.running / steps) if job is not None and steps else 0
        jobs.append(JobDemand(line.uuid, rest - running, running, memory_mb.get(line.uuid, 0)))
    return Demand(tuple(jobs))
