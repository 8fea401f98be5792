"""Nearest neighbours. SciPy's part for it takes 0.3 CPU s to load, which the processes of most steps do without."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from scipy.spatial import cKDTree


def kd_tree(points: ArrayLike) -> cKDTree:
    """A tree of points (n, dimensions) that is asked for the nearest of them."""
    from scipy.spatial import cKDTree

    return cKDTree(points)
