"""The record of a run for machines: log.json, written whole at intervals and at the end, however the run ends."""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import psutil

from passel.pipeline.events import Delivery, Event, StepDone, StepFailed
from passel.pipeline.store import storage_errors
from passel.pipeline.tally import StageTally, Tally

_EVERY_S = 30.0


@dataclass(frozen=True)
class Machine:
    """Where a run took place. memory_mb: physical memory."""

    name: str
    system: str
    cpus: int
    memory_mb: int
    python: str

    @staticmethod
    def here() -> Machine:
        memory_mb = round(psutil.virtual_memory().total / 1e6)
        system = f"{platform.system()} {platform.machine()}"
        return Machine(platform.node(), system, os.cpu_count() or 1, memory_mb, platform.python_version())


@dataclass(frozen=True)
class StepRecord:
    """A line of log.json. state: 'made', 'reused' or a failure's kind. bytes: over the network, 0 on one machine."""

    stage: str
    name: str
    digest: str
    state: str
    message: str
    machine: str
    started: str
    seconds: float
    cpu_seconds: float
    peak_rss_mb: float
    attempts: int
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass(frozen=True)
class MachineTally:
    """What a machine did for this run: steps made, their wall and CPU seconds, what it sent and was sent."""

    machine: str
    steps: int
    step_seconds: float
    cpu_seconds: float
    bytes_in: int
    bytes_out: int


class RunLog:
    """Collects a run's events; `close` with the way it ended: 'done', 'failed: …', 'interrupted'."""

    def __init__(self, path: Path, options: Mapping[str, object], version: str, every_s: float = _EVERY_S) -> None:
        self._path, self._options, self._version, self._every_s = path, dict(options), version, every_s
        self._start = _now()
        self._tally = Tally()
        self._steps: list[StepRecord] = []
        self._written_s = time.monotonic()
        self._guard = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Takes an event; writes the file when the last time is long ago. Raises StorageError."""
        with self._guard:
            now_s = time.monotonic()
            self._tally.add(event, now_s)
            if isinstance(event, StepDone | StepFailed):
                self._steps.append(_record(event))
            if now_s - self._written_s > self._every_s:
                self._write("running", None)

    def close(self, end: str) -> None:
        """Writes the file for good. Raises StorageError."""
        with self._guard:
            self._write(end, _now())

    def stages(self) -> list[StageTally]:
        """The stages so far, in the order in which they were planned."""
        return list(self._tally.stages.values())

    def machines(self) -> list[MachineTally]:
        """What each machine made in this run, sorted by name."""
        with self._guard:
            return machine_tallies(self._steps)

    def _write(self, state: str, end: str | None) -> None:
        value = {
            "passel": self._version,
            "state": state,
            "start": self._start,
            "end": end,
            "machine": asdict(Machine.here()),
            "options": self._options,
            "machines": [asdict(m) for m in machine_tallies(self._steps)],
            "stages": [_stage_value(s) for s in self._tally.stages.values()],
            "steps": [asdict(s) for s in self._steps],
        }
        aside = self._path.with_name(self._path.name + ".part")
        with storage_errors(self._path.parent):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("w", encoding="utf-8") as file:
                json.dump(value, file, indent=1, default=str)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, self._path)
        self._written_s = time.monotonic()


def machine_tallies(steps: Sequence[StepRecord]) -> list[MachineTally]:
    """The steps made, summed by machine; their seconds over the run's wall clock is the speed-up."""
    by_machine: dict[str, list[StepRecord]] = {}
    for step in steps:
        if step.state == "made":
            by_machine.setdefault(step.machine, []).append(step)
    return [
        MachineTally(
            machine,
            len(made),
            round(sum(s.seconds for s in made), 2),
            round(sum(s.cpu_seconds for s in made), 2),
            sum(s.bytes_in for s in made),
            sum(s.bytes_out for s in made),
        )
        for machine, made in sorted(by_machine.items())
    ]


def _record(event: StepDone | StepFailed) -> StepRecord:
    if isinstance(event, StepFailed):
        failure = event.failure
        step = failure.step
        return StepRecord(
            step.stage, step.name, step.digest, failure.kind, failure.message, "", "", 0.0, 0.0, 0.0, failure.attempts
        )
    step, cost = event.step, event.manifest.cost
    state = "reused" if event.reused else "made"
    by = event.delivery or Delivery(cost.machine, cost.attempt, 0, 0)
    return StepRecord(
        step.stage, step.name, step.digest, state, "", by.worker, cost.started, cost.seconds, cost.cpu_seconds,
        cost.peak_rss_mb, by.attempts, by.bytes_in, by.bytes_out,
    )  # fmt: skip


def _stage_value(stage: StageTally) -> dict[str, object]:
    return {
        "stage": stage.stage,
        "steps": stage.total,
        "made": stage.made,
        "reused": stage.reused,
        "failed": stage.failed,
        "cpu_seconds": round(stage.cpu_seconds, 2),
        "step_seconds": round(stage.seconds, 2),
        "wall_seconds": round(stage.wall_seconds, 2),
        "peak_rss_mb": round(stage.peak_rss_mb, 1),
    }


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
