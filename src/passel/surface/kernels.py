"""Kernels over one block of ground cells: photo onto a plane, census codes, locally normalised gray, matching cost.

A block is seen through a plane of its own, level or along a slope. A photo warped once onto that plane serves every height: a point
h above the plane, seen from a camera H above it (both straight up), appears on the plane moved along the line to the camera's nadir,
s = H / (H - h) times its distance from it. Positions are lattice columns and rows relative to the block's origin; cell centres lie at +0.5.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from passel.surface.camera import project

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
U8 = NDArray[np.uint8]

CENSUS_ROWS, CENSUS_COLS = 3, 4  # half sizes: 7 x 9 window, 62 bits
CENSUS_BITS = 62
PROJECTED = 4  # cells from one exact projection to the next
PLANE_STEPS = 4  # of heights above a slanted plane in one height step: cells of a row are not whole steps apart
NO_COST = 80  # quarter bits, kept from real costs: of heights that fewer than two photos see; chance finds some match about as good


@intrinsic
def _popcount(typing_context: Any, x: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), generate


@njit(cache=True, nogil=True)
def warp(
    image: U8, p: F64, x0: float, y0: float, cell_m: float, z0: float, east: float, south: float, out: F32
) -> None:
    """Bilinear look-up of a plane: out[r, c] at x0 + (c + .5)·cell, y0 - (r + .5)·cell, z0 + c·east + r·south; -1 where the photo
    does not reach.

    Every PROJECTED-th cell is projected; between them places in the photo are interpolated, some thousandths of a pixel off.
    """
    h, w = image.shape
    rows, cols = out.shape
    n = (cols - 1) // PROJECTED + 2
    above, below = np.empty((n, 2)), np.empty((n, 2))
    _project_row(p, x0, y0, cell_m, z0, east, south, 0, below)
    for r in range(rows):
        part = r % PROJECTED
        if part == 0:
            above, below = below, above
            _project_row(p, x0, y0, cell_m, z0, east, south, r + PROJECTED, below)
        down = part / PROJECTED
        for i in range((cols - 1) // PROJECTED + 1):
            u = above[i, 0] + (below[i, 0] - above[i, 0]) * down
            v = above[i, 1] + (below[i, 1] - above[i, 1]) * down
            du = (above[i + 1, 0] + (below[i + 1, 0] - above[i + 1, 0]) * down - u) / PROJECTED
            dv = (above[i + 1, 1] + (below[i + 1, 1] - above[i + 1, 1]) * down - v) / PROJECTED
            for c in range(i * PROJECTED, min((i + 1) * PROJECTED, cols)):
                if u < 1.0 or v < 1.0 or u >= w - 2.0 or v >= h - 2.0:
                    out[r, c] = -1.0
                else:
                    iu = int(u)
                    iv = int(v)
                    fu = np.float32(u - iu)
                    fv = np.float32(v - iv)
                    a = np.float32(image[iv, iu])
                    b = np.float32(image[iv, iu + 1])
                    d = np.float32(image[iv + 1, iu])
                    e = np.float32(image[iv + 1, iu + 1])
                    top = a + (b - a) * fu
                    out[r, c] = top + (d + (e - d) * fu - top) * fv
                u += du
                v += dv


@njit(cache=True, nogil=True)
def _project_row(
    p: F64, x0: float, y0: float, cell_m: float, z0: float, east: float, south: float, r: int, uv: F64
) -> None:
    """Where the photo shows every PROJECTED-th cell of row r."""
    y = y0 - (r + 0.5) * cell_m
    for i in range(len(uv)):
        c = i * PROJECTED
        uv[i] = project(p, x0 + (c + 0.5) * cell_m, y, z0 + c * east + r * south)


@njit(cache=True, nogil=True)
def census(g: F32, out: U64) -> None:
    """62-bit census of a 7 x 9 window; the top bit says that the code is valid, 0 is invalid (window leaves the photo)."""
    rows, cols = g.shape
    out[:] = 0
    for r in range(CENSUS_ROWS, rows - CENSUS_ROWS):
        code = out[r]
        for i in range(-CENSUS_ROWS, CENSUS_ROWS + 1):
            for j in range(-CENSUS_COLS, CENSUS_COLS + 1):
                if i == 0 and j == 0:
                    continue
                for c in range(CENSUS_COLS, cols - CENSUS_COLS):
                    bit = np.uint64(1) if g[r + i, c + j] > g[r, c] else np.uint64(0)
                    code[c] = (code[c] << np.uint64(1)) | bit
        for c in range(CENSUS_COLS, cols - CENSUS_COLS):
            up, down = r - CENSUS_ROWS, r + CENSUS_ROWS
            left, right = c - CENSUS_COLS, c + CENSUS_COLS
            inside = g[up, left] >= 0 and g[up, right] >= 0 and g[down, left] >= 0 and g[down, right] >= 0
            code[c] = (code[c] | (np.uint64(1) << np.uint64(63))) if inside and g[r, c] >= 0 else np.uint64(0)


@njit(cache=True, nogil=True)
def height_table(centres: F64, origin: I64, first: int, step_m: float, table: F64) -> None:
    """Fill a table (n, k, 3): where each photo shows what lies h = (first + i)·step_m above the plane: scale · position plus shifts in
    columns and rows, in array indices of that photo.

    centres: (k, 3) column and row (relative to the block's origin) and height above the plane (m) of the cameras; origin: (k, 2) first
    column and row of each photo's warped array.
    """
    for i in range(len(table)):
        for k in range(len(centres)):
            below = centres[k, 2] - (first + i) * step_m
            if below <= 0.0:  # as high as the camera: nowhere in its array
                table[i, k] = 0.0, -1.0, -1.0
                continue
            s = centres[k, 2] / below
            table[i, k, 0] = s
            table[i, k, 1] = centres[k, 0] * (1.0 - s) - origin[k, 0]
            table[i, k, 2] = centres[k, 1] * (1.0 - s) - origin[k, 1]


@njit(cache=True, nogil=True)
def matching_cost(
    codes: U64,
    layout: I64,
    apart: NDArray[np.bool_],
    table: F64,
    first: NDArray[np.int32],
    count: NDArray[np.int32],
    start: I64,
    cost: U8,
    seen: U8,
) -> None:
    """Cost (quarter bits) of every height of every cell of a block: the best third of all pairwise Hamming distances.

    codes: all photos' census arrays, flat; layout: (k, 3) where each starts, its rows and columns. apart: (k, k) the
    pairs that see heights, others look alike whatever the height is. first, count, start: of the block's cells (rows, cols), where
    their lowest height is in the table of `height_table`, every PLANE_STEPS of which one more follows, how many, and where their costs
    lie in `cost`.

    The best third is that of three photos among five: the others may not see the point.
    seen: most photos that reach the cell at any height, 1 where they all are in one place.
    """
    rows, cols = count.shape
    k_all = len(layout)
    all_apart = apart.sum() == k_all * (k_all - 1)
    code, photo = np.empty(k_all, np.uint64), np.empty(k_all, np.int64)
    best = np.empty(k_all * k_all, np.int64)
    for r in range(rows):
        for c in range(cols):
            at = start[r, c]
            n = count[r, c]
            for i in range(n):
                m = 0
                row = first[r, c] + i * PLANE_STEPS
                for k in range(k_all):
                    s = table[row, k, 0]
                    cc = int(table[row, k, 1] + (c + 0.5) * s + 65536.0) - 65536
                    rr = int(table[row, k, 2] + (r + 0.5) * s + 65536.0) - 65536
                    if cc < 0 or rr < 0 or rr >= layout[k, 1] or cc >= layout[k, 2]:
                        continue
                    b = codes[layout[k, 0] + rr * layout[k, 2] + cc]
                    if b != 0:
                        code[m] = b
                        photo[m] = k
                        m += 1
                pairs = m * (m - 1) // 2 if all_apart else _pairs_apart(photo, m, apart)
                seen[r, c] = max(seen[r, c], m if pairs > 0 else min(m, 1))
                if pairs == 0:
                    cost[at + i] = NO_COST
                    continue
                found = _best_third(code, photo, m, apart, all_apart, pairs, best)
                cost[at + i] = found + 1 if found == NO_COST else found


@njit(cache=True, nogil=True)
def add_doubt(
    cost: U8, lowest: NDArray[np.int32], count: NDArray[np.int32], start: I64, low: NDArray[np.int32],
    high: NDArray[np.int32], doubt: int,
) -> None:  # fmt: skip
    """Raise the cost of heights below `low` or above `high` (rows, cols; height numbers) by `doubt` quarter bits.

    Real costs are kept from NO_COST and NO_COST + doubt, so that what fewer than two photos see is still known by its cost.
    """
    rows, cols = lowest.shape
    for r in range(rows):
        for c in range(cols):
            at = start[r, c] - lowest[r, c]
            for z in range(lowest[r, c], lowest[r, c] + count[r, c]):
                found = int(cost[at + z])
                raised = found + doubt if z < low[r, c] or z > high[r, c] else found
                if found != NO_COST and (raised == NO_COST or raised == NO_COST + doubt):
                    raised += 1
                cost[at + z] = min(255, raised)


@njit(cache=True, nogil=True, inline="always")
def _pairs_apart(photo: I64, m: int, apart: NDArray[np.bool_]) -> int:
    pairs = 0
    for a in range(m):
        for b in range(a + 1, m):
            pairs += apart[photo[a], photo[b]]
    return pairs


@njit(cache=True, nogil=True, inline="always")
def _best_third(code: U64, photo: I64, m: int, apart: NDArray[np.bool_], all_apart: bool, pairs: int, best: I64) -> int:
    """Mean of the smallest third of the Hamming distances of the `pairs` pairs of m codes that are apart, in quarter bits."""
    take = max(1, (pairs + 1) // 3)
    q = 0
    for a in range(m):
        for b in range(a + 1, m):
            if not (all_apart or apart[photo[a], photo[b]]):
                continue
            d = np.int64(_popcount(code[a] ^ code[b]))
            if q < take:
                k = q
                q += 1
            elif d < best[take - 1]:
                k = take - 1
            else:
                continue
            while k > 0 and best[k - 1] > d:
                best[k] = best[k - 1]
                k -= 1
            best[k] = d
    total = 0
    for a in range(take):
        total += best[a]
    return 4 * total // take


@njit(cache=True, nogil=True)
def sample_normalised(
    images: F32,
    layout: I64,
    centres: F64,
    origin: I64,
    above: F32,
    delta: float,
    row0: int,
    col0: int,
    out: F32,
) -> None:
    """Each photo's normalised gray at heights above + delta (m) over the plane: out (k, rows, cols), -9 where unseen. Arrays as in
    `matching_cost` and `height_table`."""
    rows, cols = above.shape
    for k in range(len(layout)):
        base, h, w = layout[k, 0], layout[k, 1], layout[k, 2]
        cx, cy, cz = centres[k, 0], centres[k, 1], centres[k, 2]
        ox, oy = origin[k, 0] + 0.5, origin[k, 1] + 0.5
        for r in range(rows):
            for c in range(cols):
                s = cz / (cz - above[r, c] - delta)
                u = cx + (c + col0 + 0.5 - cx) * s - ox
                v = cy + (r + row0 + 0.5 - cy) * s - oy
                out[k, r, c] = -9.0
                if u < 0.0 or v < 0.0 or u >= w - 1.0 or v >= h - 1.0:
                    continue
                iu = int(u)
                iv = int(v)
                at = base + iv * w + iu
                a = images[at]
                b = images[at + 1]
                d = images[at + w]
                e = images[at + w + 1]
                if a <= -9.0 or b <= -9.0 or d <= -9.0 or e <= -9.0:
                    continue
                fu = np.float32(u - iu)
                fv = np.float32(v - iv)
                top = a + (b - a) * fu
                out[k, r, c] = top + (d + (e - d) * fu - top) * fv
