"""What is known of the cameras before the adjustment, and how far it may leave that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from passel.align.projection import pack
from passel.reconstruct.scene import Intrinsics

F64 = NDArray[np.float64]

CENTRE_SIGMA = 0.01  # of the width: where the principal point may be
FREE = (0.2, 0.2, 0.1, 0.005, 0.005)  # k1, k2, k3, p1, p2 of a camera nobody calibrated
KNOWN = (0.01, 0.01, 0.01, 0.0005, 0.0005)  # … of one that was calibrated before
KNOWN_CENTRE_SIGMA = 0.001
FIXED = 1e-7


@dataclass(frozen=True)
class CameraPriors:
    """rows: (c, 8) intrinsics rows (see `projection`); sigma: (c, 8) one-sigma of each value."""

    rows: F64
    sigma: F64


def camera_priors(start: Sequence[Intrinsics], focal_sigma: F64, known: Sequence[bool], lens: str) -> CameraPriors:
    """Priors around `start` (c). focal_sigma: (c,) relative. known: which were calibrated before (`--cameras`).

    lens: 'perspective' leaves focal length, k1 and k2 free (OpenDroneMap's model of that name), anything else all of Brown's terms.
    """
    rows = np.array([pack(c) for c in start]).reshape(-1, 8)
    sigma = np.empty_like(rows)
    for k, camera in enumerate(start):
        width = max(camera.width_px, camera.height_px)
        centre = (KNOWN_CENTRE_SIGMA if known[k] else CENTRE_SIGMA) * width
        sigma[k] = (focal_sigma[k] * camera.fx, centre, centre, *(KNOWN if known[k] else FREE))
        if lens == "perspective":
            sigma[k, [1, 2, 5, 6, 7]] = (FIXED * width, FIXED * width, FIXED, FIXED, FIXED)
    return CameraPriors(rows, sigma)
