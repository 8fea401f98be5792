"""The reduced normal equations of a bundle adjustment: points eliminated, photos as 6×6 blocks, cameras as a border. Numba kernels."""

from __future__ import annotations

import numpy as np
from numba import njit

from passel.align.projection import N_INTRINSICS, to_pixel, to_pixel_with_derivatives


@njit(cache=True, nogil=True)
def robust_cost(rows, aspect, of_photo, rotations, centres, velocities, points, start, photo, xy, scale):
    """Half the Cauchy cost (px²) of all observations; observations behind a camera cost as much as one 100 scales off."""
    total = 0.0
    for p in range(len(start) - 1):
        for o in range(start[p], start[p + 1]):
            k = photo[o]
            d0, d1, d2 = points[p, 0] - centres[k, 0], points[p, 1] - centres[k, 1], points[p, 2] - centres[k, 2]
            r = rotations[k]
            s = 1e4
            q2 = r[2, 0] * d0 + r[2, 1] * d1 + r[2, 2] * d2
            if q2 > 1e-6:
                q0 = r[0, 0] * d0 + r[0, 1] * d1 + r[0, 2] * d2
                q1 = r[1, 0] * d0 + r[1, 1] * d1 + r[1, 2] * d2
                u, v = to_pixel(rows[of_photo[k]], aspect[of_photo[k]], velocities[k], q0, q1, q2)
                s = ((u - xy[o, 0]) ** 2 + (v - xy[o, 1]) ** 2) / (scale * scale)
            total += 0.5 * scale * scale * np.log1p(s)
    return total


@njit(cache=True, nogil=True)
def _linearise(row, aspect, rotation, centre, velocity, point, xy, scale, jp, ji, jx, r, q, jq):
    """Jacobians (weighted by the square root of the Cauchy weight) of one observation; False if it is behind the camera."""
    d0, d1, d2 = point[0] - centre[0], point[1] - centre[1], point[2] - centre[2]
    for a in range(3):
        q[a] = rotation[a, 0] * d0 + rotation[a, 1] * d1 + rotation[a, 2] * d2
    if q[2] <= 1e-6:
        return False
    u, v = to_pixel_with_derivatives(row, aspect, velocity, q, jq, ji)
    r[0], r[1] = u - xy[0], v - xy[1]
    w = 1.0 / np.sqrt(1.0 + (r[0] * r[0] + r[1] * r[1]) / (scale * scale))
    r[0] *= w
    r[1] *= w
    for i in range(2):
        a, b, c = jq[i, 0] * w, jq[i, 1] * w, jq[i, 2] * w
        # q moves by ω × q
        jp[i, 0] = c * q[1] - b * q[2]
        jp[i, 1] = a * q[2] - c * q[0]
        jp[i, 2] = b * q[0] - a * q[1]
        for m in range(3):
            jx[i, m] = a * rotation[0, m] + b * rotation[1, m] + c * rotation[2, m]
            jp[i, 3 + m] = -jx[i, m]
        for m in range(N_INTRINSICS):
            ji[i, m] *= w
    return True


@njit(cache=True, nogil=True)
def _find(columns, lo, hi, j):
    while lo < hi:
        mid = (lo + hi) // 2
        if columns[mid] < j:
            lo = mid + 1
        else:
            hi = mid
    return lo


@njit(cache=True, nogil=True)
def _point_terms(
    rows, aspect, of_photo, rotations, centres, velocities, point, photo, xy, lo, hi, scale, jp, ji, jx, r, ok, v, gx
):  # fmt: skip
    """All Jacobians of one point, its 3×3 block v and gradient gx."""
    v[:] = 0.0
    gx[:] = 0.0
    q, jq = np.empty(3), np.empty((2, 3))
    for o in range(lo, hi):
        k = photo[o]
        a = o - lo
        c = of_photo[k]
        ok[a] = _linearise(
            rows[c], aspect[c], rotations[k], centres[k], velocities[k], point, xy[o], scale, jp[a], ji[a], jx[a], r[a], q, jq
        )  # fmt: skip
        if ok[a]:
            for i in range(3):
                gx[i] += jx[a, 0, i] * r[a, 0] + jx[a, 1, i] * r[a, 1]
                for j in range(3):
                    v[i, j] += jx[a, 0, i] * jx[a, 0, j] + jx[a, 1, i] * jx[a, 1, j]


