"""From one lattice to another: all axis-parallel, so rows and columns are done one after the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from passel.geo.grid import Grid, Window

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]


def centres(first: int, n: int) -> F64:
    """(n,) fractional lattice numbers of the centres of n cells from `first`."""
    return np.arange(first, first + n, dtype=np.float64) + 0.5


def bilinear(z: F32, source: Grid, window: Window, target: Grid, wanted: Window) -> F32:
    """z (float32, cells of `window` of the source lattice) at the cell centres of `wanted` of the target lattice; edges repeat."""
    row = source.row(target.y(centres(wanted.row, wanted.rows))) - 0.5 - window.row
    col = source.col(target.x(centres(wanted.col, wanted.cols))) - 0.5 - window.col
    return _along_rows(_along_rows(z, row).T, col).T.copy()


def _along_rows(z: F32, at: F64) -> F32:
    n = z.shape[0]
    low = np.clip(np.floor(at).astype(int), 0, max(n - 2, 0))
    f = np.clip(at - low, 0.0, 1.0).astype(np.float32)[:, None]
    return np.asarray(z[low] * (1 - f) + z[np.minimum(low + 1, n - 1)] * f)


def cell_means(z: F32, source: Grid, window: Window, target: Grid, wanted: Window) -> F32:
    """Mean of the finite source cells whose centres lie in each target cell; NaN where there is none."""
    row = np.floor(target.row(source.y(centres(window.row, window.rows)))) - wanted.row
    col = np.floor(target.col(source.x(centres(window.col, window.cols)))) - wanted.col
    inside_r, inside_c = (row >= 0) & (row < wanted.rows), (col >= 0) & (col < wanted.cols)
    part = z[np.ix_(inside_r, inside_c)].astype(np.float64)
    number = (row[inside_r][:, None] * wanted.cols + col[inside_c][None]).astype(np.int64).ravel()
    finite = np.isfinite(part).ravel()
    cells = wanted.rows * wanted.cols
    n = np.bincount(number[finite], minlength=cells)
    total = np.bincount(number[finite], weights=part.ravel()[finite], minlength=cells)
    mean = np.where(n > 0, total / np.maximum(n, 1), np.nan)
    return mean.reshape(wanted.shape).astype(np.float32)


def onto(z: F32, source: Grid, window: Window, target: Grid, wanted: Window) -> F32:
    """z (NaN where unknown) on another lattice: as it is when equal, means when coarser, bilinear between known cells when finer."""
    if target == source:
        return np.ascontiguousarray(z[wanted.slices_in(window)])
    if target.resolution_m > source.resolution_m:
        return cell_means(z, source, window, target, wanted)
    known = np.isfinite(z)
    weight = bilinear(known.astype(np.float32), source, window, target, wanted)
    value = bilinear(np.where(known, z, 0).astype(np.float32), source, window, target, wanted)
    return np.where(weight >= 0.5, value / np.maximum(weight, 1e-3), np.nan).astype(np.float32)
