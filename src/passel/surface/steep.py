"""Where the ground is steep: what two photos alone say of it is worth less there."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from passel.geo.grid import Window
from passel.reconstruct.scene import View
from passel.surface.coarse import COARSE_FACTOR, CoarseSurface
from passel.surface.match import enlarged

Bools = NDArray[np.bool_]

STEEP = 0.25  # metres a metre
ALONG = 0.15  # of the flying height: hillsides, not trees and walls
MOST_CELLS = 64  # coarse ones


def steep_cells(coarse: CoarseSurface, window: Window, views: Sequence[View]) -> Bools:
    """(rows, cols) which cells of a window of the matching lattice (whole coarse cells) lie on steep ground, as the `views` fly over it."""
    part = window.divided(COARSE_FACTOR)
    if not views:
        return np.zeros(window.shape, np.bool_)
    above_m = float(np.median([v.centre[2] for v in views]) - np.median(coarse.over(part)))
    # in doubling steps: other photos over the tile beside must not mean another slope
    doublings = round(float(np.log2(max(ALONG * above_m / coarse.grid.resolution_m, 1.0))))
    sigma = min(2**doublings, MOST_CELLS)
    wide = coarse.over(part.grown(4 * sigma))
    smooth = cv2.GaussianBlur(wide - wide.mean(), (0, 0), sigma)
    south, east = np.gradient(smooth, coarse.grid.resolution_m)
    steep = (np.hypot(south, east) > STEEP)[part.slices_in(part.grown(4 * sigma))]
    return enlarged(steep, COARSE_FACTOR)
