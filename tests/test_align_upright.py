"""Blocks that GPS altitudes would tilt, set upright by the cameras' angles. Metres and degrees, known truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from align_world import angles_deg, shaken, world
from passel.align.upright import noted_up, set_upright, tilt_by_altitudes, without_altitudes
from passel.align.whole import adjust_whole, without_photos
from passel.geo.similarity import Similarity
from passel.survey.model import SHAPELESS_M

ANYWHERE = Similarity(0.6, Rotation.from_rotvec([0.4, -0.2, 0.9]).as_matrix(), np.array([3.0, -8.0, 1.0]))


def noted(scene, error_deg=0.5, seed=4):
    """(n, 3) up in the cameras, as a gimbal notes it."""
    rng = np.random.default_rng(seed)
    up = scene.cam_from_world[:, :, 2] + np.radians(error_deg) * rng.standard_normal((len(scene.photos), 3))
    return up / np.linalg.norm(up, axis=1)[:, None]


def drifted(scene, metres):
    """GPS of which the altitude has climbed by `metres` at the last strip."""
    y = scene.centres[:, 1]
    return scene.centres + np.outer((y - y.min()) / np.ptp(y) * metres, [0.0, 0.0, 1.0])


def sigma(scene, vertical=10.0):
    return np.tile([5.0, 5.0, vertical], (len(scene.photos), 1))


def test_altitudes_that_agree_with_the_angles_are_believed():
    s = world().scene
    assert tilt_by_altitudes(s, s.centres, sigma(s), noted(s)) == 0.0


def test_a_drift_along_the_strips_is_seen_and_undone():
    s = world().scene
    gps = drifted(s, 30.0)
    tilt = tilt_by_altitudes(s.transformed(ANYWHERE), gps, sigma(s), noted(s))
    assert tilt == pytest.approx(np.degrees(np.arctan2(30.0, 79.0)), abs=3.0)
    placed = set_upright(s.transformed(ANYWHERE), gps, sigma(s), noted(s))
    assert angles_deg(placed.cam_from_world, s.cam_from_world).max() < 0.5
    assert np.linalg.norm((placed.centres - s.centres)[:, :2], axis=1).max() < 0.3
    assert abs(float(np.median(placed.centres[:, 2] - gps[:, 2]))) < 0.01


def test_the_adjustment_keeps_a_block_upright():
    w = world()
    start = shaken(w.scene)
    wrong = drifted(w.scene, 30.0)
    evidence = w.evidence(gps_sigma_m=0.5)
    gps = evidence.gps.copy()
    gps[:, 2] = wrong[:, 2]
    evidence = without_altitudes(type(evidence)(**{**vars(evidence), "gps": gps}), start)
    found, _ = adjust_whole(start, evidence, w.matches())
    found = set_upright(found, gps, sigma(found), noted(w.scene))
    assert np.median(angles_deg(found.cam_from_world, w.scene.cam_from_world)) < 1.0


def test_a_single_strip_gets_its_roll_from_the_angles():
    w = world()
    strip = without_photos(w.scene, np.array([i >= 5 for i in range(w.photos)]))
    rolled = strip.transformed(Similarity(1.0, Rotation.from_rotvec([0.2, 0.0, 0.0]).as_matrix(), np.zeros(3)))
    gps = strip.centres + np.random.default_rng(1).normal(0, 1.0, strip.centres.shape)
    placed = set_upright(rolled, gps, sigma(strip), noted(strip))
    assert np.median(angles_deg(placed.cam_from_world, strip.cam_from_world)) < 3.0  # heading by 1 m GPS over 72 m
    up = np.einsum("nji,nj->ni", placed.cam_from_world, noted(strip, 0.0))
    assert np.degrees(np.arccos(np.median(up[:, 2]))) < 0.5


def test_without_angles_drifting_altitudes_still_tilt_nothing():
    """Altitudes that the input check does not believe: cameras look down on average, within their own tilts of 5°."""
    s = world().scene
    nothing = np.full((len(s.photos), 3), np.nan)
    assert tilt_by_altitudes(s, drifted(s, 30.0), sigma(s), nothing) == 0.0
    free = sigma(s, SHAPELESS_M)
    assert tilt_by_altitudes(s, drifted(s, 30.0), free, nothing) > 0.0
    placed = set_upright(s, drifted(s, 30.0), free, nothing)
    assert np.median(angles_deg(placed.cam_from_world, s.cam_from_world)) < 5.0


def test_accurate_gps_is_believed_over_angles():
    s = world().scene
    off = noted(s, 0.0) @ Rotation.from_rotvec([0.1, 0, 0]).as_matrix()
    assert tilt_by_altitudes(s, s.centres, sigma(s, 0.05), off) == 0.0


def test_angles_that_contradict_each_other_are_no_up():
    s = world().scene
    body = np.tile(
        [0.0, -0.5, -0.9], (len(s.photos), 1)
    )  # a lean that turns with the heading: the drone's, not the camera's
    assert noted_up(s, body / np.linalg.norm(body[0])) is None


@pytest.mark.parametrize("fixed", [4, 8, 12])
def test_height_and_tilt_are_those_of_the_altitudes_to_believe(fixed: int) -> None:
    s = world().scene
    believed = np.arange(len(s.photos)) < fixed
    gps, claimed = s.centres + np.where(believed, 0.0, 48.0)[:, None] * [0.0, 0.0, 1.0], sigma(s)
    claimed[:, 2] = np.where(believed, 0.03, SHAPELESS_M)
    placed = set_upright(s.transformed(ANYWHERE), gps, claimed, noted(s))
    assert float(np.abs(placed.centres - s.centres)[:, 2].max()) < 1.0
