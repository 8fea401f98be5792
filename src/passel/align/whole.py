"""The one adjustment: all photos in one frame, tracks of the whole survey, GPS and camera priors together.

Whether a photo's first pose came from one submodel or another no longer matters here: the tracks are made anew from all verified
matches, so the split run minimises the same cost as the unsplit one and ends in the same place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from passel.align.adjust import FINE, ROUGH, Adjusted, Priors, adjust
from passel.align.block import Cameras, Keypoints, Tracks, tracks_of_scene
from passel.align.camera_priors import CameraPriors
from passel.align.thin import well_spread
from passel.align.tracks import build_tracks
from passel.align.triangulate import fit, reprojection, triangulate
from passel.align.velocity import velocities
from passel.errors import ReconstructionError
from passel.reconstruct.matches import PairMatches
from passel.reconstruct.scene import Scene

F64 = NDArray[np.float64]

MIN_POINTS = 30  # photos with fewer points are dropped: their pose is a guess
PER_PHOTO = 640  # observations a photo brings into the adjustment
INDEPENDENT = 4.0  # observations of a photo that are worth independent ones: the rest repeat its systematic errors
NO_TRACKS = Tracks(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros((0, 2), np.float32))
ROUNDS_PX = (8.0, 4.0, 3.0)  # observations farther off than so many noise units leave before each round


@dataclass(frozen=True)
class Evidence:
    """What the adjustment works from, photo by photo in the scene's order.

    survey_index: place of each photo in the survey, which the matches refer to. xy: its features' pixels. gps, gps_sigma: (n, 3) world
    metres, NaN rows without. noise_px: (n,) size in full-size pixels of the pixel its features were found on.
    cameras: what is known of the cameras. time_s: (n,) when each photo was taken, from any origin; NaN unknown.
    """

    survey_index: tuple[int, ...]
    xy: Keypoints
    gps: F64
    gps_sigma: F64
    noise_px: F64
    cameras: CameraPriors
    time_s: F64


@dataclass(frozen=True)
class AdjustmentFacts:
    """How the adjustment went. gps_sigma_used_m: (horizontal, vertical) median sigma in the last round; gps_factor: by what the claimed
    sigmas were multiplied, (horizontally, vertically); dropped: photos left out."""

    rounds: int
    iterations: int
    points: int
    observations: int
    reprojection_px: float
    gps_sigma_used_m: tuple[float, float]
    gps_factor: tuple[float, float]
    dropped: tuple[str, ...]


def adjust_whole(
    scene: Scene, evidence: Evidence, matches: Iterable[PairMatches], before: AdjustmentFacts | None = None
) -> tuple[Scene, AdjustmentFacts]:
    """The scene (in the world frame, roughly right) adjusted. Photos that end with too few points are dropped and named.

    matches: gone through more than once. before: of an adjustment that nearly all poses come from: its judgement of the GPS holds, and
    the first, rough round is left out.
    Raises ReconstructionError when fewer than two photos have enough points.
    """
    cameras = Cameras.of_scene(scene)
    unit = float(np.median(evidence.noise_px))
    priors = _priors(cameras, evidence)
    sizes = np.array([(scene.cameras[k].width_px, scene.cameras[k].height_px) for k in scene.camera_of], float)
    iterations = 0
    factor = before.gps_factor if before else (1.0, 1.0)
    priors = replace(priors, gps_sigma=_scaled(priors.gps_sigma, factor))
    for number, limit in list(enumerate(ROUNDS_PX))[1 if before else 0 :]:
        cameras = replace(cameras, velocities=velocities(cameras, evidence.time_s))
        if number <= 1:  # after the first round poses are good and wrong matches can be told from right ones
            reach = (4.0 if number == 0 else 1.0) * ROUNDS_PX[0] * unit
            tracks = NO_TRACKS  # one set at a time: they are most of a large survey
            tracks = build_tracks(cameras, matches, _place(evidence), evidence.xy, reach)
        reach, tolerance = (4.0 if number == 0 else 1.0) * limit * unit, FINE if number == len(ROUNDS_PX) - 1 else ROUGH
        done = _round(cameras, tracks, priors, sizes, unit, reach, tolerance)
        cameras, iterations = done.cameras, iterations + done.iterations
        if number == 0:  # once: a sigma judged again after it has pulled would shrink round by round
            factor = _honest_factor(cameras.centres - evidence.gps, evidence.gps_sigma)
            priors = replace(priors, gps_sigma=_scaled(priors.gps_sigma, factor))
    found, tracks = triangulate(cameras, tracks, ROUNDS_PX[-1] * unit), NO_TRACKS
    weak = np.bincount(found.tracks.photo, minlength=len(scene.photos)) < MIN_POINTS
    result = replace(cameras.scene(scene.photos, found.points, found.tracks), turned=scene.turned)
    result = without_photos(result, weak)
    if len(result.photos) < 2:
        raise ReconstructionError("fewer than two photos have enough points", "adjustment", "check the overlap")
    sigma = np.nanmedian(priors.gps_sigma, axis=0) if np.isfinite(priors.gps_sigma).any() else np.full(3, np.nan)
    return result, AdjustmentFacts(
        len(ROUNDS_PX) - (before is not None), iterations, len(result.points), len(result.obs_xy), float(found.error.mean(dtype=float)),
        (float(sigma[0]), float(sigma[2])), factor, tuple(np.array(scene.photos)[weak].tolist()),
    )  # fmt: skip


def _round(
    cameras: Cameras, tracks: Tracks, priors: Priors, sizes: F64, unit: float, reach_px: float, tolerance: float
) -> Adjusted:
    """Cameras adjusted to some of the points that they show now."""
    points, seen = fit(cameras, tracks, reach_px)
    seen &= tracks.by_observation(well_spread(tracks, seen, sizes, PER_PHOTO))
    some, chosen = tracks.kept(seen)
    if not len(some):
        raise ReconstructionError("no point is seen consistently by two photos", "adjustment", "check the overlap")
    held = _held(priors, len(some.photo) / len(sizes))
    return adjust(cameras, points[chosen], some, held, 2.0 * unit, tolerance)


def _place(evidence: Evidence) -> dict[int, int]:
    return {s: k for k, s in enumerate(evidence.survey_index)}


def _priors(cameras: Cameras, evidence: Evidence) -> Priors:
    gps, gps_sigma = evidence.gps, evidence.gps_sigma
    if not np.isfinite(gps).any():
        # No GPS: hold every photo loosely where it is, or nothing would fix the block's place, heading and size.
        extent = float(np.linalg.norm(np.ptp(cameras.centres, axis=0)))
        gps, gps_sigma = cameras.centres.copy(), np.full_like(cameras.centres, max(0.05 * extent, 1e-6))
    rows, sigma = evidence.cameras.rows, evidence.cameras.sigma
    return Priors(gps, gps_sigma, rows, sigma, np.ones_like(rows))


def _held(priors: Priors, observations_per_photo: float) -> Priors:
    """Priors of focal length and principal point weighed against what a photo's observations are really worth.

    Rolling shutter and unmodelled distortion repeat in every photo, so its hundreds of observations agree on a wrong focal length far
    more firmly than their scatter suggests: over flat ground 20 % of focal length changes the residuals by 2 % (brighton_beach).
    Within one sigma of its prior the focal length is the photos' to tell (the synthetic survey's is found to 0.05 %); beyond, it
    takes independent evidence to move it.
    """
    share = max(1.0, observations_per_photo / INDEPENDENT)
    sigma, beyond = priors.row_sigma.copy(), priors.row_beyond.copy()
    sigma[:, [1, 2]] /= np.sqrt(share)
    beyond[:, 0] = share
    return replace(priors, row_sigma=sigma, row_beyond=beyond)


def _honest_factor(miss: F64, claimed: F64) -> tuple[float, float]:
    """By what to multiply the GPS sigmas, horizontally and vertically, to make them the scatter that the block shows."""
    factor = [1.0, 1.0]
    for k, axes in enumerate(([0, 1], [2])):
        usable = np.isfinite(miss[:, axes[0]]) & (claimed[:, axes[0]] < 1e3)
        if usable.sum() >= 4:
            ratio = 1.4826 * np.median(np.abs(miss[usable][:, axes] / claimed[usable][:, axes]))
            factor[k] = float(np.clip(ratio, 0.02, 10.0))
    return factor[0], factor[1]


def _scaled(sigma: F64, factor: tuple[float, float]) -> F64:
    """GPS sigmas (n, 3) times the factors, at least a centimetre; NaN rows stay."""
    out = sigma * (factor[0], factor[0], factor[1])
    return np.where(np.isfinite(out), np.maximum(out, 0.01), out)


def without_photos(scene: Scene, gone: NDArray[np.bool_]) -> Scene:
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
        scene.velocities[stays],
        scene.turned[stays],
    )


def reprojection_errors(scene: Scene) -> F64:
    """(k,) px of each observation of a scene."""
    cameras = Cameras.of_scene(scene)
    order = np.lexsort((scene.obs_photo, scene.obs_point))
    out = np.empty(len(order))
    out[order] = reprojection(cameras, tracks_of_scene(scene), scene.points)
    return out
