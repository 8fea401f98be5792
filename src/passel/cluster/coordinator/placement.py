"""Which waiting step a worker gets next: by what it declares, then by what is already there, then by its place in the line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from passel.cluster.coordinator.dispatch_state import JobState, Need, Task, Worker
from passel.cluster.wire.workers import Slots

BYTES_A_SECOND = 50e6
"""Of a link that nobody has measured: half a gigabit."""
SECONDS_A_PLACE = 0.05
"""What a place in the line is worth: a step further back goes first when that saves more time of the link."""
WORTH_WAITING_S = 2.0
"""A step whose inputs take longer to come is left to a worker that would have begun it in half of that time."""
MOST_CANDIDATES = 16
MOST_PASSED = 8
LEAST_SHARE = 0.01
PATIENCE_S = 20.0
"""A step that needs more room than others is passed by them for so long; then one worker is emptied for it."""
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


@dataclass(frozen=True)
class Room:
    """What a worker has left at this moment."""

    slots: Slots
    used_mb: int
    used_threads: int
    empty: bool
    closed: bool

    @staticmethod
    def of(worker: Worker) -> Room:
        busy = worker.busy()
        memory_mb, threads = sum(r.memory_mb for r in busy), sum(r.threads for r in busy)
        return Room(worker.slots, memory_mb, threads, not busy, any(r.exclusive for r in busy))

    def fit(self, need: Need, alone: bool = False) -> Fit:
        """What a step takes here. What is larger than the machine gets all of it, alone."""
        memory_mb, threads = min(need[0], self.slots.memory_mb), min(need[1], self.slots.cpus)
        exclusive = alone or need[0] > self.slots.memory_mb or need[1] > self.slots.cpus
        enough = self.used_mb + memory_mb <= self.slots.memory_mb and self.used_threads + threads <= self.slots.cpus
        return Fit(memory_mb, threads, exclusive, now=self.empty or (enough and not exclusive and not self.closed))


@dataclass
class Roster:
    """The workers that take steps at this moment; made anew when that changes."""

    workers: list[Worker]
    _large: dict[Need, frozenset[str]] = field(default_factory=dict)

    def large_enough(self, need: Need) -> frozenset[str]:
        """The workers on which a step of this size may run: all that are large enough, or else the largest."""
        if need not in self._large:
            self._large[need] = self._large_enough(need, self.workers)
        return self._large[need]

    def permitted(self, task: Task) -> frozenset[str]:
        """Those for this very step: not where the disk refused it, and rather not where it died."""
        if not task.is_special:
            return self.large_enough(task.need)
        allowed = self._large_enough(task.need, [w for w in self.workers if w.name not in task.full_on])
        return (allowed - task.avoid) or allowed

    def fit(self, worker: Worker, task: Task, room: Room) -> Fit | None:
        """None when this worker must not run it."""
        if worker.name not in self.permitted(task):
            return None
        return room.fit(task.need, task.strikes >= ALONE_AFTER_STRIKES)

    @staticmethod
    def _large_enough(need: Need, workers: list[Worker]) -> frozenset[str]:
        enough = frozenset(w.name for w in workers if need[0] <= w.slots.memory_mb and need[1] <= w.slots.cpus)
        if enough or not workers:
            return enough
        best = max((w.slots.memory_mb, w.slots.cpus) for w in workers)
        return frozenset(w.name for w in workers if (w.slots.memory_mb, w.slots.cpus) == best)


def missing_bytes(task: Task, worker: Worker) -> int:
    """What of its inputs would have to travel."""
    if worker.request.local:  # the coordinator fetches what is in the bucket
        return sum(i.size_bytes for i in task.ready.inputs if i.away)
    return sum(i.missing_bytes(worker.cached) for i in task.ready.inputs)


def choose(worker: Worker, jobs: Iterable[JobState], roster: Roster, now_s: float) -> tuple[Task, Fit] | None:
    """The step that the worker should run next, of the job that has least of its share; None when none fits."""
    room = Room.of(worker)
    kept_for = worker.kept_for
    if kept_for is not None and kept_for.waiting:
        fit = roster.fit(worker, kept_for, room)
        if fit is not None:
            return (kept_for, fit) if fit.now else None
    worker.kept_for = None
    for job in sorted(jobs, key=lambda j: j.threads / max(j.share, LEAST_SHARE)):
        found = _of_job(worker, job, roster, room, now_s)
        if found is not None:
            return found
    return None


def _of_job(worker: Worker, job: JobState, roster: Roster, room: Room, now_s: float) -> tuple[Task, Fit] | None:
    """The cheapest of the first steps in line that fit."""
    fits = {
        need: room.fit(need) if worker.name in roster.large_enough(need) else None
        for need, count in job.waiting_by_need.items() if count
    }  # fmt: skip
    if not job.special and not any(fit and fit.now for fit in fits.values()):
        return None
    best: tuple[float, Task, Fit] | None = None
    seen = 0
    few = len(job.waiting) <= MOST_CANDIDATES  # of many steps, each worker finds one that suits it
    passed: list[Task] = []
    for _, task in job.waiting:
        fit = roster.fit(worker, task, room) if task.is_special else fits[task.need]
        if fit is None:
            continue
        if not fit.now:
            passed.append(task)
            continue
        fetch_s = missing_bytes(task, worker) / BYTES_A_SECOND
        if few and fetch_s > WORTH_WAITING_S and _sooner_elsewhere(task, job, worker, roster, fetch_s, now_s):
            continue
        away = task.hinted_to not in ("", worker.name)  # another is fetching its inputs already
        cost_s = seen * SECONDS_A_PLACE + fetch_s * (2 if away else 1)
        if best is None or cost_s < best[0]:
            best = (cost_s, task, fit)
        seen += 1
        if seen == MOST_CANDIDATES or best[0] <= seen * SECONDS_A_PLACE:
            break
    if best is None:
        return None
    for task in passed[:MOST_PASSED]:
        if task.place < best[1].place:
            job.passed.setdefault(task.ready.digest, now_s)
    return best[1], best[2]


def _sooner_elsewhere(task: Task, job: JobState, worker: Worker, roster: Roster, fetch_s: float, now_s: float) -> bool:
    """Whether another worker would have its inputs in half of the time, the wait for it included. Not for ever: a step that has
    waited for longer than its inputs take to come goes wherever there is room."""
    if now_s - task.waiting_since_s > fetch_s:
        return False
    for other in roster.workers:
        their_s = missing_bytes(task, other) / BYTES_A_SECOND
        if other is worker or 2 * their_s > fetch_s:
            continue
        fit = roster.fit(other, task, Room.of(other))
        if fit and 2 * (their_s + (0.0 if fit.now else _free_in_s(other, job, now_s))) < fetch_s:
            return True
    return False


def _free_in_s(worker: Worker, job: JobState, now_s: float) -> float:
    """When the first of its steps will end: as others of their kind took, or else after as long again; at best a guess."""
    rests = []
    for run in worker.busy():
        ran_s = now_s - (now_s if run.running_s is None else run.running_s)
        task = job.tasks.get(run.key[1])
        mean_s = job.seconds.get(task.kind, (0, 0.0))[1] if task else 0.0
        rests.append(mean_s - ran_s if mean_s > ran_s else max(1.0, ran_s))
    return min(rests, default=0.0)


def keep_free(jobs: Iterable[JobState], roster: Roster, now_s: float) -> None:
    """A step that others were put before for long, since it needs more room, has one worker kept for it."""
    for job in jobs:
        for digest, since_s in list(job.passed.items()):
            task = job.tasks.get(digest)
            if task is None or not task.waiting:
                del job.passed[digest]
            elif now_s - since_s >= PATIENCE_S:
                permitted = [w for w in roster.workers if w.name in roster.permitted(task)]
                if permitted and not any(w.kept_for is task for w in permitted):
                    free = [w for w in permitted if w.kept_for is None or not w.kept_for.waiting]
                    if free:
                        max(free, key=Worker.free_threads).kept_for = task


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
            if not task.hinted_to and missing_bytes(task, worker) and worker.name in roster.permitted(task):
                task.hinted_to = worker.name
                hinted += 1
                found.append(task)
    return found


def slow_steps(jobs: Iterable[JobState], now_s: float) -> list[Task]:
    """Steps that run longer than others of their kind did, now that nothing of the stage waits; the slowest first."""
    found = []
    for job in jobs:
        for task in job.tasks.values():
            run = next(iter(task.runs.values()), None)
            if run is None or run.running_s is None or len(task.runs) > 1 or task.strikes:
                continue
            count, mean_s = job.seconds.get(task.kind, (0, 0.0))
            slow_s = max(SLOW_AT_LEAST_S, SLOW * mean_s)
            if count >= SLOW_AFTER_STEPS and not job.waiting_in_stage.get(task.ready.stage) and run.phase == "running":
                ran_s = now_s - run.running_s
                if ran_s > slow_s:
                    found.append((ran_s / slow_s, task))
    return [task for _, task in sorted(found, key=lambda entry: -entry[0])]


def idle_for(task: Task, roster: Roster) -> tuple[Worker, Fit] | None:
    """A worker that has room for one more try of a step, and is not at it already."""
    for worker in sorted(roster.workers, key=lambda w: (-w.free_threads(), w.name)):
        fit = roster.fit(worker, task, Room.of(worker))
        if fit and fit.now and all(r.worker != worker.name for r in task.runs.values()):
            return worker, fit
    return None
