"""Submodels brought together: joint similarities, merge, level, gates. Metres and degrees."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from align_world import CAMERA, World, angles_deg, world
from passel.align.gates import judge, nothing_mapped
from passel.align.level import HEIGHT_M, levelled
from passel.align.merge import merge_scenes
from passel.align.similarities import align_jointly, disagreement, shared_between
from passel.align.whole import Evidence, without_photos
from passel.geo.similarity import Similarity
from passel.reconstruct.matches import PairMatches
from passel.reconstruct.scene import Scene

GPS_SIGMA_M = 1.0


@pytest.fixture(scope="module")
def block() -> World:
    return world(strips=4, along=8, points=2000)


def part(scene: Scene, photos: range) -> Scene:
    return without_photos(scene, np.array([i not in photos for i in range(len(scene.photos))]))


def moved(scale: float, turn_deg: tuple[float, float, float], shift_m: tuple[float, float, float]) -> Similarity:
    return Similarity(scale, Rotation.from_rotvec(np.radians(turn_deg)).as_matrix(), np.array(shift_m))


MOVES = (
    moved(1.004, (0.1, -0.2, 0.15), (0.8, -0.5, 1.0)),
    moved(0.996, (-0.15, 0.1, -0.1), (-0.6, 0.9, -1.2)),
    moved(1.002, (0.05, 0.2, 0.2), (0.3, 0.4, 0.7)),
)
PARTS = (range(16), range(8, 24), range(16, 32))


def submodels(w: World) -> list[Scene]:
    return [part(w.scene, r).transformed(m) for r, m in zip(PARTS, MOVES)]


def gps_of(w: World) -> tuple[list[np.ndarray], list[np.ndarray]]:
    gps = w.scene.centres + np.random.default_rng(1).normal(0, GPS_SIGMA_M, w.scene.centres.shape)
    return [gps[list(r)] for r in PARTS], [np.full((len(r), 3), GPS_SIGMA_M) for r in PARTS]


def test_known_similarities_are_recovered(block):
    scenes = submodels(block)
    shared = shared_between(scenes)
    before = disagreement(shared, [Similarity.identity()] * 3)
    placed = align_jointly(scenes, shared, *gps_of(block))
    after = disagreement(shared, placed)
    assert before.cameras == 16
    assert before.position_median_m > 0.5
    assert after.position_p95_m < 0.02
    assert after.rotation_p95_deg < 0.02
    assert after.points_p95_m < 0.02
    for t, m in zip(placed, MOVES):  # back in the world, as well as the GPS of 32 photos tells
        assert t.after(m).scale == pytest.approx(1.0, abs=0.012)
        assert angles_deg(t.after(m).rotation[None], np.eye(3)[None])[0] < 1.0
    merged = merge_scenes([s.transformed(t) for s, t in zip(scenes, placed)], [frozenset(s.photos) for s in scenes])
    assert np.abs((merged.centres - block.scene.centres).mean(axis=0)).max() < 0.6


def test_the_scale_does_not_collapse(block):
    """Poor GPS and perfect agreement between submodels must not make everything small (research/sfm.md §3)."""
    scenes = submodels(block)
    gps, sigma = gps_of(block)
    rng = np.random.default_rng(6)
    gps = [g + rng.normal(0, 8.0, g.shape) for g in gps]
    placed = align_jointly(scenes, shared_between(scenes), gps, [s * 8.0 for s in sigma])
    for t, m in zip(placed, MOVES):
        assert t.after(m).scale == pytest.approx(1.0, abs=0.04)


def test_one_wild_camera_pulls_nothing(block):
    scenes = submodels(block)
    wild = scenes[1].centres.copy()
    wild[2] += (20.0, -15.0, 10.0)
    scenes[1] = replace(scenes[1], centres=wild)
    shared = shared_between(scenes)
    after = disagreement(shared, align_jointly(scenes, shared, *gps_of(block)))
    assert after.position_median_m < 0.05
    assert after.rotation_p95_deg < 0.05


def test_submodels_without_gps_come_together(block):
    scenes = submodels(block)
    shared = shared_between(scenes)
    gps, sigma = gps_of(block)
    none = [np.full_like(g, np.nan) for g in gps]
    placed = align_jointly(scenes, shared, none, [np.full_like(s, np.nan) for s in sigma])
    after = disagreement(shared, placed)
    assert after.position_p95_m < 0.03
    assert all(t.scale == pytest.approx(1.0, abs=0.02) for t in placed)


def test_nothing_shared_leaves_gps_to_decide(block):
    scenes = [part(block.scene, r).transformed(m) for r, m in zip((range(8), range(24, 32)), MOVES)]
    shared = shared_between(scenes)
    assert shared == []
    assert np.isnan(disagreement(shared, [Similarity.identity()] * 2).position_median_m)
    gps = [block.scene.centres[:8], block.scene.centres[24:]]
    placed = align_jointly(scenes, shared, gps, [np.full((8, 3), 0.5)] * 2)
    for t, s, g in zip(placed, scenes, gps):
        assert np.linalg.norm(t.apply(s.centres) - g, axis=1).max() < 0.6


def test_a_photo_takes_the_pose_of_its_core(block):
    one, two = part(block.scene, range(16)), part(block.scene, range(8, 24))
    two = replace(two, centres=two.centres + 5.0, cameras=(replace(CAMERA, k1=CAMERA.k1 + 0.1),))
    core = frozenset(block.scene.photos[8:12])
    merged = merge_scenes([one, two], [frozenset(block.scene.photos[:8]), core])
    assert merged.photos == block.scene.photos[:24]
    place = {n: i for i, n in enumerate(merged.photos)}
    for name in core:
        k = block.scene.photos.index(name)
        np.testing.assert_allclose(merged.centres[place[name]], block.scene.centres[k] + 5.0)
    np.testing.assert_allclose(merged.centres[0], block.scene.centres[0])
    assert merged.cameras[0].k1 == pytest.approx(CAMERA.k1 + 0.05, abs=0.01)


def test_a_block_is_set_level():
    w = world(points=600)
    tipped = w.scene.transformed(moved(3.7, (160.0, 20.0, 30.0), (5.0, 6.0, 7.0)))
    level = levelled(tipped)
    assert np.median(level.centres[:, 2]) == pytest.approx(HEIGHT_M, rel=0.05)
    assert abs(np.median(level.points[:, 2])) < 2.0
    _, _, axes = np.linalg.svd(level.points - level.points.mean(axis=0), full_matrices=False)
    assert abs(axes[2, 2]) > 0.9999
    assert (level.cam_from_world[:, 2, 2] < -0.9).all()  # they look down


def judged(w: World, scene: Scene, gps_sigma_m: float = 2.0):
    place = {n: i for i, n in enumerate(w.scene.photos)}
    rows = [place[n] for n in scene.photos]
    e = w.evidence(gps_sigma_m)
    some = Evidence(
        tuple(rows), tuple(w.xy[r] for r in rows), e.gps[rows], e.gps_sigma[rows], e.noise_px[rows],
        e.cameras, e.time_s[rows],
    )  # fmt: skip
    return judge(scene, some, w.matches(), w.photos)


def test_a_good_model_passes_every_gate(block):
    verdict = judged(block, block.scene)
    assert verdict.passed, verdict.failures
    assert verdict.failures == ""


def test_a_model_sixty_metres_off_fails(block):
    off = block.scene.transformed(moved(1.0, (0, 0, 0), (60.0, 0.0, 0.0)))
    verdict = judged(block, off)
    assert not verdict.passed
    assert "GPS residual" in verdict.failures


def test_a_turned_model_fails(block):
    middle = block.scene.centres.mean(axis=0)
    turn = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    turned = block.scene.transformed(Similarity(1.0, turn, middle - turn @ middle))
    assert "GPS residual" in judged(block, turned).failures


def test_a_bent_model_fails(block):
    """Half of the photos swung away, and the points that the halves share with them: the matches across are not explained."""
    s = block.scene
    swung = s.transformed(moved(1.0, (0.0, 0.0, 25.0), (0.0, 0.0, 0.0)))
    half = np.arange(block.photos) >= block.photos // 2
    centres = np.where(half[:, None], swung.centres, s.centres)
    rotations = np.where(half[:, None, None], swung.cam_from_world, s.cam_from_world)
    bent = replace(s, centres=centres, cam_from_world=rotations)
    assert not judged(block, bent).passed


def test_a_hovering_drone_does_not_fail_a_good_model(block):
    """Thirty more photos at one place share more matches than the whole survey, and no model can make points of them."""
    s, e, of, more = block.scene, block.evidence(2.0), 13, 30
    rows = np.concatenate([np.arange(block.photos), np.full(more, of)])
    rng = np.random.default_rng(4)
    xy = (*block.xy, *(block.xy[of] + rng.normal(20.0, 1.0, block.xy[of].shape) for _ in range(more)))
    scene = replace(
        s, photos=(*s.photos, *(f"q{i:03d}" for i in range(more))), camera_of=s.camera_of[rows], centres=s.centres[rows],
        cam_from_world=s.cam_from_world[rows], velocities=s.velocities[rows], turned=s.turned[rows],
    )  # fmt: skip
    evidence = Evidence(
        tuple(range(len(rows))), xy, e.gps[rows], e.gps_sigma[rows], e.noise_px[rows], e.cameras, e.time_s[rows]
    )
    each = np.repeat(np.arange(len(block.xy[of]), dtype=np.int32), 2).reshape(-1, 2)
    there = [of, *range(block.photos, len(rows))]
    hover = [PairMatches(i, j, each, 2, *[np.eye(3)] * 3) for i, j in itertools.combinations(there, 2)]
    assert sum(len(m.features) for m in hover) > sum(len(m.features) for m in block.matches())
    verdict = judge(scene, evidence, [*block.matches(), *hover], len(rows))
    assert verdict.passed, verdict.failures
    assert "matches explained" in judge(scene, evidence, hover, len(rows)).failures  # nothing else speaks for it


def test_a_submodel_without_a_model_is_told_with_what_to_do():
    assert "photos placed together 0 (limit 2): " in nothing_mapped().failures
    assert "fly them again with more overlap" in nothing_mapped().failures


def test_too_few_photos_fail(block):
    assert "share of photos placed" in judged(block, part(block.scene, range(16))).failures
