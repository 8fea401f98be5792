"""The Brown camera in numba, with derivatives: shared by triangulation and adjustment.

An intrinsics row is (f, cx, cy, k1, k2, k3, p1, p2, s), pixels and pure numbers; fy = f · aspect; s: seconds that one unit of y in
normalised image coordinates is exposed later (rolling shutter). Camera coordinates of a world point are q = R (X − C) when the
principal point's row is exposed; a camera with velocity v in its own frame sees the point at q − t·v, t = s·q₁ / (q₂ + s·v₁) later: that
y of the moment itself, but for its change with v₂, which is 10⁻³ of the shift. Rotations are updated on the left, R ← exp(ω) R.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from passel.reconstruct.scene import Intrinsics

F64 = NDArray[np.float64]
N_INTRINSICS = 9


def pack(camera: Intrinsics) -> F64:
    """The intrinsics row (9,) of a camera."""
    c = camera
    return np.array([c.fx, c.cx, c.cy, c.k1, c.k2, c.k3, c.p1, c.p2, c.row_s])


def unpack(camera: Intrinsics, row: F64) -> Intrinsics:
    """`camera` with the values of an intrinsics row."""
    f, cx, cy, k1, k2, k3, p1, p2, row_s = (float(v) for v in row)
    fy = f * camera.fy / camera.fx
    readout_s = row_s * camera.height_px / fy
    return Intrinsics(camera.camera, camera.width_px, camera.height_px, f, fy, cx, cy, k1, k2, p1, p2, k3, readout_s)


@njit(cache=True, nogil=True, inline="always")
def to_pixel(row, aspect, velocity, q0, q1, q2):
    """Camera coordinates → pixel; the caller has checked q2 > 0."""
    late = row[8] * q1 / (q2 + row[8] * velocity[1])
    iz = 1.0 / (q2 - late * velocity[2])
    x = (q0 - late * velocity[0]) * iz
    y = (q1 - late * velocity[1]) * iz
    r2 = x * x + y * y
    radial = 1.0 + r2 * (row[3] + r2 * (row[4] + r2 * row[5]))
    xd = x * radial + 2.0 * row[6] * x * y + row[7] * (r2 + 2.0 * x * x)
    yd = y * radial + row[6] * (r2 + 2.0 * y * y) + 2.0 * row[7] * x * y
    return row[0] * xd + row[1], row[0] * aspect * yd + row[2]


@njit(cache=True, nogil=True)
def to_pixel_with_derivatives(row, aspect, velocity, q, jq, ji):
    """Pixel (u, v); fills jq (2, 3) = d uv / d q and ji (2, 9) = d uv / d intrinsics."""
    away = 1.0 / (q[2] + row[8] * velocity[1])
    late = row[8] * q[1] * away
    iz = 1.0 / (q[2] - late * velocity[2])
    x = (q[0] - late * velocity[0]) * iz
    y = (q[1] - late * velocity[1]) * iz
    r2 = x * x + y * y
    k1, k2, k3, p1, p2 = row[3], row[4], row[5], row[6], row[7]
    radial = 1.0 + r2 * (k1 + r2 * (k2 + r2 * k3))
    slope = 2.0 * (k1 + r2 * (2.0 * k2 + 3.0 * r2 * k3))  # d radial / d x = slope · x
    xd = x * radial + 2.0 * p1 * x * y + p2 * (r2 + 2.0 * x * x)
    yd = y * radial + p1 * (r2 + 2.0 * y * y) + 2.0 * p2 * x * y
    xx = radial + slope * x * x + 2.0 * p1 * y + 6.0 * p2 * x
    xy = slope * x * y + 2.0 * p1 * x + 2.0 * p2 * y
    yy = radial + slope * y * y + 6.0 * p1 * y + 2.0 * p2 * x
    fx = row[0]
    fy = row[0] * aspect
    jq[0, 0] = fx * xx * iz
    jq[0, 1] = fx * xy * iz
    jq[0, 2] = -fx * (xx * x + xy * y) * iz
    jq[1, 0] = fy * xy * iz
    jq[1, 1] = fy * yy * iz
    jq[1, 2] = -fy * (xy * x + yy * y) * iz
    for i in range(2):  # so far with respect to where the point is seen; that depends on q and s through the time, too
        by_time = -(jq[i, 0] * velocity[0] + jq[i, 1] * velocity[1] + jq[i, 2] * velocity[2])
        jq[i, 1] += by_time * row[8] * away
        jq[i, 2] -= by_time * late * away
        ji[i, 8] = by_time * (q[1] - late * velocity[1]) * away
    r4 = r2 * r2
    ji[0, 0], ji[1, 0] = xd, aspect * yd
    ji[0, 1], ji[1, 1] = 1.0, 0.0
    ji[0, 2], ji[1, 2] = 0.0, 1.0
    ji[0, 3], ji[1, 3] = fx * x * r2, fy * y * r2
    ji[0, 4], ji[1, 4] = fx * x * r4, fy * y * r4
    ji[0, 5], ji[1, 5] = fx * x * r4 * r2, fy * y * r4 * r2
    ji[0, 6], ji[1, 6] = fx * 2.0 * x * y, fy * (r2 + 2.0 * y * y)
    ji[0, 7], ji[1, 7] = fx * (r2 + 2.0 * x * x), fy * 2.0 * x * y
    return fx * xd + row[1], fy * yd + row[2]


@njit(cache=True, nogil=True)
def to_ray(row, aspect, u, v):
    """Pixel → undistorted normalised image coordinates (x, y), by fixed-point iteration."""
    xd = (u - row[1]) / row[0]
    yd = (v - row[2]) / (row[0] * aspect)
    x = xd
    y = yd
    for _ in range(12):
        r2 = x * x + y * y
        radial = 1.0 + r2 * (row[3] + r2 * (row[4] + r2 * row[5]))
        if radial < 0.2:
            break
        x = (xd - 2.0 * row[6] * x * y - row[7] * (r2 + 2.0 * x * x)) / radial
        y = (yd - row[6] * (r2 + 2.0 * y * y) - 2.0 * row[7] * x * y) / radial
    return x, y
