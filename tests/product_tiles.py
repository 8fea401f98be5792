"""Synthetic tile artifacts with known heights and colours, for the tests of the products."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from passel.geo.frames import Frame
from passel.geo.grid import Grid, Window
from passel.geo.packed import save_marks, steps_of

FRAME = Frame.around(np.array([[46.8, 7.5, 500.0]]))


@dataclass(frozen=True)
class Field:
    """Tiles `cells` wide on the DSM (twice that on the orthophoto); heights are base + amplitude · waves."""

    frame: Frame = FRAME
    cells: int = 160
    resolution_m: float = 0.25
    base_m: float = 0.0
    amplitude_m: float = 5.0

    def first(self) -> tuple[int, int]:
        """Lattice column and row of the DSM cell at the map origin."""
        grid = Grid(self.resolution_m, self.frame.map_offset_m)
        return int(np.floor(grid.col(0.0))), int(np.floor(grid.row(0.0)))

    def heights(self, w: Window) -> NDArray[np.float32]:
        c0, r0 = self.first()
        c, r = np.meshgrid(np.arange(w.cols) + w.col - c0, np.arange(w.rows) + w.row - r0)
        return (self.base_m + self.amplitude_m * np.sin(c / 31.0) * np.cos(r / 23.0)).astype(np.float32)

    def colours(self, w: Window) -> NDArray[np.uint8]:
        c0, r0 = self.first()
        c, r = np.meshgrid(np.arange(w.cols) + w.col - 2 * c0, np.arange(w.rows) + w.row - 2 * r0)
        bands = [120 + 100 * np.sin(c / 17.0), 120 + 100 * np.cos(r / 13.0), (c + r) % 250, np.full(c.shape, 255)]
        return np.stack(bands, axis=-1).astype(np.uint8)

    def write(self, folder: Path, i: int, j: int, points: bool = True, holes: bool = True) -> Path:
        """The tile in column i, row j (southwards); a hole without data in its middle."""
        out = folder / f"x{i}_y{j}"
        out.mkdir(parents=True)
        c0, r0, n = *self.first(), self.cells
        dsm = Window(c0 + i * n, r0 + j * n, n, n)
        ortho = Window(2 * dsm.col, 2 * dsm.row, 2 * n, 2 * n)
        z, rgba = self.heights(dsm), self.colours(ortho)
        if holes:
            z[50:60, 70:90] = np.nan
            rgba[100:120, 140:180] = 0
        np.save(out / "dsm.npy", z)
        save_marks(out / "filled.npy", np.zeros(z.shape, np.uint8))
        np.save(out / "ortho.npy", np.ascontiguousarray(rgba[..., :3]))
        save_marks(out / "shown.npy", rgba[..., 3])
        r, c = np.nonzero(np.isfinite(z))
        grid = Grid(self.resolution_m, self.frame.map_offset_m)
        xyz_m = np.column_stack([grid.x(dsm.col + c + 0.5), grid.y(dsm.row + r + 0.5), z[r, c].astype(float)])
        xyz_mm = np.rint(xyz_m / 0.001).astype(np.int32)
        keep = slice(None) if points else slice(0)
        views = (c % 7 + 2).astype(np.uint8)
        first_mm, steps_mm = steps_of(xyz_mm[keep])
        colours = rgba[2 * r, 2 * c, :3][keep]
        np.savez(out / "points.npz", first_mm=first_mm, steps_mm=steps_mm, rgb=colours, views=views[keep])
        head = {
            "name": out.name,
            "dsm_window": [dsm.col, dsm.row, dsm.cols, dsm.rows],
            "ortho_window": [ortho.col, ortho.row, ortho.cols, ortho.rows],
            "dsm_resolution_m": self.resolution_m,
            "ortho_resolution_m": self.resolution_m / 2,
        }
        (out / "tile.json").write_text(json.dumps(head), encoding="utf-8")
        return out
