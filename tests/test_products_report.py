"""Side files in ODM's shape, stats and the report: known numbers in, the same numbers out."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from passel.geo.frames import Frame
from passel.products import report_model as m
from passel.products.preview import orthophoto_preview
from passel.products.raster import merge_dsm, merge_orthophoto
from passel.products.relief import dsm_preview
from passel.products.report import report_html
from passel.products.shots import camera_keys, cameras_json, capture_time_s, images_json, shots_geojson
from passel.products.stats import gps_summary, human_seconds, stats_json
from passel.products.tiles import read_tiles
from passel.reconstruct.scene import Intrinsics, Scene
from passel.survey.model import Camera, Photo, Position, Survey
from product_tiles import FRAME, Field

CAMERA = Camera("c1", "DJI", "FC6310", "", 5472, 3648, 3648.0, "exif35", 0.05)


def survey_and_scene(frame: Frame) -> tuple[Survey, Scene]:
    centres = np.array([[0.0, 0.0, 80.0], [30.0, 5.0, 81.0], [60.0, -5.0, 79.0]])
    names = ("a.jpg", "b ü.jpg", "c.jpg")
    positions: list[Position | None] = [None] * 3
    if frame.is_georeferenced:
        positions = [Position(*g, 0.5, None) for g in frame.geographic_from_world(centres).tolist()]
    photos = tuple(
        Photo(n, "", "", 123, "c1", g, "2024-05-01T10:00:00", 10.0, -90.0, 0.0, None, 1.0)
        for n, g in zip(names, positions)
    )
    nadir = np.diag([1.0, -1.0, -1.0])
    turned = nadir @ Rotation.from_euler("z", -30, degrees=True).as_matrix()
    intrinsics = Intrinsics("c1", 5472, 3648, 3700.0, 3700.0, 2746.0, 1814.0, 0.01, -0.02, 0.001, -0.002, 0.003)
    scene = Scene(
        (intrinsics,), names, np.zeros(3, np.int32), np.stack([nadir, turned, nadir]), centres, np.zeros((1, 3)),
        np.zeros(2, np.int32), np.array([0, 1], np.int32), np.zeros((2, 2), np.float32), np.zeros(2, np.int32),
    )  # fmt: skip
    return Survey(photos, (CAMERA,), frame, (5.0, 10.0), ()), scene


def test_shots_hold_centre_and_rotation_in_the_map() -> None:
    survey, scene = survey_and_scene(FRAME)
    shots = json.loads(shots_geojson(survey, scene))
    assert shots["type"] == "FeatureCollection"
    first, second, _ = shots["features"]
    east, north = np.array(first["properties"]["translation"][:2])
    expected = FRAME.map_from_world(scene.centres[:1])[0, :2] + FRAME.map_offset_m
    assert (east, north) == (pytest.approx(expected[0], abs=1e-3), pytest.approx(expected[1], abs=1e-3))
    lon, lat, alt = first["geometry"]["coordinates"]
    assert (lat, lon) == pytest.approx(FRAME.origin_deg, abs=1e-6)
    assert alt == pytest.approx(580.0, abs=1e-3)
    rotation = Rotation.from_rotvec(first["properties"]["rotation"]).as_matrix()
    np.testing.assert_allclose(rotation[2], [0, 0, -1], atol=1e-3)  # the camera looks down
    difference = Rotation.from_rotvec(second["properties"]["rotation"]).as_matrix() @ rotation.T
    assert math.degrees(Rotation.from_matrix(difference).magnitude()) == pytest.approx(30.0, abs=1e-3)
    about = second["properties"]
    assert about["filename"] == "b ü.jpg"
    assert about["camera"] == "v2 dji fc6310 5472 3648 brown 0.6667"
    assert (about["width"], about["height"]) == (5472, 3648)
    assert about["focal"] == pytest.approx(3700 / 5472)
    assert about["capture_time"] == capture_time_s("2024-05-01T10:00:00Z")


def test_cameras_and_images() -> None:
    survey, scene = survey_and_scene(FRAME)
    cameras = json.loads(cameras_json(survey, scene))
    c = cameras["v2 dji fc6310 5472 3648 brown 0.6667"]
    assert c["projection_type"] == "brown"
    assert (c["c_x"], c["c_y"]) == (pytest.approx(10 / 5472), pytest.approx(-10 / 5472))
    assert (c["k1"], c["k2"], c["k3"], c["p1"], c["p2"]) == (0.01, -0.02, 0.003, 0.001, -0.002)
    images = json.loads(images_json(survey))
    assert [i["filename"] for i in images] == ["a.jpg", "b ü.jpg", "c.jpg"]
    assert images[0]["capture_time"] == 1714557600000
    assert images[0]["latitude"] == pytest.approx(46.8, abs=1e-6)
    assert images[0]["gps_z_stddev"] is None


def test_cameras_that_differ_only_in_lens_keep_their_own_names() -> None:
    keys = camera_keys((CAMERA, replace(CAMERA, id="c2", lens="Wide"), replace(CAMERA, id="c3", lens="Wide")))
    assert len(set(keys.values())) == 3


def test_a_survey_without_gps_has_local_shots() -> None:
    survey, scene = survey_and_scene(Frame.local())
    features = json.loads(shots_geojson(survey, scene))["features"]
    assert features[1]["geometry"]["coordinates"] == [30.0, 5.0, 81.0]
    assert features[1]["properties"]["translation"] == [30.0, 5.0, 81.0]
    assert json.loads(images_json(survey))[0]["latitude"] is None


@pytest.mark.parametrize("text", ["", "yesterday", "0000:00:00 00:00:00"])
def test_times_that_cannot_be_read_are_none(text: str) -> None:
    assert capture_time_s(text) is None


def facts() -> m.ReportFacts:
    rng = np.random.default_rng(1)
    gps = tuple(
        m.GpsResidual(f"DJI_{i:04d}.JPG", *row) for i, row in enumerate(rng.normal(0, [1, 2, 3], (60, 3)).tolist())
    )
    reconstruction = m.ReconstructionFacts(
        60, 59, 1, 20000, 70000, 0.61, ((2, 8000), (3, 7000), (4, 5000)),
        m.Spread(100, 2000, 1200, 1250),
    )  # fmt: skip
    products = m.ProductFacts(0.031, 0.031, 0.062, 45678.9, 0.987, 0.012, 1234567, (-3.2, 41.7))
    gates = (m.Gate("GPS", 1.31, 5.0, "m", True), m.Gate("inliers", 0.61, 0.3, "", True))
    bad = (m.Gate("GPS", 61.4, 5.0, "m", False),)
    return m.ReportFacts(
        "Field <7> & more", "0.1.0", "WGS 84 / UTM zone 32N", "1 May 2024", 3725.4, reconstruction,
        m.Spread(900, 8000, 6000.5, 6100), products,
        (m.CameraFacts("v2 dji fc6310", 60, 5472, 3648, 3648.0, "exif35", 3700.0, 2746.0, 1814.0, .01, -.02, 0, .001, 0),),
        gps,
        (m.AlignmentRow("GPS", 120, 0.84, 2.1, 0.6, 1.2), m.AlignmentRow("adjustment", 120, 0.07, 0.15, 0.03, 0.06)),
        (m.SubmodelRow("submodel_0000", 30, 8, 38, 1, "good", gates), m.SubmodelRow("submodel_0001", 30, 8, 38, 3, "quarantined", bad)),
        (m.StageRow("features", 60, 10, 40.5, 22.0, 410.0), m.StageRow("tile", 12, 0, 200.0, 110.0, 1900.0)),
        (m.FindingRow("note", "Two cameras", ()), m.FindingRow("warning", "Blurred photos", ("x<1>.jpg",))),
    )  # fmt: skip


def test_gps_summary_of_known_residuals() -> None:
    s = gps_summary([m.GpsResidual("a", 3.0, 4.0, 0.0), m.GpsResidual("b", -3.0, -4.0, 12.0)])
    assert s is not None
    assert s.mean_m == (0.0, 0.0, 6.0)
    assert s.rms_3d_m == pytest.approx(math.sqrt(25 + 72))
    assert s.ce90_m == pytest.approx(5.0)
    assert gps_summary([]) is None


def test_stats_in_odms_words() -> None:
    stats = json.loads(stats_json(facts()))
    assert stats["odm_processing_statistics"]["average_gsd"] == pytest.approx(3.1)
    assert stats["odm_processing_statistics"]["total_time_human"] == human_seconds(3725.4) == "1h 02m 05s"
    r = stats["reconstruction_statistics"]
    assert (r["initial_shots_count"], r["reconstructed_shots_count"]) == (60, 59)
    assert r["average_track_length"] == pytest.approx(3.5)
    assert r["average_track_length_over_two"] == pytest.approx(41000 / 12000)
    assert stats["camera_errors"]["v2 dji fc6310"]["optimized_values"]["c_x"] == pytest.approx(10 / 5472)
    assert stats["gps_errors"]["average_error"] > 1
    broken = facts()
    broken = replace(broken, products=replace(broken.products, gsd_m=math.nan), gps=())
    stats = json.loads(stats_json(broken))
    assert stats["odm_processing_statistics"]["average_gsd"] is None
    assert stats["gps_errors"] == {}


class Checker(HTMLParser):
    """Every tag closed in order; nothing fetched from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.bad: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "circle", "path", "rect", "br"):
            self.open.append(tag)
        self.bad += [
            f"{k}={v}" for k, v in attrs if k in ("src", "href") and not (v or "").startswith("data:image/png")
        ]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.bad.append(f"</{tag}>")


