"""Photos with a wild pose, on a synthetic block with known truth: found only where both GPS and the photo's angles contradict it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from align_world import World, world
from passel.align.astray import photos_astray
from passel.reconstruct.scene import Scene

WILD = 7


@pytest.fixture(scope="module")
def block() -> World:
    return world(strips=4, along=5, points=200)


def posed(w: World, off_m: float, bent_deg: float, of: int | slice = WILD) -> Scene:
    """The true scene with some photos elsewhere, and looking elsewhere."""
    centres, rotations = w.scene.centres.copy(), w.scene.cam_from_world.copy()
    centres[of] += (0.8 * off_m, 0.6 * off_m, 0.0)
    rotations[of] = rotations[of] @ Rotation.from_rotvec([bent_deg, 0, 0], degrees=True).as_matrix()
    return replace(w.scene, centres=centres, cam_from_world=rotations)


def angles_of(w: World) -> np.ndarray:
    return w.scene.cam_from_world[:, :, 2]


@pytest.mark.parametrize("told", [True, False])
def test_a_wild_pose_is_found_with_and_without_angles(block, told):
    up = angles_of(block) if told else np.full((block.photos, 3), np.nan)
    found = photos_astray(posed(block, 12.0, 50.0), block.evidence(0.5).gps, up)
    assert np.flatnonzero(found).tolist() == [WILD]


def test_gps_that_slipped_and_gimbals_that_lie_are_no_strays(block):
    gps, up = block.evidence(0.5).gps, angles_of(block)
    slipped = gps.copy()
    slipped[WILD, 0] += 300.0
    assert not photos_astray(block.scene, slipped, up).any()
    lying = up.copy()
    lying[WILD] = up[WILD, 0], up[WILD, 2], -up[WILD, 1]
    assert not photos_astray(block.scene, gps, lying).any()
    assert not photos_astray(posed(block, 0.5, 50.0), gps, up).any()


def test_a_survey_that_looks_askance_has_no_strays(block):
    gps, nothing = block.evidence(0.5).gps, np.full((block.photos, 3), np.nan)
    assert not photos_astray(posed(block, 12.0, 50.0, slice(0, 6)), gps, nothing).any()
    assert not photos_astray(posed(block, 12.0, 50.0), np.full_like(gps, np.nan), angles_of(block)).any()
