"""The product steps on folders as the executor gives them, facts read off a scene, and publishing."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, replace
from pathlib import Path

import laspy
import numpy as np
import pytest
import rasterio
from PIL import Image

from passel.align import gates
from passel.align.gates import Verdict
from passel.align.similarities import Disagreement
from passel.errors import StorageError
from passel.geo.frames import Frame
from passel.geo.packed import save_marks
from passel.pipeline.step import StepInputs
from passel.pipeline.steps import products as steps
from passel.products import report_facts as rf
from passel.products.layout import Layout
from passel.products.publish import publish, write_report
from passel.products.report_model import Gate, ReportFacts, Spread
from passel.products.report_rows import alignment_rows, finding_rows, gates_of
from passel.reconstruct.scene import Intrinsics, Scene, project
from passel.survey.model import Camera, Finding, Photo, Position, Survey
from passel.survey.submodel import SplitPlan
from product_tiles import FRAME, Field

CAMERA = Camera("c", "Make", "Model", "", 4000, 3000, 3000.0, "exif35", 0.1)


def survey_and_scene(frame: Frame, noise_px: float) -> tuple[Survey, Scene]:
    """Five nadir photos at 80 m over 200 points on the ground; GPS off by (1, 2, 3) m everywhere; known image noise."""
    rng = np.random.default_rng(5)
    centres = np.column_stack([np.arange(5) * 12.0, np.zeros(5), np.full(5, 80.0)])
    points = np.column_stack([rng.uniform(-20, 70, 200), rng.uniform(-20, 20, 200), rng.uniform(-2, 2, 200)])
    intrinsics = Intrinsics("c", 4000, 3000, 3030.0, 3030.0, 2003.0, 1499.0, 0.01)
    down = np.diag([1.0, -1.0, -1.0])
    photo, point, xy = [], [], []
    for i, c in enumerate(centres):
        uv = project(intrinsics, (points - c) @ down.T)
        seen = np.flatnonzero(((uv > 0) & (uv < [4000, 3000])).all(axis=1))
        photo.append(np.full(len(seen), i)), point.append(seen), xy.append(uv[seen])
    xy_all = np.concatenate(xy)
    xy_all = xy_all + rng.normal(0, noise_px, xy_all.shape)
    names = tuple(f"p{i}.jpg" for i in range(5))
    scene = Scene(
        (intrinsics,), names, np.zeros(5, np.int32), np.repeat(down[None], 5, axis=0), centres, points,
        np.concatenate(point).astype(np.int32), np.concatenate(photo).astype(np.int32), xy_all.astype(np.float32),
        np.zeros(len(xy_all), np.int32),
    )  # fmt: skip
    gps = [None] * 6
    if frame.is_georeferenced:
        measured = frame.geographic_from_world(np.vstack([centres - [1, 2, 3], [[99.0, 0, 80]]]))
        gps = [Position(*g, None, None) for g in measured.tolist()]
    photos = tuple(
        Photo(n, "", "", 1, "c", g, f"2024-05-0{i + 1}T10:00:00", None, None, None, None, 1.0)
        for i, (n, g) in enumerate(zip((*names, "p5.jpg"), gps))
    )
    return Survey(photos, (CAMERA,), frame, (5.0, 10.0), ()), scene


@pytest.fixture
def inputs(tmp_path: Path) -> StepInputs:
    survey, scene = survey_and_scene(FRAME, 0.5)
    survey.save(tmp_path / "survey.json")
    (tmp_path / "scene").mkdir()
    scene.save(tmp_path / "scene")
    field = Field(cells=100)
    tiles = [field.write(tmp_path / "tiles", i, 0) for i in range(2)]
    marks = np.zeros((100, 100), np.uint8)
    marks[:10, :10] = 1
    save_marks(tiles[0] / "filled.npy", marks)
    named = [("survey", tmp_path / "survey.json"), ("scene", tmp_path / "scene"), *(("tile", t) for t in tiles)]
    return StepInputs(tuple(named))


def run(step: object, inputs: StepInputs, out: Path) -> dict[str, object]:
    out.mkdir()
    assert callable(step)
    return dict(step(inputs, steps.MergeParams(), out))


def test_steps_leave_the_products_and_nothing_else(tmp_path: Path, inputs: StepInputs) -> None:
    facts = run(steps.orthophoto, inputs, tmp_path / "o")
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == ["odm_orthophoto.tif", "orthophoto.png", "raster.json"]
    assert facts["width_px"] == 400
    run(steps.dsm, inputs, tmp_path / "d")
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == ["dsm.png", "dsm.tif", "dsm_filled.tif", "raster.json"]
    dsm = steps.load_raster_facts(tmp_path / "d")
    assert dsm.filled == pytest.approx(100 / (2 * (100 * 100 - 200)))
    assert dsm.area_m2 == pytest.approx(2 * (100 * 100 - 200) * 0.25**2)
    with rasterio.open(tmp_path / "d" / "dsm.tif") as d:
        assert d.nodata == dsm.nodata
    facts = run(steps.points, inputs, tmp_path / "p")
    with laspy.open(tmp_path / "p" / "odm_georeferenced_model.laz") as f:
        assert f.header.point_count == facts["points"] == 2 * (100 * 100 - 200)
    assert [p.name for p in (tmp_path / "p").iterdir()] == ["odm_georeferenced_model.laz"]
    run(steps.side_files, inputs, tmp_path / "s")
    assert len(json.loads((tmp_path / "s" / "shots.geojson").read_text())["features"]) == 5
    assert len(json.loads((tmp_path / "s" / "images.json").read_text())) == 6
    assert rf.SceneFacts.load(tmp_path / "s" / steps.SCENE_FACTS) == rf.scene_facts(*survey_and_scene(FRAME, 0.5))


def test_facts_of_a_scene_with_known_errors() -> None:
    survey, scene = survey_and_scene(FRAME, 0.5)
    assert rf.reprojection_rms_px(scene) == pytest.approx(0.5 * np.sqrt(2), rel=0.1)
    residuals = rf.gps_residuals(survey, scene)
    assert len(residuals) == 5
    np.testing.assert_allclose([(r.east_m, r.north_m, r.up_m) for r in residuals], [(1, 2, 3)] * 5, atol=1e-3)
    (camera,) = rf.camera_facts(survey, scene)
    assert (camera.photos, camera.focal_px, camera.focal_prior_px) == (5, 3030.0, 3000.0)
    r = rf.reconstruction_facts(survey, scene)
    assert (r.photos, r.photos_placed) == (6, 5)
    assert rf.spread(np.array([1, 2, 6])) == Spread(1, 6, 3, 2)
    assert sum(k * n for k, n in r.track_lengths) <= r.observations == len(scene.obs_point)
    assert rf.capture_span([p.time for p in survey.photos]) == "2024-05-01 to 2024-05-06"
    assert rf.capture_span(["", "2024-01-02T00:00:00"]) == "2024-01-02"
    blind, scene = survey_and_scene(Frame.local(), 0.0)
    assert rf.gps_residuals(blind, scene) == ()
    assert rf.reprojection_rms_px(scene) < 1e-3


def test_report_lands_in_odms_layout(tmp_path: Path, inputs: StepInputs) -> None:
    run(steps.orthophoto, inputs, tmp_path / "o")
    run(steps.dsm, inputs, tmp_path / "d")
    survey, scene = survey_and_scene(FRAME, 0.5)
    rasters = [steps.load_raster_facts(tmp_path / n) for n in "od"]
    facts = ReportFacts(
        "Test", "0", "UTM", rf.capture_span([p.time for p in survey.photos]), 12.0,
        rf.reconstruction_facts(survey, scene), rf.spread(np.zeros(0, int)), rf.product_facts(0.02, *rasters, 19600),
        rf.camera_facts(survey, scene), rf.gps_residuals(survey, scene), (), (), (), (),
    )  # fmt: skip
    layout = Layout(tmp_path / "out")
    write_report(layout, facts, [("Orthophoto", tmp_path / "o" / "orthophoto.png"), ("gone", tmp_path / "none.png")])
    page = layout.report_page.read_text(encoding="utf-8")
    assert page.count("<img") == 1
    assert "3D RMS 3.742 m" in page
    assert json.loads(layout.stats.read_text())["odm_processing_statistics"]["average_gsd"] == pytest.approx(2.0)
    publish(tmp_path / "o" / "odm_orthophoto.tif", layout.orthophoto)
    publish(tmp_path / "o" / "odm_orthophoto.tif", layout.orthophoto)
    assert layout.orthophoto.read_bytes() == (tmp_path / "o" / "odm_orthophoto.tif").read_bytes()
    assert [p.name for p in layout.orthophoto.parent.iterdir()] == ["odm_orthophoto.tif"]
    with Image.open(tmp_path / "o" / "orthophoto.png") as picture:
        assert picture.mode == "RGBA"


@pytest.mark.parametrize("refusal", [18, 1])
def test_publishing_copies_where_links_do_not_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    def no_link(source: object, target: object) -> None:
        raise OSError(refusal, "no links here")

    monkeypatch.setattr(os, "link", no_link)
    (tmp_path / "a").write_text("content")
    publish(tmp_path / "a", tmp_path / "out" / "b")
    assert (tmp_path / "out" / "b").read_text() == "content"
    with pytest.raises(StorageError):
        publish(tmp_path / "missing", tmp_path / "out" / "c")
    (tmp_path / "out" / "odm_dem").write_text("somebody's")
    with pytest.raises(StorageError, match=r"A file lies where a folder should be \[.*/out/odm_dem\] → move it away"):
        publish(tmp_path / "a", tmp_path / "out" / "odm_dem" / "dsm.tif")


def test_rows_from_the_artifacts_of_earlier_steps(tmp_path: Path) -> None:
    apart = Disagreement(12, 0.5, 1.0, 0.1, 0.2, math.nan, math.nan)
    steps_file = tmp_path / "alignment.json"
    steps_file.write_text(json.dumps({"by GPS alone": asdict(apart), "adjustment": asdict(apart)}), encoding="utf-8")
    first, second = alignment_rows(steps_file)
    assert (first.step, first.shared, first.median_m, first.p95_deg) == ("by GPS alone", 12, 0.5, 0.2)
    assert "moved" in second.step
    verdict = Verdict((gates.Gate("share", 0.5, 0.7, False),))
    (tmp_path / "verdict.json").write_text(json.dumps(asdict(verdict)), encoding="utf-8")
    assert gates_of(tmp_path / "verdict.json") == (Gate("share", 0.5, 0.7, "", False),)
    survey, _ = survey_and_scene(FRAME, 0.0)
    survey = replace(survey, findings=(Finding("warning", "few", "Few photos", ("p1.jpg",)),))
    rows = finding_rows(survey, SplitPlan((), ("An island",)))
    assert [(r.severity, r.message) for r in rows] == [("warning", "Few photos"), ("note", "An island")]
