"""Which step may run next: the pure part of every executor, without processes, threads or clock."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from passel.pipeline.events import Artifact, OnEvent, Outcome, StepDone, StepFailed, StepFailure, StepsPlanned
from passel.pipeline.step import ArtifactInput, FileInput, Step
from passel.pipeline.store import Store


class Schedule:
    """The state of one `Executor.run`. Steps become ready when all their inputs are in the store.

    Earlier stages go first (in the order in which stages first appear), then steps with the longest chain of steps
    behind them, then the order given. Linear in the number of steps and inputs.
    """

    def __init__(self, steps: Sequence[Step], store: Store, on_event: OnEvent) -> None:
        self._store, self._on_event = store, on_event
        self._steps = {step.digest: step for step in reversed(steps)}
        self._steps = dict(reversed(self._steps.items()))  # in the order given, each digest once
        self.outcomes: dict[str, Outcome] = {}
        self._waits_for: dict[str, int] = {}
        self._dependents: dict[str, list[str]] = defaultdict(list)
        self._ready: list[tuple[int, int, int, str]] = []
        self._rank: dict[str, tuple[int, int, int]] = {}
        on_event(StepsPlanned(tuple(self._steps.values())))
        self._take_what_exists()
        self._link()

    @property
    def finished(self) -> bool:
        return len(self.outcomes) == len(self._steps)

    def next_ready(self) -> Step | None:
        """The most urgent step that may run, handed out once; None when all others wait or are done."""
        return self._steps[heapq.heappop(self._ready)[-1]] if self._ready else None

    def rank(self, step: Step) -> int:
        """0 for the most urgent step of all."""
        return self._order[step.digest]

    def paths(self, step: Step) -> tuple[tuple[str, Path], ...]:
        """Where the inputs of a ready step are on this machine."""
        return tuple(
            (role, Path(i.path).absolute() if isinstance(i, FileInput) else self._store.path(i.digest).absolute())
            for role, i in step.inputs
        )

    def settle(self, step: Step, outcome: Outcome) -> None:
        """Notes the outcome of a step that ran; what waited for it becomes ready or is skipped."""
        self._note(step.digest, outcome)
        if isinstance(outcome, Artifact):
            for dependent in self._dependents[step.digest]:
                self._waits_for[dependent] -= 1
                if self._waits_for[dependent] == 0:
                    self._push(dependent)
            return
        lost = [(d, step) for d in self._dependents[step.digest]]
        while lost:
            digest, cause = lost.pop()
            if digest not in self.outcomes:
                self._skip(digest, f"{cause.stage} {cause.name}")
                lost += [(d, cause) for d in self._dependents[digest]]

    def _take_what_exists(self) -> None:
        for digest, step in self._steps.items():
            manifest = self._store.find(digest)
            if manifest is not None:
                self.outcomes[digest] = Artifact(manifest, self._store.path(digest), bring=self._store.bring_of(digest))
                self._on_event(StepDone(step, manifest, reused=True))

    def _link(self) -> None:
        """Counts what each missing step waits for, ranks all, and pushes what can start."""
        missing = {d: s for d, s in self._steps.items() if d not in self.outcomes}
        absent: list[tuple[str, str]] = []
        known: dict[str, bool] = {}
        for digest, step in missing.items():
            wanted = {i.digest for _, i in step.inputs if isinstance(i, ArtifactInput)}
            pending = [w for w in sorted(wanted) if w in missing]
            for other in sorted(wanted - self._steps.keys()):
                if other not in known:
                    known[other] = self._store.has(other)
                if not known[other]:
                    absent.append((digest, other))
            self._waits_for[digest] = len(pending)
            for other in pending:
                self._dependents[other].append(digest)
        self._set_ranks(missing)
        for digest, other in absent:
            if digest not in self.outcomes:
                step = self._steps[digest]
                self.settle(
                    step, StepFailure(step, f"its input {other[:12]} is neither stored nor planned", "skipped", 0)
                )
        for digest, count in self._waits_for.items():
            if count == 0 and digest not in self.outcomes:
                self._push(digest)

    def _set_ranks(self, missing: dict[str, Step]) -> None:
        """Orders the missing steps; `height` is the number of steps in the longest chain behind a step."""
        count = dict(self._waits_for)
        order = [d for d, n in count.items() if n == 0]
        for digest in order:  # grows while it is walked: topological order
            for dependent in self._dependents[digest]:
                count[dependent] -= 1
                if count[dependent] == 0:
                    order.append(dependent)
        height = dict.fromkeys(order, 0)
        for digest in reversed(order):
            height[digest] = max((height[d] + 1 for d in self._dependents[digest]), default=0)
        stages: dict[str, int] = {}
        for step in self._steps.values():
            stages.setdefault(step.stage, len(stages))
        for position, (digest, step) in enumerate(missing.items()):
            self._rank[digest] = (stages[step.stage], -height[digest], position)
        self._order = {d: n for n, d in enumerate(sorted(self._rank, key=self._rank.__getitem__))}

    def _push(self, digest: str) -> None:
        heapq.heappush(self._ready, (*self._rank[digest], digest))

    def _note(self, digest: str, outcome: Outcome) -> None:
        self.outcomes[digest] = outcome
        if isinstance(outcome, Artifact):
            self._on_event(StepDone(self._steps[digest], outcome.manifest, reused=False, delivery=outcome.delivery))
        else:
            self._on_event(StepFailed(outcome))

    def _skip(self, digest: str, cause: str) -> None:
        step = self._steps[digest]
        self._note(digest, StepFailure(step, f"skipped, because {cause} failed", "skipped", 0))
