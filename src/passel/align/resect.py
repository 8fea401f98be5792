"""Photos that no mapper placed, placed from the points their features are matched to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from passel.align.guided import Sighting
from passel.align.projection import pack, to_ray
from passel.reconstruct.matches import PairMatches
from passel.reconstruct.scene import Intrinsics, Scene

F64 = NDArray[np.float64]
MIN_INLIERS = 40
MIN_INLIER_SHARE = 0.4
MAX_ERROR = 6.0  # noise units
SOLVABLE = 6  # fewer points leave a pose to chance


@dataclass(frozen=True)
class Unplaced:
    """A photo without a pose: its name, survey index, camera (index into the scene's cameras), its features' pixels (n, 2), and
    noise_px: the size in full-size pixels of the pixel they were found on."""

    name: str
    survey_index: int
    camera: int
    xy: F64
    noise_px: float


@dataclass(frozen=True)
class Pose:
    """cam_from_world (3, 3) rotation and centre (3,) world metres."""

    cam_from_world: F64
    centre: F64


def resect(
    scene: Scene, survey_index: Sequence[int], unplaced: Sequence[Unplaced], matches: Iterable[PairMatches]
) -> Scene:
    """The scene with every unplaced photo that its matches place beyond doubt. survey_index: of the scene's photos, in order."""
    if not unplaced:
        return scene
    own = matches_of(unplaced, matches)
    point_of = points_by_feature(scene, survey_index, own)
    placed: list[tuple[Unplaced, Pose]] = []
    for photo in unplaced:
        seen = points_seen(photo, own[photo.survey_index], point_of)
        if len(seen) < MIN_INLIERS:
            continue
        feature = np.array(sorted(seen), np.int64)
        point = np.array([seen[int(f)] for f in feature], np.int64)
        solved = pose_from_points(scene, photo, Sighting(feature, point), MAX_ERROR * photo.noise_px)
        if solved is not None and len(solved[1]) >= max(MIN_INLIERS, MIN_INLIER_SHARE * len(feature)):
            placed.append((photo, solved[0]))
    return with_photos(scene, placed)


def points_by_feature(
    scene: Scene, survey_index: Sequence[int], own: Mapping[int, Sequence[PairMatches]]
) -> Mapping[int, Mapping[int, int]]:
    """For each placed photo (by survey index) that unplaced ones are matched with: its feature → scene point.

    own: the unplaced photos' matches.
    """
    partners = {k for matches in own.values() for m in matches for k in (m.first, m.second)}
    wanted = np.array([k in partners for k in survey_index], np.bool_)
    found: dict[int, dict[int, int]] = {k: {} for k, w in zip(survey_index, wanted) if w}
    mine = np.flatnonzero(wanted[scene.obs_photo])
    for photo, feature, point in zip(
        *(a[mine].tolist() for a in (scene.obs_photo, scene.obs_feature, scene.obs_point))
    ):
        found[survey_index[photo]][feature] = point
    return found


def matches_of(unplaced: Sequence[Unplaced], matches: Iterable[PairMatches]) -> dict[int, list[PairMatches]]:
    """For each unplaced photo (by survey index) the matches it is part of."""
    own: dict[int, list[PairMatches]] = {u.survey_index: [] for u in unplaced}
    for m in matches:
        for k in (m.first, m.second):
            if k in own:
                own[k].append(m)
    return own


def points_seen(
    photo: Unplaced, matches: Sequence[PairMatches], point_of: Mapping[int, Mapping[int, int]]
) -> dict[int, int]:
    """The photo's features → scene points, through its verified matches with placed photos."""
    seen: dict[int, int] = {}
    for m in matches:
        for new, old, column in ((m.first, m.second, 0), (m.second, m.first, 1)):
            if new == photo.survey_index and old in point_of:
                points = point_of[old]
                for mine, theirs in zip(m.features[:, column].tolist(), m.features[:, 1 - column].tolist()):
                    if theirs in points:
                        seen.setdefault(mine, points[theirs])
    return seen


def pose_from_points(
    scene: Scene, photo: Unplaced, sighting: Sighting, max_error_px: float
) -> tuple[Pose, NDArray[np.int64]] | None:
    """The pose by RANSAC and the rows of `sighting` that agree with it, None when fewer than six do."""
    if len(sighting.feature) < SOLVABLE:
        return None
    xyz = scene.points[sighting.point]
    origin = xyz.mean(axis=0)
    camera = scene.cameras[photo.camera]
    rays = normalised(camera, photo.xy[sighting.feature])
    cv2.setRNGSeed(1)
    ok, turn, shift, inliers = cv2.solvePnPRansac(
        xyz - origin, rays, np.eye(3), None, iterationsCount=4000, reprojectionError=max_error_px / camera.fx,
        confidence=0.9999, flags=cv2.SOLVEPNP_P3P,
    )  # fmt: skip
    if not ok or inliers is None or len(inliers) < SOLVABLE:
        return None
    chosen = np.sort(inliers.ravel()).astype(np.int64)
    for _ in range(2):  # the refined pose may win points that RANSAC's own missed
        turn, shift = cv2.solvePnPRefineLM((xyz - origin)[chosen], rays[chosen], np.eye(3), None, turn, shift)
        rotation, t = np.asarray(cv2.Rodrigues(turn)[0], float), np.asarray(shift, float).ravel()
        q = (xyz - origin) @ rotation.T + t
        with np.errstate(divide="ignore", invalid="ignore"):
            miss = np.linalg.norm(q[:, :2] / q[:, 2:] - rays, axis=1)
        chosen = np.flatnonzero((miss <= max_error_px / camera.fx) & (q[:, 2] > 0))
        if len(chosen) < SOLVABLE:
            return None
    return Pose(rotation, origin - rotation.T @ t), chosen


def normalised(camera: Intrinsics, xy: F64) -> F64:
    """(n, 2) pixels → undistorted normalised image coordinates."""
    row, aspect = pack(camera), camera.fy / camera.fx
    return np.array([to_ray(row, aspect, u, v) for u, v in xy], float).reshape(-1, 2)


def with_photos(scene: Scene, placed: Sequence[tuple[Unplaced, Pose]]) -> Scene:
    """The scene with more photos, which observe no points yet and whose velocities nobody knows yet."""
    if not placed:
        return scene
    names = [*scene.photos, *(u.name for u, _ in placed)]
    order = np.array(sorted(range(len(names)), key=names.__getitem__))
    number = np.empty(len(names), np.int32)
    number[order] = np.arange(len(names), dtype=np.int32)
    return Scene(
        scene.cameras,
        tuple(names[i] for i in order),
        np.concatenate([scene.camera_of, [u.camera for u, _ in placed]]).astype(np.int32)[order],
        np.concatenate([scene.cam_from_world, [p.cam_from_world for _, p in placed]])[order],
        np.concatenate([scene.centres, [p.centre for _, p in placed]])[order],
        scene.points,
        scene.obs_point,
        number[scene.obs_photo],
        scene.obs_xy,
        scene.obs_feature,
        np.concatenate([scene.velocities, np.zeros((len(placed), 3))])[order],
        np.concatenate([scene.turned, np.zeros(len(placed), np.bool_)])[order],
    )
