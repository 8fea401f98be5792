"""The synthetic world: hills, houses, woods, fields, roads and checkpoint marks, endless by position and exact by construction."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from passel.demo.kernels import (
    BLOB,
    BOX,
    F64,
    ROOFS_WITHIN_M,
    WorldArrays,
    clearances,
    ground,
    hash01,
    noise,
    surfaces,
)
from passel.demo.layout import (
    HAY,
    ORCHARD,
    PARCEL_WIDTH_M,
    ROAD_EVERY_M,
    WOOD_FROM,
    is_village,
    parcel,
    road_offset,
    road_y,
    track_offset,
    woodness,
    zones,
)

KNOT_M = 12.0
INDEX_CELL_M = 4.0
SUN = (-0.52, 0.38, 0.765)  # towards the sun: north-west, 50° high, as maps are shaded
MARK_CELL_M = 32.0
MARK_CLEARANCE_M = 4.0
HOUSE, SHED, CAR, WALL = range(4)  # styles of boxes


class World:
    """The world of one seed within `half_size_m` of the origin. What stands at a place depends on the seed only, not on the size.

    marks: (m, 2) centres (m) of the checkpoint marks, black and white checkers of `mark_m` sides, aligned with east and north.
    """

    def __init__(self, seed: int = 1, half_size_m: float = 400.0, mark_m: float = 0.8) -> None:
        self.seed, self.half_size_m, self.mark_m = seed, half_size_m, mark_m
        coef, first = _ground_coefficients(seed, half_size_m)
        bare = _arrays(seed, coef, first, np.empty((0, 12)), half_size_m, mark_m)
        objects = _objects(bare, half_size_m)
        full = _arrays(seed, coef, first, objects, half_size_m, mark_m)
        self.arrays = full._replace(marks=_marks(full, half_size_m), zones=zones(full, SUN))
        marks = self.arrays.marks.reshape(-1, 2)
        self.marks: F64 = marks[np.isfinite(marks[:, 0])]

    def height_m(self, x: F64, y: F64) -> F64:
        """Height of the top surface (roofs, crowns, ground), metres, at positions of any equal shape."""
        return _over(lambda a, b: surfaces(self.arrays, a, b, True), x, y)

    def ground_m(self, x: F64, y: F64) -> F64:
        """Height of the bare ground, metres."""
        return _over(lambda a, b: surfaces(self.arrays, a, b, False), x, y)

    def is_open(self, x: F64, y: F64, clearance_m: float = 2.0) -> NDArray[np.bool_]:
        """Whether nothing stands within `clearance_m` of the position."""
        return _over(lambda a, b: clearances(self.arrays, a, b, clearance_m), x, y) >= clearance_m


def _over(f: object, x: F64, y: F64) -> F64:
    a, b = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
    assert callable(f)
    return np.asarray(f(np.ascontiguousarray(a).ravel(), np.ascontiguousarray(b).ravel())).reshape(a.shape)


def _ground_coefficients(seed: int, half_size_m: float) -> tuple[F64, float]:
    """Spline coefficients and the position (m) of the first, on a lattice that does not depend on the size."""
    n = math.ceil(half_size_m / KNOT_M) + 3
    at = np.arange(-n, n + 1) * KNOT_M
    coef = np.empty((len(at), len(at)))
    for r, y in enumerate(at):
        for c, x in enumerate(at):
            coef[r, c] = (
                17.0 * noise(seed + 1, x / 170.0 + 0.3, y / 170.0 + 0.1)
                + 4.0 * noise(seed + 2, x / 71.0, y / 71.0)
                + 0.8 * noise(seed + 3, x / 29.0, y / 29.0)
            )
    return coef, float(at[0])


def _arrays(seed: int, coef: F64, first: float, objects: F64, half_size_m: float, mark_m: float) -> WorldArrays:
    """Pack the world, with the index of objects by square."""
    n = math.ceil(half_size_m / INDEX_CELL_M)
    low, count = -n * INDEX_CELL_M, 2 * n
    lists: list[list[int]] = [[] for _ in range(count * count)]
    top = np.full((count, count), -np.inf)
    for k, o in enumerate(objects):
        rx = o[5] if o[0] == BLOB else abs(o[3]) * o[5] + abs(o[4]) * o[6]
        ry = o[5] if o[0] == BLOB else abs(o[4]) * o[5] + abs(o[3]) * o[6]
        high = o[7] + o[6] if o[0] == BLOB else o[9]
        for r in range(math.floor((o[2] - ry - low) / INDEX_CELL_M), math.floor((o[2] + ry - low) / INDEX_CELL_M) + 1):
            for c in range(
                math.floor((o[1] - rx - low) / INDEX_CELL_M), math.floor((o[1] + rx - low) / INDEX_CELL_M) + 1
            ):
                if 0 <= r < count and 0 <= c < count:
                    lists[r * count + c].append(k)
                    top[r, c] = max(top[r, c], high)
    start = np.concatenate([[0], np.cumsum([len(s) for s in lists])]).astype(np.int32)
    items = np.array([k for s in lists for k in s], np.int32)
    reach = 2 * math.ceil(ROOFS_WITHIN_M / INDEX_CELL_M) + 1
    roofs = ndimage.maximum_filter(top, reach, mode="nearest")
    nothing = np.zeros((0, 0), np.uint8)
    marks = np.full((2 * math.ceil(half_size_m / MARK_CELL_M),) * 2 + (2,), np.nan)
    return WorldArrays(
        seed,
        coef,
        first,
        first,
        KNOT_M,
        objects,
        start,
        items,
        top,
        roofs,
        nothing,
        low,
        low,
        INDEX_CELL_M,
        marks,
        MARK_CELL_M,
        mark_m,
    )


def _objects(w: WorldArrays, half_size_m: float) -> F64:
    """Everything that stands on the ground, as the (n, 12) table: houses first, then cars, then plants that keep off them."""
    boxes = _buildings(w, half_size_m)
    plants = _plants(w, half_size_m, np.array(boxes) if boxes else np.empty((0, 12)))
    return np.array(boxes + plants) if boxes or plants else np.empty((0, 12))


def _box(
    w: WorldArrays,
    at: tuple[float, float],
    turn: float,
    size: tuple[float, float, float, float],
    hue: float,
    style: int,
) -> list[float]:
    """A box on the ground: half length, half width, eave and extra ridge height (m)."""
    hx, hy, eave, rise = size
    c, s = math.cos(turn), math.sin(turn)
    corners = [
        ground(w, at[0] + i * hx * c - j * hy * s, at[1] + i * hx * s + j * hy * c)[0] for i in (-1, 1) for j in (-1, 1)
    ]
    low, base = min(corners) - 0.5, sum(corners) / 4
    return [BOX, at[0], at[1], c, s, hx, hy, low, base + eave, base + eave + rise, hue, style]


def _buildings(w: WorldArrays, half_size_m: float) -> list[list[float]]:
    """Houses and sheds beside the roads, garages, and cars on the roads and in front of houses."""
    boxes: list[list[float]] = []
    seed = w.seed
    n = math.ceil(half_size_m / 21.0)
    roads = math.ceil(half_size_m / ROAD_EVERY_M) + 1
    for k in range(-roads, roads + 1):
        for i in range(-n, n + 1):
            for side in (-1, 1):
                key = 4 * k + side
                h = [hash01(seed + 41 + q, i, key) for q in range(8)]
                x = 21.0 * i + 5.0 * h[0]
                slope = (road_y(x + 0.5) - road_y(x - 0.5)) / 1.0
                turn = math.atan(slope)
                away = side * (14.0 + 5.0 * h[1])
                px, py = x - away * math.sin(turn), road_y(x) + k * ROAD_EVERY_M + away * math.cos(turn)
                if h[6] < 0.5 and is_village(seed, px, py):
                    lane = side * 1.6
                    boxes.append(
                        _box(
                            w,
                            (
                                px + away * math.sin(turn) - lane * math.sin(turn),
                                road_y(x) + k * ROAD_EVERY_M + lane * math.cos(turn),
                            ),
                            turn,
                            (2.1, 0.9, 1.45, 0.0),
                            h[4],
                            CAR,
                        )
                    )
                if not is_village(seed, px, py) or h[2] < 0.12 or abs(track_offset(px, py)) < 12.0:
                    continue
                if h[2] > 0.84:
                    boxes.append(_box(w, (px, py), turn, (8.0, 5.5, 5.0 + 2 * h[3], 0.0), h[4], SHED))
                else:
                    quarter = math.pi / 2 if h[5] > 0.6 else 0.0
                    size = (4.6 + 1.8 * h[3], 3.7 + 0.8 * h[4], 3.2 + 2.6 * h[5], 2.0 + 1.3 * h[3])
                    boxes.append(_box(w, (px, py), turn + quarter, size, h[4], HOUSE))
                    gx, gy = px + 8.8 * math.cos(turn), py + 8.8 * math.sin(turn)
                    if h[7] > 0.45:
                        boxes.append(_box(w, (gx, gy), turn, (1.7, 2.9, 2.5, 0.0), h[0], SHED))
    return boxes


def _plants(w: WorldArrays, half_size_m: float, boxes: F64) -> list[list[float]]:
    """Trees of several crowns each, bushes, orchard rows and hay bales, none on a road or against a wall."""
    lots = boxes[boxes[:, 11] != CAR] if len(boxes) else boxes
    out: list[list[float]] = []
    seed, step = w.seed, 4.5
    n = math.ceil(half_size_m / step)
    for j in range(-n, n + 1):
        for i in range(-n, n + 1):
            h = [hash01(seed + 61 + q, i, j) for q in range(5)]
            x, y = (i + 0.8 * h[0]) * step, (j + 0.8 * h[1]) * step
            chance, size = _plant_chance(seed, x, y)
            kind, hue, edge, _ = parcel(seed, x, y)
            if h[2] >= chance or abs(road_offset(x, y)) < 5.5 or abs(track_offset(x, y)) < 3.2:
                continue
            if kind == HAY and edge > 6.0 and chance < 0.03:
                out.append([BLOB, x, y, 1, 0, 0.85, 0.8, ground(w, x, y)[0] + 0.55, 0, 0, hue, HAY])
                continue
            radius = size * (0.7 + 0.6 * h[3])
            if (
                len(lots)
                and (np.hypot(lots[:, 1] - x, lots[:, 2] - y) < np.hypot(lots[:, 5], lots[:, 6]) + radius).any()
            ):
                continue
            out += _tree(w, (x, y), radius, (h[3], h[4]), (i, j))
    return out


def _plant_chance(seed: int, x: float, y: float) -> tuple[float, float]:
    """Chance of a plant at a planting place, and its crown radius (m)."""
    kind, _, edge, _ = parcel(seed, x, y)
    if is_village(seed, x, y):
        return 0.10, 1.7
    if woodness(seed, x, y) > WOOD_FROM:
        return 0.8, 2.9
    if edge < 1.6 and noise(seed + 33, x / PARCEL_WIDTH_M, y / PARCEL_WIDTH_M) > 0.55:
        return 0.5, 1.8
    if kind == ORCHARD and edge > 5.0:
        return 0.22, 1.6
    return 0.012, 2.2


def _tree(
    w: WorldArrays, at: tuple[float, float], radius: float, h: tuple[float, float], ij: tuple[int, int]
) -> list[list[float]]:
    """A crown of one large and three small ellipsoids."""
    base = ground(w, at[0], at[1])[0]
    tall = radius * (1.9 + 0.9 * h[1])
    crowns = [[BLOB, at[0], at[1], 1, 0, radius, 0.5 * tall, base + 0.55 * tall, 0, 0, h[0], -1]]
    for k in range(3):
        turn = 2.1 * k + 6.28 * h[0]
        size = radius * (0.5 + 0.22 * hash01(w.seed + 71 + k, ij[0], ij[1]))
        cx, cy = at[0] + 0.55 * radius * math.cos(turn), at[1] + 0.55 * radius * math.sin(turn)
        crowns.append(
            [BLOB, cx, cy, 1, 0, size, 0.9 * size, base + (0.5 + 0.13 * k) * tall, 0, 0, (h[0] + 0.13 * k) % 1.0, -1]
        )
    return crowns


def _marks(w: WorldArrays, half_size_m: float) -> F64:
    """(rows, cols, 2) one checkpoint mark in each square of MARK_CELL_M where an open place is found, NaN elsewhere."""
    n = math.ceil(half_size_m / MARK_CELL_M)
    out = np.full((2 * n, 2 * n, 2), np.nan)
    for r in range(-n, n):
        for c in range(-n, n):
            for k in range(12):
                x = (c + 0.15 + 0.7 * hash01(w.seed + 81 + k, c, r)) * MARK_CELL_M
                y = (r + 0.15 + 0.7 * hash01(w.seed + 101 + k, c, r)) * MARK_CELL_M
                if clearances(w, np.array([x]), np.array([y]), MARK_CLEARANCE_M)[0] >= MARK_CLEARANCE_M:
                    out[r + n, c + n] = x, y
                    break
    return out
