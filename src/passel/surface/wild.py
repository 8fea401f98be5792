"""Wrong points of the scene: what they say about the ground would open pits to search, and map ground that is not there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from passel.geo.nearest import kd_tree

F64 = NDArray[np.float64]

WILD_SHARE = 0.4  # of the flying height: no tree or house stands out so far
STEEPEST = 1.0  # … but ground may, by so much of the distance to the points that tell
NEAREST_POINTS = 12
SURE_PHOTOS = 3  # a wrong match agrees with no third photo; of two photos, whole patches of them fit each other
FEWEST_SURE = 200
POINTS_AT_ONCE = 200_000  # neighbours are looked up for: bounds memory


def without_wild(points: F64, photos_of: NDArray[np.int64], above_m: float) -> F64:
    """Those of the points (m, 3, map metres) that lie near the median height of the sure points nearest to them.

    photos_of: (m,) photos that show each; points of three or more are sure. above_m: usual height of the cameras above the ground.
    """
    sure = photos_of >= SURE_PHOTOS
    known = points[sure] if sure.sum() >= FEWEST_SURE else points
    tree, keep = kd_tree(known[:, :2]), np.zeros(len(points), bool)
    k = min(NEAREST_POINTS, len(known))
    for at in range(0, len(points), POINTS_AT_ONCE):
        some = points[at : at + POINTS_AT_ONCE]
        distance, near = tree.query(some[:, :2], k=k)
        distance, near = np.asarray(distance).reshape(-1, k), np.asarray(near).reshape(-1, k)
        usual = np.median(known[:, 2][near], axis=1)
        most_m = WILD_SHARE * above_m + STEEPEST * distance[:, 0]
        keep[at : at + len(some)] = np.abs(some[:, 2] - usual) <= most_m
    return np.asarray(points[keep])
