"""What colour everything has: albedo of ground, walls, roofs and leaves, with detail from fields down to below a pixel.

Colours are linear light, 0..1. Detail is a function of the place in the world, so every photo sees the same.
"""

# mypy: disable-error-code="no-any-return"
# (numba gives decorated functions the type Any)
from __future__ import annotations

import math

from passel.demo.kernels import (
    CROWN,
    F64,
    GROUND,
    HUE,
    ROAD_ZONE,
    STYLE,
    TRACK_ZONE,
    VILLAGE_ZONE,
    WOOD_ZONE,
    WorldArrays,
    hash01,
    kernel,
    kernel_inline,
    noise,
    zone,
)
from passel.demo.layout import (
    CLOVER,
    HAY,
    ORCHARD,
    PLOUGHED,
    ROAD_HALF_M,
    TRACK_HALF_M,
    WHEAT,
    WOOD_FROM,
    is_village,
    parcel,
    road_offset,
    track_offset,
    woodness,
)

Colour = tuple[float, float, float]


@kernel
def grain(seed: int, x: float, y: float) -> float:
    """Detail of 13 cm to 1.2 m, mean about 0.5."""
    return (
        0.30 * noise(seed + 201, x * 7.3 + 1.9 * y, y * 7.3 - 1.9 * x)
        + 0.28 * noise(seed + 202, x * 3.9, y * 3.9 - 1.1 * x)
        + 0.24 * noise(seed + 203, x * 1.9 + 0.6 * y, y * 1.9)
        + 0.18 * noise(seed + 204, x * 0.83, y * 0.83)
    )


@kernel
def blend(a: Colour, b: Colour, k: float) -> Colour:
    return a[0] + (b[0] - a[0]) * k, a[1] + (b[1] - a[1]) * k, a[2] + (b[2] - a[2]) * k


@kernel
def scaled(a: Colour, k: float) -> Colour:
    return a[0] * k, a[1] * k, a[2] * k


