"""The surface of one tile on the matching lattice: three levels from the coarse surface down, then refinement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from passel.geo.grid import Grid, Tile, Window
from passel.reconstruct.scene import View
from passel.surface.blocks import REFINING, Block
from passel.surface.camera import LEAST_BASE, times_seen
from passel.surface.coarse import COARSE_FACTOR, CoarseSurface
from passel.surface.match import (
    Heights,
    Level,
    block_heights,
    enlarged,
    match_level,
    plan_level,
    ranges_around,
    skip_unseen,
)
from passel.surface.plate import Plate
from passel.surface.refine import Refined, refine
from passel.surface.smooth import evened, smoothed_on_slopes

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]

BLOCK_CELLS = 128
MARGIN_CELLS = BLOCK_CELLS  # ≥ 100: beyond it a neighbour's smoothing does not reach the core
REFINED_RIM_CELLS = 64
SMOOTHED_CELLS, ALIKE_CELLS = 15, 1.5
REFINING_STEPS_CELLS = (0.4, 0.2)
LEAST_SCORE = 0.2
KNOWN_NOISE_CELLS = 0.6
SURE_SCORE, SURE_PHOTOS = 0.6, 3
GUESS_SIGMAS_CELLS = (2.0, 4.0, 8.0, 12.0)
GUESS_DIFFERS_CELLS = 1.5
GUESS_STEP_CELLS = 0.6
GUESS_GAIN = 0.0
REACH = 4  # height steps tried beyond those of the coarser level around
FIRST_REACH = 8  # beyond those of the coarse surface: bushes and cars are too small for it
WIDE_REACH = 12  # where that is only filled in
FIRST_FACTOR = 4  # of the tile's coarsest level
ANY_HEIGHT = 2**30  # in height steps
EXPECTED_REACH = 2  # height steps below those of the coarse surface that are not doubted yet


@dataclass(frozen=True)
class Matched:
    """Heights of a tile before cleaning, on its padded window: z float32 m (no NaN), and (rows, cols) evidence.

    score: float32 mean correlation in the core and its rim, -1 elsewhere; cost: u8 quarter bits; seen, agreeing: u8 photos.
    """

    window: Window
    z: F32
    score: F32
    cost: U8
    seen: U8
    agreeing: U8
    edge: U8


def match_tile(
    tile: Tile,
    grid: Grid,
    coarse: CoarseSurface,
    views: Sequence[View],
    plates: Mapping[str, Plate],
    least_base: float = LEAST_BASE,
) -> Matched:
    """Match a tile whose core is whole blocks. Views and plates: of all photos that see it. least_base: rad, between two rays that
    tell a height."""
    padded = tile.padded(MARGIN_CELLS)
    start = coarse.over(padded.divided(COARSE_FACTOR).grown(4))
    heights = block_heights(start[4:-4, 4:-4], BLOCK_CELLS // COARSE_FACTOR, grid.resolution_m * COARSE_FACTOR)
    known = coarse.valid_over(padded.divided(COARSE_FACTOR).grown(4))
    # where the coarse surface is a guess (rims of the survey, mostly) the search is wide
    sure = cv2.erode(known, np.ones((3, 3), np.uint8)) > 0
    reach: int | I32 = np.where(sure, FIRST_REACH, WIDE_REACH).astype(np.int32)
    shown = times_seen(views, coarse.grid, padded.divided(COARSE_FACTOR), start[4:-4, 4:-4]) >= 2
    z, inner = start, (slice(8, -8), slice(8, -8))
    for factor in (FIRST_FACTOR, 2, 1):
        dz = grid.resolution_m * factor
        lowest, count = ranges_around(z, 2, dz, reach)
        tried = np.ascontiguousarray(lowest[inner]), np.ascontiguousarray(count[inner])
        expected = _expected(start, sure, dz, inner) if factor == FIRST_FACTOR else None
        reach = REACH
        part, block_cells = padded.divided(factor), BLOCK_CELLS // factor
        level = Level(Grid(dz, grid.offset_m), part, block_cells, dz, *tried, expected, least_base=least_base)
        blocks = plan_level(level, views, heights)
        skip_unseen(level, blocks, enlarged(shown, COARSE_FACTOR // factor))
        found = match_level(level, views, plates, blocks, factor)
        above = enlarged(z, 2)[inner]
        z, inner = np.where(found.seen >= 2, found.z, above).astype(np.float32), (slice(None), slice(None))
    return _refined(tile, level, z, found, views, plates, plan_level(level, views, heights, REFINING))


def _expected(z: F32, sure: NDArray[np.bool_], dz_m: float, inner: tuple[slice, slice]) -> tuple[I32, I32]:
    """Lowest height that the coarse surface z suggests on a lattice twice as fine, `inner` part, any where it is not `sure`; and highest:
    any, for what the coarse surface misses stands on it.

    The rows of a tilled field look alike, and two photos alone match any of them.
    """
    low, _ = ranges_around(z, 2, dz_m, EXPECTED_REACH)
    lowest = np.where(enlarged(sure, 2), low, -ANY_HEIGHT)[inner]
    return np.ascontiguousarray(lowest, np.int32), np.full(lowest.shape, ANY_HEIGHT, np.int32)


def _refined(
    tile: Tile,
    level: Level,
    z: F32,
    found: Heights,
    views: Sequence[View],
    plates: Mapping[str, Plate],
    blocks: Sequence[Block],
) -> Matched:
    window = tile.core.grown(REFINED_RIM_CELLS)
    part = window.slices_in(level.window)
    cell_m = level.grid.resolution_m
    surface = smoothed(cv2.medianBlur(z, 5), cell_m)
    better = refine(level, window, surface, views, plates, blocks, REFINING_STEPS_CELLS[0])
    surface[part] = np.where(better.score > LEAST_SCORE, better.z, surface[part])
    surface[part] = _second_thoughts(level, window, surface, better, views, plates, blocks)
    # the second pass keeps what its windows do not see, the noise of single cells; where nothing is known, nothing is spread
    known = better.noise < KNOWN_NOISE_CELLS * cell_m
    surface[part] = np.where(known, evened(surface[part], better.noise, cell_m), surface[part])
    surface = smoothed(surface, cell_m)
    better = refine(level, window, surface, views, plates, blocks, REFINING_STEPS_CELLS[1])
    surface[part] = np.where(better.score > LEAST_SCORE, better.z, surface[part])
    surface[part] = evened(surface[part], better.noise, cell_m)
    score, agreeing = np.full(z.shape, -1, np.float32), np.zeros(z.shape, np.uint8)
    score[part], agreeing[part] = better.score, better.agreeing
    return Matched(level.window, surface, score, found.cost, found.seen, agreeing, found.edge)


def smoothed(z: F32, cell_m: float) -> F32:
    """What refinement starts from: its windows follow the surface, so that must be smooth where the ground is, and keep its edges.

    Wider than its windows: blocks were matched with other photos, and one that straddles the small step between their heights would
    keep it. Heights that differ by less than a cell or two are one surface: a narrower choice sharpens such steps.
    """
    return smoothed_on_slopes(z, cell_m, SMOOTHED_CELLS // 2, ALIKE_CELLS)


def _second_thoughts(
    level: Level,
    window: Window,
    surface: F32,
    first: Refined,
    views: Sequence[View],
    plates: Mapping[str, Plate],
    blocks: Sequence[Block],
) -> F32:
    """Heights of `window` after doubtful cells were compared with the surface that the sure cells around them suggest.

    Smoothing over heights may carry a crown or a roof over ground that only two photos see. There the ground beside it continues.
    """
    cell_m = level.grid.resolution_m
    now = surface[window.slices_in(level.window)]
    sure = (first.score > SURE_SCORE) & (first.agreeing >= SURE_PHOTOS)
    guess = continued(now, sure, GUESS_SIGMAS_CELLS)
    doubtful = np.isfinite(guess) & ~sure & (np.abs(guess - now) > GUESS_DIFFERS_CELLS * cell_m)
    used = [b for b in blocks if _any_in(doubtful, b.window, window)]
    if not used:
        return now
    tried = surface.copy()
    tried[window.slices_in(level.window)] = np.where(doubtful, guess, now)
    other = refine(level, window, tried, views, plates, used, GUESS_STEP_CELLS)
    better = doubtful & (quality(other) > quality(first) + GUESS_GAIN)
    better = cv2.medianBlur(better.astype(np.uint8), 5) > 0
    return np.where(better & doubtful, other.z, now).astype(np.float32)


def quality(r: Refined) -> F32:
    """Correlation weighed by the number of photos that agree: two may agree by chance."""
    return np.asarray(r.score * (1.0 - 1.0 / np.maximum(r.agreeing, 1)), np.float32)


def continued(z: F32, sure: NDArray[np.bool_], sigmas_cells: Sequence[float]) -> F32:
    """Heights by weighted averages of the sure cells in ever larger neighbourhoods, NaN where there is none near."""
    weight = sure.astype(np.float32)
    value = np.where(sure, z, 0).astype(np.float32)
    out = np.full(z.shape, np.nan, np.float32)
    for sigma in sigmas_cells:
        w = cv2.GaussianBlur(weight, (0, 0), sigma)
        fresh = np.isnan(out) & (w > 0.05)
        out[fresh] = (cv2.GaussianBlur(value, (0, 0), sigma)[fresh] / w[fresh]).astype(np.float32)
    return out


def _any_in(mask: NDArray[np.bool_], block: Window, window: Window) -> bool:
    part = block.clipped(window)
    return bool(min(part.shape) > 0 and mask[part.slices_in(window)].any())
