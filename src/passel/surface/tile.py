"""One ground tile from start to end: surface, orthophoto, points, written as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from passel.errors import InputError
from passel.geo.grid import Grid, Tile, Window
from passel.geo.packed import save_marks, steps_of
from passel.reconstruct.scene import View
from passel.surface.camera import LEAST_BASE, times_seen
from passel.surface.clean import Surface, clean
from passel.surface.coarse import COARSE_FACTOR, CoarseSurface
from passel.surface.colour import Gains
from passel.surface.fine import MARGIN_CELLS, match_tile
from passel.surface.match import enlarged
from passel.surface.ortho import choose
from passel.surface.paint import paint
from passel.surface.plate import Plate, read_photo
from passel.surface.resample import bilinear, onto
from passel.surface.steep import steep_cells

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]


@dataclass(frozen=True)
class TileJob:
    """What a tile is to be made of and into.

    grid: matching lattice; dem_grid, ortho_grid: the products' lattices. fine: match the surface, else use the coarse one.
    least_base: rad, between two rays that tell a height.
    """

    tile: Tile
    grid: Grid
    dem_grid: Grid
    ortho_grid: Grid
    fine: bool = True
    least_base: float = LEAST_BASE


@dataclass(frozen=True)
class TileSources:
    """views: of the photos that see the tile; plates and photo paths by photo name; the survey's coarse surface and gains."""

    views: Sequence[View]
    plates: Mapping[str, Plate]
    photos: Mapping[str, Path]
    coarse: CoarseSurface
    gains: Gains


@dataclass(frozen=True)
class TilePoints:
    """One point per measured cell: xyz (n, 3) float64 map metres (offset subtracted), rgb (n, 3) u8, views (n,) u8."""

    xyz: NDArray[np.float64]
    rgb: U8
    views: U8


@dataclass(frozen=True)
class TileResult:
    """dsm: float32 m, NaN where unknown, over dem_window; filled: u8, 1 where the height is interpolated; ortho: RGBA u8."""

    dem_window: Window
    dsm: F32
    filled: U8
    ortho_window: Window
    ortho: U8
    points: TilePoints

    def cropped(self) -> TileResult:
        """The same without the rims that show nothing: a quarter of what tiles would otherwise write and send to other machines."""
        dem_window = _holding(np.isfinite(self.dsm), self.dem_window)
        ortho_window = _holding(self.ortho[:, :, 3] > 0, self.ortho_window)
        dem, ortho = dem_window.slices_in(self.dem_window), ortho_window.slices_in(self.ortho_window)
        return TileResult(dem_window, self.dsm[dem], self.filled[dem], ortho_window, self.ortho[ortho], self.points)

    def save(self, out: Path) -> None:
        """Points in whole millimetres, as they are in the cloud."""
        np.save(out / "dsm.npy", np.ascontiguousarray(self.dsm))
        save_marks(out / "filled.npy", self.filled)
        np.save(out / "ortho.npy", np.ascontiguousarray(self.ortho[:, :, :3]))
        save_marks(out / "shown.npy", self.ortho[:, :, 3])
        first_mm, steps_mm = steps_of(np.rint(self.points.xyz / 0.001).astype(np.int32))
        kept = self.points
        np.savez(out / "points.npz", first_mm=first_mm, steps_mm=steps_mm, rgb=kept.rgb, views=kept.views)


def _holding(held: NDArray[np.bool_], window: Window) -> Window:
    """The part of a window outside which nothing is held; its first cell when nothing is."""
    rows, cols = np.flatnonzero(held.any(axis=1)), np.flatnonzero(held.any(axis=0))
    if not len(rows):
        return Window(window.col, window.row, min(1, window.cols), min(1, window.rows))
    row, col = int(rows[0]), int(cols[0])
    return Window(window.col + col, window.row + row, int(cols[-1]) + 1 - col, int(rows[-1]) + 1 - row)


def product_window(job_grid: Grid, tile: Tile, product: Grid) -> Window:
    """The cells of a product's lattice that a tile makes: those whose centres lie in its core."""
    return product.window(job_grid.bounds(tile.core))


