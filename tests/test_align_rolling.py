"""Rolling shutters: one readout time a camera, velocities from places and times, on synthetic blocks with known truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from align_world import World, shaken, world
from passel.align.block import Cameras
from passel.align.tracks import build_tracks
from passel.align.triangulate import triangulate
from passel.align.velocity import velocities
from passel.align.whole import adjust_whole, reprojection_errors
from passel.geo.frames import Frame
from passel.geo.similarity import Similarity, fit_similarity
from passel.reconstruct.scene import Scene, load_views, project, save_views, views_in_map
from passel.surface.camera import centre_seeing, packed, project_all

READOUT_S = 0.03


@pytest.fixture(scope="module")
def rolling() -> World:
    return world(readout_s=READOUT_S, speed_m_s=10.0, strips=4, along=6)


def miss_m(scene: Scene, truth: Scene) -> float:
    b_from_a = fit_similarity(scene.centres, truth.centres)
    return float(np.sqrt(((b_from_a.apply(scene.centres) - truth.centres) ** 2).sum(axis=1).mean()))


def test_the_readout_is_found_and_the_block_keeps_its_shape(rolling):
    start, matches = shaken(rolling.scene), rolling.matches()
    without, plain = adjust_whole(start, rolling.evidence(0.05), matches)
    scene, facts = adjust_whole(start, rolling.evidence(0.05, readout_s=0.0), matches)
    assert without.cameras[0].readout_s == pytest.approx(0.0, abs=1e-5)
    assert scene.cameras[0].readout_s == pytest.approx(READOUT_S, abs=0.005)
    assert facts.reprojection_px < plain.reprojection_px
    assert miss_m(scene, rolling.scene) < 0.05
    assert np.abs(scene.centres - rolling.scene.centres)[:, 2].max() < 0.08


def test_a_measured_readout_holds(rolling):
    told = rolling.evidence(2.0, readout_s=READOUT_S)
    scene, _ = adjust_whole(shaken(rolling.scene), told, rolling.matches())
    assert scene.cameras[0].readout_s == pytest.approx(READOUT_S, abs=0.003)


def test_a_global_shutter_has_no_readout():
    w = world(speed_m_s=10.0, strips=4, along=6)
    without, _ = adjust_whole(shaken(w.scene), w.evidence(0.05), w.matches())
    scene, _ = adjust_whole(shaken(w.scene), w.evidence(0.05, readout_s=0.0), w.matches())
    assert abs(scene.cameras[0].readout_s) < 0.004
    assert np.abs(scene.centres - without.centres).max() < 0.03


def test_without_times_nothing_changes(rolling):
    blind = replace(rolling.evidence(0.3, readout_s=0.0), time_s=np.full(rolling.photos, np.nan))
    scene, _ = adjust_whole(shaken(rolling.scene), blind, rolling.matches())
    plain, _ = adjust_whole(shaken(rolling.scene), rolling.evidence(0.3), rolling.matches())
    assert scene.cameras[0].readout_s == 0.0
    assert np.abs(scene.centres - plain.centres).max() < 1e-6


def test_tracks_and_points_of_moving_cameras_are_exact():
    w = world(readout_s=0.06, speed_m_s=15.0, noise_px=0.0)
    cameras = Cameras.of_scene(w.scene)
    tracks = build_tracks(cameras, w.matches(), {i: i for i in range(w.photos)}, w.xy, reach_px=0.1)
    still = build_tracks(replace(cameras, velocities=0 * cameras.velocities), w.matches(),
                         {i: i for i in range(w.photos)}, w.xy, reach_px=0.1)  # fmt: skip
    assert len(still) > 1.5 * len(tracks)  # in pieces
    found = triangulate(cameras, tracks, 0.1)
    assert len(found.points) > 0.9 * len(tracks)
    assert found.error.max() < 0.01
    assert reprojection_errors(w.scene).max() < 0.01


def straight(n: int, speed_m_s: float = 5.0, every_s: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """Centres east along a strip and whole seconds."""
    t = np.arange(n) * every_s
    return np.column_stack([t * speed_m_s, np.zeros(n), np.full(n, 50.0)]), np.floor(t)


def cameras_at(centres: np.ndarray) -> Cameras:
    """One camera, axes those of the world."""
    one = Cameras.of_scene(world(strips=1, along=2, points=50).scene)
    n = len(centres)
    return replace(
        one, of_photo=np.zeros(n, np.int32), rotations=np.repeat(np.eye(3)[None], n, axis=0), centres=centres,
        velocities=np.zeros((n, 3)),
    )  # fmt: skip


def test_velocities_on_a_strip_do_not_follow_the_clocks_whole_seconds():
    centres, t = straight(12, every_s=2.4)
    np.testing.assert_allclose(velocities(cameras_at(centres), t)[3:-3], np.tile([5.0, 0, 0], (6, 1)), atol=0.5)


def test_the_ends_of_strips_keep_their_strips_velocity():
    there, t = straight(5)
    back = there[::-1] * (1, 1, 1) + (0, 30, 0)
    v = velocities(cameras_at(np.concatenate([there, back])), np.concatenate([t, t + t[-1] + 9.0]))
    np.testing.assert_allclose(v[:5], np.tile([5.0, 0, 0], (5, 1)), atol=1e-9)
    np.testing.assert_allclose(v[5:], np.tile([-5.0, 0, 0], (5, 1)), atol=1e-9)


def test_who_hovers_pauses_or_tells_no_time_stands_still():
    centres, t = straight(8)
    hover = np.random.default_rng(0).normal(0, 0.02, (12, 3))
    assert np.abs(velocities(cameras_at(hover), np.arange(12.0))).max() < 0.05
    paused = t + np.where(np.arange(8) >= 4, 600.0, 0.0)  # a change of battery
    assert np.linalg.norm(velocities(cameras_at(centres), paused), axis=1) == pytest.approx(5.0)
    assert not velocities(cameras_at(centres), np.full(8, np.nan)).any()
    some = np.where(np.arange(8) == 3, np.nan, t)
    assert not velocities(cameras_at(centres), some)[3].any()
    assert not velocities(cameras_at(centres[:2]), t[:2]).any()
    assert np.isfinite(velocities(cameras_at(centres), np.zeros(8))).all()  # a clock that stands


def test_a_scene_keeps_its_velocities_and_older_files_load(rolling, tmp_path):
    rolling.scene.save(tmp_path)
    loaded = Scene.load(tmp_path)
    assert np.array_equal(loaded.velocities, rolling.scene.velocities)
    assert loaded.cameras[0].readout_s == READOUT_S
    moved = loaded.transformed(Similarity(2.0, np.diag([-1.0, -1.0, 1.0]), np.ones(3)))
    assert np.array_equal(moved.velocities, 2.0 * loaded.velocities)  # in the camera's own frame
    assert reprojection_errors(moved) == pytest.approx(reprojection_errors(loaded), abs=1e-6)
    with np.load(tmp_path / "scene.npz") as d:
        np.savez(tmp_path / "scene.npz", **{k: d[k] for k in d if k not in ("velocities", "turned")})
    assert not Scene.load(tmp_path).velocities.any()


def test_the_surface_sees_through_the_same_camera(tmp_path):
    w = world(strips=2, along=3, readout_s=0.05, speed_m_s=12.0)
    frame = Frame((46.8, -92.0), 200.0, 32615, (500_000.0, 5_180_000.0))
    save_views(views_in_map(w.scene, frame), tmp_path / "views")
    views = load_views(tmp_path / "views")
    points = w.scene.points[:300]
    xyz = frame.map_from_world(points)
    for k, view in enumerate(views):
        truth = project(
            w.scene.cameras[0], (points - w.scene.centres[k]) @ w.scene.cam_from_world[k].T, w.scene.velocities[k]
        )
        seen = ((truth > 0) & (truth < (2000, 1500))).all(axis=1)
        # Views are linear in the map about the nadir; 0.02 px is what that costs.
        np.testing.assert_allclose(project_all(packed(view), xyz)[seen] + 0.5, truth[seen], atol=0.05)


def test_a_plane_serves_other_heights_when_seen_from_where_its_row_was_exposed():
    """Matching moves points along the line to the camera's nadir instead of projecting them: the nadir at that row's exposure."""
    w = world(strips=1, along=2, readout_s=0.05, speed_m_s=12.0)
    frame = Frame((46.8, -92.0), 200.0, 32615, (500_000.0, 5_180_000.0))
    view = views_in_map(w.scene, frame)[0]
    p = packed(view)
    for dx, dy in ((0.0, 0.0), (20.0, 15.0), (-25.0, 5.0), (5.0, -18.0)):
        high = view.centre + np.array([dx, dy, -70.0])
        centre = centre_seeing(view, high)
        on_plane = centre + (high - centre) * (80.0 / 70.0) + (0.0, 0.0, (centre - view.centre)[2] * (1 - 80.0 / 70.0))
        np.testing.assert_allclose(project_all(p, on_plane[None]), project_all(p, high[None]), atol=0.05)
