"""The coarse surface of the whole survey, at 8 matching cells: what every tile starts from, so that neighbours start alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from passel.geo.grid import Grid, Tile, Window
from passel.reconstruct.scene import View
from passel.surface.camera import LEAST_BASE, times_seen
from passel.surface.match import (
    MOST_HEIGHTS,
    Heights,
    Level,
    block_heights,
    enlarged,
    match_level,
    plan_level,
    ranges_around,
    skip_unseen,
)
from passel.surface.place import load_place, save_place
from passel.surface.plate import Plate
from passel.surface.resample import bilinear

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]

COARSE_FACTOR = 8  # matching cells
START_FACTOR = 32
BIN_FACTOR = 256  # bins of points that bound the first heights
POINT_BINS = 8  # bins of points that say what is likely, in one of those
LIKELY_WITHIN = 0.03  # of the flying height above and below the points around, and
LIKELY_SLOPE = 0.15  # of the distance to the nearest
COARSE_MARGIN = 128  # coarse cells
LEAST_WIDTH = 48
BLOCK_CELLS = 16  # of the coarse levels
MOST_AT_START = 250  # heights of one cell of the first level
REACH = 4  # height steps tried at least beyond those of the coarser level around
JUMP_COST = 40.0  # quarter bits, less than on finer levels: a tree is few cells wide here
WORST_COST = 104  # quarter bits: 42 % of the bits differ


@dataclass(frozen=True)
class PriorHeights:
    """Where the ground may be, from the scene's points: bins of the lattice `grid` over `window`.

    low, high: (rows, cols) float32 metres, no NaN: what is possible. On bins POINT_BINS times finer, over the same window: ground,
    float32 metres, mean of the points in and around a bin, NaN where there are none; likely_low, likely_high: float32 metres, no NaN.
    """

    grid: Grid
    window: Window
    low: F32
    high: F32
    ground: F32
    likely_low: F32
    likely_high: F32

    def over(self, window: Window, cells: int) -> tuple[F32, F32]:
        """low and high of a window of any lattice `cells` times finer; beyond the points the edge repeats."""
        return self._over(self.low, window, 1, cells), self._over(self.high, window, 1, cells)

    def likely_over(self, window: Window, cells: int) -> tuple[F32, F32, F32]:
        """ground, likely_low and likely_high of a window of any lattice `cells` times finer than the large bins."""
        some = (self.ground, self.likely_low, self.likely_high)
        ground, low, high = (self._over(a, window, POINT_BINS, cells) for a in some)
        return ground, low, high

    def _over(self, a: F32, window: Window, parts: int, cells: int) -> F32:
        rows = (np.arange(window.row, window.row + window.rows) * parts) // cells - self.window.row * parts
        cols = (np.arange(window.col, window.col + window.cols) * parts) // cells - self.window.col * parts
        return a[np.ix_(np.clip(rows, 0, a.shape[0] - 1), np.clip(cols, 0, a.shape[1] - 1))]

    def save(self, out: Path) -> None:
        save_place(self.grid, self.window, out / "prior.json")
        np.save(out / "prior_possible.npy", np.stack([self.low, self.high]))
        np.save(out / "prior_likely.npy", np.stack([self.ground, self.likely_low, self.likely_high]))

    @staticmethod
    def load(folder: Path) -> PriorHeights:
        """Arrays are memory-mapped: a tile reads its own part only."""
        possible = np.load(folder / "prior_possible.npy", mmap_mode="r")
        likely = np.load(folder / "prior_likely.npy", mmap_mode="r")
        return PriorHeights(*load_place(folder / "prior.json"), *possible, *likely)


def prior_heights(points: F64, above_m: float, cell_m: float, offset_m: tuple[float, float]) -> PriorHeights:
    """Bounds of the surface from (m, 3) points (map metres, none wild) and the usual height of the cameras above them: the span of the
    points around, less and plus what they cannot show."""
    grid = Grid(cell_m * BIN_FACTOR, offset_m)
    col, row = np.floor(grid.col(points[:, 0])).astype(int), np.floor(grid.row(points[:, 1])).astype(int)
    c0, c1 = (int(v) for v in np.percentile(col, (0.05, 99.95), method="nearest"))
    r0, r1 = (int(v) for v in np.percentile(row, (0.05, 99.95), method="nearest"))
    window = Window(c0, r0, c1 - c0 + 1, r1 - r0 + 1)
    low, high = _bins(points, grid, window, (0.04, 0.99))  # single wild points must not widen the search
    near = ndimage.distance_transform_edt(np.isnan(low), return_distances=False, return_indices=True)
    low, high = low[tuple(near)], high[tuple(near)]
    low, high = ndimage.minimum_filter(low, 3, mode="nearest"), ndimage.maximum_filter(high, 3, mode="nearest")
    likely = _likely(points, grid, window, above_m)
    possible = (low - 0.06 * above_m).astype(np.float32), (high + 0.2 * above_m).astype(np.float32)
    return PriorHeights(grid, window, *possible, *likely)


def _bins(points: F64, grid: Grid, window: Window, shares: Sequence[float]) -> list[F64]:
    """For each share the height below which that share of a bin's points lies, (rows, cols), NaN in empty bins."""
    col, row = np.floor(grid.col(points[:, 0])).astype(int), np.floor(grid.row(points[:, 1])).astype(int)
    col, row = col - window.col, row - window.row
    inside = (col >= 0) & (col < window.cols) & (row >= 0) & (row < window.rows)
    number, z = (row * window.cols + col)[inside], points[inside, 2]
    order = np.lexsort((z, number))
    number, z = number[order], z[order]
    bins, first, n = np.unique(number, return_index=True, return_counts=True)
    found = []
    for share in shares:
        a = np.full(window.rows * window.cols, np.nan)
        a[bins] = z[first + np.minimum((n * share).astype(int), n - 1)]
        found.append(a.reshape(window.shape))
    return found