def test_report_is_one_well_formed_page_with_the_facts(tmp_path: Path) -> None:
    field = Field(amplitude_m=9.0)
    tiles = read_tiles([field.write(tmp_path / "tiles", i, j) for i in range(3) for j in range(2)])
    merge_orthophoto(tiles, FRAME, tmp_path / "o.tif")
    merge_dsm(tiles, FRAME, tmp_path / "d.tif")
    orthophoto_preview(tmp_path / "o.tif", tmp_path / "o.png", 600)
    dsm_preview(tmp_path / "d.tif", tmp_path / "d.png")
    with Image.open(tmp_path / "o.png") as o, Image.open(tmp_path / "d.png") as d:
        assert (o.mode, max(o.size)) == ("RGBA", 600)
        assert max(d.size) <= 1600
        assert len(set(np.asarray(d.convert("L"))[:200, :400].ravel().tolist())) > 30
    pictures = [m.Picture(n, (tmp_path / n).read_bytes()) for n in ("o.png", "d.png")]
    page = report_html(facts(), pictures)
    assert page == report_html(facts(), pictures)
    checker = Checker()
    checker.feed(page)
    assert checker.bad == []
    assert checker.open == []
    assert "<script" not in page
    assert not re.search(r"https?://", page)
    for said in (
        "Field &lt;7&gt; &amp; more",
        "59 of 60",
        "quarantined",
        "61.4 m",
        "0.840",
        "x&lt;1&gt;.jpg",
        "4.57 ha",
    ):
        assert said in page
    (tmp_path / "report.html").write_text(page, encoding="utf-8")


