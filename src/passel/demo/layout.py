"""Where things are in the synthetic world: roads, farm tracks, parcels, woods, villages. Endless and a pure function of position."""

# mypy: disable-error-code="no-any-return"
# (numba gives decorated functions the type Any)
from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from passel.demo.kernels import (
    ROAD_ZONE,
    SHADE_ZONE,
    TRACK_ZONE,
    VILLAGE_ZONE,
    WOOD_ZONE,
    WorldArrays,
    ground,
    hash01,
    kernel,
    noise,
)

ROAD_EVERY_M, ROAD_HALF_M = 260.0, 3.1
TRACK_EVERY_M, TRACK_HALF_M = 210.0, 1.7
PARCEL_WIDTH_M, PARCEL_LENGTH_M = 47.0, 83.0
WOOD_FROM = 0.69
MEADOW, WHEAT, PLOUGHED, CLOVER, HAY, ORCHARD = range(6)


@kernel
def road_y(x: float) -> float:
    """North coordinate of the central road at east x."""
    return 20.0 * math.sin(x / 71.0 + 0.6) + 7.0 * math.sin(x / 29.0) - 12.0


@kernel
def road_offset(x: float, y: float) -> float:
    """Signed distance (m) to the nearest paved road, positive north of it."""
    d = y - road_y(x)
    d -= ROAD_EVERY_M * math.floor(d / ROAD_EVERY_M + 0.5)
    slope = 20.0 / 71.0 * math.cos(x / 71.0 + 0.6) + 7.0 / 29.0 * math.cos(x / 29.0)
    return d / math.sqrt(1.0 + slope * slope)


@kernel
def track_offset(x: float, y: float) -> float:
    """Signed distance (m) to the nearest farm track, which run north and south."""
    d = x - 62.0 - 11.0 * math.sin(y / 43.0)
    d -= TRACK_EVERY_M * math.floor(d / TRACK_EVERY_M + 0.5)
    slope = 11.0 / 43.0 * math.cos(y / 43.0)
    return d / math.sqrt(1.0 + slope * slope)


@kernel
def parcel(seed: int, x: float, y: float) -> tuple[int, float, float, float]:
    """The field at (x, y): its kind, a hue in [0, 1), distance (m) to its border, and the coordinate (m) across its rows."""
    wx = x + 6.0 * math.sin(y / 57.0)
    wy = y + 6.0 * math.sin(x / 63.0)
    u, v = 0.951 * wx + 0.309 * wy, -0.309 * wx + 0.951 * wy
    strip = math.floor(v / PARCEL_WIDTH_M)
    shift = u + PARCEL_LENGTH_M * hash01(seed + 11, int(strip), 3)
    block = math.floor(shift / PARCEL_LENGTH_M)
    fu, fv = shift - block * PARCEL_LENGTH_M, v - strip * PARCEL_WIDTH_M
    edge = min(fu, PARCEL_LENGTH_M - fu, fv, PARCEL_WIDTH_M - fv)
    hue = hash01(seed + 12, int(strip), int(block))
    kind = int(hash01(seed + 13, int(strip), int(block)) * 6.0)
    return kind, hue, edge, (v if hue > 0.3 else u)


@kernel
def woodness(seed: int, x: float, y: float) -> float:
    """Above WOOD_FROM: wood."""
    return 0.75 * noise(seed + 21, x / 74.0, y / 74.0) + 0.25 * noise(seed + 22, x / 21.0, y / 21.0)


@kernel
def is_village(seed: int, x: float, y: float) -> bool:
    """Gardens and houses lie along the paved roads, in groups."""
    return abs(road_offset(x, y)) < 36.0 and noise(seed + 31, x / 95.0 + 0.35, y / 400.0) > 0.38


@njit(cache=True, nogil=True)
def zones(w: WorldArrays, sun: tuple[float, float, float]) -> NDArray[np.uint8]:
    """(rows, cols) zone bits of every square of the index, from samples a metre and a half beyond its border too."""
    rows, cols = w.top.shape
    out = np.zeros((rows, cols), np.uint8)
    for r in range(rows):
        for c in range(cols):
            bits = SHADE_ZONE if _shaded(w, r, c, sun) else 0
            for k in range(25):
                x = w.west + c * w.cell - 1.5 + (w.cell + 3.0) * (k % 5) / 4
                y = w.south + r * w.cell - 1.5 + (w.cell + 3.0) * (k // 5) / 4
                if abs(road_offset(x, y)) < ROAD_HALF_M + 3.0:
                    bits |= ROAD_ZONE
                if abs(track_offset(x, y)) < TRACK_HALF_M + 3.0:
                    bits |= TRACK_ZONE
                if is_village(w.seed, x, y):
                    bits |= VILLAGE_ZONE
                if woodness(w.seed, x, y) > WOOD_FROM - 0.1:
                    bits |= WOOD_ZONE
            out[r, c] = bits
    return out


@kernel
def _shaded(w: WorldArrays, r: int, c: int, sun: tuple[float, float, float]) -> bool:
    """Whether anything may stand between the ground of a square and the sun."""
    rows, cols = w.top.shape
    low = ground(w, w.west + (c + 0.5) * w.cell, w.south + (r + 0.5) * w.cell)[0] - 0.5 * w.cell
    plan = math.sqrt(sun[0] * sun[0] + sun[1] * sun[1])
    for k in range(30):
        away = 0.5 * k * w.cell
        over = low + max(0.0, away - 2.0 * w.cell) * sun[2] / plan
        cc, rr = c + round(sun[0] / plan * away / w.cell), r + round(sun[1] / plan * away / w.cell)
        for j in range(max(0, rr - 1), min(rows, rr + 2)):
            for i in range(max(0, cc - 1), min(cols, cc + 2)):
                if w.top[j, i] > over:
                    return True
    return False
