"""Whether tiles can be seen in the surface: height steps across tile borders against steps inside tiles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray

from measure_run import artifact, steps_of
from passel.geo.grid import Window
from passel.products.tiles import read_tile

INSIDE_FROM, INSIDE_TO = 3, 12  # cells from a border: on the same ground, for woods have other steps than meadows


@dataclass(frozen=True)
class BorderSteps:
    """Median |height difference| of neighbouring cells, metres: across tile borders and inside. pairs: across borders."""

    pairs: int
    across_m: float
    inside_m: float


def border_steps(output: Path) -> BorderSteps | None:
    """Steps in a finished run's DSM; None if no two tiles with heights touch."""
    windows = [read_tile(artifact(output, s.digest)).dsm for s in steps_of(output) if s.stage == "tiles"]
    with rasterio.open(output / "odm_dem" / "dsm.tif") as d:
        z = np.ma.filled(d.read(1, masked=True).astype(np.float32), np.nan)
        # The lattice begins at easting 0, northing 0: absolute column and row of the raster's corner.
        col0, row0 = round(d.transform.c / d.transform.a), round(d.transform.f / d.transform.e)
    across, inside = [np.empty(0, np.float32)], [np.empty(0, np.float32)]
    for w in windows:
        at = Window(w.col - col0, w.row - row0, w.cols, w.rows)
        for surface, place in ((z, at), (z.T, Window(at.row, at.col, at.rows, at.cols))):
            far, near = _beside(surface, place)
            across.append(far)
            inside.append(near)
    a, b = np.concatenate(across), np.concatenate(inside)
    return BorderSteps(len(a), float(np.median(a)), float(np.median(b))) if len(a) and len(b) else None


def _beside(z: NDArray[np.float32], w: Window) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """|steps| across a window's western border, and at columns on both sides of it in the rows that have heights across."""
    rows = slice(max(0, w.row), max(0, min(z.shape[0], w.row + w.rows)))
    none = np.empty(0, np.float32)
    if not 0 < w.col < z.shape[1] or rows.stop <= rows.start:
        return none, none
    strip = z[rows]
    across = np.abs(strip[:, w.col] - strip[:, w.col - 1])
    known = np.isfinite(across)
    first, last = max(1, w.col - INSIDE_TO), min(z.shape[1] - 1, w.col + INSIDE_TO)
    columns = [c for c in range(first, last + 1) if abs(c - w.col) >= INSIDE_FROM]
    inside = np.abs(strip[:, columns] - strip[:, [c - 1 for c in columns]])[known]
    return across[known], inside[np.isfinite(inside)]