def make_tile(job: TileJob, sources: TileSources) -> TileResult:
    """Make one tile. Raises InputError when a photo cannot be read any more."""
    padded = job.tile.padded(MARGIN_CELLS)
    if job.fine:
        surface, views_used = _fine_surface(job, sources)
    else:
        surface, views_used = _coarse_surface(job, sources)
    dem = product_window(job.grid, job.tile, job.dem_grid)
    core_z = surface.z
    dsm = onto(core_z, job.grid, padded, job.dem_grid, dem)
    measured = np.where(surface.measured, core_z, np.nan).astype(np.float32)
    filled = np.isfinite(dsm) & ~np.isfinite(onto(measured, job.grid, padded, job.dem_grid, dem))
    ortho_window = product_window(job.grid, job.tile, job.ortho_grid)
    ortho = _orthophoto(job, sources, surface, ortho_window)
    points = _points(job, surface, views_used, ortho, ortho_window)
    return TileResult(dem, dsm, filled.astype(np.uint8), ortho_window, ortho, points)


def _fine_surface(job: TileJob, sources: TileSources) -> tuple[Surface, U8]:
    found = match_tile(job.tile, job.grid, sources.coarse, sources.views, sources.plates, job.least_base)
    coarse = sources.coarse.finer(job.grid, found.window)
    steep = steep_cells(sources.coarse, found.window, sources.views)
    return clean(found, coarse, steep, job.grid.resolution_m), np.maximum(found.agreeing, np.minimum(found.seen, 2))


def _coarse_surface(job: TileJob, sources: TileSources) -> tuple[Surface, U8]:
    """--fast-orthophoto: the coarse surface stands for the matched one where two photos show it; nothing is 'measured' on this lattice."""
    padded = job.tile.padded(MARGIN_CELLS)
    z = sources.coarse.finer(job.grid, padded)
    nothing = np.zeros(padded.shape, bool)
    wide = padded.divided(COARSE_FACTOR)
    known = sources.coarse.valid_over(wide) > 0  # beyond the photos it repeats its edge
    known &= times_seen(sources.views, sources.coarse.grid, wide, sources.coarse.over(wide)) >= 2
    known = enlarged(known, COARSE_FACTOR)
    return Surface(np.where(known, z, np.nan).astype(np.float32), nothing, known, z), np.zeros(padded.shape, np.uint8)


def _orthophoto(job: TileJob, sources: TileSources, surface: Surface, window: Window) -> U8:
    if not sources.views:
        return np.zeros((*window.shape, 4), np.uint8)
    padded = job.tile.padded(MARGIN_CELLS)
    choice = choose(sources.views, sources.plates, sources.gains, job.grid, job.tile.core, padded, surface.complete)
    heights = bilinear(surface.complete, job.grid, padded, job.ortho_grid, window)

    def read(photo: str) -> U8:
        if photo not in sources.photos:
            raise InputError("A photo of the survey is missing.", photo, "Put it back where it was and run again.")
        return read_photo(sources.photos[photo])[0]

    cells, picture = (job.grid, job.tile.core), (job.ortho_grid, window, heights)
    return paint(choice, sources.views, sources.gains, read, cells, picture)


def _point_cells(job: TileJob, surface: Surface) -> NDArray[np.bool_]:
    """Cells that become points: those measured; of the coarse surface one a coarse cell."""
    if job.fine:
        return surface.measured
    some = np.zeros(surface.z.shape, bool)
    some[COARSE_FACTOR // 2 :: COARSE_FACTOR, COARSE_FACTOR // 2 :: COARSE_FACTOR] = True
    return some & np.isfinite(surface.z)


def _points(job: TileJob, surface: Surface, views_used: U8, ortho: U8, ortho_window: Window) -> TilePoints:
    """Colours come from the orthophoto at the cell's centre; cells that it does not show are left out."""
    core, padded = job.tile.core, job.tile.padded(MARGIN_CELLS)
    part = core.slices_in(padded)
    rows, cols = np.nonzero(_point_cells(job, surface)[part])
    x, y = job.grid.x(cols.astype(float) + core.col + 0.5), job.grid.y(rows.astype(float) + core.row + 0.5)
    c = np.clip(np.floor(job.ortho_grid.col(x)).astype(int) - ortho_window.col, 0, ortho_window.cols - 1)
    r = np.clip(np.floor(job.ortho_grid.row(y)).astype(int) - ortho_window.row, 0, ortho_window.rows - 1)
    colour = ortho[r, c]
    shown = colour[:, 3] > 0
    xyz = np.column_stack([x, y, surface.z[part][rows, cols].astype(np.float64)])
    return TilePoints(xyz[shown], colour[shown, :3].copy(), views_used[part][rows, cols][shown].astype(np.uint8))