@kernel
def ramp(low: float, high: float, x: float) -> float:
    """0 below low, 1 above high, smooth between."""
    t = min(max((x - low) / (high - low), 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


@kernel
def field_colour(seed: int, x: float, y: float, fine: float, broad: float) -> Colour:
    """Crops, meadows and what grows between them."""
    kind, hue, edge, across = parcel(seed, x, y)
    rows = math.sin(across * 4.2 + 3.0 * noise(seed + 221, x / 9.0, y / 9.0))
    if kind == WHEAT:
        c = scaled((0.36, 0.27, 0.10), 0.45 + 0.75 * fine + 0.12 * rows + 0.25 * broad)
    elif kind == PLOUGHED:
        c = scaled((0.17, 0.105, 0.06), 0.35 + 0.95 * fine + 0.22 * rows + 0.2 * broad)
    elif kind == CLOVER:
        c = scaled((0.055, 0.14, 0.035), 0.35 + 1.05 * fine + 0.10 * rows + 0.3 * broad)
    elif kind == HAY:
        c = scaled((0.25, 0.24, 0.085), 0.4 + 0.9 * fine + 0.16 * rows + 0.25 * broad)
    else:
        c = scaled((0.10, 0.155, 0.045), 0.35 + 1.0 * fine + 0.4 * broad)
        c = blend(c, scaled((0.19, 0.18, 0.07), 0.5 + fine), ramp(0.45, 0.75, broad))
    if kind not in (WHEAT, PLOUGHED) and kind != ORCHARD:
        flower = noise(seed + 222, x * 6.1, y * 6.1)
        if flower > 0.90:
            c = blend(c, (0.5, 0.48, 0.25), 0.55)
    c = scaled(c, 0.86 + 0.28 * hue)
    verge = scaled((0.115, 0.135, 0.05), 0.3 + 1.1 * fine)
    return blend(verge, c, ramp(0.5, 1.3, edge + 0.8 * (broad - 0.5)))


@kernel
def road_colour(seed: int, x: float, offset: float, fine: float, broad: float) -> Colour:
    """Asphalt with patches and painted lines."""
    c = scaled((0.105, 0.105, 0.11), 0.55 + 0.7 * fine + 0.4 * broad)
    d = abs(offset)
    dash = x / 6.0 - math.floor(x / 6.0)
    if (ROAD_HALF_M - 0.42 < d < ROAD_HALF_M - 0.25) or (d < 0.09 and dash < 0.5):
        c = blend(c, (0.55, 0.55, 0.52), 0.35 + 0.6 * fine)
    if noise(seed + 231, x / 3.0, offset / 1.5) > 0.82:
        c = scaled(c, 0.6)
    return c


@kernel_inline
def ground_colour(w: WorldArrays, x: float, y: float) -> Colour:
    """Albedo of the ground, marks included."""
    mx, my = x / w.mark_cell, y / w.mark_cell
    mr, mc = math.floor(my) + w.marks.shape[0] // 2, math.floor(mx) + w.marks.shape[1] // 2
    if 0 <= mr < w.marks.shape[0] and 0 <= mc < w.marks.shape[1]:
        dx, dy = x - w.marks[mr, mc, 0], y - w.marks[mr, mc, 1]
        if abs(dx) < 0.5 * w.mark_size and abs(dy) < 0.5 * w.mark_size:
            return (0.75, 0.75, 0.75) if dx * dy > 0 else (0.02, 0.02, 0.02)
    seed = w.seed
    fine = grain(seed, x, y)
    broad = 0.6 * noise(seed + 211, x / 3.7, y / 3.7) + 0.4 * noise(seed + 212, x / 17.0, y / 17.0)
    ragged = 0.5 * (broad - 0.5) + 0.25 * (fine - 0.5)
    bits = zone(w, x, y)
    road = road_offset(x, y) if bits & ROAD_ZONE else 1e3
    if abs(road) < ROAD_HALF_M + 0.05 * ragged:
        return road_colour(seed, x, road, fine, broad)
    if bits & VILLAGE_ZONE and is_village(seed, x, y):
        c = scaled((0.085, 0.165, 0.04), 0.35 + 0.95 * fine + 0.35 * broad)
        patch = noise(seed + 241, x / 6.0, y / 6.0)
        c = blend(c, scaled((0.30, 0.27, 0.22), 0.5 + 0.85 * fine), ramp(0.66, 0.72, patch + 0.1 * (fine - 0.5)))
        c = blend(c, scaled((0.13, 0.085, 0.05), 0.3 + 1.2 * fine), ramp(0.16, 0.12, patch))
    else:
        c = field_colour(seed, x, y, fine, broad)
        if bits & WOOD_ZONE:
            wood = ramp(WOOD_FROM - 0.03, WOOD_FROM + 0.01, woodness(seed, x, y) + 0.03 * (broad - 0.5))
            c = blend(c, scaled((0.075, 0.07, 0.035), 0.2 + 1.3 * fine), wood)
    gravel = scaled((0.30, 0.26, 0.20), 0.45 + 0.95 * fine)
    if bits & TRACK_ZONE:
        d = abs(track_offset(x, y)) + 0.6 * ragged
        ruts = 1.0 - 0.55 * ramp(0.45, 0.1, d)
        c = blend(c, gravel, ruts * ramp(TRACK_HALF_M + 0.25, TRACK_HALF_M - 0.2, d))
    return blend(c, gravel, 0.8 * ramp(ROAD_HALF_M + 1.0, ROAD_HALF_M + 0.1, abs(road) + ragged))


@kernel
def box_colour(seed: int, o: F64, face: int, x: float, y: float, z: float) -> Colour:
    """Walls with windows, tiled or flat roofs, cars."""
    px, py = x - o[1], y - o[2]
    lx, ly = o[3] * px + o[4] * py, -o[4] * px + o[3] * py
    style, hue = int(o[STYLE]), o[HUE]
    if style == 2:  # a car
        paint = (
            0.5 * hash01(seed, int(1e6 * hue), 1),
            0.4 * hash01(seed, int(1e6 * hue), 2),
            0.45 * hash01(seed, int(1e6 * hue), 3),
        )
        c = blend((0.5, 0.5, 0.5), paint, 0.75)
        glass = face >= 5 and (0.55 < abs(lx + 0.25) < 1.2)
        return (0.02, 0.025, 0.03) if glass else scaled(c, 0.85 + 0.3 * grain(seed + 5, lx + 40.0 * hue, ly))
    if face >= 5:
        fine = grain(seed + 6, lx + 100.0 * hue, ly)
        broad = noise(seed + 251, lx / 1.7 + 50.0 * hue, ly / 1.7)
        if style == 1:  # flat roof: gravel or felt with seams and boxes
            c = scaled((0.27, 0.265, 0.25), 0.3 + 0.85 * fine + 0.45 * broad)
            if lx - 2.4 * math.floor(lx / 2.4) < 0.12:
                c = scaled(c, 0.6)
            if noise(seed + 252, lx / 1.9 + 9.0, ly / 1.9) > 0.86:
                c = (0.42, 0.43, 0.44)
            return c
        red = blend((0.30, 0.105, 0.06), (0.15, 0.11, 0.10), hue)
        course = abs(ly) / 0.33 - math.floor(abs(ly) / 0.33)
        tile = hash01(seed + 7, math.floor(abs(ly) / 0.33), math.floor(lx / 0.3 + 1000.0 * hue))
        c = scaled(red, 0.4 + 0.5 * fine + 0.5 * broad + 0.45 * (tile - 0.5) - (0.2 if course < 0.2 else 0.0))
        return blend(c, scaled(red, 0.45), ramp(0.16, 0.08, abs(ly)))
    along = ly if face <= 2 else lx
    fine = grain(seed + 8, along + 100.0 * hue + 31.0 * face, z)
    c = scaled(blend((0.50, 0.46, 0.38), (0.42, 0.34, 0.24), hue), 0.5 + 0.75 * fine)
    fw, fh = along / 2.1 - math.floor(along / 2.1), (o[8] - z) / 2.6 - math.floor((o[8] - z) / 2.6)
    return (0.035, 0.04, 0.05) if 0.3 < fw < 0.72 and 0.28 < fh < 0.72 else c


@kernel
def leaf_colour(seed: int, o: F64, x: float, y: float, z: float) -> Colour:
    """Leaves with gaps, or straw."""
    fine = grain(seed + 9, x + 0.25 * z, y - 0.2 * z)
    if o[STYLE] == HAY:
        return scaled((0.40, 0.33, 0.15), 0.4 + fine)
    clump = noise(seed + 261, x * 1.5 + 0.4 * z, y * 1.5 - 0.3 * z)
    k = 0.12 + 1.15 * fine * (0.45 + clump)
    return scaled(blend((0.045, 0.105, 0.025), (0.115, 0.135, 0.035), o[HUE]), k)


@kernel_inline
def albedo(w: WorldArrays, which: int, face: int, x: float, y: float, z: float) -> Colour:
    """Colour of the surface point of an object (-1: ground)."""
    if face == GROUND or which < 0:
        return ground_colour(w, x, y)
    if face == CROWN:
        return leaf_colour(w.seed, w.objects[which], x, y, z)
    return box_colour(w.seed, w.objects[which], face, x, y, z)
