"""Tracks of the whole survey from its verified matches, once cameras are known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numba import njit
from numpy.typing import NDArray

from passel.align.block import Cameras, Keypoints, Tracks
from passel.align.projection import to_ray
from passel.reconstruct.matches import PairMatches

F64 = NDArray[np.float64]


def build_tracks(
    cameras: Cameras, matches: Iterable[PairMatches], place: Mapping[int, int], xy: Keypoints, reach_px: float
) -> Tracks:
    """Join matches into tracks (a feature belongs to one track; a track may hold two features of a photo: triangulation decides).

    place: survey index of a photo → its index in the block. xy: per photo of the block its features' pixels. A match farther than
    `reach_px` from the epipolar line that the cameras give is a wrong one and joins nothing.
    """
    offset, parent = _loners(xy)
    for m in matches:
        if m.first not in place or m.second not in place:
            continue
        i, j = place[m.first], place[m.second]
        a, b = m.features[:, 0].astype(np.int64), m.features[:, 1].astype(np.int64)
        miss = np.empty(len(a))
        c = cameras
        ci, cj = c.of_photo[i], c.of_photo[j]
        relative = c.rotations[j] @ c.rotations[i].T
        baseline = c.rotations[j] @ (c.centres[i] - c.centres[j])
        moving = relative @ c.velocities[i], c.velocities[j]
        _epipolar_miss(
            c.rows[ci], c.aspect[ci], c.rows[cj], c.aspect[cj], relative, baseline, *moving,
            xy[i][a].astype(np.float64), xy[j][b].astype(np.float64), miss,
        )  # fmt: skip
        good = miss <= reach_px
        _join(parent, a[good] + offset[i], b[good] + offset[j])
    return _grouped(parent, offset, xy)


def tracks_as_matched(matches: Iterable[PairMatches], xy: Keypoints) -> Tracks:
    """The same while no camera is known: every match is believed. The matches index `xy`."""
    offset, parent = _loners(xy)
    for m in matches:
        _join(parent, m.features[:, 0] + offset[m.first], m.features[:, 1] + offset[m.second])
    return _grouped(parent, offset, xy)


def _loners(xy: Keypoints) -> tuple[NDArray[np.int64], NDArray[np.int32] | NDArray[np.int64]]:
    """Where each photo's features begin, and every feature as its own parent."""
    offset = np.concatenate([[0], np.cumsum([len(xy[k]) for k in range(len(xy))])]).astype(np.int64)
    return offset, np.arange(offset[-1], dtype=np.int32 if offset[-1] <= np.iinfo(np.int32).max else np.int64)


@njit(cache=True, nogil=True)
def _root(parent, a):
    while parent[a] != a:
        parent[a] = parent[parent[a]]
        a = parent[a]
    return a


@njit(cache=True, nogil=True)
def _join(parent, a, b):
    for k in range(len(a)):
        ra = _root(parent, a[k])
        rb = _root(parent, b[k])
        if ra < rb:
            parent[rb] = ra
        elif rb < ra:
            parent[ra] = rb


@njit(cache=True, nogil=True)
def _number(parent):
    """Number the sets of two features or more in the order of their first: -1 - number takes the place of each member's parent, 0 that
    of loners. Returns (m + 1,) starts of the sets."""
    size = np.zeros(len(parent), np.uint8)  # 2 stands for more
    for a in range(len(parent)):
        parent[a] = _root(parent, a)
        size[parent[a]] = min(2, size[parent[a]] + 1)
    sets = 0
    for a in range(len(parent)):
        root = parent[a]
        if root != a:
            parent[a] = parent[root]  # a set's first member is its root
        elif size[a] == 2:
            sets += 1
            parent[a] = -sets
        else:
            parent[a] = 0
    start = np.zeros(sets + 1, np.int64)
    for a in range(len(parent)):
        if parent[a] < 0:
            start[-parent[a]] += 1
    return np.cumsum(start)


@njit(cache=True, nogil=True)
def _gather(number, k, xy, cursor, photo, feature, seen):
    """Put the features of photo k that are in a set into their sets' places."""
    for f in range(len(number)):
        if number[f] < 0:
            at = cursor[-1 - number[f]]
            cursor[-1 - number[f]] += 1
            photo[at], feature[at] = k, f
            seen[at, 0], seen[at, 1] = xy[f, 0], xy[f, 1]


def _grouped(parent: NDArray[np.int32] | NDArray[np.int64], offset: NDArray[np.int64], xy: Keypoints) -> Tracks:
    start = _number(parent)
    photo, feature = np.empty(start[-1], np.int32), np.empty(start[-1], np.int32)
    seen, cursor = np.empty((start[-1], 2), np.float32), start[:-1].copy()
    for k in range(len(xy)):
        _gather(parent[offset[k] : offset[k + 1]], k, xy[k], cursor, photo, feature, seen)
    return Tracks(start, photo, feature, seen)


@njit(cache=True, nogil=True)
def _epipolar_miss(
    row_i, aspect_i, row_j, aspect_j, relative, baseline, velocity_i, velocity_j, xy_i, xy_j, miss
):  # fmt: skip
    """Distance (px, the larger camera's focal) of each match from its epipolar plane. baseline, velocities: in the frame of camera j;
    cameras move between the exposures of the two rows."""
    e, b = np.empty((3, 3)), np.empty(3)
    f = max(row_i[0], row_j[0])
    for k in range(len(miss)):
        x0, y0 = to_ray(row_i, aspect_i, xy_i[k, 0], xy_i[k, 1])
        x1, y1 = to_ray(row_j, aspect_j, xy_j[k, 0], xy_j[k, 1])
        for c in range(3):
            b[c] = baseline[c] + row_i[8] * y0 * velocity_i[c] - row_j[8] * y1 * velocity_j[c]
        for c in range(3):
            e[0, c] = -b[2] * relative[1, c] + b[1] * relative[2, c]
            e[1, c] = b[2] * relative[0, c] - b[0] * relative[2, c]
            e[2, c] = -b[1] * relative[0, c] + b[0] * relative[1, c]
        l0 = e[0, 0] * x0 + e[0, 1] * y0 + e[0, 2]
        l1 = e[1, 0] * x0 + e[1, 1] * y0 + e[1, 2]
        l2 = e[2, 0] * x0 + e[2, 1] * y0 + e[2, 2]
        m0 = e[0, 0] * x1 + e[1, 0] * y1 + e[2, 0]
        m1 = e[0, 1] * x1 + e[1, 1] * y1 + e[2, 1]
        value = l0 * x1 + l1 * y1 + l2
        miss[k] = f * abs(value) / np.sqrt(l0 * l0 + l1 * l1 + m0 * m0 + m1 * m1 + 1e-30)
