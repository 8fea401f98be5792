"""What a perfect run would make: the true surface and orthophoto of a synthetic survey on the cells of any grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from passel.demo.kernels import F64
from passel.demo.render import true_ortho
from passel.demo.truth import DemoTruth
from passel.geo.frames import Frame
from passel.geo.grid import Grid, Window


@dataclass(frozen=True)
class TrueRasters:
    """dsm: (rows, cols) float32 heights of the map frame, metres. ortho: (rows, cols, 3) uint8 RGB."""

    dsm: NDArray[np.float32]
    ortho: NDArray[np.uint8]


def true_rasters(truth: DemoTruth, frame: Frame, grid: Grid, window: Window) -> TrueRasters:
    """The truth at the cell centres of `window`. frame: of the survey, georeferenced; grid: its lattice (offset of the frame)."""
    cols, rows = np.arange(window.cols, dtype=np.float64), np.arange(window.rows, dtype=np.float64)
    x, y = grid.x(np.asarray(cols + (window.col + 0.5))), grid.y(np.asarray(rows + (window.row + 0.5)))
    to_truth = _TruthFromMap.over(truth, frame, x, y)
    east, north, rise = to_truth.at(*np.meshgrid(x, y))
    height = truth.world.height_m(east, north)
    step = np.array([[1.0, 0.0], [0.0, -1.0]]) * grid.resolution_m
    ortho = true_ortho(truth.world, east, north, step)
    return TrueRasters((height - rise).astype(np.float32), ortho)


@dataclass(frozen=True)
class _TruthFromMap:
    """Truth's east, north, and truth's up minus map height, of a place of the map near the ground: quadratics in scaled map x, y.

    Over a few kilometres projection and curvature are quadratic to well below a millimetre, and pyproj is slow for millions.
    """

    middle: F64
    scale: float
    coef: F64

    @staticmethod
    def over(truth: DemoTruth, frame: Frame, x: F64, y: F64) -> _TruthFromMap:
        middle = np.array([(x[0] + x[-1]) / 2, (y[0] + y[-1]) / 2])
        scale = max(abs(x[-1] - x[0]), abs(y[-1] - y[0]), 100.0) / 2
        a, b = (v.ravel() for v in np.meshgrid(np.linspace(-1, 1, 7), np.linspace(-1, 1, 7)))
        level = float(truth.frame.origin_height_m + np.median(truth.world.arrays.coef))
        p = np.column_stack([middle[0] + scale * a, middle[1] + scale * b, np.full(len(a), level)])
        w = truth.frame.world_from_geographic(frame.geographic_from_world(frame.world_from_map(p)))
        w[:, 2] -= level
        coef, *_ = np.linalg.lstsq(_terms(a, b), w, rcond=None)
        return _TruthFromMap(middle, scale, np.asarray(coef, np.float64))

    def at(self, x: F64, y: F64) -> tuple[F64, F64, F64]:
        terms = _terms((x - self.middle[0]) / self.scale, (y - self.middle[1]) / self.scale)
        east, north, rise = np.moveaxis(terms @ self.coef, -1, 0)
        return east, north, rise


def _terms(a: F64, b: F64) -> F64:
    return np.stack([np.ones_like(a), a, b, a * a, a * b, b * b], axis=-1)
