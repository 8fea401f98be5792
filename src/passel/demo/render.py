"""Pictures of the synthetic world: one photo by ray casting, and true orthophoto and surface rasters."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from passel.demo.kernels import (
    CROWN,
    F64,
    GROUND,
    I32,
    SHADE_ZONE,
    WorldArrays,
    ceiling,
    ground,
    kernel,
    kernel_inline,
    noise,
    surface,
    trace,
    zone,
)
from passel.demo.terrain import SUN, World
from passel.demo.texture import albedo
from passel.reconstruct.scene import Intrinsics

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
BOOL = NDArray[np.bool_]

_SUN_LIGHT = (1.42, 1.33, 1.16)
_SKY_LIGHT = (0.33, 0.38, 0.47)
_NEWTON = 6
ROUGH = 0.16  # half of the relative step in brightness between neighbours that asks for more rays


@kernel_inline
def _normal(w: WorldArrays, which: int, face: int, x: float, y: float, z: float) -> tuple[float, float, float]:
    """Outward unit normal of the surface at a point."""
    if face == GROUND:
        _, gx, gy = ground(w, x, y)
        k = 1.0 / math.sqrt(1.0 + gx * gx + gy * gy)
        return -gx * k, -gy * k, k
    o = w.objects[which]
    if face == CROWN:
        nx, ny, nz = (x - o[1]) / (o[5] * o[5]), (y - o[2]) / (o[5] * o[5]), (z - o[7]) / (o[6] * o[6])
        k = 1.0 / math.sqrt(nx * nx + ny * ny + nz * nz)
        rough = noise(w.seed + 301, 2.2 * x + z, 2.2 * y - z) - 0.5
        rough2 = noise(w.seed + 302, 2.2 * x - z, 2.2 * y + z) - 0.5
        nx, ny, nz = nx * k + 0.9 * rough, ny * k + 0.9 * rough2, nz * k + 0.25
        k = 1.0 / math.sqrt(nx * nx + ny * ny + nz * nz)
        return nx * k, ny * k, nz * k
    if face <= 2:
        lx, ly, nz = (1.0 if face == 1 else -1.0), 0.0, 0.0
    elif face <= 4:
        lx, ly, nz = 0.0, (1.0 if face == 3 else -1.0), 0.0
    else:
        pitch = (o[9] - o[8]) / o[6] * (1.0 if face == 5 else -1.0)
        nz = 1.0 / math.sqrt(1.0 + pitch * pitch)
        lx, ly = 0.0, pitch * nz
    return o[3] * lx - o[4] * ly, o[4] * lx + o[3] * ly, nz


@kernel_inline
def _shade(w: WorldArrays, which: int, face: int, x: float, y: float, z: float) -> tuple[float, float, float]:
    """Light leaving a surface point: sun with cast shadow, and sky."""
    r, g, b = albedo(w, which, face, x, y, z)
    nx, ny, nz = _normal(w, which, face, x, y, z)
    sun = nx * SUN[0] + ny * SUN[1] + nz * SUN[2]
    if sun > 0 and (which >= 0 or zone(w, x, y) & SHADE_ZONE):
        reach = (ceiling(w, x, y) - z) / SUN[2]
        if reach > 0.05 and trace(w, x, y, z, SUN[0], SUN[1], SUN[2], 0.05, reach)[1] >= 0:
            sun = 0.0
    sun = max(sun, 0.0)
    sky = 0.55 + 0.45 * nz
    return (
        r * (sun * _SUN_LIGHT[0] + sky * _SKY_LIGHT[0]),
        g * (sun * _SUN_LIGHT[1] + sky * _SKY_LIGHT[1]),
        b * (sun * _SUN_LIGHT[2] + sky * _SKY_LIGHT[2]),
    )


@kernel
def _undistort(c: F64, u: float, v: float) -> tuple[float, float]:
    """Normalised image coordinates of a pixel, by iteration. c: fx fy cx cy k1 k2 p1 p2 k3."""
    xd, yd = (u - c[2]) / c[0], (v - c[3]) / c[1]
    x, y = xd, yd
    for _ in range(15):
        r2 = x * x + y * y
        radial = 1.0 / (1.0 + r2 * (c[4] + r2 * (c[5] + r2 * c[8])))
        nx = (xd - 2 * c[6] * x * y - c[7] * (r2 + 2 * x * x)) * radial
        ny = (yd - c[6] * (r2 + 2 * y * y) - 2 * c[7] * x * y) * radial
        moved = abs(nx - x) + abs(ny - y)
        x, y = nx, ny
        if moved < 1e-7:
            break
    return x, y


@kernel_inline
def _ray(
    w: WorldArrays, c: F64, m: F64, o: F64, u: float, v: float, guess: float
) -> tuple[float, float, float, float, int, int]:
    """What a pixel sees: x, y, z of the surface point, the ray's length to the bare ground, object, face.

    m: world_from_cam, o: centre. guess: a length to begin the search for the ground with.
    """
    a, b = _undistort(c, u, v)
    dx, dy, dz = (
        m[0, 0] * a + m[0, 1] * b + m[0, 2],
        m[1, 0] * a + m[1, 1] * b + m[1, 2],
        m[2, 0] * a + m[2, 1] * b + m[2, 2],
    )
    t = guess
    for _ in range(_NEWTON):
        h, gx, gy = ground(w, o[0] + t * dx, o[1] + t * dy)
        step = (o[2] + t * dz - h) / (dz - gx * dx - gy * dy)
        t -= step
        if abs(step) < 0.05:  # the next step would be below a tenth of a millimetre
            break
    hit, which, face = t, -1, GROUND
    begin = max(0.0, (ceiling(w, o[0] + t * dx, o[1] + t * dy) - o[2]) / dz)
    if begin < t:
        hit, which, face = trace(w, o[0], o[1], o[2], dx, dy, dz, begin, t)
        if which < 0:
            hit, face = t, GROUND
    return o[0] + hit * dx, o[1] + hit * dy, o[2] + hit * dz, t, which, face


@kernel
def _cast(w: WorldArrays, c: F64, pose: tuple[F64, F64], side: int, wanted: BOOL, seen: tuple[F32, I32, F32]) -> None:
    """Fill the `wanted` pixels of `seen` (light, what, length) with the mean of side² rays. pose: world_from_cam, centre."""
    (m, o), (light, what, depth) = pose, seen
    height, width = what.shape
    k = 1.0 / side
    for row in range(height):
        t = o[2] - ground(w, o[0], o[1])[0] if row == 0 else float(depth[row - 1, 0])
        for col in range(width):
            if not wanted[row, col]:
                continue
            r = g = b = 0.0
            which, face = -1, GROUND
            for s in range(side * side):
                u, v = col + (s % side + 0.5) * k, row + (s // side + 0.5) * k
                x, y, z, t, which, face = _ray(w, c, m, o, u, v, t)
                shade = _shade(w, which, face, x, y, z)
                r, g, b = r + shade[0], g + shade[1], b + shade[2]
            light[row, col, 0], light[row, col, 1], light[row, col, 2] = r * k * k, g * k * k, b * k * k
            what[row, col], depth[row, col] = 8 * which + face, t


@kernel
def _mark_rough(light: F32, what: I32, rough: BOOL) -> None:
    """Set the pixels with another surface or a clear step in brightness beside them."""
    height, width = what.shape
    for row in range(height):
        for col in range(width):
            a = light[row, col, 1]
            for k in range(2):
                r, q = row + k, col + 1 - k
                if r < height and q < width:
                    b = light[r, q, 1]
                    if what[row, col] != what[r, q] or abs(a - b) > 0.004 + ROUGH * (a + b):
                        rough[row, col] = rough[r, q] = True


def _photo(w: WorldArrays, c: F64, size: tuple[int, int], pose: tuple[F64, F64], samples: int) -> F32:
    """(height, width, 3) linear light: a ray at each pixel centre, then samples² rays where neighbours differ."""
    light, what, depth = np.empty((*size, 3), np.float32), np.empty(size, np.int32), np.empty(size, np.float32)
    _cast(w, c, pose, 1, np.ones(size, np.bool_), (light, what, depth))
    if samples > 1:
        rough = np.zeros(size, np.bool_)
        _mark_rough(light, what, rough)
        _cast(w, c, pose, samples, rough, (light, what, depth))
    return light


@kernel
def _ortho(w: WorldArrays, x: F64, y: F64, spread: F64, samples: int, out: F32) -> None:
    """Fill `out` (n, 3) with the light seen from straight above, averaged over cells with half sides `spread` (2, 2) east/north."""
    k = 1.0 / (samples * samples)
    for i in range(len(x)):
        r = g = b = 0.0
        for s in range(samples * samples):
            a, e = (s % samples + 0.5) / samples * 2 - 1, (s // samples + 0.5) / samples * 2 - 1
            px, py = x[i] + a * spread[0, 0] + e * spread[0, 1], y[i] + a * spread[1, 0] + e * spread[1, 1]
            z, which = surface(w, px, py)
            face = GROUND if which < 0 else CROWN
            if which >= 0 and w.objects[which, 0] == 0:
                o = w.objects[which]
                face = 5 if -o[4] * (px - o[1]) + o[3] * (py - o[2]) > 0 else 6
            shade = _shade(w, which, face, px, py, z)
            r, g, b = r + shade[0], g + shade[1], b + shade[2]
        out[i, 0], out[i, 1], out[i, 2] = r * k, g * k, b * k


_TONE = (255.0 * np.linspace(0.0, 1.0, 4097) ** (1 / 2.2)).astype(np.float32)


def developed(linear: F32, gain: float | F32, noise_sigma: float = 0.0, seed: tuple[int, ...] = ()) -> U8:
    """Linear light (..., 3) → 8-bit picture: gain (broadcast over the last axis), a shoulder, gamma, sensor noise (DN)."""
    light = linear * np.asarray(gain, np.float32)[..., None]
    light = light * (1.0 + light / 2.2) / (1.0 + light)  # a shoulder keeps roofs from burning out
    out = _TONE[np.clip(light * 4096.0 + 0.5, 0, 4096).astype(np.int32)]
    if noise_sigma > 0:
        grain = np.random.default_rng(seed).standard_normal(out.shape, np.float32)
        grain = 0.6 * grain + 0.8 * grain.mean(axis=-1, keepdims=True) * math.sqrt(3.0)
        out = out + np.float32(noise_sigma) * grain
    return np.asarray(np.clip(out + 0.5, 0, 255), np.uint8)


EXPOSURE = 1.25


def render_photo(
    world: World,
    camera: Intrinsics,
    cam_from_world: F64,
    centre: F64,
    exposure: float = 1.0,
    vignetting: float = 0.22,
    noise_seed: tuple[int, ...] = (0,),
    samples: int = 2,
) -> U8:
    """(height, width, 3) uint8 RGB photo of the world.

    cam_from_world (3, 3), centre (3,) metres. vignetting: light lost in the corners, 0..1. samples²: rays a pixel.
    """
    c = np.array([camera.fx, camera.fy, camera.cx, camera.cy, camera.k1, camera.k2, camera.p1, camera.p2, camera.k3])
    linear = _photo(
        world.arrays,
        c,
        (camera.height_px, camera.width_px),
        (np.ascontiguousarray(cam_from_world.T), np.ascontiguousarray(centre, dtype=float)),
        samples,
    )
    u = (np.arange(camera.width_px, dtype=np.float32) + 0.5) / camera.width_px * 2 - 1
    v = (np.arange(camera.height_px, dtype=np.float32) + 0.5) / camera.height_px * 2 - 1
    r2 = (u[None] ** 2 + v[:, None] ** 2) / 2
    gain = np.float32(EXPOSURE * exposure) * (1 - np.float32(vignetting) * r2 * (0.6 + 0.4 * r2))
    return developed(linear, gain.astype(np.float32), 1.2, noise_seed)


def true_ortho(world: World, x: F64, y: F64, cell_vectors_m: F64, samples: int = 2) -> U8:
    """(rows, cols, 3) uint8 true orthophoto at cell centres x, y (rows, cols) in the truth's world frame.

    cell_vectors_m (2, 2): east and north (rows) of one step along a column number and a row number (columns).
    """
    flat = np.empty((x.size, 3), np.float32)
    _ortho(world.arrays, x.ravel().copy(), y.ravel().copy(), 0.5 * cell_vectors_m, samples, flat)
    return developed(flat, EXPOSURE).reshape(*x.shape, 3)
