"""Photos that somebody turned by 180° after the flight, before anything was made of them.

Their camera's principal point and tangential distortion lie on the other side, and rows were exposed from bottom to top. Taken as they
are, such photos of every other strip bend a block (docs/decisions/0005).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from passel.align.block import Keypoints, Pixels
from passel.align.whole import ROUNDS_PX, AdjustmentFacts, Evidence, adjust_whole, reprojection_errors
from passel.errors import ReconstructionError
from passel.reconstruct.matches import PairMatches
from passel.reconstruct.scene import TURN, Scene

F64 = NDArray[np.float64]

NEAR_DEG = 30.0  # a body's yaw in a cross wind is so far from the photo's
MOST_STRAY = 0.2  # share of photos whose noted yaw is neither right nor opposite: more, and yaws mean nothing


def with_turned_photos(
    scene: Scene, facts: AdjustmentFacts, evidence: Evidence, matches: Iterable[PairMatches], yaw_deg: F64
) -> tuple[Scene, AdjustmentFacts]:
    """The adjusted scene, adjusted again with the photos turned back that seem to be turned, if that explains the matches better.

    Yaw alone is no proof: near the nadir some gimbals tell the opposite yaw with 180° of roll. yaw_deg: (n,), NaN unknown.
    """
    suspects = turned_photos(scene, yaw_deg)
    if not suspects.any():
        return scene, facts
    try:
        again, more = adjust_whole(*turned_back(scene, evidence, suspects), matches)
    except ReconstructionError:  # nothing fits at all when they are turned
        return scene, facts
    if again.photos != scene.photos:
        return scene, facts
    as_is, as_taken = _misfits(scene, again, ROUNDS_PX[-1] * float(np.median(evidence.noise_px)))
    return (again, more) if as_taken < as_is else (scene, facts)


def turned_photos(scene: Scene, yaw_deg: F64) -> NDArray[np.bool_]:
    """(n,) which photos look the opposite way of what their yaw says, compared with most of the same camera."""
    up = -scene.cam_from_world[:, 1, :2]  # of the image, over the ground
    off = np.arctan2(up[:, 0], up[:, 1]) - np.radians(yaw_deg)
    off[np.linalg.norm(up, axis=1) < 0.5] = np.nan
    out = np.zeros(len(off), np.bool_)
    for camera in range(len(scene.cameras)):
        mine = np.flatnonzero((scene.camera_of == camera) & np.isfinite(off))
        if len(mine) >= 3:
            out[mine] = _opposite(off[mine])
    return out


def _opposite(off: F64) -> NDArray[np.bool_]:
    """Which of the angles (rad) are opposite to most; none if they scatter."""
    axis = 0.5 * np.angle(np.exp(2j * off).mean())  # of most, or opposite to it
    along = np.cos(off - axis)
    near = np.cos(np.radians(NEAR_DEG))
    one, other = along > near, along < -near
    if one.sum() + other.sum() < (1.0 - MOST_STRAY) * len(off):
        return np.zeros(len(off), np.bool_)
    return np.asarray(other if other.sum() <= one.sum() else one)


def turned_back(scene: Scene, evidence: Evidence, which: NDArray[np.bool_]) -> tuple[Scene, Evidence]:
    """The scene's poses and the evidence with some photos as they were taken; its points and observations are not worth keeping."""
    size = np.array([(scene.cameras[k].width_px, scene.cameras[k].height_px) for k in scene.camera_of], float)
    turns = which[:, None]
    back = replace(
        scene,
        cam_from_world=np.where(turns[:, :, None], TURN @ scene.cam_from_world, scene.cam_from_world),
        velocities=np.where(turns, scene.velocities @ TURN, scene.velocities),
        turned=scene.turned ^ which,
    )
    return back, replace(evidence, xy=_TurnedBack(evidence.xy, size, which))


@dataclass(frozen=True)
class _TurnedBack:
    """The features' pixels of photos of which some (n,) are turned by 180°; size: (n, 2) px."""

    xy: Keypoints
    size: F64
    which: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.xy)

    def __getitem__(self, photo: int, /) -> Pixels:
        xy = self.xy[photo]
        return np.asarray(self.size[photo] - xy) if self.which[photo] else xy


def _misfits(one: Scene, other: Scene, limit_px: float) -> tuple[float, float]:
    """Sums of squared reprojection errors of two scenes of the same photos, over the features that either has a point for; one without
    a point in a scene counts there as the limit (px) from which observations are left out. Both scenes have the same unknowns, so the
    smaller sum is the likelier scene."""
    keys = [s.obs_photo.astype(np.int64) << 32 | s.obs_feature for s in (one, other)]
    either = len(np.union1d(*keys))
    sums = [float((np.minimum(reprojection_errors(s), limit_px) ** 2).sum()) for s in (one, other)]
    first, second = (total + limit_px**2 * (either - len(k)) for total, k in zip(sums, keys, strict=True))
    return first, second
