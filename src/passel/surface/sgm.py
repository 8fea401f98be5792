"""Semi-global matching over ragged height ranges: two sweeps over the rows, four directions each, then the best height of each cell."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]


@njit(cache=True, nogil=True, inline="always")
def _advance(cost: U8, total: U16, at: int, n: int, before: F32, n_before: int, shift: int, least: float, out: F32, pad: F32,
             p1: float, p2: float) -> float:  # fmt: skip
    """One cell of one path: out[:n] = cost + the cheapest way from the cell before; adds it to total; returns the least of out."""
    f1 = np.float32(p1)
    big = np.float32(1e9)
    jump = np.float32(least) + np.float32(p2)
    base = np.float32(least)
    # heights of the cell before, on this cell's height numbers, one more at both ends
    for i in range(n + 2):
        pad[i] = big
    lo = max(0, 1 - shift)
    hi = min(n + 2, n_before + 1 - shift)
    for i in range(lo, hi):
        pad[i] = before[i + shift - 1]
    m = big
    for i in range(n):
        b = pad[i + 1]
        side = min(pad[i], pad[i + 2]) + f1
        b = side if side < b else b
        b = jump if jump < b else b
        v = np.float32(cost[at + i]) + (b - base)
        out[i] = v
        total[at + i] += np.uint16(v)
        m = v if v < m else m
    return m  # type: ignore[return-value]


@njit(cache=True, nogil=True)
def aggregate(cost: U8, lowest: I32, count: I32, start: I64, p1: float, p2: float, forward: bool, total: U16) -> None:
    """Add four directions to total: the row's own and the three from the row before (forward: from the west and north)."""
    rows, cols = lowest.shape
    width = 0
    for r in range(rows):
        t = 0
        for c in range(cols):
            t += count[r, c]
        width = max(width, t)
    deepest = 0
    for r in range(rows):
        for c in range(cols):
            deepest = max(deepest, count[r, c])
    above = np.zeros((3, width), np.float32)
    here = np.zeros((3, width), np.float32)
    least_above = np.zeros((3, cols), np.float32)
    least_here = np.zeros((3, cols), np.float32)
    side = np.zeros(deepest, np.float32)
    side_next = np.zeros(deepest, np.float32)
    pad = np.zeros(deepest + 2, np.float32)
    nothing = np.zeros(1, np.float32)
    step = 1 if forward else -1
    for rr in range(rows):
        r = rr if forward else rows - 1 - rr
        least_side = np.float32(0.0)
        for cc in range(cols):
            c = cc if forward else cols - 1 - cc
            at = start[r, c]
            n = count[r, c]
            z = lowest[r, c]
            local = at - start[r, 0]
            if cc > 0 and count[r, c - step] > 0:
                m = _advance(cost, total, at, n, side, count[r, c - step], z - lowest[r, c - step], least_side, side_next,
                             pad, p1, p2)  # fmt: skip
            else:
                m = _advance(cost, total, at, n, nothing, 0, 0, 0.0, side_next, pad, p1, 0.0)
            least_side = m
            side, side_next = side_next, side
            for d in range(3):
                c_before = c + d - 1
                r_before = r - step
                out = here[d, local : local + n]
                if rr > 0 and c_before >= 0 and c_before < cols and count[r_before, c_before] > 0:
                    n_before = count[r_before, c_before]
                    from_ = start[r_before, c_before] - start[r_before, 0]
                    m = _advance(cost, total, at, n, above[d, from_ : from_ + n_before], n_before,
                                 z - lowest[r_before, c_before], least_above[d, c_before], out, pad, p1, p2)  # fmt: skip
                else:
                    m = _advance(cost, total, at, n, nothing, 0, 0, 0.0, out, pad, p1, 0.0)
                least_here[d, c] = m
        above, here = here, above
        least_above, least_here = least_here, least_above


@njit(cache=True, nogil=True)
def best_heights(
    cost: U8, total: U16, lowest: I32, count: I32, start: I64, dz: float, z: F32, own: U8, edge: U8
) -> None:
    """The winner of each cell with a parabola: z (m); own: its matching cost; edge: 1 where it lies at the end of its range."""
    rows, cols = lowest.shape
    for r in range(rows):
        for c in range(cols):
            at = start[r, c]
            n = count[r, c]
            if n == 0:
                z[r, c] = lowest[r, c] * dz
                own[r, c] = 255
                edge[r, c] = 1
                continue
            b = 0
            for i in range(1, n):
                if total[at + i] < total[at + b]:
                    b = i
            d = 0.0
            if 0 < b < n - 1:
                left = float(total[at + b - 1])
                right = float(total[at + b + 1])
                bend = left - 2.0 * float(total[at + b]) + right
                if bend > 0:
                    d = 0.5 * (left - right) / bend
            z[r, c] = (lowest[r, c] + b + d) * dz
            own[r, c] = cost[at + b]
            edge[r, c] = 1 if b == 0 or b == n - 1 else 0
