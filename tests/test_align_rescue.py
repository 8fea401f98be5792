"""Photos without a pose: placed from their matches, or by guided matching, or left out. Metres and degrees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from align_world import World, angles_deg, world
from passel.align.guided import Sought, look_for
from passel.align.rescue import Positions, rescue
from passel.align.resect import Unplaced, resect
from passel.align.whole import adjust_whole, without_photos
from passel.reconstruct.features import Features
from passel.reconstruct.scene import Scene

MISSING = 7


@pytest.fixture(scope="module")
def block() -> World:
    return world(strips=4, along=5, points=3000)


def without(w: World, photo: int) -> tuple[Scene, list[int], Unplaced]:
    scene = without_photos(w.scene, np.arange(w.photos) == photo)
    unplaced = Unplaced(w.scene.photos[photo], photo, int(w.scene.camera_of[photo]), w.xy[photo], 1.0)
    return scene, [i for i in range(w.photos) if i != photo], unplaced


def looks(n: int, seed: int) -> np.ndarray:
    """RootSIFT-like descriptors: (n, 128) uint8 of length 512."""
    raw = np.random.default_rng(seed).gamma(0.6, 1.0, (n, 128))
    return np.clip(np.round(512 * np.sqrt(raw / raw.sum(axis=1, keepdims=True))), 0, 255).astype(np.uint8)


def loader(w: World) -> Callable[[int], Features]:
    """Features whose descriptors tell the point that they show, with noise from photo to photo."""
    of_point = looks(3000, 0).astype(float)

    def load(photo: int) -> Features:
        rng = np.random.default_rng(100 + photo)
        d = of_point[w.point_of[photo]] + rng.normal(0, 8.0, (len(w.point_of[photo]), 128))
        d *= 512 / np.linalg.norm(d, axis=1, keepdims=True)
        none = np.zeros(len(d), np.float32)
        return Features(2000, 1500, w.xy[photo].astype(np.float32), none, none, np.clip(d, 0, 255).astype(np.uint8))

    return load


def positions(w: World, sigma_m: float = 2.0) -> Positions:
    e = w.evidence(sigma_m)
    return Positions(e.gps, e.gps_sigma)


def off(w: World, scene: Scene) -> tuple[float, float]:
    k = scene.photos.index(w.scene.photos[MISSING])
    truth = w.scene
    angle = angles_deg(scene.cam_from_world[k][None], truth.cam_from_world[MISSING][None])[0]
    return float(np.linalg.norm(scene.centres[k] - truth.centres[MISSING])), float(angle)


def test_matches_place_a_photo(block):
    scene, index, photo = without(block, MISSING)
    grown = resect(scene, index, [photo], block.matches(wrong_share=0.3))
    assert grown.photos == block.scene.photos
    metres, degrees = off(block, grown)
    assert metres < 0.1
    assert degrees < 0.1
    # Every other photo and every observation is as before.
    back = without_photos(grown, np.arange(block.photos) == MISSING)
    assert np.array_equal(back.centres, scene.centres)
    assert np.array_equal(back.obs_photo, scene.obs_photo)


def test_matches_that_are_all_wrong_place_nothing(block):
    scene, index, photo = without(block, MISSING)
    assert resect(scene, index, [photo], block.matches(wrong_share=1.0)).photos == scene.photos
    assert resect(scene, index, [photo], []).photos == scene.photos


def test_guided_matching_finds_a_photo_without_matches(block):
    scene, index, photo = without(block, MISSING)
    matches = [m for m in block.matches() if MISSING not in (m.first, m.second)]
    found = rescue(scene, index, [photo], matches, positions(block), loader(block))
    assert found.scene.photos == block.scene.photos
    metres, degrees = off(block, found.scene)
    assert metres < 0.1
    assert degrees < 0.1
    for m in found.matches:  # they are true matches
        same = block.point_of[m.first][m.features[:, 0]] == block.point_of[m.second][m.features[:, 1]]
        assert same.mean() > 0.98
    # And the adjustment can hold the photo by them.
    adjusted, facts = adjust_whole(found.scene, block.evidence(0.5), [*matches, *found.matches])
    assert facts.dropped == ()
    assert np.bincount(adjusted.obs_photo)[MISSING] > 100


def test_a_few_matches_are_enough_without_gps(block):
    scene, index, photo = without(block, MISSING)
    cut = [
        replace(m, features=m.features[:12]) if MISSING in (m.first, m.second) else m
        for m in block.matches()
        if MISSING not in (m.first, m.second) or {m.first, m.second} == {MISSING, MISSING + 1}
    ]
    nowhere = Positions(np.full((block.photos, 3), np.nan), np.full((block.photos, 3), np.nan))
    found = rescue(scene, index, [photo], cut, nowhere, loader(block))
    assert found.scene.photos == block.scene.photos
    assert off(block, found.scene)[0] < 0.1


def test_a_photo_of_elsewhere_is_left_out(block):
    scene, index, photo = without(block, MISSING)
    honest = loader(block)

    def strange(k: int) -> Features:
        f = honest(k)
        return replace(f, descriptors=looks(len(f.xy), 9)) if k == MISSING else f

    matches = [m for m in block.matches() if MISSING not in (m.first, m.second)]
    found = rescue(scene, index, [photo], matches, positions(block), strange)
    assert found.scene.photos == scene.photos
    assert found.matches == ()


def test_a_photo_that_lands_far_from_its_gps_is_left_out(block):
    scene, index, photo = without(block, MISSING)
    place = positions(block, 1.0)
    gps = place.gps.copy()
    gps[MISSING] += (25.0, 0.0, 0.0)
    found = rescue(scene, index, [photo], block.matches(), Positions(gps, place.sigma), loader(block))
    assert found.scene.photos == scene.photos


def test_a_photo_without_features_is_left_out(block):
    scene, index, photo = without(block, MISSING)
    none = np.zeros(0, np.float32)
    empty = Features(2000, 1500, np.zeros((0, 2), np.float32), none, none, np.zeros((0, 128), np.uint8))
    bare = replace(photo, xy=np.zeros((0, 2)))
    load = loader(block)
    found = rescue(scene, index, [bare], [], positions(block), lambda k: empty if k == MISSING else load(k))
    assert found.scene is scene


def test_the_rescue_is_the_same_every_time(block):
    scene, index, photo = without(block, MISSING)
    matches = [m for m in block.matches() if MISSING not in (m.first, m.second)]
    one, two = (rescue(scene, index, [photo], matches, positions(block), loader(block)) for _ in range(2))
    assert np.array_equal(one.scene.centres, two.scene.centres)
    assert all(np.array_equal(a.features, b.features) for a, b in zip(one.matches, two.matches))


def test_guided_matching_wants_place_and_likeness():
    d = looks(3, 1)
    xy = np.array([[100.0, 100.0], [400.0, 100.0], [100.5, 100.0]])
    sought = Sought(np.array([5, 6]), d[[0, 1]])
    near = look_for(sought, np.array([[110.0, 95.0], [390.0, 104.0]]), xy, d, 30.0, 1.0)
    assert sorted(zip(near.point.tolist(), near.feature.tolist())) == [(5, 0), (6, 1)]
    far = look_for(sought, np.array([[110.0, 95.0], [300.0, 104.0]]), xy, d, 30.0, 1.0)
    assert far.point.tolist() == [5]
    hidden = look_for(sought, np.full((2, 2), np.nan), xy, d, 30.0, 1.0)
    assert len(hidden.feature) == 0
    # Two places that look alike in the window: neither can be chosen.
    twins = look_for(
        sought,
        np.array([[110.0, 95.0], [np.nan, np.nan]]),
        xy + np.diag([0.0, 0.0, 15.0])[:, [2, 0]],
        d[[0, 1, 0]],
        40.0,
        1.0,
    )
    assert len(twins.feature) == 0
