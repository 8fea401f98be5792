"""The one adjustment: all photos in one frame, tracks of the whole survey, GPS and camera priors together.

Whether a photo's first pose came from one submodel or another no longer matters here: the tracks are made anew from all verified
matches, so the split run minimises the same cost as the unsplit one and ends in the same place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from passel.align.adjust import Priors, adjust
from passel.align.block import Cameras, tracks_of_scene
from passel.align.thin import well_spread
from passel.align.tracks import build_tracks
from passel.align.triangulate import Triangulation, reprojection, triangulate
from passel.errors import ReconstructionError
from passel.reconstruct.matches import PairMatches
from passel.reconstruct.scene import Scene

F64 = NDArray[np.float64]

MIN_POINTS = 30  # photos with fewer points are dropped: their pose is a guess
PER_PHOTO = 640  # observations a photo brings into the adjustment
INDEPENDENT = 12.0  # observations of a photo that are worth independent ones: the rest repeat its systematic errors
ROUNDS_PX = (8.0, 4.0, 3.0)  # observations farther off than so many noise units leave before each round


@dataclass(frozen=True)
class Evidence:
    """What the adjustment works from, photo by photo in the scene's order.

    survey_index: place of each photo in the survey, which the matches refer to. xy: its features' pixels. gps, gps_sigma: (n, 3) world
    metres, NaN rows without. noise_px: (n,) size in full-size pixels of the pixel its features were found on.
    focal_prior_px, focal_sigma: per camera (c,): prior focal length and its relative sigma.
    """

    survey_index: tuple[int, ...]
    xy: tuple[F64, ...]
    gps: F64
    gps_sigma: F64
    noise_px: F64
    focal_prior_px: F64
    focal_sigma: F64


@dataclass(frozen=True)
class AdjustmentFacts:
    """How the adjustment went. gps_sigma_used_m: (horizontal, vertical) median sigma in the last round; dropped: photos left out."""

    rounds: int
    iterations: int
    points: int
    observations: int
    reprojection_px: float
    gps_sigma_used_m: tuple[float, float]
    dropped: tuple[str, ...]


def adjust_whole(scene: Scene, evidence: Evidence, matches: Sequence[PairMatches]) -> tuple[Scene, AdjustmentFacts]:
    """The scene (in the world frame, roughly right) adjusted. Photos that end with too few points are dropped and named."""
    cameras = Cameras.of_scene(scene)
    unit = float(np.median(evidence.noise_px))
    priors = _priors(cameras, evidence)
    sizes = np.array([(scene.cameras[k].width_px, scene.cameras[k].height_px) for k in scene.camera_of], float)
    iterations = 0
    tracks = build_tracks(cameras, matches, _place(evidence), evidence.xy, reach_px=4.0 * ROUNDS_PX[0] * unit)
    for number, limit in enumerate(ROUNDS_PX):
        if number == 1:  # poses are good now: wrong matches can be told from right ones
            tracks = build_tracks(cameras, matches, _place(evidence), evidence.xy, reach_px=ROUNDS_PX[0] * unit)
        found = triangulate(cameras, tracks, (4.0 if number == 0 else 1.0) * limit * unit)
        some = _thinned(found, sizes)
        if not len(some.points):
            raise ReconstructionError("no point is seen consistently by two photos", "adjustment", "check the overlap")
        held = _held(priors, len(some.error) / len(scene.photos))
        done = adjust(cameras, some.points, some.tracks, held, scale_px=2.0 * unit)
        cameras, iterations = done.cameras, iterations + done.iterations
        priors = replace(priors, gps_sigma=_honest_sigma(cameras.centres - evidence.gps, evidence.gps_sigma))
    found = triangulate(cameras, tracks, ROUNDS_PX[-1] * unit)
    weak = np.bincount(found.tracks.photo, minlength=len(scene.photos)) < MIN_POINTS
    result = _without(cameras.scene(scene.photos, found.points, found.tracks), weak)
    if len(result.photos) < 2:
        raise ReconstructionError("fewer than two photos have enough points", "adjustment", "check the overlap")
    sigma = np.nanmedian(priors.gps_sigma, axis=0) if np.isfinite(priors.gps_sigma).any() else np.full(3, np.nan)
    return result, AdjustmentFacts(
        len(ROUNDS_PX), iterations, len(result.points), len(result.obs_xy), float(found.error.mean()),
        (float(sigma[0]), float(sigma[2])), tuple(np.array(scene.photos)[weak].tolist()),
    )  # fmt: skip


def _place(evidence: Evidence) -> dict[int, int]:
    return {s: k for k, s in enumerate(evidence.survey_index)}


def _priors(cameras: Cameras, evidence: Evidence) -> Priors:
    """Distortion may go where the photos want it; the focal length within its prior; the principal point within 1 % of the width."""
    rows = np.zeros_like(cameras.rows)
    sigma = np.empty_like(rows)
    for k, model in enumerate(cameras.models):
        rows[k, :3] = evidence.focal_prior_px[k], model.width_px / 2, model.height_px / 2
        width = max(model.width_px, model.height_px)
        sigma[k] = (
            evidence.focal_sigma[k] * evidence.focal_prior_px[k],
            *(0.01 * width, 0.01 * width),
            *(0.2, 0.2, 0.1, 0.005, 0.005),
        )
    gps, gps_sigma = evidence.gps, evidence.gps_sigma
    if not np.isfinite(gps).any():
        # No GPS: hold every photo loosely where it is, or nothing would fix the block's place, heading and size.
        extent = float(np.linalg.norm(np.ptp(cameras.centres, axis=0)))
        gps, gps_sigma = cameras.centres.copy(), np.full_like(cameras.centres, max(0.05 * extent, 1e-6))
    return Priors(gps, gps_sigma, rows, sigma)


def _held(priors: Priors, observations_per_photo: float) -> Priors:
    """Priors of focal length and principal point weighed against what a photo's observations are really worth.

    Rolling shutter and unmodelled distortion repeat in every photo, so its hundreds of observations agree on a wrong focal length far
    more firmly than their scatter suggests: over flat ground 20 % of focal length changes the residuals by 2 % (brighton_beach).
    """
    share = np.sqrt(max(1.0, observations_per_photo / INDEPENDENT))
    sigma = priors.row_sigma.copy()
    sigma[:, :3] /= share
    return replace(priors, row_sigma=sigma)


def _honest_sigma(miss: F64, claimed: F64) -> F64:
    """GPS sigmas scaled, horizontally and vertically apart, to the scatter that the block shows them to have."""
    if not np.isfinite(miss).any():
        return claimed
    out = claimed.copy()
    for axes in ([0, 1], [2]):
        usable = np.isfinite(miss[:, axes[0]]) & (claimed[:, axes[0]] < 1e3)
        if usable.sum() < 4:
            continue
        ratio = 1.4826 * np.median(np.abs(miss[usable][:, axes] / claimed[usable][:, axes]))
        out[:, axes] *= np.clip(ratio, 0.1, 10.0)
    return np.where(np.isfinite(out), np.maximum(out, 0.01), out)


def _thinned(found: Triangulation, sizes: F64) -> Triangulation:
    keep = well_spread(found.tracks, sizes, PER_PHOTO)
    tracks, alive = found.tracks.kept(keep[found.tracks.point_of_observation()])
    return Triangulation(found.points[alive], tracks, found.error[keep[found.tracks.point_of_observation()]])


def _without(scene: Scene, gone: NDArray[np.bool_]) -> Scene:
    """The scene less some photos, and the points that have fewer than two observations left."""
    if not gone.any():
        return scene
    stays = ~gone
    number = np.cumsum(stays) - 1
    keep = stays[scene.obs_photo]
    alive = np.bincount(scene.obs_point[keep], minlength=len(scene.points)) >= 2
    keep &= alive[scene.obs_point]
    renumbered = np.cumsum(alive) - 1
    return Scene(
        scene.cameras,
        tuple(np.array(scene.photos)[stays].tolist()),
        scene.camera_of[stays],
        scene.cam_from_world[stays],
        scene.centres[stays],
        scene.points[alive],
        renumbered[scene.obs_point[keep]].astype(np.int32),
        number[scene.obs_photo[keep]].astype(np.int32),
        scene.obs_xy[keep],
        scene.obs_feature[keep],
    )


def reprojection_errors(scene: Scene) -> F64:
    """(k,) px of each observation of a scene."""
    cameras = Cameras.of_scene(scene)
    order = np.lexsort((scene.obs_photo, scene.obs_point))
    out = np.empty(len(order))
    out[order] = reprojection(cameras, tracks_of_scene(scene), scene.points)
    return out
