"""Painting a tile's orthophoto: photo by photo into the picture, by the weights of a `Choice`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from passel.geo.grid import Grid, Window
from passel.reconstruct.scene import View
from passel.surface.camera import packed, project
from passel.surface.colour import Gains, at_node, correct
from passel.surface.ortho import FULL, Choice
from passel.surface.resample import centres

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
I16 = NDArray[np.int16]
U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]


def paint(
    choice: Choice, views: Sequence[View], gains: Gains, read: Callable[[str], U8], cells: tuple[Grid, Window],
    picture: tuple[Grid, Window, F32],
) -> U8:  # fmt: skip
    """RGBA u8 (rows, cols, 4) of a window of the picture lattice; alpha 0 where no photo shows it.

    cells: lattice and window of the choice; picture: lattice, window and heights (float32 m) of the result.
    read: full-size RGB u8 of a photo. One photo is held at a time.
    """
    grid, core = cells
    fine, window, z = picture
    total = np.zeros((*window.shape, 3), np.uint16)
    share = np.zeros(window.shape, np.uint8)
    x, y = fine.x(centres(window.col, window.cols)), fine.y(centres(window.row, window.rows))
    col_of = np.clip(np.floor(grid.col(x)) - core.col, 0, core.cols - 1).astype(np.int32)
    row_of = np.clip(np.floor(grid.row(y)) - core.row, 0, core.rows - 1).astype(np.int32)
    tone, *start = gains.tone.over(fine.bounds(window))
    tone_at = np.array([*start, gains.tone.grid.resolution_m])
    for j in np.unique(choice.photo[choice.weight > 0]):
        used = ((choice.photo == j) & (choice.weight > 0)).any(axis=2)
        rows, cols = np.flatnonzero(used.any(axis=1)), np.flatnonzero(used.any(axis=0))
        r0, r1 = np.searchsorted(row_of, rows[0]), np.searchsorted(row_of, rows[-1], side="right")
        c0, c1 = np.searchsorted(col_of, cols[0]), np.searchsorted(col_of, cols[-1], side="right")
        x0, y0 = float(fine.x(window.col + c0)), float(fine.y(window.row + r0))
        image = read(views[j].photo)
        _paint_photo(image, packed(views[j]), gains.table(views[j]), tone, tone_at, int(j), choice.photo, choice.weight,
                     row_of[r0:r1], col_of[c0:c1], x0, y0, fine.resolution_m, z[r0:r1, c0:c1], total[r0:r1, c0:c1],
                     share[r0:r1, c0:c1])  # fmt: skip
        del image
    out = np.zeros((*window.shape, 4), np.uint8)
    out[:, :, :3] = (total + FULL // 2) // FULL
    out[:, :, 3] = np.where(share == FULL, 255, 0)
    return out


@njit(cache=True, nogil=True)
def _paint_photo(
    image: U8, p: F64, table: F64, tone: F64, tone_at: F64, j: int, photo: I16, weight: U8, row_of: NDArray[np.int32],
    col_of: NDArray[np.int32], x0: float, y0: float, pixel_m: float, z: F32, total: U16, share: U8,
) -> None:  # fmt: skip
    """Add one photo's weighted, colour-corrected pixels; all sums stay whole numbers, so their order does not matter."""
    h, w = image.shape[:2]
    nodes = table.shape[0] - 1.0
    value, factor = np.empty(3), np.empty(3)
    for r in range(len(row_of)):
        for c in range(len(col_of)):
            wt = np.int64(0)
            for k in range(photo.shape[2]):
                if photo[row_of[r], col_of[c], k] == j:
                    wt = np.int64(weight[row_of[r], col_of[c], k])
            if wt == 0:
                continue
            x, y = x0 + (c + 0.5) * pixel_m, y0 - (r + 0.5) * pixel_m
            u, v = project(p, x, y, z[r, c])
            factor[:] = 1.0
            at_node(table, (u + 0.5) / w * nodes, (v + 0.5) / h * nodes, factor)
            at_node(tone, (x - tone_at[0]) / tone_at[2], (tone_at[1] - y) / tone_at[2], factor)
            u = min(max(u, 0.0), w - 1.001)
            v = min(max(v, 0.0), h - 1.001)
            iu = int(u)
            iv = int(v)
            fu = u - iu
            fv = v - iv
            a, b, d = (1 - fu) * (1 - fv), fu * (1 - fv), (1 - fu) * fv
            e = fu * fv
            for band in range(3):
                value[band] = a * image[iv, iu, band] + b * image[iv, iu + 1, band]
                value[band] += d * image[iv + 1, iu, band] + e * image[iv + 1, iu + 1, band]
            correct(value, factor)
            for band in range(3):
                total[r, c, band] += np.uint16(np.int64(min(value[band] + 0.5, 255.0)) * wt)
            share[r, c] += np.uint8(wt)
