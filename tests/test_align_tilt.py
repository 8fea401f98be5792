"""Tilt by GPS heights weighed against the cameras' angles: flights with known truth, many seeds. Metres and degrees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from align_world import CAMERA, DOWN, shaken, world
from passel.align.tilt import MOST_MOUNTS, _mounts, set_level, tilt_by_angles, tilt_by_gps
from passel.align.upright import set_upright
from passel.align.whole import adjust_whole
from passel.demo.flight import DemoSettings, rotation_from_angles, truth_frame
from passel.demo.truth import DemoTruth
from passel.geo.frames import Frame
from passel.geo.similarity import Similarity, fit_similarity
from passel.reconstruct.scene import Scene
from passel.survey.model import SHAPELESS_M, Photo, Survey

MOUNT_DEG = 0.7
GPS_M, RTK_M = (5.0, 5.0, 10.0), (0.03, 0.03, 0.05)


@dataclass(frozen=True)
class Flight:
    """truth: upright. placed: as GPS alone turns it, or as `tilted` says. gps, sigma, told (up in the cameras by the gimbal): (n, 3)."""

    truth: Scene
    placed: Scene
    gps: np.ndarray
    sigma: np.ndarray
    told: np.ndarray
    time_s: np.ndarray

    def levelled(self) -> tuple[Scene, float]:
        return set_level(self.placed, self.gps, self.sigma, self.told, self.time_s)

    def off_deg(self, scene: Scene) -> np.ndarray:
        """(2,) by how much the scene leans east and north."""
        up = (scene.cam_from_world[0].T @ self.truth.cam_from_world[0])[:, 2]
        return np.degrees(up[:2])


def flight(
    strips: int, per: int, seed: int, across_m: float = 40.0, noise_m: tuple[float, float] = (1.0, 2.0), wander_m: float = 0.0,
    claimed: tuple[float, float, float] = GPS_M, to_and_fro: bool = True, level_deg: float = 0.1,
) -> Flight:  # fmt: skip
    """Strips `across_m` apart, a photo every 20 m and 2.7 s. The gimbal tells what it believes: the camera sits askew in it by 0.7°, is
    off by 0.5° in each photo, and the gimbal's idea of level by `level_deg`. wander_m: of GPS heights over a quarter of an hour."""
    rng = np.random.default_rng([seed, strips, per])
    n = strips * per
    strip, step = np.divmod(np.arange(n), per)
    odd = strip % 2 == 1
    centres = np.column_stack([across_m * strip, 20.0 * np.where(odd, per - 1 - step, step), np.full(n, 80.0)])
    centres += rng.normal(0, 1.0, (n, 3))
    yaw = np.radians(14.0 + 180.0 * (odd & to_and_fro) + rng.normal(0, 2, n))
    heading = Rotation.from_rotvec(
        np.outer(yaw, [0, 0, 1])
    ).as_matrix()  # world to one that the yaw's direction is north of
    believed = Rotation.from_rotvec(rng.normal(0, np.radians(1.0), (n, 3)) * (1, 1, 0)).as_matrix() @ DOWN @ heading
    askew = rng.normal(size=2)
    askew = np.radians(MOUNT_DEG) * np.array([*askew / np.linalg.norm(askew), 0.0])
    off = Rotation.from_rotvec(askew + np.radians(0.5) * rng.normal(size=(n, 3)) * (1, 1, 0)).as_matrix()
    up = np.array([*np.radians(level_deg) * rng.normal(size=2), 1.0])
    time_s = 2.7 * np.arange(n) + 6.0 * strip
    gps = centres + rng.normal(size=(n, 3)) * (noise_m[0], noise_m[0], noise_m[1])
    gps[:, 2] += wander_m * _wandering(time_s, rng)
    none = np.zeros(0, np.int32)
    truth = Scene(
        (CAMERA,), tuple(f"p{i:04d}" for i in range(n)), np.zeros(n, np.int32), off @ believed, centres,
        np.zeros((0, 3)), none, none, np.zeros((0, 2), np.float32), none,
    )  # fmt: skip
    sigma, told = np.tile(claimed, (n, 1)), believed @ (up / np.linalg.norm(up))
    placed = set_upright(truth, gps, sigma, told) if strips == 1 else truth.transformed(fit_similarity(centres, gps))
    return Flight(truth, placed, gps, sigma, told, time_s)