def _likely(points: F64, grid: Grid, window: Window, above_m: float) -> tuple[F32, F32, F32]:
    """ground, likely_low, likely_high of `PriorHeights`: near points as they are, far from them ever wider."""
    k = POINT_BINS
    fine = Grid(grid.resolution_m / k, grid.offset_m)
    (middle,) = _bins(points, fine, Window(window.col * k, window.row * k, window.cols * k, window.rows * k), (0.5,))
    known = np.isfinite(middle)
    n = ndimage.uniform_filter(known.astype(float), 3, mode="constant")
    total = ndimage.uniform_filter(np.where(known, middle, 0.0), 3, mode="constant")
    ground = np.where(n > 0.5 / 9, total / np.maximum(n, 1e-9), np.nan)
    low = ndimage.minimum_filter(np.where(known, middle, np.inf), 3)
    high = ndimage.maximum_filter(np.where(known, middle, -np.inf), 3)
    distance, near = ndimage.distance_transform_edt(np.isinf(low), return_indices=True)
    slack = LIKELY_WITHIN * above_m + LIKELY_SLOPE * distance * fine.resolution_m
    low, high = low[tuple(near)] - slack, high[tuple(near)] + slack
    return ground.astype(np.float32), low.astype(np.float32), high.astype(np.float32)


