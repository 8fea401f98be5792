"""Which waiting step a worker gets next: by what it declares, then by what is already there, then by its place in the line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from passel.cluster.dispatch_state import JobState, Task, Worker

BYTES_A_SECOND = 50e6
"""Of a link that nobody has measured: half a gigabit."""
SECONDS_A_PLACE = 0.05
"""What a place in the line is worth: a step further back goes first when that saves more time of the link."""
MOST_CANDIDATES = 16
LEAST_SHARE = 0.01
PATIENCE_S = 20.0
"""A step that needs more than is free anywhere waits so long; then one worker is emptied for it."""
ALONE_AFTER_STRIKES = 2
"""A step that something died with so often runs alone, so that it cannot take others with it."""

SLOW = 1.5
"""A step at the end of its stage that takes so many times as long as the others took is tried on a second worker, too."""
SLOW_AT_LEAST_S = 2.0
SLOW_AFTER_STEPS = 3


@dataclass(frozen=True)
class Fit:
    """What a step takes on a worker. now: there is room. exclusive: nothing may run beside it."""

    memory_mb: int
    threads: int
    exclusive: bool
    now: bool


@dataclass
class Roster:
    """The workers that take steps at this moment; made anew when that changes."""

    workers: list[Worker]
    _permitted: dict[tuple[int, int], list[Worker]] = field(default_factory=dict)

    def permitted(self, task: Task) -> list[Worker]:
        """Those on which it may run: all that are large enough, or else the largest; rather those where it has not failed."""
        if task.full_on:
            allowed = self._large_enough(task, [w for w in self.workers if w.name not in task.full_on])
        else:
            need = (task.ready.memory_mb, task.threads)
            if need not in self._permitted:
                self._permitted[need] = self._large_enough(task, self.workers)
            allowed = self._permitted[need]
        return [w for w in allowed if w.name not in task.avoid] or allowed if task.avoid else allowed

    @staticmethod
    def _large_enough(task: Task, workers: list[Worker]) -> list[Worker]:
        enough = [
            w for w in workers if task.ready.memory_mb <= w.slots.memory_mb and task.threads <= w.slots.cpus
        ]  # fmt: skip
        if enough or not workers:
            return enough
        best = max((w.slots.memory_mb, w.slots.cpus) for w in workers)
        return [w for w in workers if (w.slots.memory_mb, w.slots.cpus) == best]

    def fit(self, worker: Worker, task: Task) -> Fit | None:
        """None when this worker must not run it."""
        permitted = self.permitted(task)
        if not any(w is worker for w in permitted):
            return None
        slots, busy = worker.slots, worker.busy()
        memory_mb, threads = min(task.ready.memory_mb, slots.memory_mb), min(task.threads, slots.cpus)
        oversize = task.ready.memory_mb > slots.memory_mb or task.threads > slots.cpus
        exclusive = oversize or task.strikes >= ALONE_AFTER_STRIKES
        if exclusive or any(r.exclusive for r in busy):
            return Fit(memory_mb, threads, exclusive, now=not busy)
        used_mb, used_threads = sum(r.memory_mb for r in busy), sum(r.threads for r in busy)
        room = used_mb + memory_mb <= slots.memory_mb and used_threads + threads <= slots.cpus
        return Fit(memory_mb, threads, exclusive=False, now=room)


def missing_bytes(task: Task, worker: Worker) -> int:
    """What of its inputs would have to travel."""
    if worker.request.local:
        return 0
    return sum(i.size_bytes for i in task.ready.inputs if i.key not in worker.cached)


def choose(worker: Worker, jobs: Iterable[JobState], roster: Roster, now_s: float) -> tuple[Task, Fit] | None:
    """The step that the worker should run next, of the job that has least of its share; None when none fits."""
    for job in sorted(jobs, key=lambda j: j.threads / max(j.share, LEAST_SHARE)):
        found, kept = _of_job(worker, job, roster, now_s)
        if found is not None or kept:
            return found
    return None


def _of_job(worker: Worker, job: JobState, roster: Roster, now_s: float) -> tuple[tuple[Task, Fit] | None, bool]:
    """The cheapest of the first steps in line that fit; and whether the worker is kept free for a large one."""
    best: tuple[float, Task, Fit] | None = None
    seen = 0
    kept = False
    for _, task in job.waiting:
        fit = roster.fit(worker, task)
        if fit is None:
            continue
        if not fit.now:
            if _keep_free(worker, task, roster, now_s):
                kept = True
                break
            continue
        away = task.hinted_to not in ("", worker.name)  # another is fetching its inputs already
        cost_s = seen * SECONDS_A_PLACE + missing_bytes(task, worker) / BYTES_A_SECOND * (2 if away else 1)
        if best is None or cost_s < best[0]:
            best = (cost_s, task, fit)
        seen += 1
        if seen == MOST_CANDIDATES or best[0] <= seen * SECONDS_A_PLACE:
            break
    return (None if best is None else best[1:]), kept


def _keep_free(worker: Worker, task: Task, roster: Roster, now_s: float) -> bool:
    """A step that found no room for long has one worker kept for it: nothing behind it in line is given to that one."""
    if now_s - task.waiting_since_s < PATIENCE_S:
        return False
    if task.kept_for_it not in {w.name for w in roster.permitted(task)}:
        task.kept_for_it = worker.name
    return task.kept_for_it == worker.name


def to_prefetch(worker: Worker, jobs: Iterable[JobState], roster: Roster) -> list[Task]:
    """Marks and returns waiting steps whose inputs this worker may fetch ahead; others will rather leave them to it."""
    found: list[Task] = []
    if worker.request.local or worker.request.full:
        return found
    for job in jobs:
        hinted = sum(task.hinted_to == worker.name for _, task in job.waiting)
        for _, task in job.waiting[: MOST_CANDIDATES * max(1, len(roster.workers))]:
            if hinted >= worker.slots.cpus:
                break
            if not task.hinted_to and missing_bytes(task, worker) and roster.fit(worker, task):
                task.hinted_to = worker.name
                hinted += 1
                found.append(task)
    return found


def slow_steps(jobs: Iterable[JobState], now_s: float) -> list[Task]:
    """Steps that run longer than others of their stage did, now that nothing of the stage waits; the slowest first."""
    found = []
    for job in jobs:
        for task in job.tasks.values():
            run = next(iter(task.runs.values()), None)
            if run is None or run.running_s is None or len(task.runs) > 1 or task.strikes:
                continue
            count, mean_s = job.seconds.get(task.ready.stage, (0, 0.0))
            slow_s = max(SLOW_AT_LEAST_S, SLOW * mean_s)
            if count >= SLOW_AFTER_STEPS and not job.waiting_in_stage.get(task.ready.stage) and run.phase == "running":
                ran_s = now_s - run.running_s
                if ran_s > slow_s:
                    found.append((ran_s / slow_s, task))
    return [task for _, task in sorted(found, key=lambda entry: -entry[0])]
