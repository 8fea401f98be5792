"""Fewer tracks for the adjustment where there are plenty: the longest ones that still cover every part of every photo."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from passel.align.block import Tracks

CELLS = 8  # a photo's coverage is judged on a grid of 8 × 8


def well_spread(tracks: Tracks, sizes_px: NDArray[np.float64], per_photo: int) -> NDArray[np.bool_]:
    """Which tracks (m,) to adjust with: longest first, each kept if a part of a photo still wants observations.

    sizes_px: (n, 2) width and height of each photo. per_photo: observations a photo should have.
    """
    length = np.diff(tracks.start)
    order = np.lexsort((np.arange(len(tracks)), -length))
    cell = np.clip(tracks.xy / sizes_px[tracks.photo] * CELLS, 0, CELLS - 1).astype(np.int64)
    flat = tracks.photo.astype(np.int64) * CELLS * CELLS + cell[:, 1] * CELLS + cell[:, 0]
    keep = np.zeros(len(tracks), np.bool_)
    quota = max(1, per_photo // (CELLS * CELLS))
    _choose(tracks.start, order, flat, np.zeros(len(sizes_px) * CELLS * CELLS, np.int64), quota, keep)
    return keep


@njit(cache=True, nogil=True)
def _choose(start, order, flat, count, quota, keep):
    for p in order:
        wanted = False
        for o in range(start[p], start[p + 1]):
            if count[flat[o]] < quota:
                wanted = True
                break
        if wanted:
            keep[p] = True
            for o in range(start[p], start[p + 1]):
                count[flat[o]] += 1
