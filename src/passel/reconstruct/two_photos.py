"""Two photos alone: their relative pose from the verified matches. COLMAP's mappers want a third photo before they believe anything."""

from __future__ import annotations

import cv2
import numpy as np
import pycolmap

from passel.reconstruct.colmap_db import DbPhoto, colmap_camera, two_view
from passel.reconstruct.matches import PairMatches
from passel.reconstruct.scene import Intrinsics, Scene

MIN_ANGLE_DEG = 1.5  # rays closer than this tell no height
MIN_POINTS = 30


def scene_of_two(
    cameras: tuple[Intrinsics, ...], photos: tuple[DbPhoto, DbPhoto], matches: tuple[PairMatches, ...]
) -> Scene | None:
    """The two photos and the points that both see, the first photo's centre at 0, their distance 1; None when they do not overlap
    or were taken from one place. Matches index `photos`."""
    if not matches:
        return None
    m = max(matches, key=lambda m: len(m.features))
    pair = (photos[m.first], photos[m.second])
    seen = [colmap_camera(cameras[p.camera]) for p in pair]
    geometry = two_view(m)
    xy = [p.features.xy.astype(np.float64) for p in pair]
    if not pycolmap.estimate_two_view_geometry_pose(seen[0], xy[0], seen[1], xy[1], geometry):
        return None
    second = geometry.cam2_from_cam1
    if np.degrees(geometry.tri_angle) < MIN_ANGLE_DEG:
        return None
    used = [xy[k][m.features[:, k]] for k in (0, 1)]
    rays = [np.asarray(c.cam_from_img(u), np.float64).T for c, u in zip(seen, used)]
    poses = [np.eye(3, 4), np.asarray(second.matrix(), np.float64)]
    four = cv2.triangulatePoints(poses[0], poses[1], np.ascontiguousarray(rays[0]), np.ascontiguousarray(rays[1]))
    points = (four[:3] / np.where(four[3] == 0, 1e-12, four[3])).T.astype(np.float64)
    depth = (points[:, 2], (points @ poses[1][:, :3].T + poses[1][:, 3])[:, 2])
    # What lies behind a camera, or so far that its height is anybody's guess, is a wrong match.
    good = np.isfinite(points).all(axis=1) & (np.minimum(*depth) > 0) & (np.maximum(*depth) < 100.0)
    if good.sum() < MIN_POINTS:
        return None
    n = int(good.sum())
    rotations = np.array([poses[0][:, :3], poses[1][:, :3]])
    centres = np.array([np.zeros(3), -poses[1][:, :3].T @ poses[1][:, 3]])
    order = np.argsort([p.name for p in pair])
    features, pixels = m.features[good], [u[good] for u in used]
    return Scene(
        cameras,
        tuple(pair[i].name for i in order),
        np.array([pair[i].camera for i in order], np.int32),
        rotations[order],
        centres[order],
        points[good],
        np.tile(np.arange(n, dtype=np.int32), 2),
        np.repeat(np.arange(2, dtype=np.int32), n),
        np.concatenate([pixels[i] for i in order]).astype(np.float32),
        np.concatenate([features[:, i] for i in order]).astype(np.int32),
    )
