"""Refinement below the height step: locally normalised grays of all photos that agree, compared in windows on the surface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

from passel.geo.grid import Window
from passel.reconstruct.scene import View
from passel.surface.blocks import Block, Pictures, Warped, warp_block
from passel.surface.kernels import sample_normalised
from passel.surface.match import Level
from passel.surface.plate import Plate

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

WINDOW_CELLS = 9
FEATHER_CELLS = 32  # of a block beyond its border: what two blocks say of a cell is better than what one says
UNSEEN = -9.0
NOISE_VARIANCE = 4.0  # gray levels squared: flat ground gives no score
LEAST_SQUARES = 0.02  # mean square of normalised grays: below it there is only noise
INDEPENDENT_GRAYS = (
    WINDOW_CELLS**2 / 4
)  # of a window: neighbours share what the camera's optics and both interpolations mix
MOST_NOISE_CELLS = 1.0
LEAST_AGREEMENT = 0.3  # correlation of one photo with the others below which it is taken to see something else


@dataclass(frozen=True)
class Refined:
    """Refined heights: z float32 (m), score float32 mean correlation of the photos used (-1 where none), agreeing u8 photos used.

    noise: float32 standard deviation (m) to expect of z from how sharply and how well how many photos match, at most MOST_NOISE_CELLS.
    """

    z: F32
    score: F32
    agreeing: U8
    noise: F32


def refine(
    level: Level,
    window: Window,
    surface: F32,
    views: Sequence[View],
    plates: Mapping[str, Plate],
    blocks: Sequence[Block],
    step_cells: float,
) -> Refined:
    """Refine the cells of `window` (inside the level's) from the heights `surface` (the level's window, float32 m, no NaN).

    Each block is refined FEATHER_CELLS beyond its border and neighbours flow into each other there: other photos, other millimetres.
    """
    start = surface[window.slices_in(level.window)]
    sums = np.zeros((4, *start.shape), np.float32)  # of weights, and of weighted moves, scores, noise
    most_noise_m = np.float32(MOST_NOISE_CELLS * level.grid.resolution_m)
    most, agreeing = np.zeros(start.shape, np.float32), np.zeros(start.shape, np.uint8)
    wide = [Block(b.window.grown(FEATHER_CELLS), b.plane, b.photos) for b in blocks if len(b.photos) > 1]
    used = [b for b in wide if min(b.window.clipped(window).shape) > 0]
    pictures = Pictures(plates, views, used, 1)
    for number, block in enumerate(used):
        part = block.window.clipped(window)
        around = part.grown(WINDOW_CELLS // 2).clipped(level.window)
        heights = np.ascontiguousarray(surface[around.slices_in(level.window)])
        spread = 2.5 * step_cells * level.grid.resolution_m
        above = heights - block.plane.heights(block.window, around, level.grid.resolution_m).astype(np.float32)
        above_m = float(above.min()) - spread, float(above.max()) + spread
        warped = warp_block(block, level.grid, views, pictures, above_m, level.least_base)
        pictures.done_with(number)
        at = around.row - block.window.row, around.col - block.window.col
        found = _refine_block(warped, at, heights, above, step_cells * level.grid.resolution_m)
        noise = np.minimum(found.noise, most_noise_m)
        inner, outer = part.slices_in(around), part.slices_in(window)
        weight = feather(block.window)[part.slices_in(block.window)] * (found.score[inner] > -1)
        sums[(slice(None), *outer)] += weight * np.stack(
            [np.ones_like(weight), (found.z - heights)[inner], found.score[inner], noise[inner]]
        )
        agreeing[outer] = np.where(weight > most[outer], found.agreeing[inner], agreeing[outer])
        most[outer] = np.maximum(weight, most[outer])
    some = sums[0] > 0
    total = np.where(some, sums[0], 1)
    score = np.where(some, sums[2] / total, -1).astype(np.float32)
    noise = np.where(some, sums[3] / total, most_noise_m).astype(np.float32)
    return Refined(start + sums[1] / total, score, agreeing, noise)


def feather(window: Window) -> F32:
    """(rows, cols) weights of a block grown by FEATHER_CELLS: with its neighbours' they sum to one; never quite zero."""
    f = 2 * FEATHER_CELLS

    def ramp(n: int) -> F32:
        from_edge = np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5
        return np.minimum(from_edge / f, 1.0).astype(np.float32)

    return np.outer(ramp(window.rows), ramp(window.cols))


def _refine_block(warped: Warped, at: tuple[int, int], heights: F32, above: F32, step_m: float) -> Refined:
    """Refine `heights` (rows, cols), which lie `above` the block's plane, from row and column `at` of the block on."""
    images = normalised(warped)
    samples = np.empty((len(warped.layout), *heights.shape), np.float32)

    def sample(delta: float) -> F32:
        sample_normalised(images, warped.layout, warped.centres, warped.origin, above, delta, *at, samples)
        return samples

    use = agreeing_photos(sample(0.0))
    use &= any_apart(use, warped.apart)
    scores = np.stack([windowed_score(sample(i * step_m), use) for i in (-2, -1, 0, 1, 2)])
    z, score, sharpness = heights.copy(), np.full(heights.shape, -1, np.float32), np.zeros_like(heights)
    _peak(scores, step_m, z, score, sharpness)
    agreeing = use.sum(axis=0).astype(np.uint8)
    return Refined(z, score, agreeing, expected_noise(score, sharpness, agreeing))


