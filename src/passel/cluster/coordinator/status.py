"""What people see of a passel: its workers, what runs, what waits, how fast it goes."""

from __future__ import annotations

from dataclasses import dataclass

from passel.cluster.coordinator.dispatch import Dispatcher
from passel.cluster.coordinator.dispatch_state import JobState, Worker
from passel.cluster.wire.drivers import Capacity
from passel.cluster.wire.workers import MachineInfo, Slots


@dataclass(frozen=True)
class RunningStep:
    """A step on a worker. seconds: since its process began, None while its inputs are fetched."""

    job: str
    digest: str
    stage: str
    name: str
    attempt: int
    phase: str
    memory_mb: int
    threads: int
    seconds: float | None


@dataclass(frozen=True)
class WorkerStatus:
    """state: 'working', 'idle', 'draining', 'full' (its disk) or 'lost'."""

    name: str
    state: str
    machine: MachineInfo
    slots: Slots
    used_threads: int
    used_memory_mb: int
    running: tuple[RunningStep, ...]
    steps_done: int
    bytes_in: int
    bytes_out: int


@dataclass(frozen=True)
class StageQueue:
    """Ready steps of a stage that wait for a worker."""

    stage: str
    waiting: int


@dataclass(frozen=True)
class JobStatus:
    """A job whose driver is connected. waiting counts only steps that are ready; the driver holds the others back."""

    job: str
    waiting: int
    running: int
    made: int
    failed: int
    queue: tuple[StageQueue, ...]


@dataclass(frozen=True)
class PasselStatus:
    """All of it."""

    workers: tuple[WorkerStatus, ...]
    jobs: tuple[JobStatus, ...]


def capacity_of(dispatcher: Dispatcher) -> Capacity:
    """What the workers that are there and stay have in all."""
    connected = [w for w in dispatcher.workers.values() if not w.lost]
    there = [w for w in connected if not w.drains]
    slots = [w.slots for w in there]
    full = [w for w in there if w.request.full]
    takes_artifacts = not any(w.request.local for w in full)  # it works where artifacts are kept
    threads, memory_mb = sum(s.cpus for s in slots), sum(s.memory_mb for s in slots)
    draining = len(connected) - len(there)
    return Capacity(len(there), threads, memory_mb, len(full), takes_artifacts, draining)


def status_of(dispatcher: Dispatcher, now_s: float) -> PasselStatus:
    """A picture of this moment. A worker that left in order is not there; one that fell silent is lost."""
    seen = [w for w in dispatcher.workers.values() if not (w.lost and w.request.draining)]
    return PasselStatus(
        tuple(_worker(w, now_s) for w in sorted(seen, key=lambda w: w.name)),
        tuple(_job(j) for j in dispatcher.jobs.values()),
    )


def _worker(worker: Worker, now_s: float) -> WorkerStatus:
    busy = worker.busy()
    running = tuple(
        RunningStep(
            run.key[0],
            run.key[1],
            run.task.ready.stage if run.task else "",
            run.task.ready.name if run.task else "",
            run.attempt,
            run.phase,
            run.memory_mb,
            run.threads,
            None if run.running_s is None else round(now_s - run.running_s, 3),
        )
        for run in worker.runs.values()
    )
    return WorkerStatus(
        worker.name,
        _state(worker, now_s),
        worker.request.machine,
        worker.slots,
        sum(r.threads for r in busy),
        sum(r.memory_mb for r in busy),
        running,
        worker.steps_done,
        worker.bytes_in,
        worker.bytes_out,
    )


def _state(worker: Worker, now_s: float) -> str:
    if worker.lost:
        return "lost"
    if worker.drains:
        return "draining"
    if not worker.takes_steps(now_s):
        return "full"
    return "working" if worker.runs else "idle"


def _job(job: JobState) -> JobStatus:
    queue = tuple(StageQueue(stage, count) for stage, count in job.waiting_in_stage.items() if count)
    running = sum(bool(t.runs) for t in job.tasks.values())
    return JobStatus(job.name, len(job.waiting), running, job.made, job.failed, queue)
