"""Outlines of photos on the ground before anything is mapped, against what geometry says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from passel.geo.frames import Frame
from passel.serving.preview import footprints_in_world, with_footprints
from passel.survey.model import Camera, Photo, Position, Survey

CAMERA = Camera("c", "make", "model", "", 1000, 800, 1000.0, "xmp", 0.01)
FRAME = Frame((46.8, -91.99), 300.0, 32615, (577_000.0, 5_188_000.0))


def photo(name: str = "a.jpg", **changes: Any) -> Photo:
    """100 m above the ground, looking straight down, its top north; but for what is changed."""
    place = Position(46.8, -91.99, 400.0, None, None)
    return replace(Photo(name, name, "0", 1, "c", place, "", 0.0, -90.0, 0.0, 100.0, 1.0), **changes)


def corners_of(**changes: Any) -> np.ndarray:
    """Of one photo, metres east and north of it."""
    survey = Survey((photo(**changes),), (CAMERA,), FRAME, (5.0, 10.0), ())
    index, corners = footprints_in_world(survey)
    assert index.tolist() == [0]
    return np.asarray(corners[0, :, :2] - survey.positions_in_world()[0, :2])


def test_straight_down_is_a_rectangle_turned_by_yaw() -> None:
    np.testing.assert_allclose(corners_of(), [(-50, 40), (50, 40), (50, -40), (-50, -40)], atol=1e-6)
    east = corners_of(yaw_deg=90.0)  # the picture's top looks east
    np.testing.assert_allclose(east, [(40, 50), (40, -50), (-40, -50), (-40, 50)], atol=1e-6)


def test_oblique_photos_look_ahead_and_stop_before_the_horizon() -> None:
    tilted = corners_of(pitch_deg=-60.0)
    middle = 100 * np.tan(np.radians(30))
    assert tilted[:2, 1].min() > middle > tilted[2:, 1].max()
    assert tilted[1, 0] - tilted[0, 0] > tilted[2, 0] - tilted[3, 0]  # farther is wider
    assert np.linalg.norm(corners_of(pitch_deg=-5.0), axis=1).max() <= 300.0 + 1e-6
    np.testing.assert_allclose(
        corners_of(roll_deg=10.0), corners_of(yaw_deg=10.0), atol=1e-6
    )  # about the line of sight


@pytest.mark.parametrize("unknown", ["yaw_deg", "relative_altitude_m", "position"])
def test_a_photo_that_tells_too_little_has_none(unknown: str) -> None:
    untold: dict[str, Any] = {unknown: None}
    survey = Survey((photo(**untold), photo("b.jpg")), (CAMERA,), FRAME, (5.0, 10.0), ())
    assert footprints_in_world(survey)[0].tolist() == [1]


def test_the_plan_gets_them_and_stays_as_it_is_without_a_survey(tmp_path: Path) -> None:
    features = [{"type": "Feature", "properties": {"kind": "photo", "photo": "a.jpg"}, "geometry": None}]
    plan = json.dumps({"type": "FeatureCollection", "features": features})
    assert with_footprints(plan, tmp_path / "none.json") == plan
    Survey((photo(),), (CAMERA,), FRAME, (5.0, 10.0), ()).save(tmp_path / "survey.json")
    outline = json.loads(with_footprints(plan, tmp_path / "survey.json"))["features"][0]["properties"]["footprint"]
    lon, lat = np.array(outline).T
    assert np.ptp(lat) * 111_000 == pytest.approx(80, rel=0.02)
    assert np.ptp(lon) * 111_000 * np.cos(np.radians(46.8)) == pytest.approx(100, rel=0.02)
