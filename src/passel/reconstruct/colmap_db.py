"""COLMAP databases, the language pycolmap's matcher and mappers speak. Written fresh for each step, never kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray

from passel.reconstruct.features import Features
from passel.reconstruct.matches import PairMatches
from passel.reconstruct.scene import Intrinsics

DISTORTION = ("k1", "k2", "p1", "p2")


@dataclass(frozen=True)
class DbPhoto:
    """A photo to write: its features, the index of its camera, and its GPS (world metres, sigma) or None."""

    name: str
    features: Features
    camera: int
    position: NDArray[np.float64] | None = None
    sigma: NDArray[np.float64] | None = None


def colmap_camera(camera: Intrinsics) -> pycolmap.Camera:
    """COLMAP's OPENCV camera: Brown's terms without k3."""
    params = [camera.fx, camera.fy, camera.cx, camera.cy, camera.k1, camera.k2, camera.p1, camera.p2]
    made = pycolmap.Camera(model="OPENCV", width=camera.width_px, height=camera.height_px, params=params)
    made.has_prior_focal_length = True
    return made


def write_database(
    path: Path,
    cameras: Sequence[Intrinsics],
    photos: Sequence[DbPhoto],
    matches: Sequence[PairMatches] = (),
) -> list[int]:
    """A new database with the photos in order; returns their COLMAP image ids. `matches` name photos by index into `photos`."""
    path.unlink(missing_ok=True)
    ids: list[int] = []
    with pycolmap.Database.open(str(path)) as db, pycolmap.DatabaseTransaction(db):
        rigs: list[tuple[int, int]] = []
        for camera in cameras:
            camera_id = db.write_camera(colmap_camera(camera))
            rig = pycolmap.Rig()
            rig.add_ref_sensor(pycolmap.sensor_t(pycolmap.SensorType.CAMERA, camera_id))
            rigs.append((camera_id, db.write_rig(rig)))
        for photo in photos:
            camera_id, rig_id = rigs[photo.camera]
            image = pycolmap.Image(name=photo.name, camera_id=camera_id)
            image.image_id = db.write_image(image)
            frame = pycolmap.Frame()
            frame.rig_id = rig_id
            frame.add_data_id(image.data_id)
            db.write_frame(frame)
            f = photo.features
            db.write_keypoints(image.image_id, np.column_stack([f.xy, f.scale, f.angle]).astype(np.float32))
            if len(f.descriptors):
                kind = pycolmap.FeatureExtractorType.SIFT
                db.write_descriptors(image.image_id, pycolmap.FeatureDescriptors(kind, f.descriptors))
            if photo.position is not None and photo.sigma is not None:
                prior = pycolmap.PosePrior()
                prior.corr_data_id = image.data_id
                prior.position = photo.position
                prior.position_covariance = np.diag(photo.sigma**2)
                prior.coordinate_system = pycolmap.PosePriorCoordinateSystem.CARTESIAN
                db.write_pose_prior(prior)
            ids.append(image.image_id)
        for m in matches:
            db.write_two_view_geometry(ids[m.first], ids[m.second], two_view(m))
    return ids


def two_view(m: PairMatches) -> pycolmap.TwoViewGeometry:
    """The pair as COLMAP knows it, its pose not yet estimated."""
    made = pycolmap.TwoViewGeometry()
    made.config = pycolmap.TwoViewGeometryConfiguration(m.config)
    made.E, made.F, made.H = m.E, m.F, m.H
    made.inlier_matches = m.features.astype(np.uint32)
    return made
