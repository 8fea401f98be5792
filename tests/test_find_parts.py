"""What becomes of parts: groups that nothing ties to the rest, halves that fail, the part that was placed. A fake executor decides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from finding_world import (
    BAD,
    FakeExecutor,
    all_good,
    fails,
    few,
    run,
    run_with_groups,
    scenes_aligned,
    split,
    statuses,
    survey,
)
from passel.errors import ReconstructionError
from passel.options import Options
from passel.pipeline.executor import ignore_events
from passel.pipeline.find_cameras import find_cameras
from passel.pipeline.job import Job, Project
from passel.survey.submodel import SplitPlan, Submodel

S1_AND_HALVES = tuple(f"{name}_{mapper}" for name in ("s1", "s1a", "s1b") for mapper in ("global", "incremental"))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job.of(survey(), Options(), Project(tmp_path))


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
    with pytest.raises(
        ReconstructionError, match=r"of 4 photos: GPS residual 60 m; of 3 photos: no mapper could place them"
    ):
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


def stands(core: tuple[str, ...], halo: tuple[str, ...] = ()) -> tuple[str, ...]:
    """What a mapping placed of a submodel of which the others show nothing: more than half of its photos."""
    return (*core[: len(core) * 3 // 5], *halo)


def halves_of_s1(job: Job) -> list[Submodel]:
    found, _ = run(job, fails("s1_global", "s1_incremental"))
    return [m.submodel for m in found.submodels if m.submodel.name in ("s1a", "s1b")]


def test_of_halves_that_fail_what_was_placed_is_mapped_alone(job):
    a, b = halves_of_s1(job)
    executor = FakeExecutor(fails(*S1_AND_HALVES, "s1ba_global"))
    executor.stands = {"s1a_incremental": stands(a.core, a.halo[:2]), "s1b_incremental": stands(b.core)}
    found = find_cameras(job, split(), executor, ignore_events)
    assert statuses(found) == {
        "s0": ("good", 1), "s1a_rest": ("quarantined", 4), "s1aa": ("resplit", 5),
        "s1b_rest": ("quarantined", 4), "s1ba": ("apart", 6),
    }  # fmt: skip
    assert scenes_aligned(found, executor) == {"s0_global", "s1aa_global", "s1ba_incremental"}
    assert {m.submodel.name: m.submodel.core for m in found.submodels}["s1aa"] == stands(a.core)
    assert sorted(n for m in found.submodels[1:] for n in m.submodel.core) == sorted(split().submodels[1].core)
    assert all("6 photos" in hole and "no mapper could place them" in hole for hole in found.holes)


def test_what_was_placed_must_pass_the_gates_by_itself(job):
    """It is mapped anew and judged as any submodel; what fails alone, too, is in no map, and is not halved."""
    a, _ = halves_of_s1(job)
    executor = FakeExecutor(fails(*S1_AND_HALVES, "s1aa_global", "s1aa_incremental"))
    executor.stands = {"s1a_incremental": stands(a.core), "s1aa_incremental": a.core[:4]}
    found = find_cameras(job, split(), executor, ignore_events)
    assert scenes_aligned(found, executor) == {"s0_global"}
    assert statuses(found) == {
        "s0": ("good", 1), "s1a_rest": ("quarantined", 4), "s1aa": ("quarantined", 6), "s1b": ("quarantined", 4),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("with_gps", "in_halo", "is_mapped"), [(4, 0, True), (3, 0, False), (0, 1, True), (0, 0, False)]
)
def test_what_was_placed_is_mapped_only_if_something_ties_it_to_other_submodels(job, with_gps, in_halo, is_mapped):
    """A submodel too small to be halved: beside others, photos that share nothing with them have no place without GPS."""
    names = tuple(p.name for p in job.survey.photos)
    small, halo = names[50:60], names[48:50]
    photos = tuple(replace(p, position=None) if p.name in small[with_gps:] else p for p in job.survey.photos)
    job = replace(job, survey=replace(job.survey, photos=photos))
    executor = FakeExecutor(fails("s1_global", "s1_incremental"))
    executor.stands = {"s1_incremental": (*small[:6], *halo[:in_halo])}
    two = SplitPlan((Submodel("s0", names[:50], ()), Submodel("s1", small, halo)))
    found = find_cameras(job, two, executor, ignore_events)
    assert scenes_aligned(found, executor) == ({"s0_global", "s1a_global"} if is_mapped else {"s0_global"})
    [hole] = found.holes
    assert ("4 photos" if is_mapped else "10 photos") in hole
