"""Points from tracks and cameras: linear start, Gauss-Newton, and removal of the observations that do not fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from passel.align.block import Cameras, Tracks
from passel.align.projection import N_INTRINSICS, to_pixel, to_pixel_with_derivatives, to_ray

F64 = NDArray[np.float64]
MIN_ANGLE_DEG = 1.5
AT_ONCE = 200_000  # tracks: bounds memory


@dataclass(frozen=True)
class Triangulation:
    """points: (m, 3) world metres. tracks: what is left of the tracks. error: (k,) float32 px of each observation left."""

    points: F64
    tracks: Tracks
    error: NDArray[np.float32]


def triangulate(cameras: Cameras, tracks: Tracks, max_error_px: float) -> Triangulation:
    """Every track as a point; observations beyond `max_error_px` leave it (worst first), one observation a photo at most.

    Points with fewer than two observations left, with rays closer than 1.5°, or behind a camera are dropped.
    """
    # Filled part by part: pages that are never written take no memory.
    points, start = np.empty((len(tracks), 3)), np.zeros(len(tracks) + 1, np.int64)
    photo, feature = np.empty_like(tracks.photo), np.empty_like(tracks.feature)
    xy, error = np.empty_like(tracks.xy), np.empty(len(tracks.photo), np.float32)
    m = k = 0
    for first in range(0, len(tracks), AT_ONCE):
        some = tracks.part(first, first + AT_ONCE)
        found, keep, miss = _fitted(cameras, some, max_error_px)
        left, alive = some.kept(keep)
        p, o = slice(m, m + len(left)), slice(k, k + len(left.photo))
        points[p], start[m + 1 : m + 1 + len(left)] = found[alive], k + left.start[1:]
        photo[o], feature[o], xy[o], error[o] = left.photo, left.feature, left.xy, miss[keep]
        m, k = p.stop, o.stop
    return Triangulation(points[:m], Tracks(start[: m + 1], photo[:k], feature[:k], xy[:k]), error[:k])


def fit(cameras: Cameras, tracks: Tracks, max_error_px: float) -> tuple[F64, NDArray[np.bool_]]:
    """What `triangulate` keeps, without copying it: (m, 3) points and (k,) observations, none of the points that are dropped."""
    points, keep, at = np.empty((len(tracks), 3)), np.empty(len(tracks.photo), np.bool_), 0
    for first in range(0, len(tracks), AT_ONCE):
        found, mine, _ = _fitted(cameras, tracks.part(first, first + AT_ONCE), max_error_px)
        points[first : first + AT_ONCE], keep[at : at + len(mine)] = found, mine
        at += len(mine)
    return points, keep


def _fitted(cameras: Cameras, tracks: Tracks, max_error_px: float) -> tuple[F64, NDArray[np.bool_], F64]:
    points, keep = np.zeros((len(tracks), 3)), np.zeros(len(tracks.photo), np.bool_)
    error = np.full(len(tracks.photo), np.inf)
    _triangulate(
        *cameras.arrays, tracks.start, tracks.photo, tracks.xy,
        max_error_px, np.cos(np.deg2rad(MIN_ANGLE_DEG)), points, error, keep,
    )  # fmt: skip
    return points, keep, error


def reprojection(cameras: Cameras, tracks: Tracks, points: F64) -> F64:
    """(k,) px: how far each observation is from its point as the cameras see it; infinite behind a camera."""
    error = np.empty(len(tracks.photo))
    _measure_all(*cameras.arrays, tracks.start, tracks.photo, tracks.xy, points, error)
    return error


@njit(cache=True, nogil=True)
def _measure_all(rows, aspect, of_photo, rotations, centres, velocities, start, photo, xy, points, error):
    for p in range(len(start) - 1):
        _measure(
            rows, aspect, of_photo, rotations, centres, velocities, photo, xy, start[p], start[p + 1], points[p], error
        )


@njit(cache=True, nogil=True)
def _ray(row, aspect, rotation, centre, velocity, u, v, ray, origin):
    """Unit direction in the world of a pixel, and where the camera was when its row was exposed."""
    x, y = to_ray(row, aspect, u, v)
    n = 1.0 / np.sqrt(x * x + y * y + 1.0)
    late = row[8] * y
    for a in range(3):
        ray[a] = (rotation[0, a] * x + rotation[1, a] * y + rotation[2, a]) * n
        origin[a] = centre[a] + late * (
            rotation[0, a] * velocity[0] + rotation[1, a] * velocity[1] + rotation[2, a] * velocity[2]
        )


@njit(cache=True, nogil=True)
def _solved(h, g, least, out):
    """The symmetric 3×3 system h · out = g by cofactors; False if its determinant is below `least`."""
    c00 = h[1, 1] * h[2, 2] - h[1, 2] * h[1, 2]
    c01 = h[0, 2] * h[1, 2] - h[0, 1] * h[2, 2]
    c02 = h[0, 1] * h[1, 2] - h[0, 2] * h[1, 1]
    det = h[0, 0] * c00 + h[0, 1] * c01 + h[0, 2] * c02
    if not abs(det) >= least:
        return False
    c11 = h[0, 0] * h[2, 2] - h[0, 2] * h[0, 2]
    c12 = h[0, 1] * h[0, 2] - h[0, 0] * h[1, 2]
    c22 = h[0, 0] * h[1, 1] - h[0, 1] * h[0, 1]
    out[0] = (c00 * g[0] + c01 * g[1] + c02 * g[2]) / det
    out[1] = (c01 * g[0] + c11 * g[1] + c12 * g[2]) / det
    out[2] = (c02 * g[0] + c12 * g[1] + c22 * g[2]) / det
    return True


@njit(cache=True, nogil=True)
def _midpoint(rays, origins, used, lo, hi, point):
    """The point nearest to all used rays (least squares); False if they are parallel."""
    a = np.zeros((3, 3))
    b = np.zeros(3)
    for o in range(lo, hi):
        if not used[o]:
            continue
        for i in range(3):
            for j in range(3):
                m = (1.0 if i == j else 0.0) - rays[o - lo, i] * rays[o - lo, j]
                a[i, j] += m
                b[i] += m * origins[o - lo, j]
    return _solved(a, b, 1e-12, point)


@njit(cache=True, nogil=True)
def _in_camera(rotation, centre, point, q):
    d0, d1, d2 = point[0] - centre[0], point[1] - centre[1], point[2] - centre[2]
    for a in range(3):
        q[a] = rotation[a, 0] * d0 + rotation[a, 1] * d1 + rotation[a, 2] * d2


@njit(cache=True, nogil=True)
def _refine(rows, aspect, of_photo, rotations, centres, velocities, photo, xy, used, lo, hi, point):
    """Gauss-Newton on the reprojection error of one point."""
    jq, ji = np.empty((2, 3)), np.empty((2, N_INTRINSICS))
    q, g, step, j0, j1 = np.empty(3), np.empty(3), np.empty(3), np.empty(3), np.empty(3)
    h = np.empty((3, 3))
    for _ in range(6):
        h[:] = 0.0
        g[:] = 0.0
        for o in range(lo, hi):
            if not used[o]:
                continue
            k = photo[o]
            turn = rotations[k]
            _in_camera(turn, centres[k], point, q)
            if q[2] <= 1e-6:
                continue
            u, v = to_pixel_with_derivatives(rows[of_photo[k]], aspect[of_photo[k]], velocities[k], q, jq, ji)
            r0, r1 = u - xy[o, 0], v - xy[o, 1]
            w = 1.0 / (1.0 + (r0 * r0 + r1 * r1) / 4.0)
            for a in range(3):
                j0[a] = jq[0, 0] * turn[0, a] + jq[0, 1] * turn[1, a] + jq[0, 2] * turn[2, a]
                j1[a] = jq[1, 0] * turn[0, a] + jq[1, 1] * turn[1, a] + jq[1, 2] * turn[2, a]
            for a in range(3):
                g[a] += w * (j0[a] * r0 + j1[a] * r1)
                for b in range(3):
                    h[a, b] += w * (j0[a] * j0[b] + j1[a] * j1[b])
        if not _solved(h, g, 1e-18, step):
            return
        for a in range(3):
            point[a] -= step[a]
        if abs(step[0]) + abs(step[1]) + abs(step[2]) < 1e-5:
            return


@njit(cache=True, nogil=True)
def _measure(rows, aspect, of_photo, rotations, centres, velocities, photo, xy, lo, hi, point, error):
    """Reprojection errors of all observations of one point; infinite behind a camera."""
    q = np.empty(3)
    for o in range(lo, hi):
        k = photo[o]
        _in_camera(rotations[k], centres[k], point, q)
        if q[2] <= 1e-6 or not np.isfinite(q[2]):
            error[o] = np.inf
            continue
        u, v = to_pixel(rows[of_photo[k]], aspect[of_photo[k]], velocities[k], q[0], q[1], q[2])
        e = np.sqrt((u - xy[o, 0]) ** 2 + (v - xy[o, 1]) ** 2)
        error[o] = e if np.isfinite(e) else np.inf


@njit(cache=True, nogil=True)
def _triangulate(
    rows, aspect, of_photo, rotations, centres, velocities, start, photo, xy, max_error, min_cos, points, error, keep
):  # fmt: skip
    point = np.empty(3)
    for p in range(len(start) - 1):
        lo, hi = start[p], start[p + 1]
        rays, origins = np.empty((hi - lo, 3)), np.empty((hi - lo, 3))
        for o in range(lo, hi):
            k = photo[o]
            _ray(
                rows[of_photo[k]], aspect[of_photo[k]], rotations[k], centres[k], velocities[k], xy[o, 0], xy[o, 1],
                rays[o - lo], origins[o - lo],
            )  # fmt: skip
            keep[o] = True
        left = hi - lo
        while left >= 2:
            if not _midpoint(rays, origins, keep, lo, hi, point):
                left = 0
                break
            _refine(rows, aspect, of_photo, rotations, centres, velocities, photo, xy, keep, lo, hi, point)
            _measure(rows, aspect, of_photo, rotations, centres, velocities, photo, xy, lo, hi, point, error)
            worst = -1
            for o in range(lo, hi):
                if keep[o] and error[o] > max_error and (worst < 0 or error[o] > error[worst]):
                    worst = o
            if worst < 0:
                break
            keep[worst] = False
            left -= 1
        left = _one_a_photo(photo, error, keep, lo, hi, max_error) if left >= 2 else 0
        if left < 2 or not _wide_enough(rays, keep, lo, hi, min_cos):
            keep[lo:hi] = False
            continue
        points[p] = point


@njit(cache=True, nogil=True)
def _one_a_photo(photo, error, keep, lo, hi, max_error):
    """Of two features of one photo in a track the better one stays; returns how many observations are left."""
    left = 0
    for o in range(lo, hi):
        if not keep[o]:
            continue
        for other in range(lo, o):
            if keep[other] and photo[other] == photo[o]:
                if error[o] < error[other]:
                    keep[other] = False
                    left -= 1
                else:
                    keep[o] = False
                    break
        if keep[o]:
            left += 1
    return left


@njit(cache=True, nogil=True)
def _wide_enough(rays, keep, lo, hi, min_cos):
    for o in range(lo, hi):
        if not keep[o]:
            continue
        for other in range(lo, o):
            if keep[other]:
                a, b = rays[o - lo], rays[other - lo]
                if a[0] * b[0] + a[1] * b[1] + a[2] * b[2] < min_cos:
                    return True
    return False
