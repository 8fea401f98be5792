"""A mapped scene put into the world by its photos' GPS. Metres and degrees."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from align_world import angles_deg, world
from passel.align.whole import without_photos
from passel.geo.similarity import Similarity
from passel.reconstruct.mapping import placed_by_gps

ANYWHERE = Similarity(0.037, Rotation.from_rotvec([2.0, 0.7, -0.4]).as_matrix(), np.array([3.0, -8.0, 1.0]))


@pytest.mark.parametrize(
    "photos",
    [range(20), range(5), range(3), range(2), (0, 6)],
    ids=["block", "one strip", "three", "two", "two apart"],
)
def test_a_scene_finds_its_place(photos):
    w = world()
    scene = without_photos(w.scene, np.array([i not in photos for i in range(w.photos)]))
    n = len(scene.photos)
    placed = placed_by_gps(scene.transformed(ANYWHERE), scene.centres, np.full((n, 3), 1.0))
    # Photos in a line tell roll only by how they look down, which is a few degrees off.
    assert np.linalg.norm(placed.centres - scene.centres, axis=1).max() < (0.01 if n == 20 else 2.0)
    assert angles_deg(placed.cam_from_world, scene.cam_from_world).max() < (0.01 if n == 20 else 12.0)
    assert (placed.cam_from_world[:, 2, 2] < -0.8).all()


def test_one_wrong_gps_turns_nothing():
    w = world()
    gps = w.scene.centres.copy()
    gps[4] += (300.0, -200.0, 80.0)
    placed = placed_by_gps(w.scene.transformed(ANYWHERE), gps, np.full(gps.shape, 1.0))
    assert np.linalg.norm(placed.centres - w.scene.centres, axis=1).max() < 1.0


def test_without_gps_a_scene_stays():
    w = world(strips=1, along=3, points=100)
    nothing = np.full((3, 3), np.nan)
    assert placed_by_gps(w.scene, nothing, nothing) is w.scene


def test_photos_all_noted_at_one_place_do_not_collapse():
    """A receiver that stood still: no size can be had from it."""
    w = world(strips=1, along=3, points=200)
    placed = placed_by_gps(w.scene, np.zeros((3, 3)), np.full((3, 3), 1.0))
    assert placed is w.scene