def test_report_of_a_bare_job() -> None:
    f = facts()
    bare = replace(f, crs="", gps=(), alignment=(), submodels=(), stages=(), findings=(), cameras=())
    page = report_html(bare, [])
    assert "local frame" in page
    assert "Nothing unusual" in page
    one = replace(f, gps=(m.GpsResidual("a", 0.0, 0.0, 0.0),))
    assert "<svg" in report_html(one, [])


def test_report_tells_what_each_machine_did() -> None:
    rows = (
        m.MachineRow("field-<1>", 60, 3000.0, 2900.0, 1_500_000_000, 2_000_000),
        m.MachineRow("laptop", 12, 1000.0, 990.0, 0, 0),
    )
    page = report_html(replace(facts(), machines=rows, total_s=1000.0), ())
    assert "field-&lt;1&gt;" in page
    assert "<td>75 %</td>" in page
    assert "<td>1500.0</td>" in page
    assert "4.0 times as long as the run" in page
    assert "Machines" not in report_html(replace(facts(), machines=rows[:1]), ())


def test_previews_of_tiny_and_flat_maps(tmp_path: Path) -> None:
    field = Field(frame=Frame.local(), cells=2, amplitude_m=0.0)
    tiles = read_tiles([field.write(tmp_path / "tiles", 0, 0, holes=False)])
    merge_dsm(tiles, field.frame, tmp_path / "d.tif")
    dsm_preview(tmp_path / "d.tif", tmp_path / "d.png")
    assert (tmp_path / "d.png").stat().st_size > 500
