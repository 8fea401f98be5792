"""Bundle adjustment of a whole block: reprojection, GPS and camera priors together, by Levenberg-Marquardt on the reduced system.

Ours rather than Ceres: camera priors and GPS with a robust weight in one solve, the same bits whatever the machine, memory of a window
of the matrix (`block_solver`), and no conversion of millions of observations into another library's objects.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from passel.align import normal_equations as kernels
from passel.align.block import Cameras, Tracks
from passel.align.block_solver import Pattern, pattern_of, solve
from passel.align.projection import N_INTRINSICS

F64 = NDArray[np.float64]
GPS_SCALE = 3.0  # sigmas at which the Cauchy weight of a GPS position has halved
# Flat ground ties focal length to flying height in a valley 10⁶ times flatter than its walls: more damping only slows the way along it.
FIRST_DAMPING, LEAST_DAMPING, LAST_DAMPING = 1e-6, 1e-9, 1e6
MANY = 1_000_000  # observations: of more, some are looked at for a median
FINE = 3e-6  # of the flying height: a third of a millimetre at 100 m
ROUGH = 3e-5  # for rounds after which wrong observations leave and another round follows


@dataclass(frozen=True)
class Priors:
    """What is known besides the photos.

    gps, gps_sigma: (n, 3) world metres; NaN rows for photos without. rows, row_sigma: (c, 9) intrinsics and how far they may go.
    row_beyond: (c, 9) by how much a prior's weight grows for what lies beyond one sigma; 1 is a plain Gaussian.
    """

    gps: F64
    gps_sigma: F64
    rows: F64
    row_sigma: F64
    row_beyond: F64


@dataclass(frozen=True)
class Adjusted:
    """Cameras (n photos) and points (m, 3) after the adjustment, its iterations, and the cost (px²) before and after."""

    cameras: Cameras
    points: F64
    iterations: int
    cost_before: float
    cost_after: float


def adjust(
    cameras: Cameras,
    points: F64,
    tracks: Tracks,
    priors: Priors,
    scale_px: float,
    tolerance: float = FINE,
    max_iterations: int = 40,
) -> Adjusted:
    """Minimise Cauchy(reprojection / scale_px) + Cauchy(GPS) + camera priors. Deterministic; one thread.

    Ends when no photo moves by more than `tolerance` of its distance from the ground, nor turns by so many radians, nor any camera
    changes to such effect: the cost itself goes on falling for long by single outliers that slide, which moves no photo.
    """
    pattern, longest = _pattern(tracks, len(cameras.centres)), int(np.diff(tracks.start).max(initial=1))
    cost = before = _cost(cameras, points, tracks, priors, scale_px)
    distance = _distance(cameras, points, tracks)
    damping, iteration = FIRST_DAMPING, 0
    while iteration < max_iterations:
        iteration += 1
        try:
            tried, moved, step = _step(cameras, points, tracks, priors, scale_px, damping, pattern, longest)
        except np.linalg.LinAlgError:  # rounding, where hardly anything holds a photo: more damping holds it
            damping = max(damping * 10.0, FIRST_DAMPING)
            if damping >= LAST_DAMPING:
                raise
            continue
        trial = _cost(tried, moved, tracks, priors, scale_px)
        if not np.isfinite(trial) or trial > cost:
            if np.isfinite(trial) and step.largest(distance) <= tolerance:
                break
            damping = max(damping * 10.0, FIRST_DAMPING)
            if damping >= LAST_DAMPING:
                break
            continue
        cameras, points, cost = tried, moved, trial
        # A damped step is short because it is damped, not because it has arrived.
        if step.largest(distance) <= tolerance and damping <= FIRST_DAMPING:
            break
        damping = max(damping * 0.03, LEAST_DAMPING)
    return Adjusted(cameras, points, iteration, before, cost)


@dataclass(frozen=True)
class _Moved:
    """A step: turns (n,) rad and shifts (n,) m of the photos, and of each camera the relative change of its focal length."""

    turn: F64
    shift_m: F64
    focal: F64

    def largest(self, distance_m: float) -> float:
        return float(max(self.turn.max(), self.shift_m.max() / distance_m, np.abs(self.focal).max()))


def _distance(cameras: Cameras, points: F64, tracks: Tracks) -> float:
    """The median distance (m) of a photo from a point it sees."""
    some = slice(None, None, 1 + len(tracks.photo) // MANY)
    away = points[tracks.point_of_observation()[some]] - cameras.centres[tracks.photo[some]]
    return max(float(np.median(np.linalg.norm(away, axis=1))), 1e-9) if len(away) else 1.0


def _pattern(tracks: Tracks, n: int) -> Pattern:
    bits = np.zeros((n, (n + 63) // 64), np.uint64)
    bits[np.arange(n), np.arange(n) >> 6] |= np.uint64(1) << (np.arange(n) & 63).astype(np.uint64)
    kernels.mark_shared(tracks.start, tracks.photo, bits)
    columns = [np.flatnonzero(np.unpackbits(bits[i].view(np.uint8), bitorder="little"))[:n] for i in range(n)]
    columns = [c[c < n].astype(np.int64) for c in columns]
    return pattern_of(
        np.concatenate([[0], np.cumsum([len(c) for c in columns])]).astype(np.int64), np.concatenate(columns)
    )


def _cost(cameras: Cameras, points: F64, tracks: Tracks, priors: Priors, scale_px: float) -> float:
    total = kernels.robust_cost(*cameras.arrays, points, tracks.start, tracks.photo, tracks.xy, scale_px)
    squared, _ = _gps_miss(cameras, priors)
    total += 0.5 * GPS_SCALE**2 * np.log1p(squared / GPS_SCALE**2).sum()
    miss, beyond = _row_miss(cameras, priors)
    total += 0.5 * (miss**2 + (priors.row_beyond - 1.0) * beyond**2).sum()
    return float(total)


def _row_miss(cameras: Cameras, priors: Priors) -> tuple[F64, F64]:
    """(c, 9) miss of the intrinsics in sigmas, and the part of it that lies beyond one sigma."""
    miss = (cameras.rows - priors.rows) / priors.row_sigma
    return miss, np.sign(miss) * np.maximum(np.abs(miss) - 1.0, 0.0)


def _gps_miss(cameras: Cameras, priors: Priors) -> tuple[F64, F64]:
    """Squared miss in sigmas (n, 2): horizontal and vertical apart, so that a wrong altitude does not cost a good position; and (n, 3)
    miss in metres. Zero without GPS."""
    miss = np.nan_to_num(cameras.centres - priors.gps)
    scaled = np.nan_to_num(miss / priors.gps_sigma) ** 2
    return np.column_stack([scaled[:, :2].sum(axis=1), scaled[:, 2]]), miss


def _step(
    cameras: Cameras,
    points: F64,
    tracks: Tracks,
    priors: Priors,
    scale_px: float,
    damping: float,
    pattern: Pattern,
    longest: int,
) -> tuple[Cameras, F64, _Moved]:
    n, c = len(cameras.centres), len(cameras.rows)
    blocks = np.zeros((len(pattern.column), 6, 6))
    border, corner = np.zeros((n, c, 6, N_INTRINSICS)), np.zeros((c, c, N_INTRINSICS, N_INTRINSICS))
    g_pose, g_camera = np.zeros((n, 6)), np.zeros((c, N_INTRINSICS))
    now = (*cameras.arrays, points)
    seen = (tracks.start, tracks.photo, tracks.xy, scale_px, damping)
    kernels.reduce(
        *now, *seen, pattern.start, pattern.column, blocks, border, corner, g_pose, g_camera, longest
    )  # fmt: skip
    blocks[pattern.start[:-1], 3:, 3:] += _add_priors(cameras, priors, g_pose, corner, g_camera)
    d_pose, d_camera = _solve(blocks, border, corner, g_pose, g_camera, pattern, damping)
    moved = np.empty_like(points)
    kernels.move_points(*now, *seen, d_pose, d_camera, longest, moved)
    return (
        replace(
            cameras,
            rows=cameras.rows + d_camera,
            rotations=_rotated(cameras.rotations, d_pose[:, :3]),
            centres=cameras.centres + d_pose[:, 3:],
        ),
        moved,
        _Moved(
            np.linalg.norm(d_pose[:, :3], axis=1),
            np.linalg.norm(d_pose[:, 3:], axis=1),
            d_camera[:, 0] / cameras.rows[:, 0],
        ),
    )


def _add_priors(cameras: Cameras, priors: Priors, g_pose: F64, corner: F64, g_camera: F64) -> F64:
    """Add the priors' gradients, and the curvature of the cameras'; returns that of the positions, (n, 3, 3)."""
    squared, miss = _gps_miss(cameras, priors)
    robust = 1.0 / (1.0 + squared / GPS_SCALE**2)
    weight = np.nan_to_num(robust[:, [0, 0, 1]] / priors.gps_sigma**2)
    g_pose[:, 3:] += weight * miss
    row_miss, beyond = _row_miss(cameras, priors)
    steeper = priors.row_beyond - 1.0
    curvature = (1.0 + steeper * (beyond != 0)) / priors.row_sigma**2
    for k in range(len(corner)):
        corner[k, k] += np.diag(curvature[k])
    g_camera += (row_miss + steeper * beyond) / priors.row_sigma
    return np.asarray(weight[:, :, None] * np.eye(3))


def _solve(
    blocks: F64, border: F64, corner: F64, g_pose: F64, g_camera: F64, pattern: Pattern, damping: float
) -> tuple[F64, F64]:
    """Cholesky for the poses, a small dense Schur complement for the cameras."""
    from scipy.linalg import cho_factor, cho_solve  # loads long, for what few steps need

    n, c = len(g_pose), len(g_camera)
    wide = N_INTRINSICS * c
    sides = np.empty((6 * n, 1 + wide))
    sides[:, 0] = g_pose.ravel()
    sides[:, 1:] = border.transpose(0, 2, 1, 3).reshape(6 * n, wide)
    solved = solve(pattern, blocks, damping, sides)
    flat = corner.transpose(0, 2, 1, 3).reshape(wide, wide).copy()
    flat[np.diag_indices(wide)] *= 1.0 + damping
    small = flat - sides[:, 1:].T @ solved[:, 1:]
    right = g_camera.ravel() - sides[:, 1:].T @ solved[:, 0]
    # Scaled, for focal lengths (10³) and distortion terms (10⁻³) share the matrix.
    size = np.sqrt(np.maximum(np.diag(small), 1e-30))
    d_camera = -cho_solve(cho_factor(small / np.outer(size, size) + 1e-13 * np.eye(wide)), right / size) / size
    d_pose = -(solved[:, 0] + solved[:, 1:] @ d_camera)
    return d_pose.reshape(n, 6), d_camera.reshape(c, 9)


def _rotated(rotations: F64, omega: F64) -> F64:
    """exp(ω) R for each photo (Rodrigues)."""
    angle = np.linalg.norm(omega, axis=1)
    axis = omega / np.maximum(angle, 1e-300)[:, None]
    k = np.zeros((len(omega), 3, 3))
    k[:, 0, 1], k[:, 0, 2] = -axis[:, 2], axis[:, 1]
    k[:, 1, 0], k[:, 1, 2] = axis[:, 2], -axis[:, 0]
    k[:, 2, 0], k[:, 2, 1] = -axis[:, 1], axis[:, 0]
    turn = np.eye(3) + np.sin(angle)[:, None, None] * k + (1 - np.cos(angle))[:, None, None] * (k @ k)
    return np.asarray(turn @ rotations)
