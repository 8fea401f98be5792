"""A run that finds cameras without any: a survey, its split, and an executor that says how mappings end."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from passel.geo.frames import Frame
from passel.pipeline.events import Artifact, OnEvent, Outcome, StepFailure
from passel.pipeline.executor import ignore_events
from passel.pipeline.find_cameras import CamerasFound, find_cameras
from passel.pipeline.job import Job
from passel.pipeline.manifest import Cost, Manifest
from passel.pipeline.step import ArtifactInput, Step
from passel.survey.model import Camera, Photo, Position, Survey
from passel.survey.submodel import SplitPlan, Submodel

FRAME = Frame.around(np.array([[46.8, 7.5, 500.0]]))
CAMERA = Camera("c", "Make", "Model", "", 4000, 3000, 3000.0, "exif35", 0.1)
GOOD, BAD, CRASH, HANG = "good", "bad", "crash", "hang"
Judge = Callable[[Step], str]


def survey() -> Survey:
    """Three strips of 20 photos, 15 m and 30 m apart."""
    x, y = np.meshgrid(np.arange(20) * 15.0, np.arange(3) * 30.0)
    degrees = FRAME.geographic_from_world(np.column_stack([x.ravel(), y.ravel(), np.full(60, 80.0)])).tolist()
    photos = tuple(
        Photo(f"p{i:02d}.jpg", f"p{i:02d}.jpg", f"{i:064x}", 1, "c", Position(*d, None, None), "", *(None,) * 4, 1.0)
        for i, d in enumerate(degrees)
    )
    return Survey(photos, (CAMERA,), FRAME, (2.0, 4.0), ())


def split() -> SplitPlan:
    """Left and right half, with two columns of the other as halo."""
    column = {f"p{i:02d}.jpg": i % 20 for i in range(60)}

    def some(low: int, high: int) -> tuple[str, ...]:
        return tuple(n for n, c in column.items() if low <= c < high)

    return SplitPlan((Submodel("s0", some(0, 10), some(10, 12)), Submodel("s1", some(10, 20), some(8, 10))))


class FakeExecutor:
    """Makes every step in no time; `judge` says how mappings end."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.groups: dict[str, list[tuple[str, ...]]] = {}
        self.stands: dict[str, tuple[str, ...]] = {}
        self.focals_off: tuple[str, ...] = ()
        self.mapped: list[str] = []
        self.steps: dict[str, Step] = {}

    def run(self, steps: Sequence[Step], on_event: OnEvent) -> dict[str, Outcome]:
        return {s.digest: self._made(s) for s in steps}

    def stop(self) -> None:
        raise AssertionError("nobody stops this run")

    def close(self) -> None:
        pass

    def _made(self, step: Step) -> Outcome:
        self.steps[step.digest] = step
        word = GOOD
        if step.stage in {"mapping", "calibration"}:
            self.mapped.append(step.name)
            word = self.judge(step)
        if word == CRASH:
            return StepFailure(step, "the process ended with signal 6", "died", 3)
        if word == HANG:
            return StepFailure(step, "it took longer than allowed", "timeout", 3)
        why = "" if word == GOOD else "GPS residual 60 m"
        groups = json.dumps(self.groups.get(step.name, []))
        stands = json.dumps(self.stands.get(step.name, []))
        facts = (
            ("passed", word == GOOD), ("why", why), ("groups", groups), ("stands", stands), ("photos", len(self.stands.get(step.name, ()))),
            ("tilt_by_altitudes_deg", 0.0), ("turned", 0), ("focals_off", json.dumps(self.focals_off)),
        )  # fmt: skip
        cost = Cost("m", "2026-01-01T00:00:00+00:00", 1.0, 1.0, 1.0, 1)
        return Artifact(
            Manifest(step.digest, step.stage, step.name, step.function, step.version, (), facts, cost), Path(step.name)
        )


def fails(*names: str, how: str = BAD) -> Judge:
    return lambda step: how if step.name in names else GOOD


def all_good(step: Step) -> str:
    return GOOD


def statuses(found: CamerasFound) -> dict[str, tuple[str, int]]:
    return {m.submodel.name: (m.status, m.attempts) for m in found.submodels}


def scenes_aligned(found: CamerasFound, executor: FakeExecutor) -> set[str]:
    aligned = executor.steps[found.aligned.manifest.digest]
    inputs = [i for role, i in aligned.inputs if role == "scene"]
    return {executor.steps[i.digest].name for i in inputs if isinstance(i, ArtifactInput)}


def few(job: Job, number: int, gps: bool = True) -> tuple[Job, SplitPlan]:
    photos = job.survey.photos[:number]
    survey = replace(job.survey, photos=photos if gps else tuple(replace(p, position=None) for p in photos))
    if not gps:
        survey = replace(survey, frame=Frame.local())
    return replace(job, survey=survey), SplitPlan((Submodel("s0", tuple(p.name for p in photos), ()),))


def run(job: Job, judge: Judge) -> tuple[CamerasFound, FakeExecutor]:
    executor = FakeExecutor(judge)
    return find_cameras(job, split(), executor, ignore_events), executor


def run_with_groups(job: Job, judge: Judge, **groups: list[tuple[str, ...]]) -> tuple[CamerasFound, FakeExecutor]:
    executor = FakeExecutor(judge)
    executor.groups = groups
    return find_cameras(job, split(), executor, ignore_events), executor