def expected_noise(score: F32, sharpness: F32, agreeing: U8) -> F32:
    """Standard deviation (m) of heights at which `agreeing` photos correlate with `score`, which falls by half of `sharpness` times the
    square of an error in metres; infinite where no height is better than its neighbours.

    What the photos do not share, 1 - score, is noise, averaged over the window; photos far apart and rich pictures make peaks sharp.
    """
    known = (sharpness > 0) & (score > 0) & (agreeing > 1)
    worth = INDEPENDENT_GRAYS * (agreeing.astype(np.float32) - 1) * sharpness
    variance = 2.0 * (1.0 - np.minimum(score, 1.0)) / np.where(known, worth, 1.0)
    return np.where(known, np.sqrt(variance), np.inf).astype(np.float32)


def normalised(warped: Warped) -> F32:
    """The warped grays less their window's mean, over its standard deviation; laid out alike, UNSEEN near the photo's edge."""
    out = np.empty_like(warped.gray)
    size = (WINDOW_CELLS, WINDOW_CELLS)
    for k, (at, h, w) in enumerate(warped.layout):
        g = warped.image(k)
        mean = cv2.boxFilter(g, -1, size)
        variance = cv2.boxFilter(g * g, -1, size) - mean * mean
        n = (g - mean) / np.sqrt(np.maximum(variance, 0) + NOISE_VARIANCE)
        outside = cv2.dilate((g < 0).astype(np.uint8), np.ones(size, np.uint8))
        n[outside > 0] = UNSEEN
        out[at : at + h * w] = n.ravel()
    return out


def agreeing_photos(samples: F32) -> NDArray[np.bool_]:
    """(k, rows, cols) which photos correlate with the others around a cell: the rest is hidden there, or sees something that moved."""
    seen = samples > UNSEEN
    values = np.where(seen, samples, 0)
    total, n = values.sum(axis=0), seen.sum(axis=0)
    size = (WINDOW_CELLS, WINDOW_CELLS)
    mean_square = cv2.boxFilter((values**2).sum(axis=0) / np.maximum(n, 1), -1, size)
    agreement = np.empty_like(values)
    for k in range(len(samples)):
        cross = values[k] * (total - values[k]) / np.maximum(n - 1, 1)
        product = cv2.boxFilter(cross.astype(np.float32), -1, size)
        agreement[k] = np.where(seen[k], product / np.maximum(mean_square, LEAST_SQUARES), -1)
    floor = np.minimum(LEAST_AGREEMENT, np.partition(agreement, -2, axis=0)[-2])  # two always stay
    return np.asarray(seen & (agreement >= floor))


def any_apart(use: NDArray[np.bool_], apart: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(rows, cols) whether any two of the photos in use (k, rows, cols) are apart ((k, k), `pairs_apart`)."""
    if apart.sum() == len(apart) * (len(apart) - 1):
        return np.asarray(use.sum(axis=0) > 1)
    found = np.zeros(use.shape[1:], np.bool_)
    for k in range(1, len(use)):
        found |= use[k] & use[:k][apart[k, :k]].any(axis=0)
    return found


def windowed_score(samples: F32, use: NDArray[np.bool_]) -> F32:
    """Mean pairwise correlation over the window of the photos in use, -1 where fewer than two."""
    products, squares = np.empty(samples.shape[1:], np.float32), np.empty(samples.shape[1:], np.float32)
    _pairwise(samples, use, products, squares)
    size = (WINDOW_CELLS, WINDOW_CELLS)
    below = cv2.boxFilter(squares, -1, size)
    return np.where(below > LEAST_SQUARES, cv2.boxFilter(products, -1, size) / np.maximum(below, LEAST_SQUARES), -1)


@njit(cache=True, nogil=True)
def _pairwise(samples: F32, use: NDArray[np.bool_], products: F32, squares: F32) -> None:
    """Per cell: mean product over all pairs of the photos in use, and their mean square; zeros where fewer than two."""
    k_all, rows, cols = samples.shape
    for r in range(rows):
        for c in range(cols):
            total = np.float32(0.0)
            square = np.float32(0.0)
            n = 0
            for k in range(k_all):
                v = samples[k, r, c]
                if use[k, r, c] and v > UNSEEN:
                    total += v
                    square += v * v
                    n += 1
            products[r, c] = (total * total - square) / (n * (n - 1)) if n > 1 else np.float32(0.0)
            squares[r, c] = square / n if n > 1 else np.float32(0.0)


@njit(cache=True, nogil=True)
def _peak(scores: F32, step_m: float, z: F32, score: F32, sharpness: F32) -> None:
    """Move z to the parabola's top through the best of the five scores; cells without any stay. sharpness: how it is bent, per m²."""
    n, rows, cols = scores.shape
    for r in range(rows):
        for c in range(cols):
            b = 0
            for i in range(1, n):
                if scores[i, r, c] > scores[b, r, c]:
                    b = i
            score[r, c] = scores[b, r, c]
            if scores[b, r, c] <= 0.0:
                continue
            d = 0.0
            if 0 < b < n - 1:
                left = scores[b - 1, r, c]
                right = scores[b + 1, r, c]
                bend = left - 2.0 * scores[b, r, c] + right
                if bend < 0:
                    sharpness[r, c] = -bend / (step_m * step_m)
                    d = 0.5 * (left - right) / bend
            z[r, c] += np.float32((b - n // 2 + d) * step_m)