@njit(cache=True, nogil=True)
def _damped_inverse(v, damping):
    d = v.copy()
    for i in range(3):
        d[i, i] += damping * v[i, i] + 1e-9
    return np.linalg.inv(d)


@njit(cache=True, nogil=True)
def reduce(
    rows, aspect, of_photo, rotations, centres, velocities, points, start, photo, xy, scale, damping,
    block_start, block_column, blocks, border, corner, g_pose, g_camera, most,
):  # fmt: skip
    """Accumulate the reduced system into blocks (b, 6, 6: upper, row i block_start[i]:…, columns ≥ i), border (n, c, 6, 9),
    corner (c, c, 9, 9) and gradients g_pose (n, 6), g_camera (c, 9). `most`: the longest track."""
    n_cameras = len(rows)
    jp, ji, jx = np.empty((most, 2, 6)), np.empty((most, 2, N_INTRINSICS)), np.empty((most, 2, 3))
    r, ok = np.empty((most, 2)), np.empty(most, np.bool_)
    w, y = np.empty((most, 6, 3)), np.empty((most, 6, 3))
    wc = np.zeros((n_cameras, N_INTRINSICS, 3))
    yc = np.zeros((n_cameras, N_INTRINSICS, 3))
    v, gx = np.empty((3, 3)), np.empty(3)
    for p in range(len(start) - 1):
        lo, hi = start[p], start[p + 1]
        _point_terms(
            rows, aspect, of_photo, rotations, centres, velocities, points[p], photo, xy, lo, hi, scale, jp, ji, jx, r, ok, v, gx
        )  # fmt: skip
        vi = _damped_inverse(v, damping)
        wc[:] = 0.0
        for a in range(hi - lo):
            if not ok[a]:
                continue
            k = photo[lo + a]
            c = of_photo[k]
            diagonal = block_start[k]
            for i in range(6):
                g_pose[k, i] += jp[a, 0, i] * r[a, 0] + jp[a, 1, i] * r[a, 1]
                for j in range(6):
                    blocks[diagonal, i, j] += jp[a, 0, i] * jp[a, 0, j] + jp[a, 1, i] * jp[a, 1, j]
                for j in range(N_INTRINSICS):
                    border[k, c, i, j] += jp[a, 0, i] * ji[a, 0, j] + jp[a, 1, i] * ji[a, 1, j]
                for j in range(3):
                    w[a, i, j] = jp[a, 0, i] * jx[a, 0, j] + jp[a, 1, i] * jx[a, 1, j]
                for j in range(3):
                    y[a, i, j] = w[a, i, 0] * vi[0, j] + w[a, i, 1] * vi[1, j] + w[a, i, 2] * vi[2, j]
            for i in range(N_INTRINSICS):
                g_camera[c, i] += ji[a, 0, i] * r[a, 0] + ji[a, 1, i] * r[a, 1]
                for j in range(N_INTRINSICS):
                    corner[c, c, i, j] += ji[a, 0, i] * ji[a, 0, j] + ji[a, 1, i] * ji[a, 1, j]
                for j in range(3):
                    wc[c, i, j] += ji[a, 0, i] * jx[a, 0, j] + ji[a, 1, i] * jx[a, 1, j]
        for c in range(n_cameras):
            for i in range(N_INTRINSICS):
                for j in range(3):
                    yc[c, i, j] = wc[c, i, 0] * vi[0, j] + wc[c, i, 1] * vi[1, j] + wc[c, i, 2] * vi[2, j]
        _eliminate(photo, lo, hi, ok, w, y, wc, yc, gx, block_start, block_column, blocks, border, g_pose)
        for c in range(n_cameras):
            for i in range(N_INTRINSICS):
                g_camera[c, i] -= yc[c, i, 0] * gx[0] + yc[c, i, 1] * gx[1] + yc[c, i, 2] * gx[2]
            for d in range(n_cameras):
                for i in range(N_INTRINSICS):
                    for j in range(N_INTRINSICS):
                        corner[c, d, i, j] -= (
                            yc[c, i, 0] * wc[d, j, 0] + yc[c, i, 1] * wc[d, j, 1] + yc[c, i, 2] * wc[d, j, 2]
                        )


