"""What is known of the cameras before the adjustment, and how far it may leave that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from passel.align.projection import N_INTRINSICS, pack
from passel.reconstruct.scene import Intrinsics
from passel.survey.model import CENTRE_SIGMA

F64 = NDArray[np.float64]

FREE = (0.2, 0.2, 0.1, 0.005, 0.005)  # k1, k2, k3, p1, p2 of a camera nobody calibrated
KNOWN = (0.01, 0.01, 0.01, 0.0005, 0.0005)  # … of one that was calibrated before
KNOWN_CENTRE_SIGMA = 0.001
FIXED = 1e-7
READOUT_SIGMA_S = 0.03  # about none: of a rolling shutter nobody has measured
READOUT_SIGMA = 0.05  # relative, of a measured one


@dataclass(frozen=True)
class CameraPriors:
    """rows: (c, 9) intrinsics rows (see `projection`); sigma: (c, 9) one-sigma of each value."""

    rows: F64
    sigma: F64


def camera_priors(
    start: Sequence[Intrinsics],
    focal_sigma: F64,
    known: Sequence[bool],
    lens: str,
    readout_s: float | None = None,
    centre_sigma: Sequence[float] | None = None,
) -> CameraPriors:
    """Priors around `start` (c). focal_sigma: (c,) relative. known: which were calibrated before (`--cameras`).
    centre_sigma: (c,) of the longer side, the usual ones if None.

    lens: 'perspective' leaves focal length, k1 and k2 free (OpenDroneMap's model of that name), anything else all of Brown's terms.
    readout_s: None for global shutters, 0 for rolling shutters nobody has measured, else the time from first to last row.
    """
    rows = np.array([pack(c) for c in start]).reshape(-1, N_INTRINSICS)
    sigma = np.empty_like(rows)
    for k, camera in enumerate(start):
        width = max(camera.width_px, camera.height_px)
        unknown = centre_sigma[k] if centre_sigma else CENTRE_SIGMA
        centre = (KNOWN_CENTRE_SIGMA if known[k] else unknown) * width
        sigma[k, :8] = (focal_sigma[k] * camera.fx, centre, centre, *(KNOWN if known[k] else FREE))
        rows[k, 8], sigma[k, 8] = 0.0, FIXED
        if readout_s is not None:
            row_s = camera.fy / camera.height_px
            rows[k, 8], sigma[k, 8] = readout_s * row_s, (READOUT_SIGMA * readout_s or READOUT_SIGMA_S) * row_s
        if lens == "perspective":
            sigma[k, [1, 2, 5, 6, 7]] = (FIXED * width, FIXED * width, FIXED, FIXED, FIXED)
    return CameraPriors(rows, sigma)
