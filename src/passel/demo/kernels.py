"""Numba kernels of the synthetic world: hashed noise, the ground spline, and rays against buildings and trees.

All positions are metres in the truth's world frame (east, north, up). Everything is a pure function of position and seed.
"""

# mypy: disable-error-code="no-any-return"
# (numba gives decorated functions the type Any)
from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

# Without numba's reference counting: counting the arrays of WorldArrays at every call took two thirds of a photo's time. So
# kernels make no arrays; what they fill is handed to them.
kernel = njit(cache=True, nogil=True, _nrt=False)
kernel_inline = njit(cache=True, nogil=True, _nrt=False, inline="always")

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]

GROUND, ROOF_LEFT, ROOF_RIGHT, CROWN, NOTHING = 0, 5, 6, 7, -1  # faces; 1..4 are a box's walls
BOX, BLOB = 0, 1
ROOFS_WITHIN_M = 28.0
ROAD_ZONE, TRACK_ZONE, VILLAGE_ZONE, WOOD_ZONE, SHADE_ZONE = 1, 2, 4, 8, 16

# columns of the object table
KIND, CX, CY, COS, SIN, HX, HY, LOW, EAVE, RIDGE, HUE, STYLE = range(12)

_M1 = np.uint64(0x9E3779B97F4A7C15)
_M2 = np.uint64(0xC2B2AE3D27D4EB4F)
_M3 = np.uint64(0xBF58476D1CE4E5B9)
_S29, _S32, _S40 = np.uint64(29), np.uint64(32), np.uint64(40)


class WorldArrays(NamedTuple):
    """The world as flat arrays for the kernels.

    coef: cubic B-spline coefficients of the ground (m), the first at (coef_west, coef_south), coef_step apart.
    objects: (n, 12) table. start, items: objects that meet each `cell`-sized square, row by row from the south-west
    corner (west, south). top: (rows, cols) highest object of each square, absolute metres; roofs: the same of all
    squares within ROOFS_WITHIN_M, which no ray flatter than 45° can escape. zones: (rows, cols) what may
    lie in each square, bits ROAD_ZONE ... SHADE_ZONE; a bit may be set needlessly, never be missing.
    marks: (rows, cols, 2) checkpoint mark of each mark_cell-sized square, NaN if none. mark_size: side of a mark.
    """

    seed: int
    coef: F64
    coef_west: float
    coef_south: float
    coef_step: float
    objects: F64
    start: I32
    items: I32
    top: F64
    roofs: F64
    zones: NDArray[np.uint8]
    west: float
    south: float
    cell: float
    marks: F64
    mark_cell: float
    mark_size: float


@kernel
def _mixed(h: np.uint64) -> float:
    """A well mixed number in [0, 1) of a lattice number."""
    h ^= h >> _S29
    h *= _M3
    h ^= h >> _S32
    return float(np.int64((h * _M1) >> _S40)) * (1.0 / 16777216.0)


@kernel
def hash01(seed: int, ix: int, iy: int) -> float:
    """A number in [0, 1) for an integer lattice point."""
    return _mixed(np.uint64(ix) * _M1 + np.uint64(iy) * _M2 + np.uint64(seed) * _M3)


@kernel
def noise(seed: int, x: float, y: float) -> float:
    """Value noise in [0, 1) with lattice spacing 1 and smooth interpolation."""
    ix, iy = math.floor(x), math.floor(y)
    u, v = x - ix, y - iy
    u = u * u * (3.0 - 2.0 * u)
    v = v * v * (3.0 - 2.0 * v)
    h = np.uint64(ix) * _M1 + np.uint64(iy) * _M2 + np.uint64(seed) * _M3
    a, b, c, d = _mixed(h), _mixed(h + _M1), _mixed(h + _M2), _mixed(h + _M1 + _M2)
    return (a + (b - a) * u) * (1.0 - v) + (c + (d - c) * u) * v


@kernel_inline
def ground(w: WorldArrays, x: float, y: float) -> tuple[float, float, float]:
    """Ground height and its slopes to east and north. Beyond the world's edge the last patch is clamped."""
    return _spline(w.coef, (x - w.coef_west) / w.coef_step, (y - w.coef_south) / w.coef_step, w.coef_step)


