"""The benchmark's own arithmetic: a wrong measure would pass a bad map."""

from __future__ import annotations

import json
import math
import resource
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from passel.geo.grid import Window
from passel.reconstruct.scene import Intrinsics, Scene

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))

from commands import remembered, run
from measure_border import _beside
from measure_pair import _spread, camera_difference
from measure_run import cost_of, steps_of
from results import Check, RunCost, StageCost, SurveyResult
from table import summary


def scene(shift_m: float = 0.0, turn_deg: float = 0.0, photos: tuple[str, ...] = ("a", "b", "c")) -> Scene:
    n = len(photos)
    turn = Rotation.from_euler("x", turn_deg, degrees=True).as_matrix()
    centres = np.column_stack([np.arange(n) * 10.0 + shift_m, np.zeros(n), np.zeros(n)])
    points, pixels = np.zeros((3, 3)), np.zeros((7, 2), np.float32)
    camera = Intrinsics("c", 100, 80, 90, 90, 50, 40)
    of = np.array([0, 0, 1, 1, 2, 2, 2], np.int32)
    by = np.array([0, 1, 1, 2, 0, 1, 2], np.int32)
    zeros = np.zeros(n, np.int32)
    return Scene((camera,), photos, zeros, np.repeat(turn[None], n, 0), centres, points, of, by, pixels, of)


def test_verdicts():
    assert Check("", "", 0.8, "px", "≤", 0.8).verdict == "pass"
    assert Check("", "", 165, "", "≥", 166).verdict == "missed"
    assert Check("", "", math.nan, "", "≥", 166).verdict == "not measured"
    assert Check("", "", 3.0).verdict == ""


def test_results_come_back_from_json_and_stand_in_the_table(tmp_path):
    checks = (Check("split", "reprojection", 0.5, "px", "≤", 0.8, "a|b"), Check("split", "wall", math.nan, "s", "≤", 9))
    cost = RunCost("split", 10, 20.0, 50.0, 10.0, 700.0, (StageCost("features", 10, 40.0, 700.0),))
    result = SurveyResult("field", (("date", "today"),), "", checks, (cost,))
    result.save(tmp_path)
    back = SurveyResult.load(tmp_path / "field.json")
    assert back.checks[0] == checks[0]
    assert math.isnan(back.checks[1].reached)
    assert back.costs == result.costs
    text = summary([back, SurveyResult("sea", (), "dataset not present", (), ())])
    assert "| field | split | reprojection | ≤ 0.8 px | 0.500 px | pass | a\\|b |" in text
    assert "| field | split | wall | ≤ 9 s | – | **not measured** |" in text
    assert "| field | split | 10 | features | 10 | 4.00 | 700 |" in text
    assert "**5.00** | 700 |" in text
    assert "dataset not present" in text


def test_cameras_that_differ_are_told():
    d = camera_difference(scene(), scene(0.25, 0.1))
    assert (d.photos, d.median_m, d.rms_m, d.largest_m) == (3, *(pytest.approx(0.25),) * 3)
    assert d.median_deg == pytest.approx(0.1)
    assert camera_difference(scene(), scene(photos=("b", "x", "y"))).photos == 1
    with pytest.raises(ValueError, match="no photo"):
        camera_difference(scene(), scene(photos=("x", "y", "z")))


def test_tracks_across_cores():
    assert _spread(scene(), np.array([0, 0, 1])).tolist() == [False, True, True]


def test_a_step_at_the_border_is_seen():
    z = np.zeros((60, 100), np.float32)
    z[:, 1::2] = 0.01  # every pair of neighbours inside differs by 1 cm
    z[:, 50:] += 0.06
    z[5, 49] = np.nan
    across, inside = _beside(z, Window(50, 0, 50, 60))
    assert len(across) == 59
    assert np.median(across) == pytest.approx(0.05)
    assert np.median(inside) == pytest.approx(0.01)
    assert len(_beside(z, Window(0, 0, 50, 60))[0]) == 0  # the raster's edge is no border


def test_log_is_read_and_steps_asked_for_twice_count_once(tmp_path):
    step = {"stage": "features", "name": "a", "digest": "00", "state": "made", "cpu_seconds": 2.0, "peak_rss_mb": 5.0}
    steps = [step, {**step, "state": "reused"}, {**step, "digest": "11", "state": "crashed", "cpu_seconds": 9.0}]
    (tmp_path / "log.json").write_text(json.dumps({"steps": steps}))
    assert [s.cpu_s for s in steps_of(tmp_path)] == [2.0]
    with pytest.raises(OSError, match="survey"):
        cost_of("x", tmp_path, None)


def test_a_command_is_measured(tmp_path):
    command = run(("--version",), tmp_path / "out" / "version")
    assert command.exit_code == 0
    assert 0 < command.cpu_s < 60
    own_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    assert 5 < command.largest_mb < own_mb + 1000  # the kernel counts the copy of this process, too, that became it
    assert (tmp_path / "out" / "version.log").read_text().startswith("passel ")
    assert remembered(tmp_path / "out" / "version") == command
    assert remembered(tmp_path / "other") is None
