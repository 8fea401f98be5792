"""What matching found becomes a surface: doubtful cells out, small holes filled and marked, large ones left empty."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from passel.surface.fine import REFINED_RIM_CELLS, Matched, continued

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
Bools = NDArray[np.bool_]

SURE_SCORE = 0.45  # correlation; measured: 97 % of open ground is above, two of three blunders below
# where two of few photos agree on steep ground: below, one cell of four is a blunder, unless it continues what is around
SURE_SCORE_OF_TWO, FEW_PHOTOS = 0.55, 3
AROUND_SIGMAS_CELLS, AROUND_DIFFERS_CELLS = (2.0, 4.0, 8.0), 2.0
WEAK_SCORE, WEAK_COST = 0.15, 92  # crowns and reeds correlate badly in a window, yet all photos agree on them roughly
WEAK_AREA_CELLS, MOST_SURE_SHARE, MOST_SURE_SHARE_OF_DOUBTED = 61, 0.4, 0.2
SPECKLE_CELLS = 60
SPECKLE_STEP_CELLS = 2.0
FILL_RADIUS_M = 0.5
FEWEST_FILL_CELLS, MOST_FILL_CELLS = 8, 32  # of that radius: twice the latter is what a tile knows of its neighbours
MOST_LEFT = 12.0  # squares of the radius: of a hole of twice its width


@dataclass(frozen=True)
class Surface:
    """A tile's surface on its padded window: z float32 m (NaN where unknown), measured and filled (rows, cols) bool.

    complete: float32 m without NaN, for visibility and ranges: z where known, else the coarse surface.
    """

    z: F32
    measured: Bools
    filled: Bools
    complete: F32


def clean(found: Matched, coarse: F32, steep: Bools, cell_m: float) -> Surface:
    """coarse: (rows, cols) float32 heights of the coarse surface at the same cells. steep: (rows, cols) where the ground is."""
    seen = (found.seen >= 2) & (found.agreeing >= 2)
    doubtful = steep & (found.seen <= FEW_PHOTOS) & (found.agreeing == 2)
    good = seen & (found.score > np.where(doubtful, SURE_SCORE_OF_TWO, SURE_SCORE))
    if doubtful.any():
        around = continued(found.z, good, AROUND_SIGMAS_CELLS)
        good |= seen & (found.score > SURE_SCORE) & (np.abs(found.z - around) < AROUND_DIFFERS_CELLS * cell_m)
    good &= ~lonely(found.z, good, SPECKLE_STEP_CELLS * cell_m)
    # single weak cells among sure ones are blunders and filled from around; whole areas of them are forest and kept
    weak = seen & (found.score > WEAK_SCORE) & (found.cost <= WEAK_COST)
    share = cv2.boxFilter(good.astype(np.float32), -1, (WEAK_AREA_CELLS, WEAK_AREA_CELLS))
    good |= weak & (share < np.where(doubtful, MOST_SURE_SHARE_OF_DOUBTED, MOST_SURE_SHARE))
    reach = min(max(FEWEST_FILL_CELLS, round(FILL_RADIUS_M / cell_m)), MOST_FILL_CELLS)
    known = np.where(good, found.z, np.nan).astype(np.float32)
    small = small_holes(good, reach)
    z = fill(known, small)
    z = np.where(good | small, z, np.nan).astype(np.float32)
    return Surface(z, good, small, np.where(np.isfinite(z), z, coarse).astype(np.float32))


def lonely(z: F32, good: Bools, step_m: float) -> Bools:
    """Cells of patches smaller than SPECKLE_CELLS that stand apart from all around by more than `step_m` a cell."""
    scale = 16.0  # cv2 takes 16-bit heights: a sixteenth of the step is fine enough
    middle = float(np.median(z[good])) if good.any() else 0.0
    counts = np.clip(np.round((z - middle) / step_m * scale), -32000, 32000).astype(np.int16)
    counts[~good] = -32768
    cv2.filterSpeckles(counts, -32768, SPECKLE_CELLS, scale)
    return np.asarray(good & (counts == -32768))


def small_holes(good: Bools, reach_cells: int) -> Bools:
    """Cells not good that lie within `reach_cells` of good ones in a hole no wider than twice that, and the rest of holes of which
    little is left then: a hole is filled or is one, not a dot in the middle of it; not the outside of the map."""
    size = 2 * reach_cells + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    closed = cv2.morphologyEx(good.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    _, pieces, facts, _ = cv2.connectedComponentsWithStats((closed == 0).astype(np.uint8), connectivity=4)
    # tiles that share a hole must both see all of it: what is matched ends a rim beyond each, what is closed twice the reach before that
    longest = facts[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1)
    little = facts[:, cv2.CC_STAT_AREA] <= MOST_LEFT * reach_cells**2
    little &= longest <= REFINED_RIM_CELLS - 2 * reach_cells
    little[0] = True  # what is closed
    return np.asarray(little[pieces] & ~good)


def fill(known: F32, where: Bools) -> F32:
    """Heights by distance-weighted averages of ever larger neighbourhoods (2, 4, 8 … cells) for the cells `where`."""
    if not where.any() or not np.isfinite(known).any():
        return known
    out = known.copy()
    weight = np.isfinite(known).astype(np.float32)
    value = np.nan_to_num(known, nan=0.0).astype(np.float32)
    todo = where.copy()
    for sigma in (1.0, 2.0, 4.0, 8.0, 16.0):
        w = cv2.GaussianBlur(weight, (0, 0), sigma)
        sure = todo & (w > 0.02)
        out[sure] = (cv2.GaussianBlur(value * weight, (0, 0), sigma)[sure] / w[sure]).astype(np.float32)
        todo &= ~sure
        if not todo.any():
            return out
    near = ndimage.distance_transform_edt(weight == 0, return_distances=False, return_indices=True)
    out[todo] = known[near[0][todo], near[1][todo]]
    return out
