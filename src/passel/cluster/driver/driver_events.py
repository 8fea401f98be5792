"""How a driver tells the server that started it how its run goes: lines of JSON on its standard output."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TextIO

from passel.cluster.wire.drivers import Capacity
from passel.option_table import STAGES
from passel.pipeline.events import Event, StepDone, StepFailed
from passel.pipeline.tally import StageTally, Tally

_STAGES_EVERY_S = 0.5
_WEIGHTS = {
    "survey": 2.0, "features": 14.0, "matches": 18.0, "calibration": 2.0, "mapping": 18.0, "align": 3.0, "coarse": 3.0,
    "tiles": 34.0, "merge": 5.0, "report": 1.0,
}  # fmt: skip
"""Each stage's share of a run's CPU time, as measured on the benchmark's real surveys: only for progress and the time left."""
_TELLING = 4.0
"""What must be done of all weights before a forecast is more than noise."""


class EventLines:
    """The `Watcher` of a driver. on_begin: called once, with the first event of the run."""

    def __init__(self, stream: TextIO, on_begin: Callable[[], None]) -> None:
        self._stream, self._on_begin = stream, on_begin
        self._tally = Tally()
        self._guard = threading.RLock()
        self._told_s = float("-inf")
        self._untold = False
        self._begun = False
        self._waits = ""
        self._ended = threading.Event()
        self._ticker: threading.Thread | None = None

    def __enter__(self) -> Self:
        """At the beginning of the run, and again when it is begun again."""
        self._ended.clear()
        self._ticker = threading.Thread(target=self._tick, name="stages", daemon=True)
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._ticker is not None:
            self._ticker.join()
        self._tell_stages()

    def __call__(self, event: Event) -> None:
        with self._guard:
            if not self._begun:
                self._begun = True
                self._on_begin()
            self._tally.add(event, time.monotonic())
            self._untold = True
        if isinstance(event, StepDone):
            machine = event.delivery.worker if event.delivery else event.manifest.machine
            self._step(event.step.stage, event.step.name, "reused" if event.reused else "done", machine)
        elif isinstance(event, StepFailed):
            failure = event.failure
            self._step(failure.step.stage, failure.step.name, "failed", "")
            if failure.kind not in ("skipped", "stopped"):
                self.say(f"{failure.step.stage} {failure.step.name} failed: {failure.message}")
        if time.monotonic() - self._told_s >= _STAGES_EVERY_S:
            self._tell_stages()

    def say(self, text: str) -> None:
        """A line for people."""
        self._write({"event": "say", "text": text})

    def set_capacity(self, capacity: Capacity) -> None:
        """For the time left, of which nothing is known while there is no machine at all, or no room on any: people are told."""
        with self._guard:
            before, self._tally.workers = self._tally.workers, max(1, capacity.threads)
            waits = _waits_for(capacity)
            told, self._waits = self._waits, waits
            self._untold = self._untold or before != self._tally.workers or bool(told) != bool(waits)
        if waits and waits != told:
            self.say(waits)
        elif told and not waits:
            self.say("It goes on")

    def end(self, code: int, message: str, todo: str = "", where: str = "", holes: Sequence[str] = ()) -> None:
        """The last line."""
        self._write(
            {"event": "end", "code": code, "message": message, "todo": todo, "where": where, "holes": list(holes)}
        )

    def _step(self, stage: str, name: str, state: str, machine: str) -> None:
        self._write({"event": "step", "stage": stage, "name": name, "state": state, "machine": machine})

    def _tick(self) -> None:
        """So that the last event of a burst is seen, too."""
        while not self._ended.wait(_STAGES_EVERY_S):
            self._tell_stages()

    def _tell_stages(self) -> None:
        with self._guard:
            if not self._untold:
                return
            self._untold, self._told_s = False, time.monotonic()
            stages, moves = list(self._tally.stages.values()), not self._waits
            self._write({
                "event": "stages",
                "stages": [
                    {
                        "stage": s.stage, "done": s.settled, "total": s.total, "failed": s.failed,
                        "rest_s": self._tally.stage_rest_s(s) if moves or not s.rest else None,
                    }
                    for s in stages
                ],
                "rest_s": rest_s(stages, self._tally.workers) if moves else None,
                "progress": round(percent(stages), 1),
            })  # fmt: skip

    def _write(self, record: dict[str, object]) -> None:
        with self._guard:
            try:
                self._stream.write(json.dumps(record) + "\n")
                self._stream.flush()
            except BrokenPipeError:
                os._exit(1)  # nobody listens any more: the server is gone, and with it the reason to run


def _waits_for(capacity: Capacity) -> str:
    """Why nothing moves at all, '' when something can."""
    if capacity.workers == 0 and capacity.draining:
        return "Every worker is draining: no new steps begin until one takes steps again"
    if capacity.workers == 0:
        return "No worker is connected: waiting for one"
    if not capacity.takes_artifacts:
        return "The coordinator's disk is full: waiting until there is room on it"
    if capacity.full == capacity.workers:
        return "The disk of every worker is full: waiting until there is room on one"
    return ""


def percent(stages: Sequence[StageTally]) -> float:
    """0 … 100. Stages that are not planned yet count as not begun, and those before the latest planned one as done."""
    planned = {s.stage: s.settled / s.total for s in stages if s.total}
    latest = max((STAGES.index(s) for s in planned if s in STAGES), default=-1)
    done = sum(
        weight * planned.get(stage, 1.0 if STAGES.index(stage) < latest else 0.0) for stage, weight in _WEIGHTS.items()
    )
    return 100.0 * done / sum(_WEIGHTS.values())


def rest_s(stages: Sequence[StageTally], workers: int) -> float | None:
    """Seconds until the map is made, also of stages that no plan has yet: what the finished steps took, scaled up by
    their stages' shares of a run. None while too little is done to tell.
    """
    seconds = share = 0.0
    for stage in stages:
        if stage.total and stage.stage in _WEIGHTS:
            seconds += stage.seconds + stage.past_seconds
            share += _WEIGHTS[stage.stage] * (stage.made + stage.reused) / stage.total
    left = sum(_WEIGHTS.values()) * (1.0 - percent(stages) / 100.0)
    return None if share < _TELLING else left * seconds / share / max(1, workers)