def _wandering(time_s: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    alike = np.exp(-np.diff(time_s) / 900.0)
    out = rng.normal(size=len(time_s))
    for i, a in enumerate(alike):
        out[i + 1] = a * out[i] + np.sqrt(1 - a * a) * out[i + 1]
    return out


def rms_deg(seeds: int, strips: int, per: int, **how) -> tuple[float, float]:
    """Tilt before and after, RMS over the seeds."""
    off = []
    for seed in range(seeds):
        f = flight(strips, per, seed, **how)
        off.append([f.off_deg(f.placed), f.off_deg(f.levelled()[0])])
    before, after = np.sqrt((np.array(off) ** 2).sum(axis=2).mean(axis=0))
    return float(before), float(after)


def up_in_cameras(angles_deg: Sequence[tuple[float, float, float]]) -> np.ndarray:
    """(n, 3) as a survey makes it of yaw, pitch and roll."""
    photos = tuple(Photo(f"p{i}", "", "", 0, "c", None, "", *a, None, 0.0) for i, a in enumerate(angles_deg))
    return Survey(photos, (), Frame.local(), (5.0, 10.0), ()).up_in_camera()


def test_ups_are_those_of_the_drone_convention():
    """Also beyond the nadir, where some gimbals tell the opposite yaw and 180° of roll."""
    angles = [
        (20.0, -90.0, 0.0),
        (0.0, -88.0, 3.0),
        (200.0, -89.0, 180.0),
        (20.0, -91.0, 0.0),
        (75.0, -60.0, -4.0),
        (40.0, -25.0, 1.0),
    ]
    up = up_in_cameras(angles)
    np.testing.assert_allclose(up, [rotation_from_angles(*a)[:, 2] for a in angles], atol=1e-12)
    np.testing.assert_allclose(up[2], up[3], atol=1e-12)  # one pose in both words
    assert np.isnan(up_in_cameras([(0.0, -5.0, 2.0)])).all()  # a body's angles


@pytest.mark.parametrize(
    ("strips", "per", "how", "share", "limit_deg"),
    [
        (4, 5, {}, 0.35, 0.3),
        (6, 10, {}, 0.7, 0.25),
        (6, 10, {"wander_m": 3.0}, 0.6, 0.3),
        (2, 10, {"across_m": 25.0}, 0.2, 0.35),
        (1, 12, {}, 0.95, 0.9),  # the mount's roll is not to be seen in a single line
        (6, 10, {"to_and_fro": False}, 1.0, 0.5),  # nor in photos of one heading
        (2, 10, {"to_and_fro": False}, 0.6, 0.9),
    ],
)
def test_small_blocks_and_lines_stand_straighter(strips, per, how, share, limit_deg):
    before, after = rms_deg(40, strips, per, **how)
    assert after <= share * before
    assert after <= limit_deg


def test_the_demo_stands_straighter():
    """The flights of `passel demo`, whose angles are made as a gimbal makes them, and not by this file."""
    off = []
    for seed in range(1, 13):
        shots = DemoTruth.of(DemoSettings(seed=seed)).shots
        told = up_in_cameras([s.noted_angles_deg for s in shots])
        f = flight(7, 10, seed)
        gps = truth_frame(DemoSettings()).world_from_geographic(np.array([s.noted for s in shots]))
        centres = np.array([s.centre for s in shots])
        truth = replace(f.truth, cam_from_world=np.array([s.cam_from_world for s in shots]), centres=centres)
        placed, seconds = truth.transformed(fit_similarity(centres, gps)), np.array([s.seconds for s in shots])
        f = Flight(truth, placed, gps, f.sigma, told, seconds)
        off.append([f.off_deg(f.placed), f.off_deg(f.levelled()[0])])
    before, after = np.sqrt((np.array(off) ** 2).sum(axis=2).mean(axis=0))
    assert after < 0.7 * before


def test_a_large_block_loses_nothing():
    before, after = rms_deg(5, 20, 25)
    assert after <= before + 0.03  # where GPS heights do not wander at all
    before, after = rms_deg(5, 20, 25, wander_m=3.0)
    assert after <= 0.95 * before


@pytest.mark.parametrize(("strips", "per", "claimed"), [(6, 10, RTK_M), (4, 5, RTK_M), (6, 10, GPS_M)])
def test_positions_of_centimetres_are_left_alone(strips, per, claimed):
    """Also where they do not claim to be so good."""
    for seed in range(5):
        f = flight(strips, per, seed, noise_m=(0.02, 0.03), claimed=claimed)
        scene, turned_deg = f.levelled()
        assert scene is f.placed
        assert turned_deg == 0.0


def test_a_few_sure_heights_are_enough():
    """Every third photo has RTK heights, the others none to believe: nothing for the angles to add, wherever the middle of all lies."""
    f = flight(6, 10, 7, noise_m=(0.02, 0.03))
    sure = np.arange(60) % 3 == 0
    gps, sigma = f.gps.copy(), np.where(sure[:, None], RTK_M, (5.0, 5.0, SHAPELESS_M))
    gps[~sure] += np.random.default_rng(7).normal((0.0, 0.0, 40.0), (1.0, 1.0, 2.0), (40, 3))
    placed = f.truth.transformed(fit_similarity(f.truth.centres[sure], gps[sure]))
    assert set_level(placed, gps, sigma, f.told, f.time_s) == (placed, 0.0)
    corner = np.arange(60) < 6
    sigma = np.where(corner[:, None], (0.5, 0.5, 1.0), (5.0, 5.0, SHAPELESS_M))
    leaning = f.truth.transformed(Similarity(1.0, Rotation.from_rotvec([0.0, 0.02, 0]).as_matrix(), np.zeros(3)))
    scene, turned_deg = set_level(leaning, f.gps, sigma, f.told, f.time_s)
    assert turned_deg > 0.3
    np.testing.assert_allclose(scene.centres[corner, 2].mean(), leaning.centres[corner, 2].mean(), atol=0.05)


def test_without_angles_nothing_changes():
    f = flight(4, 5, 1)
    for told in (np.full_like(f.told, np.nan), np.where(np.arange(20)[:, None] < 15, np.nan, f.told)):
        assert set_level(f.placed, f.gps, f.sigma, told, f.time_s) == (f.placed, 0.0)
    nowhere = np.full_like(f.gps, np.nan)
    assert set_level(f.placed, nowhere, nowhere, f.told, f.time_s) == (f.placed, 0.0)


def test_some_wrong_and_missing_angles_do_little():
    f = flight(6, 10, 3)
    right = f.off_deg(f.levelled()[0])
    told = f.told.copy()
    told[5:50:9] = Rotation.from_rotvec([0.3, -0.2, 0.0]).apply(told[5:50:9])
    told[2:50:9] = np.nan
    scene, _ = set_level(f.placed, f.gps, f.sigma, told, f.time_s)
    np.testing.assert_allclose(f.off_deg(scene), right, atol=0.1)


def test_a_zoom_lens_that_makes_a_camera_of_each_photo():
    f = flight(6, 10, 3)
    zoomed = replace(f.placed, cameras=f.placed.cameras * 60, camera_of=np.arange(60, dtype=np.int32))
    assert len(np.unique(_mounts(zoomed.camera_of.astype(np.int64)))) == MOST_MOUNTS + 1
    np.testing.assert_allclose(f.off_deg(replace(f, placed=zoomed).levelled()[0]), f.off_deg(f.levelled()[0]), atol=0.1)


def test_the_same_flight_without_clocks():
    f = flight(6, 10, 3)
    scene, _ = set_level(f.placed, f.gps, f.sigma, f.told, np.full(60, np.nan))
    np.testing.assert_allclose(f.off_deg(scene), f.off_deg(f.levelled()[0]), atol=0.05)


def test_set_points_tell_as_much_as_their_scatter_allows():
    """All photos tell -90, 0; the cameras lean by a degree, alike in their own frame, as brighton_beach's do."""
    f = flight(6, 10, 5)
    told = np.tile([0.0, 0.0, -1.0], (60, 1))
    estimate = tilt_by_angles(f.truth, told, f.time_s)
    assert estimate is not None
    sigma = np.degrees(np.sqrt(np.diag(estimate.covariance)))
    assert (np.abs(np.degrees(estimate.turn)) < 3.0 * sigma).all()
    assert (sigma < 0.3).all()


def test_two_sources_that_contradict_each_other_leave_it_to_gps():
    f = flight(6, 10, 2)
    lean = Rotation.from_rotvec(np.radians([6.0, 0.0, 0.0])).as_matrix()
    told = np.einsum("nij,j->ni", f.truth.cam_from_world, lean[:, 2])
    assert set_level(f.placed, f.gps, f.sigma, told, f.time_s) == (f.placed, 0.0)


def test_altitudes_that_are_not_believed_leave_the_tilt_to_the_angles():
    """A block that was set upright by the mean of the angles stands straighter once the mount is known."""
    f = flight(6, 10, 4)
    gps = f.gps + np.outer(np.linspace(0, 40, 60), [0, 0, 1])
    sigma = np.tile([5.0, 5.0, SHAPELESS_M], (60, 1))
    leaning = f.truth.transformed(Similarity(1.0, Rotation.from_rotvec([0.012, -0.01, 0]).as_matrix(), np.zeros(3)))
    scene, _ = set_level(leaning, gps, sigma, f.told, f.time_s)
    assert np.hypot(*f.off_deg(scene)) < 0.4


@pytest.mark.parametrize("photos", [2, 3, 5])
def test_a_handful_of_photos(photos):
    f = flight(1, 12, 6)
    some = slice(photos)
    few = replace(
        f.truth, photos=f.truth.photos[some], camera_of=f.truth.camera_of[some], centres=f.truth.centres[some],
        cam_from_world=f.truth.cam_from_world[some], velocities=f.truth.velocities[some], turned=f.truth.turned[some],
    )  # fmt: skip
    scene, turned_deg = set_level(few, f.gps[some], f.sigma[some], f.told[some], f.time_s[some])
    assert np.isfinite(scene.centres).all()
    assert turned_deg < 2.0
    np.testing.assert_allclose(scene.centres.mean(axis=0), few.centres.mean(axis=0), atol=1e-9)


def test_what_gps_claims_of_the_tilt_is_what_it_is_worth():
    """Errors over their sigmas, of many flights, are of size one."""
    ratios = []
    for seed in range(30):
        f = flight(6, 10, seed, wander_m=1.0)
        estimate = tilt_by_gps(f.truth, f.gps, f.sigma, f.time_s)
        assert estimate is not None
        ratios.append(estimate.turn / np.sqrt(np.diag(estimate.covariance)))
    assert 0.7 < np.sqrt(np.mean(np.square(ratios))) < 1.3


def test_after_the_one_adjustment():
    """From photos' points on: the block that 2 m of GPS height noise tilts is set upright; its shape does not change."""
    w = world(strips=3, along=4)
    askew = Rotation.from_rotvec(np.radians([0.5, -0.5, 0.0])).as_matrix()
    before, after = [], []
    for seed in range(3):
        evidence = w.evidence(gps_sigma_m=2.0, seed=seed)
        found, _ = adjust_whole(shaken(w.scene, turn_rad=0.02), evidence, w.matches())
        rows = [w.scene.photos.index(n) for n in found.photos]
        truth = w.scene.cam_from_world[rows]
        sigma, told = evidence.gps_sigma[rows] * 5.0, truth[:, :, 2] @ askew.T
        scene, _ = set_level(found, evidence.gps[rows], sigma, told, w.time_s[rows])
        for s, off in ((found, before), (scene, after)):
            off.append(np.degrees((s.cam_from_world.transpose(0, 2, 1) @ truth)[:, :2, 2]).mean(axis=0))
        steps = [np.linalg.norm(np.diff(s.centres, axis=0), axis=1) for s in (scene, found)]
        np.testing.assert_allclose(*steps, rtol=1e-9)
    assert np.sqrt(np.square(after).mean()) < 0.4 * np.sqrt(np.square(before).mean())
