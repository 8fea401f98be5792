"""Guided matching: scene points that should be visible in a photo are looked for near where a rough pose puts them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

LEAST_COSINE = 0.80  # between descriptors of one place; wrong neighbours rarely reach it
RATIO = 0.85  # of the descriptor distances of the best and the second best place in the window
SAME_PLACE_PX = 2.0  # noise units: two features nearer than this are one place in two orientations


@dataclass(frozen=True)
class Sought:
    """Observations of scene points by placed photos, as something to look for elsewhere.

    point: (q,) index of the scene point, sorted. descriptors: (q, 128) uint8 RootSIFT of the feature that observes it.
    """

    point: I64
    descriptors: NDArray[np.uint8]


@dataclass(frozen=True)
class Sighting:
    """What was found: feature (k,) of the photo shows point (k,) of the scene; each feature and each point at most once."""

    feature: I64
    point: I64


def look_for(
    sought: Sought, expected_px: F64, xy: F64, descriptors: NDArray[np.uint8], reach_px: float, noise_px: float
) -> Sighting:
    """Features of a photo that look like the sought points and lie where they are expected.

    expected_px: (q, 2) where each query's point should be seen, NaN where it cannot. xy (n, 2), descriptors (n, 128): of the photo.
    """
    query = np.flatnonzero(np.isfinite(expected_px).all(axis=1))
    order = np.argsort(xy[:, 1], kind="stable")
    best = np.full(len(query), -1, np.int64)
    cosine = np.zeros(len(query))
    rows = xy[order, 1].copy()
    _best_in_window(
        expected_px[query], sought.descriptors[query], rows, xy[order], descriptors[order],
        reach_px, SAME_PLACE_PX * noise_px, best, cosine,
    )  # fmt: skip
    hit = best >= 0
    feature, point, likeness = order[best[hit]].astype(np.int64), sought.point[query[hit]], cosine[hit]
    strongest = np.lexsort((feature, point, -likeness))
    feature, point = feature[strongest], point[strongest]
    # Strongest first: a point keeps its best feature, then a feature its best point.
    _, first = np.unique(point, return_index=True)
    first.sort()
    feature, point = feature[first], point[first]
    _, first = np.unique(feature, return_index=True)
    first.sort()
    return Sighting(feature[first], point[first])


@njit(cache=True, nogil=True)
def _best_in_window(expected, wanted, rows, xy, descriptors, reach, same_place, best, cosine):
    """For each query the feature in its window that looks most like it, if it looks much more so than any other place there."""
    most = 512.0 * 512.0  # squared length of a RootSIFT descriptor
    for q in range(len(expected)):
        u, v = expected[q]
        lo = np.searchsorted(rows, v - reach)
        hi = np.searchsorted(rows, v + reach)
        first, second = -1, -1
        top, next_top = 0.0, 0.0
        for f in range(lo, hi):
            if (xy[f, 0] - u) ** 2 + (xy[f, 1] - v) ** 2 > reach * reach:
                continue
            total = np.int32(0)
            for d in range(128):
                total += np.int32(wanted[q, d]) * np.int32(descriptors[f, d])
            c = total / most
            near = first >= 0 and abs(xy[f, 0] - xy[first, 0]) + abs(xy[f, 1] - xy[first, 1]) <= same_place
            if c > top:
                if first >= 0 and not near:
                    second, next_top = first, top
                first, top = f, c
            elif c > next_top and not near:
                second, next_top = f, c
        if first < 0 or top < LEAST_COSINE:
            continue
        if second >= 0 and 1.0 - min(top, 1.0) >= RATIO * RATIO * (1.0 - min(next_top, 1.0)):
            continue
        best[q] = first
        cosine[q] = top
