"""Tile artifacts as the merge sees them: windows on the product lattices, and which arrays are there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from passel.errors import StepError
from passel.geo.grid import Window


@dataclass(frozen=True)
class ProductTile:
    """One tile's folder. dsm, ortho: windows on the absolute lattice of that product; resolutions in metres a cell.

    Arrays in the folder: dsm.npy (rows, cols) float32 heights in metres, NaN = none; filled.npy marks of filled holes;
    ortho.npy (rows, cols, 3) uint8 RGB, shown.npy marks of its cells that have a colour; points.npz with first_mm and
    steps_mm of points in map millimetres, rgb (n, 3) and views (n,) uint8. Marks and steps: `geo.packed`. An array that
    is missing is a gap.
    """

    name: str
    folder: Path
    dsm: Window
    ortho: Window
    dsm_resolution_m: float
    ortho_resolution_m: float

    @property
    def points_path(self) -> Path:
        return self.folder / "points.npz"


def read_tile(folder: Path) -> ProductTile:
    """The tile in a folder. Raises StepError when tile.json is missing or broken."""
    try:
        d = json.loads((folder / "tile.json").read_text(encoding="utf-8"))
        return ProductTile(
            str(d["name"]),
            folder,
            Window(*map(int, d["dsm_window"])),
            Window(*map(int, d["ortho_window"])),
            float(d["dsm_resolution_m"]),
            float(d["ortho_resolution_m"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise StepError(f"A tile cannot be read: {e}", str(folder), "run again with --rerun-all") from e


def read_tiles(folders: Sequence[Path]) -> tuple[ProductTile, ...]:
    """Tiles sorted by their north-west corners, row by row: the order of everything that is written from them."""
    tiles = [read_tile(f) for f in folders]
    if len({(t.dsm_resolution_m, t.ortho_resolution_m) for t in tiles}) > 1:
        raise StepError("Tiles of different resolutions cannot be merged", "", "run again with --rerun-all")
    return tuple(sorted(tiles, key=lambda t: (t.dsm.row, t.dsm.col, t.ortho.row, t.ortho.col, t.name)))
