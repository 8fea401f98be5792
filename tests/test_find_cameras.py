"""Submodels that fail: tried with the other mapper, split again, at last left out; nothing else is lost. A fake executor decides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from finding_world import (
    BAD,
    CAMERA,
    CRASH,
    GOOD,
    HANG,
    FakeExecutor,
    all_good,
    fails,
    run,
    scenes_aligned,
    split,
    statuses,
    survey,
)
from passel.errors import PasselError, ReconstructionError
from passel.options import Options
from passel.pipeline import plan_cameras as plan
from passel.pipeline.events import Outcome, StepFailure
from passel.pipeline.executor import ignore_events
from passel.pipeline.find_cameras import find_cameras
from passel.pipeline.job import Job, Project
from passel.pipeline.step import Step
from passel.pipeline.steps.cameras import focals_off
from passel.reconstruct.scene import Intrinsics
from passel.survey.model import Calibration


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job.of(survey(), Options(), Project(tmp_path))


def test_good_submodels_are_mapped_once(job):
    found, executor = run(job, lambda step: GOOD)
    assert statuses(found) == {"s0": ("good", 1), "s1": ("good", 1)}
    assert sorted(executor.mapped) == ["calibration_incremental", "s0_global", "s1_global"]
    assert scenes_aligned(found, executor) == {"s0_global", "s1_global"}
    assert len(found.features) == 60
    assert found.holes == ()


@pytest.mark.parametrize("how", [BAD, CRASH, HANG])
def test_a_failed_submodel_is_tried_with_the_other_mapper(job, how):
    found, executor = run(job, fails("s1_global", how=how))
    assert statuses(found) == {"s0": ("good", 1), "s1": ("retried", 2)}
    assert scenes_aligned(found, executor) == {"s0_global", "s1_incremental"}
    assert found.holes == ()


@pytest.mark.parametrize("how", [BAD, CRASH, HANG])
def test_one_that_fails_twice_is_split_again(job, how):
    found, executor = run(job, fails("s1_global", "s1_incremental", how=how))
    assert statuses(found) == {"s0": ("good", 1), "s1a": ("resplit", 3), "s1b": ("resplit", 3)}
    assert scenes_aligned(found, executor) == {"s0_global", "s1a_global", "s1b_global"}
    a, b = (m.submodel for m in found.submodels[1:])
    whole = split().submodels[1]
    assert sorted(a.core + b.core) == sorted(whole.core)
    assert set(a.core) & set(b.halo)
    assert set(b.core) & set(a.halo)
    assert set(whole.halo) <= set(a.halo) | set(b.halo)  # still tied to the neighbour
    assert not set(a.core) & set(a.halo)


def test_a_half_that_fails_gets_its_second_mapper(job):
    found, _ = run(job, fails("s1_global", "s1_incremental", "s1b_global"))
    assert statuses(found) == {"s0": ("good", 1), "s1a": ("resplit", 3), "s1b": ("resplit", 4)}


def test_what_never_stands_is_left_out_and_named(job):
    never = ("s1_global", "s1_incremental", "s1b_global", "s1b_incremental")
    found, executor = run(job, fails(*never))
    assert statuses(found) == {"s0": ("good", 1), "s1a": ("resplit", 3), "s1b": ("quarantined", 4)}
    assert scenes_aligned(found, executor) == {"s0_global", "s1a_global"}
    [hole] = found.holes
    assert "s1b" in hole
    assert "15 photos" in hole
    assert "GPS residual 60 m" in hole


def test_when_nothing_stands_the_run_says_so(job):
    with pytest.raises(ReconstructionError, match=r"cameras could not be found.*GPS residual 60 m"):
        run(job, lambda step: BAD)


@pytest.mark.parametrize("how", [BAD, CRASH, HANG])
def test_a_calibration_that_fails_shapes_no_submodel(job, how):
    found, _ = run(job, fails("calibration_incremental", how=how))
    assert statuses(found) == {"s0": ("good", 1), "s1": ("good", 1)}
    for m in found.submodels:
        assert m.step is not None
        assert "calibration" not in [role for role, _ in m.step.inputs]


class BadPair(FakeExecutor):
    """Every match step that holds one of these pairs dies."""

    def __init__(self, *pairs: tuple[str, str]) -> None:
        super().__init__(lambda step: GOOD)
        self.bad = set(pairs)
        self.died: list[int] = []

    def _made(self, step: Step) -> Outcome:
        if step.stage == "matches":
            pairs = {(step.params.photos[a], step.params.photos[b]) for a, b in step.params.pairs}
            if pairs & self.bad:
                self.died.append(len(pairs))
                return StepFailure(step, "the process ended with signal 11", "died", 3)
        return super()._made(step)


def test_a_pair_that_breaks_its_process_costs_only_itself(job):
    executor = BadPair(("p00.jpg", "p01.jpg"))
    found = find_cameras(job, split(), executor, ignore_events)
    assert executor.died == [100, 10, 1]
    assert statuses(found) == {"s0": ("good", 1), "s1": ("good", 1)}
    [note] = found.notes
    assert "1 pair of photos could not be compared and was left out: p00.jpg and p01.jpg" in note
    assert "signal 11" in note
    adjusted = executor.steps[found.adjusted.manifest.digest]
    matched = [executor.steps[i.digest] for role, i in adjusted.inputs if role == "matches"]
    pairs = [(s.params.photos[a], s.params.photos[b]) for s in matched for a, b in s.params.pairs]
    whole = plan.match_steps(job, plan.feature_steps(job), plan.pairs_to_match(job), split())
    assert len(set(pairs)) == len(pairs) == sum(len(p) for p in whole.pairs_of) - 1
    assert ("p00.jpg", "p01.jpg") not in pairs
    calibration = [s for s in executor.steps.values() if s.stage == "calibration"][-1]
    assert {i.digest for role, i in calibration.inputs if role == "matches"} <= {s.digest for s in matched}


def test_where_nothing_can_be_matched_the_run_says_so(job):
    class Broken(FakeExecutor):
        def _made(self, step: Step) -> Outcome:
            if step.stage == "matches":
                return StepFailure(step, "the process ended with signal 11", "died", 3)
            return super()._made(step)

    executor = Broken(lambda step: GOOD)
    with pytest.raises(PasselError, match="signal 11"):
        find_cameras(job, split(), executor, ignore_events)
    assert sum(s.stage == "matches" for s in executor.steps.values()) == 0


def test_a_photo_that_cannot_be_read_ends_the_run(job):
    class Broken(FakeExecutor):
        def _made(self, step: Step) -> Outcome:
            if step.stage == "features" and step.name == "p07.jpg":
                return StepFailure(step, "the photo cannot be decoded", "error", 1, "p07.jpg", "replace the file")
            return super()._made(step)

    with pytest.raises(PasselError, match="cannot be decoded"):
        find_cameras(job, split(), Broken(lambda step: GOOD), ignore_events)


@pytest.mark.parametrize(("focal_px", "is_off"), [(2000.0, True), (2300.0, False), (3900.0, False), (4200.0, True)])
def test_a_focal_length_far_from_what_the_photos_tell_is_told(job, focal_px, is_off):
    """3000 px with a sigma of 10 %: such come of photos cut after the flight with their shape kept, beside whole ones."""
    off = focals_off(job.survey, [Intrinsics("c", 4000, 3000, focal_px, focal_px, 2000.0, 1500.0)])
    assert off == ((f"c ({focal_px:.0f} px, told 3000 px)",) if is_off else ())
    executor = FakeExecutor(all_good)
    executor.focals_off = off
    notes = find_cameras(job, split(), executor, ignore_events).notes
    assert ["told 3000 px)" in note and "cut after the flight" in note for note in notes] == [True] * is_off


def test_a_calibrated_camera_is_not_asked_for_its_focal_length(job):
    known = Calibration(3000.0, 3000.0, 2000.0, 1500.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    survey = replace(job.survey, cameras=(replace(CAMERA, calibration=known),))
    assert focals_off(survey, [Intrinsics("c", 4000, 3000, 2000.0, 2000.0, 2000.0, 1500.0)]) == ()