@njit(cache=True, nogil=True)
def _eliminate(photo, lo, hi, ok, w, y, wc, yc, gx, block_start, block_column, blocks, border, g_pose):
    """Subtract one point's share from the photos' blocks, border and gradient."""
    for a in range(hi - lo):
        if not ok[a]:
            continue
        k = photo[lo + a]
        for i in range(6):
            g_pose[k, i] -= y[a, i, 0] * gx[0] + y[a, i, 1] * gx[1] + y[a, i, 2] * gx[2]
        for c in range(len(wc)):
            for i in range(6):
                for j in range(N_INTRINSICS):
                    border[k, c, i, j] -= y[a, i, 0] * wc[c, j, 0] + y[a, i, 1] * wc[c, j, 1] + y[a, i, 2] * wc[c, j, 2]
        for b in range(hi - lo):
            m = photo[lo + b]
            if not ok[b] or m < k:
                continue
            at = _find(block_column, block_start[k], block_start[k + 1], m)
            for i in range(6):
                for j in range(6):
                    blocks[at, i, j] -= y[a, i, 0] * w[b, j, 0] + y[a, i, 1] * w[b, j, 1] + y[a, i, 2] * w[b, j, 2]


@njit(cache=True, nogil=True)
def move_points(
    rows, aspect, of_photo, rotations, centres, velocities, points, start, photo, xy, scale, damping, d_pose, d_camera, most, moved
):  # fmt: skip
    """The points' own step, given the step of poses (n, 6) and cameras (c, 9); written to `moved` (m, 3)."""
    jp, ji, jx = np.empty((most, 2, 6)), np.empty((most, 2, N_INTRINSICS)), np.empty((most, 2, 3))
    r, ok = np.empty((most, 2)), np.empty(most, np.bool_)
    v, gx = np.empty((3, 3)), np.empty(3)
    for p in range(len(start) - 1):
        lo, hi = start[p], start[p + 1]
        _point_terms(
            rows, aspect, of_photo, rotations, centres, velocities, points[p], photo, xy, lo, hi, scale, jp, ji, jx, r, ok, v, gx
        )  # fmt: skip
        vi = _damped_inverse(v, damping)
        for a in range(hi - lo):
            if not ok[a]:
                continue
            k = photo[lo + a]
            c = of_photo[k]
            for i in range(2):
                t = 0.0
                for j in range(6):
                    t += jp[a, i, j] * d_pose[k, j]
                for j in range(N_INTRINSICS):
                    t += ji[a, i, j] * d_camera[c, j]
                for j in range(3):
                    gx[j] += jx[a, i, j] * t
        for i in range(3):
            moved[p, i] = points[p, i] - (vi[i, 0] * gx[0] + vi[i, 1] * gx[1] + vi[i, 2] * gx[2])


@njit(cache=True, nogil=True)
def mark_shared(start, photo, neighbours):
    """Set the bits of photos that share a point: neighbours (n, words) uint64, upper part (second ≥ first) only."""
    for p in range(len(start) - 1):
        for a in range(start[p], start[p + 1]):
            i = photo[a]
            for b in range(start[p], start[p + 1]):
                j = photo[b]
                if j >= i:
                    neighbours[i, j >> 6] |= np.uint64(1) << np.uint64(j & 63)


@njit(cache=True, nogil=True)
def add_blocks(window, blocks, entry, rows, columns, first, damping):
    """Add blocks to the lower half of a window that begins at the place `first`."""
    for k in range(len(entry)):
        i, j = 6 * (rows[k] - first), 6 * (columns[k] - first)
        for a in range(6):
            for b in range(6):
                value = blocks[entry[k], a, b]
                if i == j:
                    if a == b:
                        value += damping * value + 1e-9
                    window[i + a, j + b] += value
                elif i > j:
                    window[i + a, j + b] += value
                else:
                    window[j + b, i + a] += value
