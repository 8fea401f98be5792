"""The world pixel grid: every raster of a survey lies on whole multiples of its cell size from easting 0, northing 0.

Row numbers grow southwards. Cell (col, row) covers easting [col, col+1)·res and northing (-(row+1)·res, -row·res]; its centre is
at +0.5. Because the lattice does not depend on the survey or a tile, neighbours and later flights share cells exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Bounds:
    """A rectangle of the map frame, metres (offset subtracted)."""

    west: float
    south: float
    east: float
    north: float

    def grown(self, metres: float) -> Bounds:
        return Bounds(self.west - metres, self.south - metres, self.east + metres, self.north + metres)

    def meets(self, other: Bounds) -> bool:
        return (
            self.west < other.east and other.west < self.east and self.south < other.north and other.south < self.north
        )


@dataclass(frozen=True)
class Window:
    """A block of cells: first column and row (absolute lattice numbers), and how many."""

    col: int
    row: int
    cols: int
    rows: int

    def grown(self, cells: int) -> Window:
        return Window(self.col - cells, self.row - cells, self.cols + 2 * cells, self.rows + 2 * cells)

    def divided(self, n: int) -> Window:
        """The same ground in cells n times as wide; exact for windows of whole such cells."""
        return Window(self.col // n, self.row // n, self.cols // n, self.rows // n)

    def clipped(self, other: Window) -> Window:
        """The part inside `other`; zero size when they do not meet."""
        c0, r0 = max(self.col, other.col), max(self.row, other.row)
        c1 = min(self.col + self.cols, other.col + other.cols)
        r1 = min(self.row + self.rows, other.row + other.rows)
        return Window(c0, r0, max(0, c1 - c0), max(0, r1 - r0))

    def slices_in(self, outer: Window) -> tuple[slice, slice]:
        """(row slice, column slice) of this window in an array that covers `outer`; it must lie inside."""
        r, c = self.row - outer.row, self.col - outer.col
        return slice(r, r + self.rows), slice(c, c + self.cols)

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.cols


@dataclass(frozen=True)
class Grid:
    """The lattice of one cell size. `offset_m` is the frame's map offset: map coordinates here have it subtracted."""

    resolution_m: float
    offset_m: tuple[float, float]

    def x(self, col: Array | float) -> Array:
        """Map x (m) of a column edge; add 0.5 to `col` for a cell centre."""
        return np.asarray(col, float) * self.resolution_m - self.offset_m[0]

    def y(self, row: Array | float) -> Array:
        """Map y (m) of a row edge; add 0.5 to `row` for a cell centre."""
        return -np.asarray(row, float) * self.resolution_m - self.offset_m[1]

    def col(self, x: Array | float) -> Array:
        """Fractional column of map x; its floor is the cell."""
        return (np.asarray(x, float) + self.offset_m[0]) / self.resolution_m

    def row(self, y: Array | float) -> Array:
        """Fractional row of map y; its floor is the cell."""
        return -(np.asarray(y, float) + self.offset_m[1]) / self.resolution_m

    def bounds(self, w: Window) -> Bounds:
        return Bounds(
            float(self.x(w.col)), float(self.y(w.row + w.rows)), float(self.x(w.col + w.cols)), float(self.y(w.row))
        )

    def window(self, b: Bounds) -> Window:
        """The cells whose centre lies in the half-open rectangle: windows of rectangles that tile the plane tile the lattice."""
        c0, c1 = math.ceil(float(self.col(b.west)) - 0.5), math.ceil(float(self.col(b.east)) - 0.5)
        r0, r1 = math.ceil(float(self.row(b.north)) - 0.5), math.ceil(float(self.row(b.south)) - 0.5)
        return Window(c0, r0, max(0, c1 - c0), max(0, r1 - r0))


@dataclass(frozen=True)
class Tile:
    """One ground tile: its name and its core on the matching lattice. Cores tile the plane without overlap."""

    name: str
    core: Window

    def padded(self, margin_cells: int) -> Window:
        return self.core.grown(margin_cells)


def tiles_over(window: Window, core_cells: int) -> Iterator[Tile]:
    """The tiles (absolute numbering, `core_cells` square) that meet a window, row by row from the north-west."""
    for j in range(window.row // core_cells, -(-(window.row + window.rows) // core_cells)):
        for i in range(window.col // core_cells, -(-(window.col + window.cols) // core_cells)):
            yield Tile(f"x{i}_y{j}", Window(i * core_cells, j * core_cells, core_cells, core_cells))
