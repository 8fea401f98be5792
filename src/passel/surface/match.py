"""Matching in object space: heights of ground cells from all photos that see them, coarse to fine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from passel.geo.grid import Grid, Window
from passel.reconstruct.scene import View
from passel.surface.blocks import (
    MATCHING,
    Block,
    BlockHeights,
    PhotoLimits,
    Pictures,
    Plane,
    Warped,
    blocks_of,
    plan_blocks,
    sample_places,
    warp_block,
)
from passel.surface.camera import LEAST_BASE, reach_m
from passel.surface.kernels import NO_COST, PLANE_STEPS, add_doubt, census, height_table, matching_cost
from passel.surface.plate import Plate
from passel.surface.sgm import aggregate, best_heights

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]
Cell = TypeVar("Cell", bound=np.generic)

SMALL_CHANGE_COST = 6.0  # quarter bits for one height step between neighbours
JUMP_COST = 60.0
DOUBT_COST = 24  # of heights that no point around suggests: pictures without features show nothing better
STEEPEST = 1.0  # plane of a block, metres a metre to the east or south
MOST_HEIGHTS = 96  # of one cell: bounds a tile's memory


@dataclass(frozen=True)
class Level:
    """One resolution of a tile: its grid, a window of whole blocks, and for each cell the heights to try.

    dz_m: height step; lowest, count: (rows, cols) int32, cell (r, c) tries (lowest + 0 … count-1)·dz_m.
    expected: (rows, cols) int32 lowest and highest height that the scene's points around suggest, others are doubted; None: no idea.
    jump_cost: of a step of many heights between neighbours, quarter bits. least_base: rad, between two rays that tell a height.
    """

    grid: Grid
    window: Window
    block_cells: int
    dz_m: float
    lowest: I32
    count: I32
    expected: tuple[I32, I32] | None = None
    jump_cost: float = JUMP_COST
    least_base: float = LEAST_BASE


@dataclass(frozen=True)
class Heights:
    """What matching found for each cell of a window: all arrays (rows, cols).

    z: float32 metres, a guess where `seen` < 2. cost: u8 matching cost of the winner in quarter bits (248 = worst). seen: u8 photos
    compared. edge: u8, 1 where the winner lies at the end of the heights tried.
    """

    z: F32
    cost: U8
    seen: U8
    edge: U8


def ranges_around(z: F32, factor: int, dz_m: float, reach: int | I32, most: int = MOST_HEIGHTS) -> tuple[I32, I32]:
    """Heights to try on a lattice `factor` times finer than z (no NaN): the span of the 5 x 5 neighbourhood and `reach` steps more.

    reach: one for all or (rows, cols) of z. Where the span is more than `most` steps, it is cut around the cell's own height.
    """
    smooth = cv2.medianBlur(np.ascontiguousarray(z, np.float32), 5)
    kernel = np.ones((5, 5), np.uint8)
    low = np.floor(cv2.erode(smooth, kernel) / dz_m).astype(np.int32) - reach
    high = np.ceil(cv2.dilate(smooth, kernel) / dz_m).astype(np.int32) + reach
    own = np.round(smooth / dz_m).astype(np.int32)
    wide = high - low + 1 > most
    low = np.where(wide, np.clip(own - most // 2, low, high - most + 1), low)
    high = np.where(wide, low + most - 1, high)
    count = high - low + 1
    return enlarged(low.astype(np.int32), factor), enlarged(count.astype(np.int32), factor)


def enlarged(a: NDArray[Cell], factor: int) -> NDArray[Cell]:
    """Each cell repeated factor x factor times."""
    return np.ascontiguousarray(np.repeat(np.repeat(a, factor, axis=0), factor, axis=1))


def block_heights(reference: F32, block_cells: int, cell_m: float) -> list[BlockHeights]:
    """Of each block of a reference surface (rows, cols, whole blocks, no NaN) with cells of `cell_m`."""
    rows, cols = reference.shape
    b = block_cells
    grouped = reference.reshape(rows // b, b, cols // b, b).swapaxes(1, 2).reshape(-1, b, b)
    at = sample_places(b).astype(int)
    samples = grouped[:, at[:, None], at].astype(np.float64)
    return [BlockHeights(_plane(z.astype(np.float64), cell_m), s) for z, s in zip(grouped, samples, strict=True)]


def _plane(z: F64, cell_m: float) -> Plane:
    """Along heights z (rows, cols): the slope by least squares, the middle their median less that slope; on a lattice of heights, so that
    those tried lie alike in all blocks that are level."""
    col = np.arange(z.shape[1]) - (z.shape[1] - 1) / 2
    row = np.arange(z.shape[0]) - (z.shape[0] - 1) / 2
    east = float((z.mean(axis=0) * col).sum() / max((col**2).sum(), 1.0))
    south = float((z.mean(axis=1) * row).sum() / max((row**2).sum(), 1.0))
    middle = float(np.median(z - east * col - south * row[:, None]))
    east, south = (float(np.clip(round(v / cell_m * 256) / 256, -STEEPEST, STEEPEST)) for v in (east, south))
    return Plane(round(middle / cell_m) * cell_m, east, south)


def plan_level(
    level: Level, views: Sequence[View], heights: Sequence[BlockHeights], limits: PhotoLimits = MATCHING
) -> list[Block]:
    """The blocks of a level with the photos each is matched with, or refined."""
    lowest_m = min(float(h.samples_m.min()) for h in heights)
    reach = np.array([reach_m(v, lowest_m) for v in views])
    return plan_blocks(views, level.grid, blocks_of(level.window, level.block_cells), heights, reach, limits)


def skip_unseen(level: Level, blocks: Sequence[Block], shown: NDArray[np.bool_] | None = None) -> None:
    """Leave no heights to the cells of blocks with fewer than two photos, and to those not `shown` (rows, cols) at the heights that
    they probably have: nothing can be matched there.

    Their middle height stays in `lowest`; smoothing starts anew behind them, so that they do not pull at their neighbours.
    """
    skipped = np.zeros(level.count.shape, np.bool_) if shown is None else ~shown
    for block in blocks:
        if len(block.photos) < 2:
            skipped[block.window.slices_in(level.window)] = True
    level.lowest[skipped] += level.count[skipped] // 2
    level.count[skipped] = 0


def match_level(
    level: Level, views: Sequence[View], plates: Mapping[str, Plate], blocks: Sequence[Block], reduction: int
) -> Heights:
    """Match one level: cost of every height of every cell, block by block; then semi-global smoothing over the whole window."""
    rows, cols = level.window.shape
    ends = np.zeros(rows * cols + 1, np.int64)
    np.cumsum(level.count.ravel(), out=ends[1:])
    cost = np.empty(int(ends[-1]), np.uint8)
    start = ends[:-1].reshape(rows, cols)
    seen = np.zeros((rows, cols), np.uint8)
    pictures = Pictures(plates, views, blocks, reduction)
    for number, block in enumerate(blocks):
        part = block.window.slices_in(level.window)
        _block_cost(level, block, views, pictures, start[part], cost, seen[part])
        pictures.done_with(number)
    if level.expected is not None:
        add_doubt(cost, level.lowest, level.count, start, *level.expected, DOUBT_COST)
    total = np.zeros(len(cost), np.uint16)
    for forward in (True, False):
        aggregate(cost, level.lowest, level.count, start, SMALL_CHANGE_COST, level.jump_cost, forward, total)
    z = np.empty((rows, cols), np.float32)
    own, edge = np.empty((rows, cols), np.uint8), np.empty((rows, cols), np.uint8)
    best_heights(cost, total, level.lowest, level.count, start, level.dz_m, z, own, edge)
    unseen = own == NO_COST  # the winner is a height that only one photo sees
    if level.expected is not None:
        unseen |= own == NO_COST + DOUBT_COST
    seen[unseen] = 0
    return Heights(z, own, seen, edge)


def _block_cost(
    level: Level, block: Block, views: Sequence[View], pictures: Pictures, start: NDArray[np.int64], cost: U8, seen: U8
) -> None:
    """Fill the matching cost of one block's cells."""
    part = block.window.slices_in(level.window)
    if len(block.photos) < 2 or not level.count[part].any():
        return
    count, step_m = level.count[part], level.dz_m / PLANE_STEPS
    plane = block.plane.heights(block.window, block.window, level.grid.resolution_m)
    first = np.round((level.lowest[part] * level.dz_m - plane) / step_m).astype(np.int32)
    some = count > 0
    least = int(first[some].min())
    n = int((first + count * PLANE_STEPS)[some].max()) - least
    above_m = least * step_m, (least + n - 1) * step_m
    warped = warp_block(block, level.grid, views, pictures, above_m, level.least_base)
    codes = block_codes(warped)
    table = np.empty((n, len(block.photos), 3))
    height_table(warped.centres, warped.origin, least, step_m, table)
    matching_cost(codes, warped.layout, warped.apart, table, first - least, count, start, cost, seen)


def block_codes(warped: Warped) -> NDArray[np.uint64]:
    """Census codes of a block's photos, laid out as its gray values."""
    codes = np.empty(len(warped.gray), np.uint64)
    for at, h, w in warped.layout:
        census(warped.gray[at : at + h * w].reshape(h, w), codes[at : at + h * w].reshape(h, w))
    return codes
