"""Surveys that are flown otherwise than in level strips with GPS on every photo: the adjustment finds their cameras all the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from align_world import World, angles_deg, shaken, world
from passel.align.whole import Evidence, adjust_whole
from passel.geo.similarity import fit_similarity

GPS_SIGMA_M = 1.0
FLAT_M = 0.05


def without_gps(evidence: Evidence, photos: slice) -> Evidence:
    gps, sigma = evidence.gps.copy(), evidence.gps_sigma.copy()
    gps[photos] = sigma[photos] = np.nan
    return replace(evidence, gps=gps, gps_sigma=sigma)


def all_of_it(evidence: Evidence) -> Evidence:
    return evidence


@pytest.mark.parametrize(
    ("flown", "known", "shape_m", "focal"),
    [
        (world(), lambda e: without_gps(e, slice(7, 15)), 0.05, 0.002),
        (world(), lambda e: without_gps(e, slice(8, None)), 0.05, 0.002),
        (world(higher_m=40.0), all_of_it, 0.06, 0.002),
        (world(higher_m=40.0, relief_m=FLAT_M), all_of_it, 0.15, 0.005),
        (world(cameras=2, relief_m=FLAT_M), all_of_it, 0.4, 0.01),
        (world(oblique_rad=0.5), all_of_it, 0.08, 0.003),
        (world(oblique_rad=0.5, relief_m=FLAT_M), all_of_it, 0.2, 0.006),
        (world(strips=1, along=12, points=800), all_of_it, 0.15, 0.006),
        (world(strips=2, along=8, points=800), all_of_it, 0.06, 0.002),
    ],
    ids=[
        "a gap in GPS", "GPS at one end", "two heights", "two heights over a plain", "two cameras over a plain",
        "oblique", "oblique over a plain", "one line", "two lines",
    ],
)  # fmt: skip
def test_the_cameras_are_found(
    flown: World, known: Callable[[Evidence], Evidence], shape_m: float, focal: float
) -> None:
    """shape_m: RMS of the positions after a 7-parameter fit. focal: relative error. Only a single line's roll is not GPS's to tell."""
    truth = flown.scene
    found, _ = adjust_whole(shaken(truth, focal=1.02), known(flown.evidence(GPS_SIGMA_M)), flown.matches())
    assert found.photos == truth.photos
    b_from_a = fit_similarity(found.centres, truth.centres)
    miss = np.linalg.norm(b_from_a.apply(found.centres) - truth.centres, axis=1)
    assert float(np.sqrt((miss**2).mean())) < shape_m
    assert angles_deg(found.cam_from_world, truth.cam_from_world).max() < 4.0
    for camera, true in zip(found.cameras, truth.cameras, strict=True):
        assert camera.fx == pytest.approx(true.fx, rel=focal)
