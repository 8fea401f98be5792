"""Photos that show what no other photo of their submodel shows: parts of a survey with water, snow or a bare field between them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components

from passel.reconstruct.matches import PairMatches
from passel.reconstruct.scene import Scene
from passel.survey.split import MIN_PHOTOS

MIN_MATCHES = 30  # of a pair: fewer are chance too often to hold two parts together
HELD_BY = 15  # points that two parts of a scene share at least: fewer may all be chance, and the parts lie anyhow to each other


def held_together(scene: Scene) -> NDArray[np.bool_]:
    """(n,) the photos of the scene's largest part that its points hold together, photo by photo and then part by part."""
    size = len(scene.photos), len(scene.points)
    shows = csr_matrix((np.ones(len(scene.obs_photo), np.int32), (scene.obs_photo, scene.obs_point)), shape=size)
    part = np.arange(len(scene.photos))
    while shows.shape[0] > 1:
        shows.data[:] = 1
        number, label = connected_components((shows @ shows.T) >= HELD_BY, directed=False)
        if number == shows.shape[0]:
            break
        part = label[part]
        shows = csr_matrix((np.ones(len(label), np.int32), (label, np.arange(len(label))))) @ shows
    count = np.bincount(part)
    return np.asarray(part == count.argmax()) if count.max() > 1 else np.ones(len(part), np.bool_)


def groups_by_matches(
    matches: Sequence[PairMatches], photos: Sequence[str], without: Collection[str]
) -> tuple[tuple[str, ...], ...]:
    """Groups of two photos or more that matches hold together, the largest first.

    photos: names that the matches index. without: photos that belong to no group and hold none together. A group too small to be a
    submodel of its own that matches any of them is none: it is looked for with what they see.
    """
    left = [name not in without for name in photos]
    held = [(m.first, m.second) for m in matches if len(m.features) >= MIN_MATCHES]
    pairs = [(i, j) for i, j in held if left[i] and left[j]]
    if not pairs:
        return ()
    beside = {photos[i] for pair in held for i in pair if not (left[pair[0]] and left[pair[1]])}
    a, b = np.array(pairs, np.int64).T
    graph = coo_matrix((np.ones(len(a), np.int8), (a, b)), shape=(len(photos),) * 2)
    label = connected_components(graph, directed=False)[1]
    groups = [tuple(sorted(photos[int(i)] for i in np.flatnonzero(label == k))) for k in np.unique(label)]
    apart = [g for g in groups if len(g) >= MIN_PHOTOS or (len(g) > 1 and beside.isdisjoint(g))]
    return tuple(sorted(apart, key=lambda g: (-len(g), g)))
