"""Which ground is mapped: seen by two photos or more, and near points of the scene; and the tiles that hold any of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from passel.errors import ReconstructionError
from passel.geo.grid import Grid, Tile, Window, tiles_over
from passel.geo.nearest import kd_tree
from passel.reconstruct.scene import View
from passel.surface.camera import LEAST_BASE, base_to_height, reach_m, times_seen
from passel.surface.resample import centres

F64 = NDArray[np.float64]

SQUARE_CELLS = 32
USUAL_BASE_SHARE = 0.25
POINTS_WITHIN = 0.4  # of the flying height: ground farther from any point is not trusted


@dataclass(frozen=True)
class SurveyGround:
    """window: of the matching lattice around all mapped ground; tiles: those that hold any, row by row.

    z_range_m: lowest and highest ground, with what points cannot show (for `ViewFinder`).
    """

    window: Window
    tiles: tuple[Tile, ...]
    z_range_m: tuple[float, float]


@dataclass(frozen=True)
class SurveyLattice:
    """How finely a survey is seen, and what of it is mapped. gsd_m: median ground sampling distance; cell_m: the matching cell;
    least_base: rad, between two rays that tell a height."""

    gsd_m: float
    cell_m: float
    least_base: float
    ground: SurveyGround

    def save(self, out: Path) -> None:
        (out / "ground.json").write_text(json.dumps(asdict(self)), encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> SurveyLattice:
        d = json.loads((folder / "ground.json").read_text(encoding="utf-8"))
        g = d["ground"]
        tiles = tuple(Tile(t["name"], Window(**t["core"])) for t in g["tiles"])
        ground = SurveyGround(Window(**g["window"]), tiles, tuple(g["z_range_m"]))
        return SurveyLattice(d["gsd_m"], d["cell_m"], d["least_base"], ground)


def rounded_up(metres: float, step_m: float) -> float:
    """The next whole multiple of step_m; what exceeds one by a rounding error is one."""
    return round(float(np.ceil(metres / step_m - 1e-6)) * step_m, 6)


def survey_ground(views: Sequence[View], points: F64, above_m: float, grid: Grid, core_cells: int) -> SurveyGround:
    """Find the ground to map from (m, 3) points in map metres and the usual height of the cameras above it.

    Raises ReconstructionError when no ground is seen twice.
    """
    squares, window, (low, high) = _squares(views, points, grid)
    ground, near = _ground(points, squares, window)
    seen = times_seen(views, squares, window, ground)
    seen = ndimage.maximum_filter(seen, 3) if min(seen.shape) > 2 else seen
    mapped = (seen >= 2) & (near <= POINTS_WITHIN * above_m)
    if not mapped.any():
        raise ReconstructionError("No ground is seen by two photos.", "", "Check that neighbouring photos overlap.")
    rows, cols = np.flatnonzero(mapped.any(axis=1)), np.flatnonzero(mapped.any(axis=0))
    n = SQUARE_CELLS
    whole = Window(
        (window.col + int(cols[0])) * n, (window.row + int(rows[0])) * n,
        int(cols[-1] - cols[0] + 1) * n, int(rows[-1] - rows[0] + 1) * n,
    )  # fmt: skip
    tiles = tuple(t for t in tiles_over(whole, core_cells) if _holds_any(t, mapped, window))
    return SurveyGround(whole, tiles, (low - 0.06 * above_m, high + 0.2 * above_m))


def with_base(points: F64, views: Sequence[View], grid: Grid) -> tuple[F64, float]:
    """Those of the points (m, 3, map metres) that lie where photos tell heights, and the `base_to_height` from which on they do.

    Two photos taken from nearly the same place agree on points that are metres too high or too low. Where all of a survey is like
    that, a quarter of what is usual in it must do.
    """
    squares, window, _ = _squares(views, points, grid)
    ground, _ = _ground(points, squares, window)
    row = np.clip(np.floor(squares.row(points[:, 1])).astype(int) - window.row, 0, window.rows - 1)
    col = np.clip(np.floor(squares.col(points[:, 0])).astype(int) - window.col, 0, window.cols - 1)
    found = base_to_height(views, squares, window, ground)[row, col]
    usual = float(np.median(found[found > 0])) if (found > 0).any() else 0.0
    least = min(LEAST_BASE, USUAL_BASE_SHARE * usual)
    return np.asarray(points[found >= least]), least


def _squares(views: Sequence[View], points: F64, grid: Grid) -> tuple[Grid, Window, tuple[float, float]]:
    """The lattice of squares, the window of it that the photos see, and the lowest and highest height of usual points."""
    squares = Grid(grid.resolution_m * SQUARE_CELLS, grid.offset_m)
    low, high = (float(v) for v in np.percentile(points[:, 2], (0.2, 99.8)))
    reach = np.array([reach_m(v, low) for v in views])
    xy = np.array([v.centre[:2] for v in views])
    c0, c1 = np.floor(squares.col(np.array([(xy[:, 0] - reach).min(), (xy[:, 0] + reach).max()]))).astype(int)
    r0, r1 = np.floor(squares.row(np.array([(xy[:, 1] + reach).max(), (xy[:, 1] - reach).min()]))).astype(int)
    return squares, Window(int(c0), int(r0), int(c1 - c0) + 1, int(r1 - r0) + 1), (low, high)


def _ground(points: F64, squares: Grid, window: Window) -> tuple[F64, F64]:
    """(rows, cols) height of the nearest points and distance (m) to the nearest, at the squares' centres."""
    x = squares.x(centres(window.col, window.cols))
    y = squares.y(centres(window.row, window.rows))
    gx, gy = np.meshgrid(x, y)
    k = min(8, len(points))
    distance, index = kd_tree(points[:, :2]).query(np.column_stack([gx.ravel(), gy.ravel()]), k=k)
    index, distance = np.asarray(index).reshape(-1, k), np.asarray(distance).reshape(-1, k)
    # the third nearest: one stray point is no ground
    return np.median(points[:, 2][index], axis=1).reshape(window.shape), distance[:, min(2, k - 1)].reshape(
        window.shape
    )


def _holds_any(tile: Tile, mapped: NDArray[np.bool_], window: Window) -> bool:
    n = SQUARE_CELLS
    c = tile.core
    area = Window(
        c.col // n, c.row // n, -(-(c.col + c.cols) // n) - c.col // n, -(-(c.row + c.rows) // n) - c.row // n
    )
    part = area.clipped(window)
    return bool(min(part.shape) > 0 and mapped[part.slices_in(window)].any())
