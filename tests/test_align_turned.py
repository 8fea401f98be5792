"""Photos turned by 180° after they were taken, on synthetic blocks with known truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from align_world import World, shaken, world
from passel.align.turned import turned_back, turned_photos, with_turned_photos
from passel.align.whole import adjust_whole
from passel.geo.frames import Frame
from passel.geo.similarity import fit_similarity
from passel.reconstruct.scene import TURN, Scene, views_in_map
from passel.surface.camera import packed, project_all


@pytest.fixture(scope="module")
def block() -> World:
    return world(strips=4, along=5)


def yaws_deg(w: World, scatter_deg: float = 5.0) -> np.ndarray:
    """What a drone's compass would note."""
    up = -w.scene.cam_from_world[:, 1]
    return np.degrees(np.arctan2(up[:, 0], up[:, 1])) + np.random.default_rng(8).normal(0, scatter_deg, w.photos)


def strip(w: World, number: int) -> np.ndarray:
    return np.arange(w.photos) // 5 == number


def miss_m(scene: Scene, truth: Scene) -> float:
    b_from_a = fit_similarity(scene.centres, truth.centres)
    return float(np.sqrt(((b_from_a.apply(scene.centres) - truth.centres) ** 2).sum(axis=1).mean()))


@pytest.mark.parametrize("which", ["a strip", "one photo"])
def test_turned_photos_are_found_and_bend_nothing(block, which):
    turned = strip(block, 1) if which == "a strip" else np.arange(block.photos) == 7
    start, evidence = turned_back(shaken(block.scene), block.evidence(0.3), turned)
    start = replace(start, turned=np.zeros(block.photos, bool))  # nobody says so
    taken_as_is, facts = adjust_whole(start, evidence, block.matches())
    scene, better = with_turned_photos(taken_as_is, facts, evidence, block.matches(), yaws_deg(block))
    assert np.array_equal(scene.turned, turned)
    assert better.reprojection_px < facts.reprojection_px
    assert miss_m(scene, block.scene) < 0.06
    assert miss_m(taken_as_is, block.scene) > 2 * miss_m(scene, block.scene)


@pytest.mark.parametrize("really", [True, False])
@pytest.mark.parametrize(
    ("strips", "along", "points", "noise_px"), [(3, 3, 150, 1.5), (2, 4, 150, 2.0), (4, 5, 400, 3.0)]
)
def test_a_few_photos_of_poor_quality_are_told_apart_as_well(strips, along, points, noise_px, really):
    """Turned or not, their errors differ by two to five percent; which of the two is likelier is plain all the same."""
    w = world(strips=strips, along=along, points=points, noise_px=noise_px)
    which = np.arange(w.photos) // along == 1
    start, evidence = shaken(w.scene), replace(w.evidence(0.5), noise_px=np.full(w.photos, 1.5 * noise_px))
    yaw = yaws_deg(w) if really else yaws_deg(w) + 180.0 * which
    if really:
        start, evidence = turned_back(start, evidence, which)
        start = replace(start, turned=np.zeros(w.photos, bool))
    as_is, facts = adjust_whole(start, evidence, w.matches())
    assert np.array_equal(turned_photos(as_is, yaw), which)
    scene, _ = with_turned_photos(as_is, facts, evidence, w.matches(), yaw)
    assert np.array_equal(scene.turned, which & really)


def test_a_wrong_yaw_turns_no_photo(block):
    """Near the nadir some gimbals tell the opposite yaw with 180° of roll."""
    first, facts = adjust_whole(shaken(block.scene), block.evidence(0.3), block.matches())
    yaw = yaws_deg(block) + 180.0 * strip(block, 2)
    assert np.array_equal(turned_photos(first, yaw), strip(block, 2))
    scene, same = with_turned_photos(first, facts, block.evidence(0.3), block.matches(), yaw)
    assert scene is first
    assert same is facts


@pytest.mark.parametrize("mount_deg", [0.0, 90.0, 180.0, 250.0])
def test_a_camera_mounted_at_an_angle_is_not_turned(block, mount_deg):
    assert not turned_photos(block.scene, yaws_deg(block) + mount_deg).any()
    some = turned_photos(block.scene, yaws_deg(block) + mount_deg + 180.0 * strip(block, 3))
    assert np.array_equal(some, strip(block, 3))


def test_each_camera_is_compared_with_its_own_photos():
    w = world(strips=3, along=5, cameras=2)
    mounts = yaws_deg(w) + 180.0 * w.scene.camera_of
    assert not turned_photos(w.scene, mounts).any()
    one = np.arange(w.photos) == 6
    assert np.array_equal(turned_photos(w.scene, mounts + 180.0 * one), one)


def test_yaws_that_mean_nothing_turn_no_photo(block):
    unknown = np.full(block.photos, np.nan)
    assert not turned_photos(block.scene, unknown).any()
    assert not turned_photos(block.scene, np.random.default_rng(1).uniform(0, 360, block.photos)).any()
    known = unknown.copy()
    known[3:6] = (yaws_deg(block) + 180.0 * strip(block, 1))[3:6]
    assert np.array_equal(np.flatnonzero(turned_photos(block.scene, known)), [5])


def test_a_view_of_a_turned_photo_looks_up_the_pixels_of_its_file(tmp_path):
    """… whatever its camera's principal point, distortion and rolling shutter."""
    w = world(strips=2, along=3, readout_s=0.04, noise_px=0.0)
    frame = Frame((46.8, -92.0), 200.0, 32615, (500_000.0, 5_180_000.0))
    plain = views_in_map(w.scene, frame)
    back, _ = turned_back(w.scene, w.evidence(), np.arange(w.photos) == 4)
    back = replace(back, cam_from_world=w.scene.cam_from_world, velocities=w.scene.velocities)  # as it was taken
    back.save(tmp_path)
    loaded = Scene.load(tmp_path)
    assert np.array_equal(loaded.turned, np.arange(w.photos) == 4)
    turned = views_in_map(loaded, frame)
    xyz = frame.map_from_world(w.scene.points[:200])
    size = np.array([w.scene.cameras[0].width_px, w.scene.cameras[0].height_px])
    for k in range(w.photos):
        one, other = project_all(packed(plain[k]), xyz), project_all(packed(turned[k]), xyz)
        seen = (one > 0).all(axis=1) & (one < size - 1).all(axis=1)
        assert seen.sum() > 10
        # array indices: the middle of the first pixel is 0
        np.testing.assert_allclose(other[seen], size - 1 - one[seen] if k == 4 else one[seen], atol=1e-6)
    assert np.allclose(loaded.rotations_of_files()[4], TURN @ w.scene.cam_from_world[4])
