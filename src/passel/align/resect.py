"""Photos that no mapper placed, placed from the points their features are matched to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from passel.align.projection import pack, to_ray
from passel.reconstruct.matches import PairMatches
from passel.reconstruct.scene import Intrinsics, Scene

F64 = NDArray[np.float64]
MIN_INLIERS = 40
MIN_INLIER_SHARE = 0.4


@dataclass(frozen=True)
class Unplaced:
    """A photo without a pose: its name, survey index, camera (index into the scene's cameras) and its features' pixels (n, 2)."""

    name: str
    survey_index: int
    camera: int
    xy: F64


def resect(
    scene: Scene, survey_index: Sequence[int], unplaced: Sequence[Unplaced], matches: Sequence[PairMatches]
) -> Scene:
    """The scene with every unplaced photo that its matches place beyond doubt. survey_index: of the scene's photos, in order."""
    point_of = _points_by_feature(scene, survey_index)
    wanted = {u.survey_index: u for u in unplaced}
    seen: dict[int, dict[int, int]] = {k: {} for k in wanted}
    for m in matches:
        for new, old, column in ((m.first, m.second, 0), (m.second, m.first, 1)):
            if new in wanted and old in point_of:
                points = point_of[old]
                for mine, theirs in zip(m.features[:, column].tolist(), m.features[:, 1 - column].tolist()):
                    if theirs in points:
                        seen[new].setdefault(mine, points[theirs])
    poses = {k: _pose(scene, wanted[k], seen[k]) for k in sorted(wanted)}
    return _with_photos(scene, [(wanted[k], pose) for k, pose in poses.items() if pose is not None])


def _points_by_feature(scene: Scene, survey_index: Sequence[int]) -> Mapping[int, Mapping[int, int]]:
    found: dict[int, dict[int, int]] = {k: {} for k in survey_index}
    for photo, feature, point in zip(scene.obs_photo.tolist(), scene.obs_feature.tolist(), scene.obs_point.tolist()):
        found[survey_index[photo]][feature] = point
    return found


def _pose(scene: Scene, photo: Unplaced, seen: Mapping[int, int]) -> tuple[F64, F64] | None:
    """(rotation, centre) by RANSAC, None when too few agree."""
    if len(seen) < MIN_INLIERS:
        return None
    features = sorted(seen)
    xyz = scene.points[[seen[f] for f in features]]
    origin = xyz.mean(axis=0)
    camera = scene.cameras[photo.camera]
    rays = normalised(camera, photo.xy[features])
    cv2.setRNGSeed(1)
    ok, turn, shift, inliers = cv2.solvePnPRansac(
        xyz - origin, rays, np.eye(3), None, iterationsCount=500, reprojectionError=8.0 / camera.fx, confidence=0.9999
    )
    if not ok or inliers is None or len(inliers) < max(MIN_INLIERS, MIN_INLIER_SHARE * len(features)):
        return None
    chosen = inliers.ravel()
    turn, shift = cv2.solvePnPRefineLM((xyz - origin)[chosen], rays[chosen], np.eye(3), None, turn, shift)
    rotation = np.asarray(cv2.Rodrigues(turn)[0], float)
    return rotation, origin - rotation.T @ np.asarray(shift, float).ravel()


def normalised(camera: Intrinsics, xy: F64) -> F64:
    """(n, 2) pixels → undistorted normalised image coordinates."""
    row, aspect = pack(camera), camera.fy / camera.fx
    return np.array([to_ray(row, aspect, u, v) for u, v in xy], float).reshape(-1, 2)


def _with_photos(scene: Scene, placed: Sequence[tuple[Unplaced, tuple[F64, F64]]]) -> Scene:
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
        np.concatenate([scene.cam_from_world, [p[0] for _, p in placed]])[order],
        np.concatenate([scene.centres, [p[1] for _, p in placed]])[order],
        scene.points,
        scene.obs_point,
        number[scene.obs_photo],
        scene.obs_xy,
        scene.obs_feature,
    )
