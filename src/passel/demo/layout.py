"""Where things are in the synthetic world: roads, farm tracks, parcels, woods, villages. Endless and a pure function of position."""

from __future__ import annotations

import math

from numba import njit

from passel.demo.kernels import hash01, noise

ROAD_EVERY_M, ROAD_HALF_M = 260.0, 3.1
TRACK_EVERY_M, TRACK_HALF_M = 210.0, 1.7
PARCEL_WIDTH_M, PARCEL_LENGTH_M = 47.0, 83.0
MEADOW, WHEAT, PLOUGHED, CLOVER, HAY, ORCHARD = range(6)


@njit(cache=True, nogil=True)
def road_y(x: float) -> float:
    """North coordinate of the central road at east x."""
    return 20.0 * math.sin(x / 71.0 + 0.6) + 7.0 * math.sin(x / 29.0) - 12.0


@njit(cache=True, nogil=True)
def road_offset(x: float, y: float) -> float:
    """Signed distance (m) to the nearest paved road, positive north of it."""
    d = y - road_y(x)
    d -= ROAD_EVERY_M * math.floor(d / ROAD_EVERY_M + 0.5)
    slope = 20.0 / 71.0 * math.cos(x / 71.0 + 0.6) + 7.0 / 29.0 * math.cos(x / 29.0)
    return d / math.sqrt(1.0 + slope * slope)


@njit(cache=True, nogil=True)
def track_offset(x: float, y: float) -> float:
    """Signed distance (m) to the nearest farm track, which run north and south."""
    d = x - 62.0 - 11.0 * math.sin(y / 43.0)
    d -= TRACK_EVERY_M * math.floor(d / TRACK_EVERY_M + 0.5)
    slope = 11.0 / 43.0 * math.cos(y / 43.0)
    return d / math.sqrt(1.0 + slope * slope)


@njit(cache=True, nogil=True)
def parcel(seed: int, x: float, y: float) -> tuple[int, float, float, float]:
    """The field at (x, y): its kind, a hue in [0, 1), distance (m) to its border, and the coordinate (m) across its rows."""
    wx = x + 6.0 * math.sin(y / 57.0)
    wy = y + 6.0 * math.sin(x / 63.0)
    u, v = 0.951 * wx + 0.309 * wy, -0.309 * wx + 0.951 * wy
    strip = math.floor(v / PARCEL_WIDTH_M)
    shift = u + PARCEL_LENGTH_M * hash01(seed + 11, int(strip), 3)
    block = math.floor(shift / PARCEL_LENGTH_M)
    fu, fv = shift - block * PARCEL_LENGTH_M, v - strip * PARCEL_WIDTH_M
    edge = min(min(fu, PARCEL_LENGTH_M - fu), min(fv, PARCEL_WIDTH_M - fv))
    hue = hash01(seed + 12, int(strip), int(block))
    kind = int(hash01(seed + 13, int(strip), int(block)) * 6.0)
    return kind, hue, edge, (v if hue > 0.3 else u)


@njit(cache=True, nogil=True)
def woodness(seed: int, x: float, y: float) -> float:
    """Above 0.64: wood."""
    return 0.75 * noise(seed + 21, x / 74.0, y / 74.0) + 0.25 * noise(seed + 22, x / 21.0, y / 21.0)


@njit(cache=True, nogil=True)
def is_village(seed: int, x: float, y: float) -> bool:
    """Gardens and houses lie along the paved roads, in groups."""
    return abs(road_offset(x, y)) < 36.0 and noise(seed + 31, x / 95.0 + 0.35, y / 400.0) > 0.38