@kernel
def _spline(k: F64, sx: float, sy: float, step: float) -> tuple[float, float, float]:
    """Uniform cubic B-spline: value and slopes. Written out because it runs several times for every ray."""
    rows, cols = k.shape
    sx, sy = min(max(sx, 1.0), cols - 3.001), min(max(sy, 1.0), rows - 3.001)
    i, j = int(sx), int(sy)
    u, v = sx - i, sy - j
    u1, v1 = 1.0 - u, 1.0 - v
    b0, b3, c0, c3 = u1 * u1 * u1, u * u * u, -3 * u1 * u1, 3 * u * u
    b1, b2 = 3 * b3 - 6 * u * u + 4, 3 * u1 * u1 * u1 - 6 * u1 * u1 + 4
    c1, c2 = 9 * u * u - 12 * u, 12 * u1 - 9 * u1 * u1
    n = np.uint64(i - 1)
    n1, n2, n3 = np.uint64(i), np.uint64(i + 1), np.uint64(i + 2)
    r = k[np.uint64(j - 1)]
    s0, d0 = b0 * r[n] + b1 * r[n1] + b2 * r[n2] + b3 * r[n3], c0 * r[n] + c1 * r[n1] + c2 * r[n2] + c3 * r[n3]
    r = k[np.uint64(j)]
    s1, d1 = b0 * r[n] + b1 * r[n1] + b2 * r[n2] + b3 * r[n3], c0 * r[n] + c1 * r[n1] + c2 * r[n2] + c3 * r[n3]
    r = k[np.uint64(j + 1)]
    s2, d2 = b0 * r[n] + b1 * r[n1] + b2 * r[n2] + b3 * r[n3], c0 * r[n] + c1 * r[n1] + c2 * r[n2] + c3 * r[n3]
    r = k[np.uint64(j + 2)]
    s3, d3 = b0 * r[n] + b1 * r[n1] + b2 * r[n2] + b3 * r[n3], c0 * r[n] + c1 * r[n1] + c2 * r[n2] + c3 * r[n3]
    e0, e3 = v1 * v1 * v1, v * v * v
    e1, e2 = 3 * e3 - 6 * v * v + 4, 3 * e0 - 6 * v1 * v1 + 4
    h = e0 * s0 + e1 * s1 + e2 * s2 + e3 * s3
    gx = e0 * d0 + e1 * d1 + e2 * d2 + e3 * d3
    gy = -3 * v1 * v1 * s0 + (9 * v * v - 12 * v) * s1 + (12 * v1 - 9 * v1 * v1) * s2 + 3 * v * v * s3
    return h / 36.0, gx / (36.0 * step), gy / (36.0 * step)


@kernel
def roof(o: F64, x: float, y: float) -> float:
    """Top of one object over (x, y); -inf outside its plan."""
    px, py = x - o[CX], y - o[CY]
    lx, ly = o[COS] * px + o[SIN] * py, -o[SIN] * px + o[COS] * py
    if o[KIND] == BLOB:
        q = 1.0 - (lx * lx + ly * ly) / (o[HX] * o[HX])
        return o[LOW] + o[HY] * math.sqrt(q) if q > 0 else -np.inf
    if abs(lx) > o[HX] or abs(ly) > o[HY]:
        return -np.inf
    return o[RIDGE] - (o[RIDGE] - o[EAVE]) * abs(ly) / o[HY]


@kernel_inline
def zone(w: WorldArrays, x: float, y: float) -> int:
    """Zone bits of a place; all of them outside the world."""
    c, r = math.floor((x - w.west) / w.cell), math.floor((y - w.south) / w.cell)
    rows, cols = w.top.shape
    return int(w.zones[r, c]) if 0 <= c < cols and 0 <= r < rows else 255


@kernel_inline
def ceiling(w: WorldArrays, x: float, y: float) -> float:
    """A height no object near the place reaches; -inf if there is none."""
    c, r = math.floor((x - w.west) / w.cell), math.floor((y - w.south) / w.cell)
    rows, cols = w.top.shape
    return w.roofs[r, c] if 0 <= c < cols and 0 <= r < rows else -np.inf


@kernel
def surface(w: WorldArrays, x: float, y: float) -> tuple[float, int]:
    """Height of the top surface, and the object it belongs to (-1: ground)."""
    best, which = ground(w, x, y)[0], -1
    c, r = math.floor((x - w.west) / w.cell), math.floor((y - w.south) / w.cell)
    rows, cols = w.top.shape
    if 0 <= c < cols and 0 <= r < rows:
        for n in range(w.start[r * cols + c], w.start[r * cols + c + 1]):
            z = roof(w.objects[w.items[n]], x, y)
            if z > best:
                best, which = z, w.items[n]
    return best, which


@kernel
def hit_blob(o: F64, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float) -> float:
    """Distance along the ray at which it enters an ellipsoid; inf if it misses."""
    ex, ey, ez = (ox - o[CX]) / o[HX], (oy - o[CY]) / o[HX], (oz - o[LOW]) / o[HY]
    fx, fy, fz = dx / o[HX], dy / o[HX], dz / o[HY]
    a, b, c = fx * fx + fy * fy + fz * fz, ex * fx + ey * fy + ez * fz, ex * ex + ey * ey + ez * ez - 1.0
    q = b * b - a * c
    return (-b - math.sqrt(q)) / a if q > 0 else np.inf


