"""A first look at the whole survey: tiny images over the coarse surface, most nadir photo wins. Bounded in size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from passel.geo.grid import Grid, Window
from passel.reconstruct.scene import View
from passel.surface.camera import FAR, project, reach_m
from passel.surface.coarse import CoarseSurface
from passel.surface.colour import Gains, at_node, correct
from passel.surface.plate import Plate

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

LONGEST_PX = 2000


def quick_orthophoto(
    views: Sequence[View], plates: Mapping[str, Plate], surface: CoarseSurface, gains: Gains, within: Window
) -> tuple[U8, Grid, Window]:
    """RGBA u8 picture, at most LONGEST_PX long, of a window of the coarse lattice; with its lattice and window."""
    some = next(iter(plates.values()))
    view = next(v for v in views if v.photo == some.photo)
    z = surface.over(within)
    height = max(float(view.centre[2]) - float(np.median(z)), 1.0)
    tiny_m = height / view.intrinsics.fx / some.tiny_x
    cell_m = surface.grid.resolution_m
    pixel_m = max(tiny_m, cell_m * max(within.shape) / LONGEST_PX)
    grid = Grid(pixel_m, surface.grid.offset_m)
    window = grid.window(surface.grid.bounds(within))
    heights = surface.finer(grid, window)
    out, best = np.zeros((*window.shape, 4), np.uint8), np.full(window.shape, np.inf, np.float32)
    low = float(heights.min())
    tone, *start = gains.tone.over(grid.bounds(window))
    tone_at = np.array([*start, gains.tone.grid.resolution_m])
    for view in sorted(views, key=lambda v: v.photo):
        reach = reach_m(view, low)
        c = np.floor(grid.col(view.centre[0] + np.array([-reach, reach]))).astype(int) - window.col
        r = np.floor(grid.row(view.centre[1] + np.array([reach, -reach]))).astype(int) - window.row
        part = slice(max(int(r[0]), 0), max(int(r[1]) + 1, 0)), slice(max(int(c[0]), 0), max(int(c[1]) + 1, 0))
        plate = plates[view.photo]
        x0, y0 = float(grid.x(window.col + part[1].start)), float(grid.y(window.row + part[0].start))
        _paint(plate.read_tiny(), plate.packed_tiny(view), gains.table(view), tone, tone_at, x0, y0, pixel_m,
               heights[part], best[part], out[part])  # fmt: skip
    return out, grid, window


@njit(cache=True, nogil=True)
def _paint(
    image: U8, p: F64, table: F64, tone: F64, tone_at: F64, x0: float, y0: float, pixel_m: float, z: F32, best: F32, out: U8,
) -> None:  # fmt: skip
    h, w = image.shape[:2]
    nodes = table.shape[0] - 1.0
    value, factor = np.empty(3), np.empty(3)
    for r in range(z.shape[0]):
        y = y0 - (r + 0.5) * pixel_m
        for c in range(z.shape[1]):
            x = x0 + (c + 0.5) * pixel_m
            up = max(p[11] - z[r, c], 0.1)
            d = ((p[9] - x) ** 2 + (p[10] - y) ** 2) / (up * up)
            if d >= best[r, c]:
                continue
            u, v = project(p, x, y, z[r, c])
            if u == FAR or u < 0 or v < 0 or u > w - 1 or v > h - 1:
                continue
            best[r, c] = d
            iu = min(int(u + 0.5), w - 1)
            iv = min(int(v + 0.5), h - 1)
            factor[:] = 1.0
            at_node(table, (u + 0.5) / w * nodes, (v + 0.5) / h * nodes, factor)
            at_node(tone, (x - tone_at[0]) / tone_at[2], (tone_at[1] - y) / tone_at[2], factor)
            for band in range(3):
                value[band] = image[iv, iu, band]
            correct(value, factor)
            for band in range(3):
                out[r, c, band] = np.uint8(min(value[band] + 0.5, 255.0))
            out[r, c, 3] = 255
