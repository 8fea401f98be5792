"""Steps that took something with them, or found no room: how long they are tried, and who is a witness. Pure."""

from __future__ import annotations

from collections.abc import Collection

from passel.cluster.coordinator.dispatch_state import Run, Task, Worker
from passel.cluster.coordinator.placement import missing_bytes
from passel.cluster.wire.workers import Failure

MOST_STRIKES = 3
DIED_KINDS = ("died", "timeout")
FULL_S = 60.0
"""A worker whose disk refused a step gets no other for so long."""
HOLD_S = 3600.0
"""A step for which no worker's disk has room waits so long for somebody to make some."""


def may_have_begun(run: Run, task: Task, worker: Worker) -> bool:
    """Whether a worker that is gone may have died of this step: also without having said that it runs, if nothing was to be fetched."""
    return run.phase == "running" or (run.told and run.phase == "fetching" and not missing_bytes(task, worker))


def held_too_long(task: Task, workers: Collection[Worker], now_s: float) -> bool:
    """Notes for a step that full disks refused where there is room again; whether there has been none for too long.

    A worker that refused it and is not full (its cache may not grow any more) is not waited for.
    """
    task.full_on -= {w.name for w in workers if w.takes_steps(now_s)}
    there = [w for w in workers if not w.lost and not w.drains]
    if not there or any(w.name not in task.full_on for w in there):
        task.held_since_s = None
        return False
    task.held_since_s = now_s if task.held_since_s is None else task.held_since_s
    return now_s - task.held_since_s > HOLD_S or not any(w.request.full for w in there)


def poison(task: Task) -> Failure:
    """In words, why a step is given up on whose watch workers died."""
    names = ", ".join(sorted(set(task.deaths.values())))
    what = f"the step was given up: {len(task.deaths)} workers were lost while they ran it ({names})"
    if task.failures:
        what += f", and its process died {task.failures} times on others"
    todo = "give the workers more memory, or find out what it does to them"
    return Failure("died", what, f"{task.ready.stage} {task.ready.name}", todo)
