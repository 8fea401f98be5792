"""The record of a run for machines: log.json, written whole at intervals and at the end, however the run ends."""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import psutil

from passel.pipeline.events import Event, StepDone, StepFailed
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
    """A line of log.json. state: 'made', 'reused' or a failure's kind."""

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

    def _write(self, state: str, end: str | None) -> None:
        value = {
            "passel": self._version,
            "state": state,
            "start": self._start,
            "end": end,
            "machine": asdict(Machine.here()),
            "options": self._options,
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


def _record(event: StepDone | StepFailed) -> StepRecord:
    if isinstance(event, StepFailed):
        failure = event.failure
        step = failure.step
        return StepRecord(
            step.stage, step.name, step.digest, failure.kind, failure.message, "", "", 0.0, 0.0, 0.0, failure.attempts
        )
    step, cost = event.step, event.manifest.cost
    state = "reused" if event.reused else "made"
    return StepRecord(
        step.stage, step.name, step.digest, state, "", cost.machine, cost.started, cost.seconds, cost.cpu_seconds,
        cost.peak_rss_mb, cost.attempt,
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
