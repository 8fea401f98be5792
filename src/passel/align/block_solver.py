"""Cholesky of the photos' normal equations, a panel of photos at a time: memory of the photos that a panel touches, not of all.

Photos come in an order in which those that share points are near each other, so a panel's columns reach only some way down: a window of
rows that slides along the diagonal. What is finished is needed once more, backwards; when it is large it waits on disk, in the folder
for temporary files, which is the step's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile

import numpy as np
from numpy.typing import NDArray

from passel.align import normal_equations as kernels

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

PANEL_PHOTOS = 48
IN_MEMORY_BYTES = 100_000_000
SIZE = 6  # unknowns of a photo


@dataclass(frozen=True)
class Pattern:
    """Which photos share points, and the order they are solved in.

    start: (n + 1,), column: (b,) int64: the blocks of row i, columns ≥ i, are start[i]:start[i + 1], its diagonal first. place: (n,)
    int64 the photo's place in the solving order. entry: (b,) int64 blocks sorted by the later place of their two photos.
    """

    start: I64
    column: I64
    place: I64
    entry: I64

    def panels(self) -> Iterator[tuple[int, int, int]]:
        """(first, end, reach) places: of the panel's photos, and of the rows that its columns reach, fill included."""
        n = len(self.place)
        row = np.repeat(np.arange(n), np.diff(self.start))
        a, b = self.place[row], self.place[self.column]
        farthest = np.zeros(n, np.int64)
        np.maximum.at(farthest, np.minimum(a, b), np.maximum(a, b))
        farthest = np.maximum.accumulate(farthest)
        for first in range(0, n, PANEL_PHOTOS):
            end = min(first + PANEL_PHOTOS, n)
            yield first, end, int(farthest[end - 1]) + 1


def pattern_of(start: I64, column: I64) -> Pattern:
    """The pattern of blocks given row by row (see `Pattern`), in an order that keeps what a panel reaches small."""
    from scipy.sparse import csr_matrix  # loads long, for what few steps need
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    n = len(start) - 1
    row = np.repeat(np.arange(n), np.diff(start))
    graph = csr_matrix((np.ones(len(column), np.int8), (row, column)), shape=(n, n))
    place = np.empty(n, np.int64)
    place[reverse_cuthill_mckee((graph + graph.T).tocsr(), symmetric_mode=True)] = np.arange(n)
    return Pattern(start, column, place, np.argsort(np.maximum(place[row], place[column]), kind="stable"))


def solve(pattern: Pattern, blocks: F64, damping: float, sides: F64) -> F64:
    """(6 n, k) x of A x = sides, photos in their own order. A: symmetric, of blocks (b, 6, 6), its diagonal grown by `damping` of itself.

    Raises numpy.linalg.LinAlgError when A is not positive definite.
    """
    from scipy.linalg.blas import dsyrk, dtrsm  # loads long, for what few steps need
    from scipy.linalg.lapack import dpotrf

    n = len(pattern.place)
    wide = sides.shape[1]
    by_place = np.empty((n, SIZE, wide))
    by_place[pattern.place] = sides.reshape(n, SIZE, wide)
    x = by_place.reshape(SIZE * n, wide)
    row = np.repeat(np.arange(n), np.diff(pattern.start))
    rows, columns = pattern.place[row[pattern.entry]], pattern.place[pattern.column[pattern.entry]]
    known = np.concatenate([[0], np.cumsum(np.bincount(np.maximum(rows, columns), minlength=n))])
    window, reached = np.zeros((0, 0), order="F"), 0
    done: list[tuple[int, int, int]] = []
    with SpooledTemporaryFile(max_size=IN_MEMORY_BYTES) as finished:
        for first, end, reach in pattern.panels():
            window = _enlarged(window, SIZE * (reach - first))
            some = slice(known[reached], known[reach])
            kernels.add_blocks(window, blocks, pattern.entry[some], rows[some], columns[some], first, damping)
            reached = reach
            own = SIZE * (end - first)
            factor, fault = dpotrf(np.asfortranarray(window[:own, :own]), lower=1, clean=1, overwrite_a=1)
            if fault:
                raise np.linalg.LinAlgError("the normal equations are not positive definite")
            below, rest = np.asfortranarray(window[own:, :own]), np.asfortranarray(window[own:, own:])
            at, middle, last = SIZE * first, SIZE * end, SIZE * reach
            x[at:middle] = dtrsm(1.0, factor, np.asfortranarray(x[at:middle]), lower=1)
            if rest.size:
                below = dtrsm(1.0, factor, below, side=1, lower=1, trans_a=1, overwrite_b=1)
                x[middle:last] -= below @ x[at:middle]
                rest = dsyrk(-1.0, below, beta=1.0, c=rest, lower=1, overwrite_c=1)
            window = rest
            finished.write(np.concatenate([factor, below]).tobytes())
            done.append((at, middle, last))
        for at, middle, last in reversed(done):
            size = 8 * (last - at) * (middle - at)
            finished.seek(-size, 1)
            both = np.frombuffer(finished.read(size)).reshape(last - at, middle - at)
            finished.seek(-size, 1)
            own = middle - at
            x[at:middle] -= both[own:].T @ x[middle:last]
            x[at:middle] = dtrsm(
                1.0, np.asfortranarray(both[:own]), np.asfortranarray(x[at:middle]), lower=1, trans_a=1
            )
    return by_place[pattern.place].reshape(SIZE * n, wide)


def _enlarged(window: F64, size: int) -> F64:
    """The window with zero rows and columns added at its end."""
    if len(window) == size:
        return window
    larger = np.zeros((size, size), order="F")
    larger[: len(window), : len(window)] = window
    return larger
