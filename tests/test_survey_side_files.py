"""What lies beside the photos: geo.txt and cameras.json."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from passel.errors import InputError
from passel.survey.cameras_file import match_calibrations, read_cameras_file
from passel.survey.geo_file import find_geo_file, read_geo_file
from survey_photos import finding, plain_flight, survey_of


def test_geo_file_replaces_gps(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    lines = [
        "WGS84 UTM 32N",
        "# a comment",
        "P0001.jpg 422500.0 5094500.0 321.5 10 -80 1 0.02 0.05",
        "my photo.jpg 422600 5094500",
    ]
    (tmp_path / "geo.txt").write_text("\n".join(lines), encoding="utf-8")
    path = find_geo_file(tmp_path / "images")
    assert path == find_geo_file(tmp_path) == tmp_path / "geo.txt"
    geo = read_geo_file(path)
    assert [g.name for g in geo] == ["P0001.jpg", "my photo.jpg"]
    survey = survey_of(plain_flight(), geo=geo)
    p = survey.photos[1]
    assert p.position is not None
    assert (p.position.altitude_m, p.position.horizontal_sigma_m, p.position.vertical_sigma_m) == (321.5, 0.02, 1000.0)
    assert p.position.latitude_deg == pytest.approx(46.0, abs=0.01)
    assert (p.yaw_deg, p.pitch_deg, p.roll_deg) == (10.0, -80.0, 1.0)
    assert finding(survey, "geo-file-unknown").photos == ("my photo.jpg",)
    (tmp_path / "geo.txt").write_text("EPSG:4326\na.jpg 8.1 46.2 100\n")
    position = read_geo_file(path)[0].position
    assert (position.longitude_deg, position.latitude_deg) == pytest.approx((8.1, 46.2))


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "empty"), ("hello\n", "coordinate system"), ("EPSG:4326\na.jpg 8 x", "line 2"), ("EPSG:4326\na.jpg 8", "missing"),
     ("EPSG:4326\na.jpg 8 446", "not on earth"), ("EPSG:4326\na.jpg 8 46 1e300", "altitude of a.jpg cannot be right"),
     ("EPSG:4326\na.jpg 8 46 100 nan 0 0", "not a finite number"), ("EPSG:5773\na.jpg 8 46", "not one of maps"),
     ("EPSG:4978\na.jpg 8 46", "not one of maps")],
)  # fmt: skip
def test_bad_geo_files_are_explained(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "geo.txt").write_text(content)
    with pytest.raises(InputError, match=words):
        read_geo_file(tmp_path / "geo.txt")


def _calibration(**changes: object) -> str:
    entry = {
        "projection_type": "brown",
        "width": 4000,
        "height": 3000,
        "focal_x": 0.58,
        "focal_y": 0.58,
        "c_x": 0.001,
        "k1": -0.01,
    }
    return json.dumps({"v2 dji fc300s 4000 3000 brown 0.5555": {**entry, **changes}})


def test_cameras_file_sets_the_focal_prior(tmp_path: Path) -> None:
    (tmp_path / "cameras.json").write_text(_calibration())
    known = read_cameras_file(str(tmp_path / "cameras.json"))
    assert known == read_cameras_file(_calibration())
    survey = survey_of(plain_flight(), calibrations=known)
    camera = survey.cameras[0]
    assert (camera.focal_prior_px, camera.focal_prior_source) == (pytest.approx(0.58 * 4000), "cameras.json")
    matched, missing = match_calibrations(known, survey.cameras)
    assert (matched[0].camera, matched[0].k1, matched[0].c_y, missing) == (camera.id, -0.01, 0.0, ())
    other = survey_of([replace(f, width_px=3000) for f in plain_flight()], calibrations=known)
    assert finding(other, "no-calibration").severity == "warning"


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "not JSON"), ("{}x", "not JSON"), (_calibration(projection_type="fisheye"), "fisheye"), ("nowhere.json", "cannot be read"),
     (_calibration(focal_x="a"), "focal_x"), (_calibration(width=0), "not positive"), ('{"a": 1}', "table of cameras"),
     ('{"a":' * 20_000, "not JSON"), (_calibration(width=10**400), "width"), (_calibration(focal_x=float("nan")), "focal_x")],
)  # fmt: skip
def test_bad_cameras_files_are_explained(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_cameras_file(text)
