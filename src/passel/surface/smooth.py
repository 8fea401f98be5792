"""Smoothing of refined heights: each becomes the mean of as many around it as its noise asks for, edges kept."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

F32 = NDArray[np.float32]

LEAST_REACH_CELLS, MOST_REACH_CELLS = (
    4,
    9,
)  # half of refinement's window and twice that: noise within one window is shared
REACH_TO_NOISE = 20.0
TEXTURE_CELLS = 0.4  # heights of the ground itself that differ by so little are one surface
LEAST_NOISE_CELLS = 0.1  # what the surest height is off by: it does not outvote all others
SLOPE_CELLS = 7  # over which the slope of the ground is told, to each side
EDGE_SQUARE = 6.0  # in variances of the two heights' difference: farther apart they are of two surfaces


def evened(z: F32, noise: F32, cell_m: float) -> F32:
    """Heights z (rows, cols; m, no NaN) averaged over the cells around, each weighted by what it is worth and by how near it is.

    noise: (rows, cols) m, standard deviation of z. What few photos see is averaged more widely. A height that differs from a cell's by
    more than their noise explains lies beyond an edge and has no part in its mean.
    """
    noise_cells = noise / np.float32(cell_m)
    reach = np.clip(np.floor(REACH_TO_NOISE * noise_cells), LEAST_REACH_CELLS, MOST_REACH_CELLS).astype(np.float32)
    m = MOST_REACH_CELLS
    variance = np.pad(noise_cells**2, m).astype(np.float32)
    worth = np.pad(1 / (noise_cells**2 + LEAST_NOISE_CELLS**2), m).astype(np.float32)  # none outside
    moves = np.empty(z.shape, np.float32)
    _means(np.pad(z / np.float32(cell_m), m, mode="edge").astype(np.float32), variance, worth, reach, moves)
    return np.asarray(z + moves * np.float32(cell_m), np.float32)


@njit(cache=True, nogil=True)
def _means(z: F32, variance: F32, worth: F32, reach: F32, moves: F32) -> None:
    """Fill `moves` (rows, cols; cells). z, variance, worth: of cells, MOST_REACH_CELLS wider on each side; reach: of a cell's mean.

    Column by column inside: compilers make that fast, and every machine adds in the same order.
    """
    rows, cols = moves.shape
    m = MOST_REACH_CELLS
    one, zero, texture, edge = np.float32(1), np.float32(0), np.float32(TEXTURE_CELLS**2), np.float32(EDGE_SQUARE)
    total, moved = np.empty(cols, np.float32), np.empty(cols, np.float32)
    for r in range(rows):
        total[:] = 0
        moved[:] = 0
        own, own_variance = z[r + m, m : m + cols], variance[r + m, m : m + cols] + texture
        per_square = one / ((reach[r] + np.float32(0.5)) * (reach[r] + np.float32(0.5)))
        widest = int(reach[r].max())
        for i in range(-widest, widest + 1):
            for j in range(-widest, widest + 1):
                square = np.float32(i * i + j * j)
                other, other_variance = z[r + m + i, m + j : m + j + cols], variance[r + m + i, m + j : m + j + cols]
                other_worth = worth[r + m + i, m + j : m + j + cols]
                for c in range(cols):
                    near = max(one - square * per_square[c], zero)
                    apart = other[c] - own[c]
                    alike = max(one - apart * apart / (edge * (own_variance[c] + other_variance[c])), zero)
                    weight = near * alike * alike * other_worth[c]
                    total[c] += weight
                    moved[c] += weight * apart
        for c in range(cols):
            moves[r, c] = moved[c] / total[c]


def smoothed_on_slopes(z: F32, cell_m: float, reach_cells: int, alike_cells: float) -> F32:
    """Heights z (rows, cols; m, no NaN) averaged over the cells within `reach_cells`, by how near they are and how alike: edges stay.

    Alike is what lies on the plane through a cell with the slope of the ground there. Compared by height alone, the cells of a steep slope
    are alike only along it, and any noise grows into a flight of stairs.
    """
    m = reach_cells
    cells = np.pad(z / np.float32(cell_m), m, mode="edge").astype(np.float32)
    moves = np.empty(z.shape, np.float32)
    _plane_means(cells, _slope(cells, 1)[m:-m, m:-m], _slope(cells, 0)[m:-m, m:-m], np.float32(alike_cells), m, moves)
    return np.asarray(z + moves * np.float32(cell_m), np.float32)


def _slope(z: F32, axis: int) -> F32:
    """Cells a cell along an axis, over SLOPE_CELLS to the side where it is gentler; none where the two sides disagree: on a ridge, and at
    an edge, of which one side is flat."""
    n = SLOPE_CELLS
    wide = np.pad(z, [(n, n) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
    total = np.moveaxis(wide, axis, 0)
    before, after = total[n:-n] - total[: -2 * n], total[2 * n :] - total[n:-n]
    gentler = np.where(np.abs(before) < np.abs(after), before, after) / np.float32(n)
    return np.ascontiguousarray(np.moveaxis(np.where(before * after > 0, gentler, 0), 0, axis), np.float32)


@njit(cache=True, nogil=True)
def _plane_means(z: F32, east: F32, south: F32, alike_cells: float, m: int, moves: F32) -> None:
    """Fill `moves` (rows, cols; cells). z: of cells, m wider on each side; east, south: slopes of the cells."""
    rows, cols = moves.shape
    one, zero = np.float32(1), np.float32(0)
    per_alike = one / np.float32(EDGE_SQUARE * alike_cells * alike_cells)
    per_near = one / np.float32((m + 0.5) * (m + 0.5))
    total, moved = np.empty(cols, np.float32), np.empty(cols, np.float32)
    for r in range(rows):
        total[:] = 0
        moved[:] = 0
        own, dx, dy = z[r + m, m : m + cols], east[r], south[r]
        for i in range(-m, m + 1):
            for j in range(-m, m + 1):
                near = one - np.float32(i * i + j * j) * per_near
                if near <= zero:
                    continue
                other = z[r + m + i, m + j : m + j + cols]
                down, right = np.float32(i), np.float32(j)
                for c in range(cols):
                    apart = other[c] - own[c] - right * dx[c] - down * dy[c]
                    alike = max(one - apart * apart * per_alike, zero)
                    weight = near * alike * alike
                    total[c] += weight
                    moved[c] += weight * apart
        for c in range(cols):
            moves[r, c] = moved[c] / total[c]
