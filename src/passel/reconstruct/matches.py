"""Verified matches between pairs of photos, as data. `matching.py` makes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class PairMatches:
    """The geometrically verified matches of one pair.

    first, second: numbers of the photos, as the caller counts them. features: (k, 2) int32 feature indices. config: COLMAP's two-view
    configuration code. E, F, H: (3, 3) essential, fundamental and homography matrices (identity where not estimated).
    """

    first: int
    second: int
    features: NDArray[np.int32]
    config: int
    E: F64
    F: F64
    H: F64


def save_matches(path: Path, photos: Sequence[str], matches: Sequence[PairMatches]) -> None:
    """All pairs of a step in one npz. photos: the names that `first` and `second` index, so that the file stands for itself."""
    np.savez(
        path,
        photos=np.array(photos, np.str_),
        pairs=np.array([(m.first, m.second) for m in matches], np.int32).reshape(-1, 2),
        config=np.array([m.config for m in matches], np.int32),
        geometry=np.array([(m.E, m.F, m.H) for m in matches], np.float64).reshape(-1, 3, 3, 3),
        counts=np.array([len(m.features) for m in matches], np.int64),
        features=np.concatenate([m.features for m in matches]) if matches else np.zeros((0, 2), np.int32),
    )


def load_matches(path: Path, index_of: Mapping[str, int]) -> list[PairMatches]:
    """The pairs whose two photos are in `index_of`, with `first` and `second` as it numbers them."""
    with np.load(path) as d:
        number = [index_of.get(str(name)) for name in d["photos"]]
        pairs, config, geometry, features = d["pairs"], d["config"], d["geometry"], d["features"]
        ends = np.cumsum(d["counts"])
    starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    found = []
    for (i, j), a, b, c, g in zip(pairs, starts, ends, config, geometry):
        first, second = number[i], number[j]
        if first is not None and second is not None:
            found.append(PairMatches(first, second, features[a:b], int(c), g[0], g[1], g[2]))
    return found


@dataclass(frozen=True)
class MatchFiles:
    """The pairs of many files, read anew each time one goes through them, and then `more`: those of a large survey take half a gigabyte.

    index_of: as for `load_matches`.
    """

    paths: tuple[Path, ...]
    index_of: Mapping[str, int]
    more: tuple[PairMatches, ...] = ()

    def __iter__(self) -> Iterator[PairMatches]:
        for path in self.paths:
            yield from load_matches(path, self.index_of)
        yield from self.more

    def and_more(self, more: Iterable[PairMatches]) -> MatchFiles:
        return replace(self, more=(*self.more, *more))
