"""The adjustment on synthetic blocks with known truth. Metres, degrees and pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from align_world import CAMERA, World, angles_deg, shaken, world
from passel.align import adjust as solver
from passel.align import normal_equations as kernels
from passel.align.adjust import Priors, adjust
from passel.align.block import Cameras, tracks_of_scene
from passel.align.projection import pack, to_pixel_with_derivatives, to_ray, unpack
from passel.align.whole import Evidence, adjust_whole, reprojection_errors
from passel.errors import ReconstructionError
from passel.geo.similarity import fit_similarity
from passel.reconstruct.scene import project


@pytest.fixture(scope="module")
def block() -> World:
    return world()


def priors_of(w: World, gps_sigma_m: float = 0.3) -> Priors:
    rng = np.random.default_rng(4)
    gps = w.scene.centres + rng.normal(0, gps_sigma_m, w.scene.centres.shape)
    rows = np.array([pack(c) for c in w.scene.cameras])
    sigma = np.tile([60, 30, 30, 0.2, 0.2, 0.2, 0.01, 0.01, 0.03], (len(rows), 1))
    return Priors(gps, np.full(gps.shape, gps_sigma_m), rows, sigma, np.ones_like(rows))


def test_the_kernels_project_as_the_scene_does():
    xyz = np.random.default_rng(0).uniform((-30, -20, 60), (30, 20, 90), (50, 3))
    jq, ji = np.empty((2, 3)), np.empty((2, 9))
    seen = np.array([to_pixel_with_derivatives(pack(CAMERA), 1.0, np.zeros(3), q, jq, ji) for q in xyz])
    np.testing.assert_allclose(seen, project(CAMERA, xyz), atol=1e-9)
    rays = np.array([to_ray(pack(CAMERA), 1.0, u, v) for u, v in seen])
    np.testing.assert_allclose(rays, xyz[:, :2] / xyz[:, 2:], atol=1e-7)
    assert unpack(CAMERA, pack(CAMERA)) == CAMERA


def test_derivatives_agree_with_differences():
    row, aspect, q = pack(CAMERA), 1.02, np.array([21.0, -14.0, 70.0])
    jq, ji, scrap_q, scrap_i = np.empty((2, 3)), np.empty((2, 9)), np.empty((2, 3)), np.empty((2, 9))
    row[8], velocity = 0.06, np.array([6.0, -9.0, 4.0])
    to_pixel_with_derivatives(row, aspect, velocity, q, jq, ji)

    def pixel(r, x):
        return np.array(to_pixel_with_derivatives(r, aspect, velocity, x, scrap_q, scrap_i))

    for k in range(3):
        e = np.eye(3)[k] * 1e-4
        np.testing.assert_allclose((pixel(row, q + e) - pixel(row, q - e)) / 2e-4, jq[:, k], rtol=1e-6, atol=1e-6)
    for k in range(9):
        e = np.eye(9)[k] * 1e-5
        np.testing.assert_allclose((pixel(row + e, q) - pixel(row - e, q)) / 2e-5, ji[:, k], rtol=1e-5, atol=1e-5)


def test_the_gradient_is_that_of_the_cost():
    """The reduced gradient, with points moved to their own optimum, is the slope of the cost along a pose."""
    w = world(strips=2, along=3, points=200)
    s = w.scene
    cameras, tracks, priors = Cameras.of_scene(s), tracks_of_scene(s), priors_of(w)
    best = adjust(cameras, s.points, tracks, priors, 2.0, tolerance=1e-9)
    again = solver._cost(best.cameras, best.points, tracks, priors, 2.0)
    assert again == pytest.approx(best.cost_after, rel=1e-12)
    for photo in range(w.photos):
        for axis in range(3):
            for sign in (-1.0, 1.0):
                moved = best.cameras.centres.copy()
                moved[photo, axis] += sign * 0.02
                assert solver._cost(replace(best.cameras, centres=moved), best.points, tracks, priors, 2.0) > again


def test_a_step_that_rounding_makes_unsolvable_is_damped(monkeypatch: pytest.MonkeyPatch):
    w = world(strips=2, along=3, points=200)
    cameras, tracks, priors = Cameras.of_scene(w.scene), tracks_of_scene(w.scene), priors_of(w)
    undisturbed = adjust(cameras, w.scene.points, tracks, priors, 2.0, tolerance=1e-9)
    solve, least = solver._solve, [1e-3]

    def stubborn(*system):
        if system[-1] < least[0]:
            raise np.linalg.LinAlgError("the normal equations are not positive definite")
        least[0] = 0.0
        return solve(*system)

    monkeypatch.setattr(solver, "_solve", stubborn)
    damped = adjust(cameras, w.scene.points, tracks, priors, 2.0, tolerance=1e-9)
    np.testing.assert_allclose(damped.cameras.centres, undisturbed.cameras.centres, atol=1e-5)
    least[0] = np.inf
    with pytest.raises(np.linalg.LinAlgError):
        adjust(cameras, w.scene.points, tracks, priors, 2.0)


def test_the_solution_by_panels_is_the_dense_one():
    w = world(strips=3, along=4, points=400, cameras=2)
    s = w.scene
    cameras, tracks, n, c = Cameras.of_scene(s), tracks_of_scene(s), w.photos, 2
    pattern = solver._pattern(tracks, n)
    blocks = np.zeros((len(pattern.column), 6, 6))
    border, corner = np.zeros((n, c, 6, 9)), np.zeros((c, c, 9, 9))
    g_pose, g_camera = np.zeros((n, 6)), np.zeros((c, 9))
    kernels.reduce(
        cameras.rows, cameras.aspect, cameras.of_photo, cameras.rotations, cameras.centres, cameras.velocities, s.points,
        tracks.start, tracks.photo, tracks.xy, 2.0, 1e-6, pattern.start, pattern.column,
        blocks, border, corner, g_pose, g_camera, int(np.diff(tracks.start).max()),
    )  # fmt: skip
    blocks[pattern.start[:-1], 3:, 3:] += solver._add_priors(cameras, priors_of(w), g_pose, corner, g_camera)
    d_pose, d_camera = solver._solve(blocks, border, corner, g_pose, g_camera, pattern, 1e-6)
    size = 6 * n + 9 * c
    full = np.zeros((size, size))
    for i in range(n):
        for at in range(pattern.start[i], pattern.start[i + 1]):
            j = pattern.column[at]
            full[6 * i : 6 * i + 6, 6 * j : 6 * j + 6] = blocks[at]
            full[6 * j : 6 * j + 6, 6 * i : 6 * i + 6] = blocks[at].T
            if i == j:
                full[6 * i : 6 * i + 6, 6 * i : 6 * i + 6] = (blocks[at] + blocks[at].T) / 2
        full[6 * i : 6 * i + 6, 6 * n :] = border[i].transpose(1, 0, 2).reshape(6, 9 * c)
        full[6 * n :, 6 * i : 6 * i + 6] = full[6 * i : 6 * i + 6, 6 * n :].T
    full[6 * n :, 6 * n :] = corner.transpose(0, 2, 1, 3).reshape(9 * c, 9 * c)
    diagonal = np.diag_indices(size)
    full[diagonal] *= 1 + 1e-6
    full[diagonal[0][: 6 * n], diagonal[1][: 6 * n]] += 1e-9
    unit = 1.0 / np.sqrt(np.diag(full))
    right = np.concatenate([g_pose.ravel(), g_camera.ravel()])
    dense = -np.linalg.solve(full * np.outer(unit, unit), right * unit) * unit
    np.testing.assert_allclose(d_pose.ravel(), dense[: 6 * n], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(d_camera.ravel(), dense[6 * n :], rtol=1e-4, atol=1e-7)


def test_the_truth_is_found_from_a_rough_start(block):
    scene, facts = adjust_whole(shaken(block.scene, focal=1.02), block.evidence(0.3), block.matches())
    truth = block.scene
    assert scene.photos == truth.photos
    assert facts.dropped == ()
    b_from_a = fit_similarity(scene.centres, truth.centres)
    assert (
        np.sqrt(((b_from_a.apply(scene.centres) - truth.centres) ** 2).sum(axis=1).mean()) < 0.06
    )  # 1.1 pixels on the ground
    assert angles_deg(scene.cam_from_world @ b_from_a.rotation.T, truth.cam_from_world).max() < 0.08
    assert abs(scene.cameras[0].cx - CAMERA.cx) < 3.0
    assert abs(scene.cameras[0].k1 - CAMERA.k1) < 0.005
    # In the world itself 20 photos with 0.3 m GPS fix the place to 0.07 m.
    assert np.abs((scene.centres - truth.centres).mean(axis=0)).max() < 0.25
    assert facts.reprojection_px < 0.75
    assert facts.iterations < 40


def test_focal_length_over_flat_ground_is_held_by_its_prior_and_gps():
    """Nothing in the photos tells focal length from height over a plain: the priors must."""
    flat = world(relief_m=0.05)
    scene, _ = adjust_whole(shaken(flat.scene, focal=1.04), flat.evidence(0.3, focal=1.01), flat.matches())
    assert abs(scene.cameras[0].fx / CAMERA.fx - 1) < 0.02
    assert abs((scene.centres - flat.scene.centres)[:, 2].mean()) < 0.3


def test_a_wrong_altitude_bends_nothing(block):
    evidence = block.evidence(0.3)
    gps = evidence.gps.copy()
    gps[7, 2] += 60.0
    good, _ = adjust_whole(shaken(block.scene), evidence, block.matches())
    scene, _ = adjust_whole(shaken(block.scene), replace(evidence, gps=gps), block.matches())
    assert np.abs(scene.centres - good.centres).max() < 0.15


def test_wrong_matches_change_little(block):
    scene, facts = adjust_whole(shaken(block.scene), block.evidence(0.3), block.matches(wrong_share=0.2))
    b_from_a = fit_similarity(scene.centres, block.scene.centres)
    assert np.linalg.norm(b_from_a.apply(scene.centres) - block.scene.centres, axis=1).max() < 0.08
    assert facts.reprojection_px < 0.75


def test_the_order_of_the_matches_changes_nothing_that_counts(block):
    matches = block.matches()
    one, _ = adjust_whole(shaken(block.scene), block.evidence(0.3), matches)
    same, _ = adjust_whole(shaken(block.scene), block.evidence(0.3), matches)
    other, _ = adjust_whole(shaken(block.scene), block.evidence(0.3), matches[::-1])
    assert np.array_equal(one.centres, same.centres)
    assert np.array_equal(one.points, same.points)
    assert np.abs(one.centres - other.centres).max() < 1e-3


def test_the_start_is_forgotten(block):
    one, _ = adjust_whole(shaken(block.scene, seed=2), block.evidence(0.3), block.matches())
    two, _ = adjust_whole(shaken(block.scene, seed=9), block.evidence(0.3), block.matches())
    assert np.abs(one.centres - two.centres).max() < 0.01


def test_a_second_adjustment_goes_on_from_the_first(block):
    evidence, matches = block.evidence(0.3), block.matches()
    first, facts = adjust_whole(shaken(block.scene), evidence, matches)
    again, more = adjust_whole(first, evidence, matches, facts)
    assert more.gps_factor == facts.gps_factor
    assert more.iterations < facts.iterations
    assert np.abs(first.centres - again.centres).max() < 0.01


def test_gps_that_boasts_is_weighed_by_what_it_shows(block):
    evidence = block.evidence(2.0)
    _, facts = adjust_whole(shaken(block.scene), replace(evidence, gps_sigma=evidence.gps_sigma / 8.0), block.matches())
    assert facts.gps_sigma_used_m[0] > 0.5  # it claimed 0.25


def test_without_gps_the_block_keeps_its_place(block):
    scene, _ = adjust_whole(shaken(block.scene, shift_m=0.3), block.evidence(float("inf")), block.matches())
    b_from_a = fit_similarity(scene.centres, block.scene.centres)
    assert abs(b_from_a.scale - 1) < 0.05
    assert np.linalg.norm(b_from_a.apply(scene.centres) - block.scene.centres, axis=1).max() < 0.15


def some_of(w: World, photos: list[int]) -> tuple[World, Evidence]:
    """Only some photos, with their matches and evidence."""
    s = w.scene
    cut = replace(
        s, photos=tuple(s.photos[i] for i in photos), camera_of=s.camera_of[photos],
        cam_from_world=s.cam_from_world[photos], centres=s.centres[photos], velocities=s.velocities[photos],
    )  # fmt: skip
    small = World(cut, tuple(w.xy[i] for i in photos), tuple(w.point_of[i] for i in photos), w.time_s[photos])
    return small, small.evidence(0.3)


@pytest.mark.parametrize("photos", [[0, 1], [0, 1, 2], [0, 1, 2, 3, 4]], ids=["two", "three", "one strip"])
def test_small_blocks_stand(block, photos):
    small, evidence = some_of(block, photos)
    scene, _ = adjust_whole(shaken(small.scene, shift_m=0.2, turn_rad=0.003), evidence, small.matches())
    assert scene.photos == small.scene.photos
    assert np.isfinite(scene.centres).all()
    assert np.isfinite(scene.points).all()
    assert np.linalg.norm(scene.centres - small.scene.centres, axis=1).max() < 2.0
    assert reprojection_errors(scene).mean() < 0.8


def test_a_photo_without_features_is_dropped_and_named(block):
    xy = (np.zeros((0, 2)), *block.xy[1:])
    evidence = replace(block.evidence(0.3), xy=xy)
    matches = [m for m in block.matches() if m.first != 0]
    scene, facts = adjust_whole(shaken(block.scene), evidence, matches)
    assert facts.dropped == ("p000",)
    assert "p000" not in scene.photos
    assert len(scene.photos) == block.photos - 1


def test_photos_all_at_one_place_are_refused(block):
    """No baseline, no points: an error that says so, not a map of noise."""
    scene = replace(shaken(block.scene), centres=np.zeros_like(block.scene.centres))
    with pytest.raises(ReconstructionError):
        adjust_whole(scene, block.evidence(0.3), [])


def test_a_camera_with_one_photo_does_not_shake_the_block():
    w = world(cameras=2)
    of = np.zeros_like(w.scene.camera_of)
    keep = [i for i in range(w.photos) if w.scene.camera_of[i] == 0 or i == 7]
    of[7] = 1
    small, evidence = some_of(replace(w, scene=replace(w.scene, camera_of=of)), keep)
    scene, _ = adjust_whole(shaken(small.scene), evidence, small.matches())
    assert len(scene.photos) == len(keep)
    b_from_a = fit_similarity(scene.centres, small.scene.centres)
    assert np.linalg.norm(b_from_a.apply(scene.centres) - small.scene.centres, axis=1).max() < 1.0
    others = [k for k in range(len(keep)) if keep[k] != 7]
    assert np.linalg.norm(b_from_a.apply(scene.centres) - small.scene.centres, axis=1)[others].max() < 0.15


def test_a_photo_without_gps_is_placed_by_the_others(block):
    evidence = block.evidence(0.3)
    gps, sigma = evidence.gps.copy(), evidence.gps_sigma.copy()
    gps[3], sigma[3] = np.nan, np.nan
    scene, _ = adjust_whole(shaken(block.scene), replace(evidence, gps=gps, gps_sigma=sigma), block.matches())
    assert np.linalg.norm(scene.centres[3] - block.scene.centres[3]) < 0.4
