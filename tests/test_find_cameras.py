"""Submodels that fail: tried with the other mapper, split again, at last left out; nothing else is lost. A fake executor decides."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from passel.errors import PasselError, ReconstructionError
from passel.geo.frames import Frame
from passel.options import Options
from passel.pipeline import plan_cameras as plan
from passel.pipeline.events import Artifact, OnEvent, Outcome, StepFailure
from passel.pipeline.executor import ignore_events
from passel.pipeline.find_cameras import CamerasFound, find_cameras
from passel.pipeline.job import Job, Project
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
            ("passed", word == GOOD), ("why", why), ("groups", groups), ("stands", stands),
            ("tilt_by_altitudes_deg", 0.0), ("turned", 0),
        )  # fmt: skip
        cost = Cost("m", "2026-01-01T00:00:00+00:00", 1.0, 1.0, 1.0, 1)
        return Artifact(
            Manifest(step.digest, step.stage, step.name, step.function, step.version, (), facts, cost), Path(step.name)
        )


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job.of(survey(), Options(), Project(tmp_path))


def run(job: Job, judge: Judge) -> tuple[CamerasFound, FakeExecutor]:
    executor = FakeExecutor(judge)
    return find_cameras(job, split(), executor, ignore_events), executor


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


def run_with_groups(job: Job, judge: Judge, **groups: list[tuple[str, ...]]) -> tuple[CamerasFound, FakeExecutor]:
    executor = FakeExecutor(judge)
    executor.groups = groups
    return find_cameras(job, split(), executor, ignore_events), executor


def test_photos_that_a_good_model_left_out_are_mapped_by_themselves(job):
    """Beyond a lake: they match one another and nobody else, and only GPS tells where they belong."""
    core, halo = split().submodels[0].core, split().submodels[0].halo
    found, executor = run_with_groups(job, all_good, s0_global=[core[:9], (*core[9:17], *halo), core[20:23]])
    assert statuses(found) == {"s0": ("good", 1), "s0x0": ("apart", 1), "s0x1": ("resplit", 1), "s1": ("good", 1)}
    assert scenes_aligned(found, executor) == {"s0_global", "s0x0_global", "s0x1_global", "s1_global"}
    cores = {m.submodel.name: m.submodel.core for m in found.submodels}
    assert cores == {"s0": core[17:], "s0x0": core[:9], "s0x1": core[9:17], "s1": split().submodels[1].core}
    assert found.holes == ()
    [note] = found.notes
    assert f"9 photos ({core[0]} to {core[8]})" in note
    assert "only GPS ties them" in note


def test_photos_left_out_that_make_no_good_model_cost_nothing_else(job):
    core = split().submodels[0].core
    found, _ = run_with_groups(job, fails("s0x0_global", "s0x0_incremental"), s0_global=[core[:9]])
    assert statuses(found) == {"s0": ("good", 1), "s1": ("good", 1)}
    assert found.submodels[0].submodel.core == core
    assert (found.holes, found.notes) == ((), ())
    found, _ = run_with_groups(job, fails("s0x0_global"), s0_global=[core[:9]])
    assert statuses(found)["s0x0"] == ("apart", 2)


def test_photos_left_out_without_gps_are_not_put_anywhere(job):
    core = split().submodels[0].core
    photos = tuple(replace(p, position=None) if p.name in core[:9] else p for p in job.survey.photos)
    found, _ = run_with_groups(replace(job, survey=replace(job.survey, photos=photos)), all_good, s0_global=[core[:9]])
    assert statuses(found) == {"s0": ("good", 1), "s1": ("good", 1)}


def test_a_failed_submodel_is_cut_where_nothing_matches(job):
    core, halo = split().submodels[0].core, split().submodels[0].halo
    groups = [(*core[::2], *halo), core[1::2]]
    judge = fails("s0_global", "s0_incremental", "s0b_global")
    found, executor = run_with_groups(job, judge, s0_incremental=groups)
    assert statuses(found) == {"s0a": ("resplit", 3), "s0b": ("apart", 4), "s1": ("good", 1)}
    assert scenes_aligned(found, executor) == {"s0a_global", "s0b_incremental", "s1_global"}
    assert [m.submodel.core for m in found.submodels[:2]] == [core[::2], core[1::2]]
    assert [m.submodel.halo for m in found.submodels[:2]] == [halo, ()]


def few(job: Job, number: int, gps: bool = True) -> tuple[Job, SplitPlan]:
    photos = job.survey.photos[:number]
    survey = replace(job.survey, photos=photos if gps else tuple(replace(p, position=None) for p in photos))
    if not gps:
        survey = replace(survey, frame=Frame.local())
    return replace(job, survey=survey), SplitPlan((Submodel("s0", tuple(p.name for p in photos), ()),))


def test_two_small_fields_that_share_nothing_are_both_mapped(job):
    """Six photos of each: too few for a submodel of their own, but enough for a map, and GPS says where it belongs."""
    job, split = few(job, 12)
    names = split.submodels[0].core
    executor = FakeExecutor(fails("s0_global", "s0_incremental"))
    executor.groups = {"s0_incremental": [names[:6], names[6:]]}
    found = find_cameras(job, split, executor, ignore_events)
    assert statuses(found) == {"s0a": ("apart", 3), "s0b": ("apart", 3)}
    assert found.holes == ()


@pytest.mark.parametrize("gps", [True, False])
def test_where_only_a_part_can_be_mapped_it_is_and_the_rest_is_named(job, gps):
    """Four of seven photos make a model; the other three match none of them and are too few for GPS to place."""
    job, split = few(job, 7, gps)
    names = split.submodels[0].core
    executor = FakeExecutor(fails("s0_global", "s0_incremental", "s0a_global"))
    executor.groups = {"s0_incremental": [names[:4], names[4:]]}
    executor.stands = {"s0_incremental": names[:4]}
    found = find_cameras(job, split, executor, ignore_events)
    assert statuses(found) == {"s0_rest": ("quarantined", 2), "s0a": ("apart", 4)}
    assert scenes_aligned(found, executor) == {"s0a_incremental"}
    [hole] = found.holes
    assert "3 photos" in hole
    assert found.notes == ()  # no word of being tied to a rest that is not there


def test_where_no_group_can_be_mapped_the_run_says_that_they_share_nothing(job):
    job, split = few(job, 7)
    names = split.submodels[0].core
    executor = FakeExecutor(lambda step: BAD)
    executor.groups = {"s0_incremental": [names[:4], names[4:]]}
    executor.stands = {"s0_incremental": names[:4]}
    with pytest.raises(ReconstructionError, match=r"of 4 photos: GPS residual 60 m; of 3 photos: they show nothing"):
        find_cameras(job, split, executor, ignore_events)


def test_a_group_that_fails_is_halved_and_who_is_in_none_is_named(job):
    core = split().submodels[0].core
    groups = [core[:16], core[16:26]]  # the last four match nobody
    judge = fails("s0_global", "s0_incremental", "s0a_global", "s0a_incremental", "s0aa_global")
    found, _ = run_with_groups(job, judge, s0_incremental=groups)
    assert statuses(found) == {
        "s0_rest": ("quarantined", 2), "s0aa": ("resplit", 6), "s0ab": ("resplit", 5), "s0b": ("apart", 3),
        "s1": ("good", 1),
    }  # fmt: skip
    assert sorted(n for m in found.submodels[:4] for n in m.submodel.core) == sorted(core)
    [hole] = found.holes
    assert "4 photos" in hole


def test_one_group_and_stray_photos_are_halved_as_before(job):
    core = split().submodels[0].core
    found, _ = run_with_groups(job, fails("s0_global", "s0_incremental"), s0_incremental=[core[:27]])
    assert statuses(found) == {"s0a": ("resplit", 3), "s0b": ("resplit", 3), "s1": ("good", 1)}
    assert sorted(found.submodels[0].submodel.core + found.submodels[1].submodel.core) == sorted(core)


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
