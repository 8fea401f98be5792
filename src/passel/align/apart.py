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
    """Groups of photos that matches hold together, the largest first; none of fewer photos than can be mapped alone.

    photos: names that the matches index. without: photos that belong to no group and hold none together.
    """
    left = [name not in without for name in photos]
    pairs = [
        (m.first, m.second) for m in matches if left[m.first] and left[m.second] and len(m.features) >= MIN_MATCHES
    ]
    if not pairs:
        return ()
    a, b = np.array(pairs, np.int64).T
    graph = coo_matrix((np.ones(len(a), np.int8), (a, b)), shape=(len(photos),) * 2)
    label = connected_components(graph, directed=False)[1]
    groups = [tuple(sorted(photos[int(i)] for i in np.flatnonzero(label == k))) for k in np.unique(label)]
    return tuple(sorted((g for g in groups if len(g) >= MIN_PHOTOS), key=lambda g: (-len(g), g)))
