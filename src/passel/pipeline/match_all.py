"""Running features and matches. A chunk of pairs that breaks its process is tried again in parts: one bad pair costs only itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from passel.pipeline import plan_cameras as plan
from passel.pipeline.events import OnEvent, Outcome, StepFailure
from passel.pipeline.executor import Executor
from passel.pipeline.job import Job, first_failure
from passel.pipeline.step import Step
from passel.survey.check import counted

SMALLER_CHUNKS = (10, 1)  # pairs
TRIED_AGAIN = ("died", "timeout", "crash")  # ends that may be the fault of a single pair
MOST_BROKEN, MOST_BROKEN_SHARE = 3, 0.1  # of the chunks: where more break, it is not the fault of a pair
SHOWN = 3


@dataclass(frozen=True)
class Matched:
    """found: as planned, less what could not be matched. outcomes: of all steps that ran. lost: pairs of photo names left out, and
    how the last of them ended, in words."""

    found: plan.Found
    outcomes: Mapping[str, Outcome]
    lost: tuple[tuple[str, str], ...] = ()
    why: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, in words."""
        if not self.lost:
            return ()
        named = ", ".join(f"{a} and {b}" for a, b in self.lost[:SHOWN])
        more = f" and {len(self.lost) - SHOWN} more" if len(self.lost) > SHOWN else ""
        what = f"{counted(len(self.lost), 'pair')} of photos could not be compared and {_was(len(self.lost))} left out"
        return (f"{what}: {named}{more} ({self.why})",)


def match_all(job: Job, found: plan.Found, calibration: Step | None, executor: Executor, on_event: OnEvent) -> Matched:
    """Features, matches and, beside them, the calibration. Raises the first cause when features fail, or matches for another reason
    than a pair."""
    outcomes = executor.run([*found.features, *found.matches, *([calibration] if calibration else [])], on_event)
    cause = first_failure(found.features, outcomes)
    if cause is not None:
        raise cause
    most = max(MOST_BROKEN, MOST_BROKEN_SHARE * len(found.matches))
    for most_pairs in SMALLER_CHUNKS:
        broken = _broken(found, outcomes, most)
        if not broken:
            return Matched(found, outcomes)
        found, most = plan.in_smaller_chunks(job, found, broken, most_pairs), math.inf
        fresh = [s for s in found.matches if s.digest not in outcomes]
        outcomes = {**outcomes, **executor.run(fresh, on_event)}
    broken = _broken(found, outcomes, len(found.matches) - 1)
    return _less(job, found, outcomes, broken)


def _broken(found: plan.Found, outcomes: Mapping[str, Outcome], most: float) -> dict[str, StepFailure]:
    """The match steps to try in parts, by digest. Raises the first failure that parts would not mend, or when more than `most` failed."""
    failed = {s.digest: o for s in found.matches if isinstance(o := outcomes[s.digest], StepFailure)}
    cause = first_failure(found.matches, outcomes)
    if cause is not None and (len(failed) > most or any(o.kind not in TRIED_AGAIN for o in failed.values())):
        raise cause
    return failed


def _less(job: Job, found: plan.Found, outcomes: Mapping[str, Outcome], failed: Mapping[str, StepFailure]) -> Matched:
    """What is left without the steps that failed to the last, and their pairs by name."""
    names = [p.name for p in job.survey.photos]
    pairs = [pair for step, pairs in zip(found.matches, found.pairs_of) if step.digest in failed for pair in pairs]
    lost = tuple((names[a], names[b]) for a, b in pairs)
    why = next((o.message for o in failed.values()), "")
    return Matched(plan.without(found, failed), outcomes, lost, why)


def _was(n: int) -> str:
    return "was" if n == 1 else "were"
