"""Which photos to match: neighbours by GPS in every direction, or by looks where there is no GPS."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from passel.geo.nearest import kd_tree

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

NEAREST = 10
SECTORS = 8
PER_SECTOR = 1
SEARCH = 120
BESIDE_IN_TIME = 2
FAR_IN_STEPS = 4.0  # of the usual way from one photo to the next
MANY_MISPLACED = (
    0.05  # of the photos: so many are no slips of the GPS but two drones at once, or clocks that tell nothing
)


def pairs_by_position(xy_in_world: F64, reach_m: float | None = None) -> I64:
    """Pairs (p, 2), i < j, sorted: each photo with its nearest neighbours and the nearest in each of eight directions.

    The directions matter: photos taken every two metres along strips thirty metres apart have only their own strip among their
    nearest ten, and a block of such strips would fall apart. xy_in_world: (n, 2) metres without NaN. reach_m: no pair farther than this.
    """
    n = len(xy_in_world)
    if n < 2:
        return np.zeros((0, 2), np.int64)
    k = min(n, SEARCH + 1)
    distance, index = kd_tree(xy_in_world).query(xy_in_world, k=k)
    pairs: set[tuple[int, int]] = set()
    for i in range(n):
        near = [(d, j) for d, j in zip(distance[i], index[i]) if j != i and (reach_m is None or d <= reach_m)]
        chosen = [j for _, j in near[:NEAREST]]
        taken = np.zeros(SECTORS, int)
        for d, j in near:
            if d > _sector_reach(near):
                break
            dx, dy = xy_in_world[j] - xy_in_world[i]
            sector = int((np.arctan2(dy, dx) + np.pi) / (2 * np.pi) * SECTORS) % SECTORS
            if taken[sector] < PER_SECTOR:
                taken[sector] += 1
                chosen.append(j)
        pairs.update((min(i, j), max(i, j)) for j in chosen)
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)


def _sector_reach(near: list[tuple[float, int]]) -> float:
    """How far a neighbour in an empty direction may be: five times the distance of the tenth nearest photo."""
    return 5.0 * max(near[min(len(near), NEAREST) - 1][0], 1e-6) if near else 0.0


def pairs_by_time(xy_in_world: F64, order: I64) -> I64:
    """Pairs (p, 2), i < j, of the few photos whose GPS puts them far from both the photo taken just before and the one just after: GPS
    of two photos swapped, or of one that slipped. Each with the two photos before it and the two after it.

    xy_in_world: (n, 2) metres without NaN. order: (n,) all photos as they were taken.
    """
    n = len(order)
    if n < 2:
        return np.zeros((0, 2), np.int64)
    step = np.linalg.norm(np.diff(xy_in_world[order], axis=0), axis=1)
    far = np.concatenate([[True], step > FAR_IN_STEPS * np.median(step), [True]])
    alone = np.flatnonzero(far[:-1] & far[1:]).tolist()
    if len(alone) > min(n / 4, max(2.0, MANY_MISPLACED * n)):
        return np.zeros((0, 2), np.int64)
    near = {(r, q) for r in alone for q in range(max(0, r - BESIDE_IN_TIME), min(n, r + BESIDE_IN_TIME + 1)) if q != r}
    made = {tuple(sorted((int(order[r]), int(order[q])))) for r, q in near}
    return np.array(sorted(made), np.int64).reshape(-1, 2)


def all_pairs(n: int) -> I64:
    """Every pair (p, 2), i < j."""
    i, j = np.triu_indices(n, 1)
    return np.column_stack([i, j]).astype(np.int64)


def pairs_by_looks(words: list[NDArray[np.uint8]], neighbours: int, order: int) -> I64:
    """Pairs of photos that look alike, for surveys without GPS that are too large to match exhaustively.

    words: per photo its (k, 128) uint8 descriptors (the strongest few hundred are enough). A vocabulary is learnt from them and photos
    are compared by tf-idf; each photo is paired with its `neighbours` best and with the `order` that follow it by name.
    """
    n = len(words)
    if not any(len(w) for w in words):
        pairs = {(i, j) for i in range(n) for j in range(i + 1, min(n, i + 1 + order))}
        return np.array(sorted(pairs), np.int64).reshape(-1, 2)
    vocabulary = _vocabulary(np.concatenate(words).astype(np.float32))
    tree = kd_tree(vocabulary)
    histogram = np.zeros((n, len(vocabulary)), np.float32)
    for i, w in enumerate(words):
        if len(w):
            _, nearest = tree.query(w.astype(np.float32), eps=1.0)
            np.add.at(histogram[i], nearest, 1.0)
    idf = np.log(n / np.maximum((histogram > 0).sum(axis=0), 1.0))
    vector = np.sqrt(histogram) * idf
    vector /= np.maximum(np.linalg.norm(vector, axis=1, keepdims=True), 1e-9)
    likeness = vector @ vector.T
    np.fill_diagonal(likeness, -1.0)
    pairs = set()
    for i in range(n):
        best = np.lexsort((np.arange(n), -likeness[i]))[:neighbours]
        pairs.update((min(i, int(j)), max(i, int(j))) for j in best if int(j) != i)
        pairs.update((i, j) for j in range(i + 1, min(n, i + 1 + order)))
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)


def _vocabulary(descriptors: NDArray[np.float32], size: int = 1024, rounds: int = 6) -> NDArray[np.float32]:
    """`size` visual words by a few rounds of k-means with fixed seeding (a sample of 50,000 is plenty)."""
    rng = np.random.default_rng(0)
    sample = descriptors[np.sort(rng.permutation(len(descriptors))[:50_000])]
    words = sample[np.sort(rng.permutation(len(sample))[: min(size, len(sample))])]
    for _ in range(rounds):
        score = (words**2).sum(axis=1)[None, :] - 2.0 * sample @ words.T
        label = np.argmin(score, axis=1)
        total = np.zeros_like(words)
        np.add.at(total, label, sample)
        count = np.bincount(label, minlength=len(words))
        words = np.where(count[:, None] > 0, total / np.maximum(count, 1)[:, None], words).astype(np.float32)
    return words