@kernel
def hit_box(o: F64, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float) -> tuple[float, int]:
    """Distance and face at which the ray enters a gabled box (a convex body of six planes, open below); inf if it misses."""
    px, py = ox - o[CX], oy - o[CY]
    lx, ly = o[COS] * px + o[SIN] * py, -o[SIN] * px + o[COS] * py
    ux, uy = o[COS] * dx + o[SIN] * dy, -o[SIN] * dx + o[COS] * dy
    pitch = (o[RIDGE] - o[EAVE]) / o[HY]
    near, far, face = -np.inf, np.inf, NOTHING
    for k in range(1, 7):
        if k == 1:
            e, f = lx - o[HX], ux
        elif k == 2:
            e, f = -lx - o[HX], -ux
        elif k == 3:
            e, f = ly - o[HY], uy
        elif k == 4:
            e, f = -ly - o[HY], -uy
        elif k == 5:
            e, f = oz - o[RIDGE] + pitch * ly, dz + pitch * uy
        else:
            e, f = oz - o[RIDGE] - pitch * ly, dz - pitch * uy
        if f < 0:
            t = -e / f
            if t > near:
                near, face = t, k
        elif f > 0:
            far = min(far, -e / f)
        elif e > 0:
            return np.inf, NOTHING
    return (near, face) if near < far else (np.inf, NOTHING)


@kernel_inline
def trace(
    w: WorldArrays, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float, t0: float, t1: float
) -> tuple[float, int, int]:
    """First object hit by the ray between t0 and t1: distance, object (-1: none), face. Walks the squares of the index."""
    rows, cols = w.top.shape
    x, y = ox + t0 * dx, oy + t0 * dy
    c, r = math.floor((x - w.west) / w.cell), math.floor((y - w.south) / w.cell)
    sc, sr = (1 if dx > 0 else -1), (1 if dy > 0 else -1)
    tx = (w.west + (c + (dx > 0)) * w.cell - ox) / dx if dx != 0 else np.inf
    ty = (w.south + (r + (dy > 0)) * w.cell - oy) / dy if dy != 0 else np.inf
    step_x = abs(w.cell / dx) if dx != 0 else np.inf
    step_y = abs(w.cell / dy) if dy != 0 else np.inf
    best, which, face = np.inf, -1, NOTHING
    t = t0
    while t < t1:
        leave = min(tx, ty, t1)
        if 0 <= c < cols and 0 <= r < rows and min(oz + t * dz, oz + leave * dz) <= w.top[r, c]:
            for n in range(w.start[r * cols + c], w.start[r * cols + c + 1]):
                o = w.objects[w.items[n]]
                if o[KIND] == BLOB:
                    d, f = hit_blob(o, ox, oy, oz, dx, dy, dz), CROWN
                else:
                    d, f = hit_box(o, ox, oy, oz, dx, dy, dz)
                if t0 <= d < best and d <= t1:
                    best, which, face = d, w.items[n], f
            if best <= leave:
                break
        t = leave
        if tx < ty:
            c += sc
            tx += step_x
        else:
            r += sr
            ty += step_y
    return best, which, face


@njit(cache=True, nogil=True)
def surfaces(w: WorldArrays, x: F64, y: F64, with_objects: bool) -> F64:
    """(n,) heights of the top surface, or of the bare ground, at (n,) positions."""
    out = np.empty(len(x))
    for i in range(len(x)):
        out[i] = surface(w, x[i], y[i])[0] if with_objects else ground(w, x[i], y[i])[0]
    return out


@njit(cache=True, nogil=True)
def clearances(w: WorldArrays, x: F64, y: F64, reach: float) -> F64:
    """(n,) plan distance (m) from each position to the nearest object, at most `reach`."""
    rows, cols = w.top.shape
    out = np.full(len(x), reach)
    for i in range(len(x)):
        c0 = max(0, math.floor((x[i] - reach - w.west) / w.cell))
        c1 = min(cols - 1, math.floor((x[i] + reach - w.west) / w.cell))
        r0 = max(0, math.floor((y[i] - reach - w.south) / w.cell))
        r1 = min(rows - 1, math.floor((y[i] + reach - w.south) / w.cell))
        for r in range(r0, r1 + 1):
            for c in range(c0, c1 + 1):
                for n in range(w.start[r * cols + c], w.start[r * cols + c + 1]):
                    o = w.objects[w.items[n]]
                    px, py = x[i] - o[CX], y[i] - o[CY]
                    if o[KIND] == BLOB:
                        d = math.sqrt(px * px + py * py) - o[HX]
                    else:
                        ex = max(0.0, abs(o[COS] * px + o[SIN] * py) - o[HX])
                        ey = max(0.0, abs(-o[SIN] * px + o[COS] * py) - o[HY])
                        d = math.sqrt(ex * ex + ey * ey)
                    out[i] = min(out[i], max(d, 0.0))
    return out
