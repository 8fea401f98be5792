"""The count of a run: what each stage has done, its cost and how long the rest will take. Pure; the clock comes in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from passel.pipeline.events import Event, StepDone, StepFailed, StepsPlanned, StepStarted


@dataclass
class StageTally:
    """One stage so far. Seconds and cpu_seconds are sums over the steps made in this run; rest counts unsettled steps.

    past_seconds: sum of what the reused steps took when they were made, the first guess for the others.
    """

    stage: str
    total: int = 0
    reused: int = 0
    made: int = 0
    failed: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    past_seconds: float = 0.0
    peak_rss_mb: float = 0.0
    first_start_s: float | None = None
    last_end_s: float | None = None
    running: set[str] = field(default_factory=set)

    @property
    def settled(self) -> int:
        return self.reused + self.made + self.failed

    @property
    def rest(self) -> int:
        return self.total - self.settled

    @property
    def wall_seconds(self) -> float:
        """From the first start to the last end of a step in this run, 0 when all was reused."""
        if self.first_start_s is None or self.last_end_s is None:
            return 0.0
        return self.last_end_s - self.first_start_s

    @property
    def seconds_a_step(self) -> float | None:
        """Measured in this run, else in earlier ones; None when nothing is known."""
        if self.made:
            return self.seconds / self.made
        return self.past_seconds / self.reused if self.reused else None


class Tally:
    """All stages, in the order in which they were planned. Times are seconds of one monotonic clock.

    workers: steps that run at a time. guess_s: seconds a step of a stage may take, for stages not yet measured.
    """

    def __init__(self, workers: int = 1, guess_s: Mapping[str, float] | None = None) -> None:
        self.workers = workers
        self.stages: dict[str, StageTally] = {}
        self._guess_s = dict(guess_s or {})
        self._planned: set[str] = set()
        self._seen: set[str] = set()

    def add(self, event: Event, now_s: float) -> None:
        """Takes an event. A step that is planned again (plans grow by stages) counts once."""
        if isinstance(event, StepsPlanned):
            for step in event.steps:
                if step.digest not in self._planned:
                    self._planned.add(step.digest)
                    self._stage(step.stage).total += 1
            return
        step = event.failure.step if isinstance(event, StepFailed) else event.step
        stage = self._stage(step.stage)
        if isinstance(event, StepStarted):
            stage.running.add(step.name)
            stage.first_start_s = now_s if stage.first_start_s is None else stage.first_start_s
            return
        stage.running.discard(step.name)
        if step.digest in self._seen:
            return
        self._seen.add(step.digest)
        if isinstance(event, StepFailed):
            stage.failed += 1
            stage.last_end_s = now_s
            return
        self._add_done(stage, event, now_s)

    def _add_done(self, stage: StageTally, event: StepDone, now_s: float) -> None:
        cost = event.manifest.cost
        if event.reused:
            stage.reused += 1
            stage.past_seconds += cost.seconds
            return
        stage.made += 1
        stage.seconds += cost.seconds
        stage.cpu_seconds += cost.cpu_seconds
        stage.peak_rss_mb = max(stage.peak_rss_mb, cost.peak_rss_mb)
        stage.last_end_s = now_s

    def rest_s(self) -> float | None:
        """Seconds until all planned steps are settled; stages of unknown cost count nothing. None: not known."""
        each = [self.stage_rest_s(s) for s in self.stages.values() if s.rest]
        known = [rest_s for rest_s in each if rest_s is not None]
        return sum(known) if known or not each else None

    @property
    def rest_is_whole(self) -> bool:
        """False when `rest_s` is a lower bound, for lack of any measurement of some stage."""
        return all(self.stage_rest_s(s) is not None for s in self.stages.values() if s.rest)

    def stage_rest_s(self, stage: StageTally) -> float | None:
        """Seconds until this stage is settled, None when nothing is known of its steps."""
        cost_s = stage.seconds_a_step
        cost_s = self._guess_s.get(stage.stage) if cost_s is None else cost_s
        return None if cost_s is None else stage.rest * cost_s / max(1, min(self.workers, stage.rest))

    def _stage(self, name: str) -> StageTally:
        return self.stages.setdefault(name, StageTally(name))
