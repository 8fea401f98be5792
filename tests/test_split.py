"""Splitting: compact, connected, balanced submodels with enough shared photos, whatever the order of the input."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from passel.errors import InputError
from passel.geo.frames import Frame
from passel.products.plan_picture import plan_picture, round_length_m
from passel.survey.image_groups import plan_from_image_groups
from passel.survey.model import Camera, Photo, Position, Survey
from passel.survey.pieces import pieces_of
from passel.survey.plan_map import hull_of, plan_geojson
from passel.survey.split import MIN_PHOTOS, MIN_SHARED, split_survey
from passel.survey.submodel import SplitPlan

FRAME = Frame.around(np.array([[46.8, 7.5, 500.0]]))
CAMERA = Camera("c", "Make", "Model", "", 4000, 3000, 3000.0, "exif35", 0.1)


def survey_at(xy: NDArray[np.float64]) -> Survey:
    degrees = FRAME.geographic_from_world(np.column_stack([xy, np.full(len(xy), 80.0)])).tolist()
    photos = tuple(
        Photo(f"IMG_{i:05d}.JPG", "", "", 0, "c", Position(*p, None, None), "", None, None, None, None, 1.0)
        for i, p in enumerate(degrees)
    )
    return Survey(photos, (CAMERA,), FRAME, (5.0, 10.0), ())


def flight(columns: int, rows: int, step_m: tuple[float, float] = (15.0, 35.0), seed: int = 0) -> NDArray[np.float64]:
    x, y = np.meshgrid(np.arange(columns) * step_m[0], np.arange(rows) * step_m[1])
    jitter = np.random.default_rng(seed).normal(0, 1.5, (columns * rows, 2))
    return np.column_stack([x.ravel(), y.ravel()]) + jitter


def check(survey: Survey, plan: SplitPlan, footprint_m: float) -> None:
    """What every plan must hold."""
    xy = dict(zip([p.name for p in survey.photos], survey.positions_in_world()[:, :2]))
    cores = [n for s in plan.submodels for n in s.core]
    assert sorted(cores) == sorted(xy)
    for s in plan.submodels:
        assert not set(s.core) & set(s.halo)
        assert len(s.core) >= MIN_PHOTOS
        assert pieces_of(np.array([xy[n] for n in s.core]), footprint_m).max() == 0
    for i, a in enumerate(plan.submodels):
        for b in plan.submodels[i + 1 :]:
            pa, pb = np.array([xy[n] for n in a.core]), np.array([xy[n] for n in b.core])
            if np.hypot(*(pa[:, None] - pb[None]).T).min() <= footprint_m - 0.01:
                assert len(set(a.photos) & set(b.photos)) >= MIN_SHARED


def test_twelve_thousand_positions_split_into_compact_equal_submodels() -> None:
    xy = flight(150, 80)
    xy[:, 1] += 200 * np.sin(xy[:, 0] / 700)
    survey = survey_at(xy)
    plan = split_survey(survey, 400, 60.0, 100.0)
    assert [len(s.core) for s in plan.submodels] == [400] * 30
    where = dict(zip([p.name for p in survey.photos], xy))
    excess = []
    for s in plan.submodels:
        core = np.array([where[n] for n in s.core])
        hull = hull_of(core)
        area = np.prod(np.ptp(core, axis=0))
        ideal = np.sqrt(area) * 0.3826  # mean distance from the centre of a square of side 1
        excess.append(np.hypot(*(core - core.mean(axis=0)).T).mean() / ideal)
        assert len(hull) >= 4
    assert np.mean(excess) < 1.1
    assert max(excess) < 1.3
    distance = {n: np.hypot(*(xy - where[n]).T) for n in plan.submodels[7].core[:3]}
    for n, d in distance.items():  # a photo's neighbours within the overlap are in its submodel's core or halo
        near = {survey.photos[i].name for i in np.flatnonzero(d < 59.9)}
        assert near <= set(plan.submodels[7].photos), n


@pytest.mark.parametrize(("n", "overlap_m"), [(20, 0.0), (20, 50.0), (33, 10.0), (60, 150.0)])
def test_plans_are_connected_balanced_and_share_photos(n: int, overlap_m: float) -> None:
    survey = survey_at(flight(20, 10))
    plan = split_survey(survey, n, overlap_m, 60.0)
    check(survey, plan, 60.0)
    sizes = [len(s.core) for s in plan.submodels]
    assert max(sizes) <= n * 1.15 + 1
    assert min(sizes) >= n / 2


def test_order_of_the_photos_does_not_matter() -> None:
    survey = survey_at(flight(25, 8, (20.0, 20.0)))
    photos = list(survey.photos)
    random.Random(3).shuffle(photos)
    assert split_survey(survey, 40, 30.0, 50.0) == split_survey(replace(survey, photos=tuple(photos)), 40, 30.0, 50.0)


def test_exact_ties_of_a_regular_grid_are_broken_by_name() -> None:
    x, y = np.meshgrid(np.arange(12) * 20.0, np.arange(12) * 20.0)
    survey = survey_at(np.column_stack([x.ravel(), y.ravel()]))
    plan = split_survey(survey, 36, 0.0, 50.0)
    check(survey, plan, 50.0)
    assert [len(s.core) for s in plan.submodels] == [36] * 4


def test_small_surveys_stay_in_one_submodel() -> None:
    survey = survey_at(flight(6, 3))
    plan = split_survey(survey, 18, 150.0, 60.0)
    assert [len(s.core) for s in plan.submodels] == [18]
    assert plan.submodels[0].halo == ()


def test_islands_become_submodels_and_strays_join_the_nearest_and_are_told() -> None:
    a, b = flight(10, 5), flight(6, 4, seed=1) + np.array([2000.0, 300.0])
    strays = np.array([[700.0, 0.0], [5000.0, 5000.0]])
    survey = survey_at(np.concatenate([a, b, strays]))
    plan = split_survey(survey, 30, 40.0, 60.0)
    home = {n: s.name for s in plan.submodels for n in s.core}
    assert len({home[f"IMG_{i:05d}.JPG"] for i in range(50, 74)}) == 1
    assert not {home[f"IMG_{i:05d}.JPG"] for i in range(50)} & {home["IMG_00050.JPG"]}
    assert home["IMG_00075.JPG"] == home["IMG_00050.JPG"]
    assert any("2 islands" in n for n in plan.notes)
    assert any("IMG_00074.JPG" in n and "joined" in n for n in plan.notes)


def test_a_horseshoe_is_cut_into_connected_cores() -> None:
    t = np.linspace(0.15 * np.pi, 1.85 * np.pi, 120)
    ring = np.concatenate([np.column_stack([r * np.cos(t), r * np.sin(t)]) for r in (280.0, 300.0)])
    survey = survey_at(ring)
    plan = split_survey(survey, 70, 30.0, 40.0)
    check(survey, plan, 40.0)


@pytest.mark.parametrize("seed", range(6))
def test_scattered_photos_still_give_cores_that_can_be_mapped(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clumps = rng.uniform(0, 400, (6, 2))
    xy = np.concatenate([c + rng.normal(0, 60, (30, 2)) for c in clumps])
    survey = survey_at(xy)
    footprint_m = 200.0
    check(survey, split_survey(survey, 25, 15.0, footprint_m), footprint_m)


def test_photos_on_one_spot_or_line() -> None:
    spot = survey_at(np.zeros((50, 2)))
    check(spot, split_survey(spot, 20, 0.0, 50.0), 50.0)
    line = survey_at(np.column_stack([np.arange(60) * 10.0, np.zeros(60)]))
    plan = split_survey(line, 20, 20.0, 50.0)
    check(line, plan, 50.0)
    assert json.loads(plan_geojson(line, plan))["features"][0]["geometry"]["type"] == "LineString"


def test_photos_without_gps_go_with_their_neighbour_in_time() -> None:
    survey = survey_at(flight(20, 5))
    photos = [replace(p, time=f"2024-05-01T10:{i // 60:02d}:{i % 60:02d}") for i, p in enumerate(survey.photos)]
    photos[57] = replace(photos[57], position=None, name="AAA.JPG")
    plan = split_survey(replace(survey, photos=tuple(photos)), 25, 20.0, 60.0)
    home = {n: s.name for s in plan.submodels for n in s.core}
    assert home["AAA.JPG"] == home["IMG_00056.JPG"]
    assert any("AAA.JPG" in n and "without GPS" in n for n in plan.notes)


def test_no_gps_at_all_is_one_submodel_and_is_told(tmp_path: Path) -> None:
    survey = survey_at(flight(10, 5))
    blind = replace(survey, photos=tuple(replace(p, position=None) for p in survey.photos), frame=Frame.local())
    plan = split_survey(blind, 20, 20.0, 60.0)
    assert len(plan.submodels) == 1
    assert "No photo has GPS" in plan.notes[0]
    assert json.loads(plan_geojson(blind, plan))["features"][0]["geometry"] is None
    plan_picture(blind, plan, tmp_path / "plan.png")


def test_plan_survives_the_disk_and_shows_on_maps(tmp_path: Path) -> None:
    survey = survey_at(flight(20, 8))
    plan = split_survey(survey, 40, 30.0, 60.0)
    plan.save(tmp_path / "plan.json")
    assert SplitPlan.load(tmp_path / "plan.json") == plan
    features = json.loads(plan_geojson(survey, plan))["features"]
    points = [f for f in features if f["properties"]["kind"] == "photo"]
    assert len(features) == len(plan.submodels) + 160
    p = survey.photos[0].position
    assert p is not None
    one = next(f for f in points if f["properties"]["photo"] == survey.photos[0].name)
    assert one["geometry"]["coordinates"] == pytest.approx([p.longitude_deg, p.latitude_deg], abs=2e-8)
    assert features[0]["geometry"]["type"] == "Polygon"
    plan_picture(survey, plan, tmp_path / "a.png")
    plan_picture(survey, plan, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        assert min(picture.size) >= 500
    assert [round_length_m(v) for v in (1.0, 4.9, 730.0, 99.0)] == [1.0, 2.0, 500.0, 50.0]


def test_image_groups(tmp_path: Path) -> None:
    survey = survey_at(flight(10, 4))
    path = tmp_path / "image_groups.txt"
    lines = [f"{p.name} {'east' if i % 10 >= 5 else 'west'}" for i, p in enumerate(survey.photos)]
    path.write_text("\n".join([*lines, "", "# done"]), encoding="utf-8")
    plan = plan_from_image_groups(survey, path, 20.0, 60.0)
    check(survey, plan, 60.0)
    assert [len(s.core) for s in plan.submodels] == [20, 20]
    assert "IMG_00005.JPG" in plan.submodels[0].core


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda ls: [*ls, "IMG_99999.JPG east"], ("IMG_99999.JPG", "line 41")),
        (lambda ls: [*ls, "IMG_00003.JPG west"], ("IMG_00003.JPG", "two groups", "line 41")),
        (lambda ls: ["nonsense", *ls], ("nonsense", "line 1")),
        (lambda ls: ls[1:], ("IMG_00000.JPG", "no group")),
        (lambda ls: ["IMG_00000.JPG alone", *ls[1:]], ("alone", "1 photo")),
    ],
)
def test_image_groups_errors_name_line_and_photo(tmp_path: Path, change: object, said: tuple[str, ...]) -> None:
    survey = survey_at(flight(10, 4))
    path = tmp_path / "image_groups.txt"
    lines = [f"{p.name} east" for p in survey.photos]
    assert callable(change)
    path.write_text("\n".join(change(lines)), encoding="utf-8")
    with pytest.raises(InputError) as error:
        plan_from_image_groups(survey, path, 20.0, 60.0)
    for word in said:
        assert word in str(error.value)
