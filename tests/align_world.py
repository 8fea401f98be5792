"""A synthetic block as arrays, with known truth: cameras over points, their features, and the matches between photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from passel.align.camera_priors import CameraPriors, camera_priors
from passel.align.whole import Evidence
from passel.reconstruct.matches import PairMatches
from passel.reconstruct.scene import Intrinsics, Scene, project

F64 = NDArray[np.float64]
CAMERA = Intrinsics("a", 2000, 1500, 1500.0, 1500.0, 1007.0, 744.0, -0.05, 0.03, 0.001, -0.0005, 0.004)
SECOND = Intrinsics("b", 1600, 1200, 1240.0, 1240.0, 795.0, 604.0, 0.02, -0.01)
DOWN = np.diag([1.0, -1.0, -1.0])


@dataclass(frozen=True)
class World:
    """scene: the truth, observed with noise. xy: features of each photo. point_of: the true point of each feature. time_s: (n,)."""

    scene: Scene
    xy: tuple[F64, ...]
    point_of: tuple[NDArray[np.int64], ...]
    time_s: F64

    @property
    def photos(self) -> int:
        return len(self.scene.photos)

    def matches(self, wrong_share: float = 0.0, reach: int = 10**9) -> list[PairMatches]:
        """Matches of all pairs with 15 common points or more, at most `reach` photos apart by number; some of them wrong."""
        rng = np.random.default_rng(5)
        eye, made = np.eye(3), []
        for i in range(self.photos):
            for j in range(i + 1, min(self.photos, i + 1 + reach)):
                _, a, b = np.intersect1d(self.point_of[i], self.point_of[j], return_indices=True)
                if len(a) < 15:
                    continue
                bad = rng.random(len(a)) < wrong_share
                b = np.where(bad, rng.integers(0, len(self.xy[j]), len(b)), b)
                made.append(PairMatches(i, j, np.column_stack([a, b]).astype(np.int32), 2, eye, eye, eye))
        return made

    def evidence(
        self, gps_sigma_m: float = 0.5, seed: int = 3, focal: float = 1.0, readout_s: float | None = None
    ) -> Evidence:
        """GPS with noise; prior focal lengths `focal` times the truth with 5 % sigma. An infinite sigma means no GPS."""
        rng = np.random.default_rng(seed)
        s, n = self.scene, self.photos
        known = np.isfinite(gps_sigma_m)
        gps = s.centres + rng.normal(0, gps_sigma_m, (n, 3)) if known else np.full((n, 3), np.nan)
        return Evidence(
            tuple(range(n)), self.xy, gps, np.full((n, 3), gps_sigma_m if known else np.nan), np.ones(n),
            uncalibrated(s.cameras, focal, readout_s), self.time_s,
        )  # fmt: skip


def uncalibrated(cameras: Sequence[Intrinsics], focal: float, readout_s: float | None = None) -> CameraPriors:
    """What metadata tell of cameras whose true values these are: `focal` times the focal length with 5 % sigma, no distortion."""
    start = [
        Intrinsics(c.camera, c.width_px, c.height_px, focal * c.fx, focal * c.fy, c.width_px / 2, c.height_px / 2)
        for c in cameras
    ]
    return camera_priors(start, np.full(len(start), 0.05), [False] * len(start), "auto", readout_s)


def turned(rotations: F64, sigma_rad: float, seed: int) -> F64:
    rng = np.random.default_rng(seed)
    return np.array([Rotation.from_rotvec(rng.normal(0, sigma_rad, 3)).as_matrix() @ r for r in rotations])


def world(
    strips: int = 4, along: int = 5, points: int = 1500, noise_px: float = 0.5, relief_m: float = 4.0, cameras: int = 1,
    readout_s: float = 0.0, speed_m_s: float = 6.0, higher_m: float = 0.0, oblique_rad: float = 0.0,
) -> World:  # fmt: skip
    """Strips 25 m apart, photos every 18 m, 80 m above ground; tilts of a few degrees, headings to and fro.

    higher_m: of every other strip, as of a second flight. oblique_rad: by which all cameras look forward. Image rows run along the
    strips; clocks tell whole seconds.
    """
    rng = np.random.default_rng(0)
    n = strips * along
    place = np.arange(n)
    centres = np.column_stack([place % along * 18.0, place // along * 25.0, np.full(n, 80.0)])
    centres[:, 2] += higher_m * (place // along % 2)
    centres += rng.normal(0, 2, (n, 3))
    back = np.where(place // along % 2 == 1, -1.0, 1.0)  # every other strip is flown the other way
    rotations = turned(DOWN * np.column_stack([back, back, np.ones(n)])[:, :, None], 0.08, 1)
    rotations = Rotation.from_rotvec([0.0, -oblique_rad, 0.0]).as_matrix() @ rotations  # image x is forward
    low, high = centres[:, :2].min(axis=0) - 35.0, centres[:, :2].max(axis=0) + 35.0
    xyz = np.column_stack([rng.uniform(low, high, (points, 2)), rng.normal(0, relief_m, points)])
    models = tuple(replace(c, readout_s=readout_s) for c in (CAMERA, SECOND)[:cameras])
    velocities = rotations @ (speed_m_s, 0.0, 0.0) * back[:, None]
    flown = np.where(back > 0, place, place // along * along + along - 1 - place % along)
    time_s = np.floor(18.0 / speed_m_s * flown + 0.3)
    of = np.array([i % cameras for i in range(n)], np.int32)
    xy, point_of = [], []
    for i in range(n):
        model = models[of[i]]
        seen = project(model, (xyz - centres[i]) @ rotations[i].T, velocities[i])
        inside = np.flatnonzero(((seen > 0) & (seen < (model.width_px, model.height_px))).all(axis=1))
        inside = rng.permutation(inside)
        xy.append(seen[inside] + rng.normal(0, noise_px, (len(inside), 2)))
        point_of.append(inside.astype(np.int64))
    scene = replace(_scene(models, of, rotations, centres, xyz, xy, point_of), velocities=velocities)
    return World(scene, tuple(xy), tuple(point_of), time_s)


def _scene(models, of, rotations, centres, xyz, xy, point_of) -> Scene:
    photo = np.concatenate([np.full(len(p), i) for i, p in enumerate(point_of)]).astype(np.int32)
    feature = np.concatenate([np.arange(len(p)) for p in point_of]).astype(np.int32)
    point = np.concatenate(point_of)
    keep = np.bincount(point, minlength=len(xyz))[point] >= 2
    used, number = np.unique(point[keep], return_inverse=True)
    return Scene(
        models, tuple(f"p{i:03d}" for i in range(len(centres))), of, rotations, centres, xyz[used],
        number.astype(np.int32), photo[keep], np.concatenate(xy)[keep].astype(np.float32), feature[keep],
    )  # fmt: skip


def shaken(scene: Scene, shift_m: float = 0.4, turn_rad: float = 0.004, seed: int = 2, focal: float = 1.0) -> Scene:
    """The scene as a mapper might give it: poses roughly right, cameras without distortion, no points."""
    rng = np.random.default_rng(seed)
    plain = tuple(
        Intrinsics(c.camera, c.width_px, c.height_px, focal * c.fx, focal * c.fy, c.width_px / 2, c.height_px / 2)
        for c in scene.cameras
    )
    none = np.zeros(0, np.int32)
    return replace(
        scene, cameras=plain, velocities=np.zeros_like(scene.centres), cam_from_world=turned(scene.cam_from_world, turn_rad, seed),
        centres=scene.centres + rng.normal(0, shift_m, scene.centres.shape), points=np.zeros((0, 3)),
        obs_point=none, obs_photo=none, obs_xy=np.zeros((0, 2), np.float32), obs_feature=none,
    )  # fmt: skip


def angles_deg(a: F64, b: F64) -> F64:
    """(n,) angle between rotations."""
    cosine = (np.trace(a @ b.transpose(0, 2, 1), axis1=1, axis2=2) - 1) / 2
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))
