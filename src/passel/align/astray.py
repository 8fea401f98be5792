"""Photos that a mapper has put where they cannot have been: a few wrong matches give a pose that fits them and nothing else."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from passel.reconstruct.scene import Scene

F64 = NDArray[np.float64]

FAR = 6.0  # times the others' usual distance from their GPS
BENT_DEG = 30.0  # from where up is: no gimbal is off by that, no drone that flies straight leans so far
FEWEST = 8  # photos with GPS, so that the others tell what is usual
MOST_SHARE = 0.2  # of the photos: more are no strays but a survey that looks askance


def photos_astray(scene: Scene, gps: F64, up_in_camera: F64) -> NDArray[np.bool_]:
    """(n,) photos that both their GPS and their own angles contradict. Either alone may be what is wrong: GPS slips, gimbals lie.

    gps: (n, 3) world metres; up_in_camera: (n, 3) by each photo's angles; NaN rows without. Photos without angles count as looking down.
    """
    miss: F64 = np.linalg.norm((scene.centres - gps)[:, :2], axis=1)
    have = np.isfinite(miss)
    if have.sum() < FEWEST:
        return np.zeros(len(scene.photos), np.bool_)
    told = np.asarray(np.isfinite(up_in_camera).all(axis=1))
    up = np.where(told[:, None], up_in_camera, np.array([0.0, 0.0, -1.0]))
    ups = np.einsum("nji,nj->ni", scene.cam_from_world, up)
    usual = np.median(ups, axis=0)
    bent = ups @ (usual / max(float(np.linalg.norm(usual)), 1e-9)) < np.cos(np.radians(BENT_DEG))
    if bent.mean() > MOST_SHARE:
        return np.zeros(len(scene.photos), np.bool_)
    return np.asarray(have & bent & (np.nan_to_num(miss) > FAR * np.median(miss[have])))
