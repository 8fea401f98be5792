"""Which photos hang together: positions within reach of each other, directly or through others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from passel.geo.nearest import kd_tree

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


def pieces_of(xy_m: F64, reach_m: float) -> I64:
    """(n,) number of the connected piece of each position (n, 2), linked when within reach; pieces are numbered by first member.

    Positions are first gathered in cells of an eighth of the reach, so that photos on one spot cost nothing.
    """
    from scipy.sparse import coo_matrix  # loads long, for what few steps need
    from scipy.sparse.csgraph import connected_components

    cell, member = np.unique(np.floor(xy_m / (reach_m / 8)).astype(np.int64), axis=0, return_inverse=True)
    member = member.ravel()
    count = np.bincount(member)
    middle = np.column_stack([np.bincount(member, xy_m[:, a]) / count for a in (0, 1)])
    pairs = kd_tree(middle).query_pairs(reach_m, output_type="ndarray")
    graph = coo_matrix((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(len(cell), len(cell)))
    label = connected_components(graph, directed=False)[1][member]
    _, first, label = np.unique(label, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[label.ravel()], np.int64)


def largest_first(piece: I64) -> I64:
    """(n,) the same pieces, numbered by size; of equal ones the first member's goes first."""
    order = np.argsort(-np.bincount(piece), kind="stable")
    return np.asarray(np.argsort(order)[piece], np.int64)