def coarse_tile(
    tile: Tile,
    cell_m: float,
    prior: PriorHeights,
    views: Sequence[View],
    plates: Mapping[str, Plate],
    least_base: float = LEAST_BASE,
) -> F32:
    """Heights of a coarse tile's core (lattice of 8 matching cells): float32 metres, NaN where no photos agree.

    least_base: rad, between two rays that tell a height.
    """
    offset = prior.grid.offset_m
    padded = tile.padded(COARSE_MARGIN)
    found: Heights | None = None
    start = start_factor(views, plates)
    for factor in [f for f in (START_FACTOR, START_FACTOR // 2, COARSE_FACTOR) if f <= start]:
        window = padded.divided(factor // COARSE_FACTOR)
        low_m, high_m = prior.over(window, BIN_FACTOR // factor)
        ground, likely_low, likely_high = prior.likely_over(window, BIN_FACTOR // factor)
        dz = cell_m * factor
        likely = np.floor(likely_low / dz).astype(np.int32), np.ceil(likely_high / dz).astype(np.int32)
        lowest, count = _heights_to_try(low_m, high_m, dz, found)
        level = Level(Grid(dz, offset), window, BLOCK_CELLS, dz, lowest, count, likely, JUMP_COST, least_base)
        near = ((likely_low + likely_high) / 2).astype(np.float32)
        blocks = plan_level(level, views, block_heights(near, BLOCK_CELLS, dz))
        skip_unseen(level, blocks)
        above = found
        found = match_level(level, views, plates, blocks, factor)
        found = _or_else(found, near if above is None else enlarged(above.z, 2))
    assert found is not None
    shown = times_seen(views, Grid(cell_m * COARSE_FACTOR, offset), padded, near) >= 2
    return _core(found, ground, shown, tile, padded)


def _heights_to_try(low_m: F32, high_m: F32, dz_m: float, above: Heights | None) -> tuple[I32, I32]:
    """lowest and count of a `Level`: all that is possible, since the coarser level `above` does not see single trees and sheds.

    Where that is too much (steep ground within a bin) only what lies around the coarser level's heights.
    """
    lowest = np.floor(low_m / dz_m).astype(np.int32)
    count = np.ceil(high_m / dz_m).astype(np.int32) - lowest + 1
    if above is None:
        return lowest, np.minimum(count, MOST_AT_START)
    near, near_count = ranges_around(above.z, 2, dz_m, REACH)
    low = np.minimum(lowest, near)
    n = np.maximum(lowest + count, near + near_count) - low
    many = n > MOST_HEIGHTS
    return np.where(many, near, low), np.where(many, near_count, n)


def start_factor(views: Sequence[View], plates: Mapping[str, Plate]) -> int:
    """The coarsest level at which a plate is still LEAST_WIDTH pixels wide: census windows need some picture around them."""
    widths = [v.intrinsics.width_px * plates[v.photo].scale_x for v in views]
    factor = START_FACTOR
    while factor > COARSE_FACTOR and widths and float(np.median(widths)) / factor < LEAST_WIDTH:
        factor //= 2
    return factor


def _or_else(found: Heights, z: F32) -> Heights:
    """Cells that fewer than two photos see get the heights z (rows, cols): those of the points around, or the coarser level's."""
    z = np.where(found.seen >= 2, found.z, z)
    return Heights(z.astype(np.float32), found.cost, found.seen, found.edge)


def _core(found: Heights, ground: F32, shown: NDArray[np.bool_], tile: Tile, padded: Window) -> F32:
    """Heights that photos agree on, else those of points near, else NaN.

    shown: where two photos see the height of the points around. Beyond, at the survey's rim, two may still see a lower one, and the
    lower the more: matches there are chance, and lead every finer level farther down.
    """
    z = cv2.medianBlur(found.z, 3)
    good = shown & (found.seen >= 2) & (found.cost <= WORST_COST) & (found.edge == 0)
    rough = np.abs(z - cv2.medianBlur(found.z, 5))
    z = np.where(good & (rough < 4 * np.median(rough) + 2.0), z, ground).astype(np.float32)
    return np.ascontiguousarray(z[tile.core.slices_in(padded)])


@dataclass(frozen=True)
class CoarseSurface:
    """The survey's coarse surface: z (rows, cols) float32 metres without NaN; valid: u8, 0 where z is only filled in."""

    grid: Grid
    window: Window
    z: F32
    valid: U8

    def over(self, window: Window) -> F32:
        """Heights of a window of the coarse lattice; beyond the survey the edge repeats."""
        rows = np.clip(np.arange(window.row, window.row + window.rows) - self.window.row, 0, self.window.rows - 1)
        cols = np.clip(np.arange(window.col, window.col + window.cols) - self.window.col, 0, self.window.cols - 1)
        part = self.z[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        return np.ascontiguousarray(part[np.ix_(rows - rows[0], cols - cols[0])])

    def valid_over(self, window: Window) -> U8:
        """u8 flags of a window of the coarse lattice: 1 where z is measured, 0 where filled or beyond the survey."""
        out = np.zeros(window.shape, np.uint8)
        part = window.clipped(self.window)
        if min(part.shape) > 0:
            out[part.slices_in(window)] = self.valid[part.slices_in(self.window)]
        return out

    def finer(self, grid: Grid, window: Window) -> F32:
        """Bilinear heights at the cell centres of a window of any other lattice."""
        b = grid.bounds(window)
        c0, c1 = (int(np.floor(float(self.grid.col(x)))) for x in (b.west, b.east))
        r0, r1 = (int(np.floor(float(self.grid.row(y)))) for y in (b.north, b.south))
        around = Window(c0 - 1, r0 - 1, c1 - c0 + 3, r1 - r0 + 3)
        return bilinear(self.over(around), self.grid, around, grid, window)

    def range_m(self, window: Window) -> tuple[float, float]:
        """Lowest and highest height of a window of the coarse lattice."""
        z = self.over(window)
        return float(z.min()), float(z.max())

    def save(self, out: Path) -> None:
        save_place(self.grid, self.window, out / "coarse.json")
        np.save(out / "coarse.npy", self.z)
        np.save(out / "coarse_valid.npy", self.valid)

    @staticmethod
    def load(folder: Path) -> CoarseSurface:
        """Arrays are memory-mapped: a tile reads its own part only."""
        z = np.load(folder / "coarse.npy", mmap_mode="r")
        valid = np.load(folder / "coarse_valid.npy", mmap_mode="r")
        return CoarseSurface(*load_place(folder / "coarse.json"), z, valid)


def mosaic(grid: Grid, tiles: Sequence[tuple[Tile, F32]]) -> CoarseSurface:
    """One surface from the cores of coarse tiles; what is missing is filled smoothly from around and flagged."""
    c0, r0 = min(t.core.col for t, _ in tiles), min(t.core.row for t, _ in tiles)
    c1 = max(t.core.col + t.core.cols for t, _ in tiles)
    r1 = max(t.core.row + t.core.rows for t, _ in tiles)
    window = Window(c0, r0, c1 - c0, r1 - r0)
    z = np.full(window.shape, np.nan, np.float32)
    for tile, heights in tiles:
        z[tile.core.slices_in(window)] = heights
    valid = np.isfinite(z)
    return CoarseSurface(grid, window, filled_smoothly(z), valid.astype(np.uint8))


def filled_smoothly(z: F32) -> F32:
    """Fill NaN by averages of ever larger neighbourhoods (2, 4, 8 … cells); valid cells stay. All NaN gives zeros."""
    weight = np.isfinite(z).astype(np.float32)
    if weight.all():
        return z
    value = np.where(weight > 0, z, 0).astype(np.float32)
    levels = []
    while True:
        levels.append((value, weight))
        h, w = value.shape
        if weight.all() or (h == 1 and w == 1):
            break
        padded = [np.pad(a, ((0, h % 2), (0, w % 2))) for a in (value * weight, weight)]
        sums = [a[::2, ::2] + a[1::2, ::2] + a[::2, 1::2] + a[1::2, 1::2] for a in padded]
        weight = (sums[1] > 0).astype(np.float32)
        value = np.where(sums[1] > 0, sums[0] / np.maximum(sums[1], 1e-6), 0).astype(np.float32)
    full = levels[-1][0]
    for value, weight in reversed(levels[:-1]):
        h, w = value.shape
        up = cv2.resize(full, (full.shape[1] * 2, full.shape[0] * 2), interpolation=cv2.INTER_LINEAR)[:h, :w]
        full = np.where(weight > 0, value, up).astype(np.float32)
    return full
