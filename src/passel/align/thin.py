"""Fewer tracks for the adjustment where there are plenty: the longest ones that still cover every part of every photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numba import njit
from numpy.typing import NDArray

from passel.align.block import Keypoints, Tracks
from passel.align.tracks import tracks_as_matched
from passel.reconstruct.matches import PairMatches

A_PAIR = (
    100  # matches that a pair keeps in any case: all of a weak pair's, which may be all that holds two parts together
)
CELLS = 8  # a photo's coverage is judged on a grid of 8 × 8


def well_spread(
    tracks: Tracks, seen: NDArray[np.bool_], sizes_px: NDArray[np.float64], per_photo: int
) -> NDArray[np.bool_]:
    """Which tracks (m,) to adjust with: longest first, each kept if a part of a photo still wants observations.

    seen: (k,) observations that count; tracks without any are left out. sizes_px: (n, 2) width and height of each photo. per_photo:
    observations a photo should have.
    """
    order = np.argsort(-_length(tracks.start, seen), kind="stable")
    keep = np.zeros(len(tracks), np.bool_)
    count = np.zeros((len(sizes_px), CELLS, CELLS), np.int64)
    quota = max(1, per_photo // (CELLS * CELLS))
    _choose(tracks.start, tracks.photo, tracks.xy, seen, sizes_px, order, count, quota, keep)
    return keep


def fewer_matches(
    matches: Sequence[PairMatches], xy: Keypoints, sizes_px: NDArray[np.float64], per_photo: int
) -> list[PairMatches]:
    """The matches that make the longest tracks, spread well, of about `per_photo` features a photo: a mapper needs no more, and its
    time and memory follow their number. The matches index `xy`."""
    tracks = tracks_as_matched(matches, xy)
    chosen = tracks.by_observation(well_spread(tracks, np.ones(len(tracks.photo), np.bool_), sizes_px, per_photo))
    kept = [np.zeros(len(xy[k]), np.bool_) for k in range(len(xy))]
    for k, mine in enumerate(kept):
        mine[tracks.feature[chosen & (tracks.photo == k)]] = True
    return [replace(m, features=m.features[_some(kept[m.first][m.features[:, 0]])]) for m in matches]


def _some(wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Those wanted, and as many of the others as make it A_PAIR."""
    missing = A_PAIR - int(wanted.sum())
    return wanted if missing <= 0 else wanted | (np.cumsum(~wanted) <= missing)


@njit(cache=True, nogil=True)
def _cell(xy, size):
    c = min(max(int(xy[0] / size[0] * CELLS), 0), CELLS - 1)
    return min(max(int(xy[1] / size[1] * CELLS), 0), CELLS - 1), c


@njit(cache=True, nogil=True)
def _length(start, seen):
    length = np.zeros(len(start) - 1, np.int16)
    for p in range(len(length)):
        for o in range(start[p], start[p + 1]):
            if seen[o] and length[p] < 32767:
                length[p] += 1
    return length


@njit(cache=True, nogil=True)
def _choose(start, photo, xy, seen, sizes, order, count, quota, keep):
    for p in order:
        wanted = False
        for o in range(start[p], start[p + 1]):
            if seen[o]:
                r, c = _cell(xy[o], sizes[photo[o]])
                if count[photo[o], r, c] < quota:
                    wanted = True
                    break
        if wanted:
            keep[p] = True
            for o in range(start[p], start[p + 1]):
                if seen[o]:
                    r, c = _cell(xy[o], sizes[photo[o]])
                    count[photo[o], r, c] += 1
