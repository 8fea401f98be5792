"""A scene: cameras, poses and points in one frame."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from passel.geo.frames import Frame
from passel.geo.similarity import Similarity

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
_ARRAYS = ("camera_of", "cam_from_world", "centres", "points", "obs_point", "obs_photo", "obs_xy", "obs_feature")


@dataclass(frozen=True)
class Intrinsics:
    """Brown camera model (COLMAP's and OpenCV's) of one camera at full photo size, pixel centres at .5.

    u = fx·x″ + cx with x″ = x·(1 + k1·r² + k2·r⁴ + k3·r⁶) + 2·p1·x·y + p2·(r² + 2x²), and likewise v; x, y are normalised image
    coordinates, r² = x² + y². camera: id of the survey's Camera.
    """

    camera: str
    width_px: int
    height_px: int
    fx: float
    fy: float
    cx: float
    cy: float
    k1: float = 0.0
    k2: float = 0.0
    p1: float = 0.0
    p2: float = 0.0
    k3: float = 0.0


@dataclass(frozen=True)
class Scene:
    """Cameras, poses and points; only photos with a pose are listed.

    cameras: intrinsics. photos: names, sorted. camera_of: (n,) int32 index into cameras.
    cam_from_world: (n, 3, 3) float64 rotations; x right, y down, z forward in the camera. centres: (n, 3) metres in world.
    points: (m, 3) float64 metres in world. obs_point, obs_photo: (k,) int32 indices; obs_xy: (k, 2) float32 pixels at full size,
    centres at .5; obs_feature: (k,) int32 index of the photo's feature, the same in every scene of a survey. Every point has at
    least two observations. No NaN anywhere.
    """

    cameras: tuple[Intrinsics, ...]
    photos: tuple[str, ...]
    camera_of: I32
    cam_from_world: F64
    centres: F64
    points: F64
    obs_point: I32
    obs_photo: I32
    obs_xy: NDArray[np.float32]
    obs_feature: I32

    def transformed(self, b_from_a: Similarity) -> Scene:
        """The same scene in another frame."""
        return Scene(
            self.cameras,
            self.photos,
            self.camera_of,
            self.cam_from_world @ b_from_a.rotation.T,
            b_from_a.apply(self.centres),
            b_from_a.apply(self.points),
            self.obs_point,
            self.obs_photo,
            self.obs_xy,
            self.obs_feature,
        )

    def save(self, folder: Path) -> None:
        """Write scene.json and scene.npz into a folder."""
        head = {"cameras": [asdict(c) for c in self.cameras], "photos": list(self.photos)}
        (folder / "scene.json").write_text(json.dumps(head, indent=1, ensure_ascii=False), encoding="utf-8")
        np.savez(folder / "scene.npz", **{key: getattr(self, key) for key in _ARRAYS})

    @staticmethod
    def load(folder: Path) -> Scene:
        head = json.loads((folder / "scene.json").read_text(encoding="utf-8"))
        with np.load(folder / "scene.npz") as d:
            return Scene(
                tuple(Intrinsics(**c) for c in head["cameras"]),
                tuple(head["photos"]),
                *(d[key] for key in _ARRAYS),
            )


def project(camera: Intrinsics, xyz_in_camera: F64) -> F64:
    """(n, 3) points in the camera frame (z forward) → (n, 2) pixels; NaN behind the camera."""
    z = np.where(xyz_in_camera[:, 2] > 1e-9, xyz_in_camera[:, 2], np.nan)
    x, y = xyz_in_camera[:, 0] / z, xyz_in_camera[:, 1] / z
    r2 = x * x + y * y
    radial = 1.0 + r2 * (camera.k1 + r2 * (camera.k2 + r2 * camera.k3))
    xd = x * radial + 2 * camera.p1 * x * y + camera.p2 * (r2 + 2 * x * x)
    yd = y * radial + camera.p1 * (r2 + 2 * y * y) + 2 * camera.p2 * x * y
    return np.column_stack([camera.fx * xd + camera.cx, camera.fy * yd + camera.cy])


@dataclass(frozen=True)
class View:
    """One photo seen from the map frame: what the surface stages need to look up its pixels.

    Camera coordinates of a map point X (3,) are `cam_from_map @ (X - centre)`; cam_from_map (3, 3) holds rotation, grid
    convergence and projection scale at the photo's nadir, so it is not exactly a rotation. centre (3,): map metres.
    """

    photo: str
    intrinsics: Intrinsics
    cam_from_map: F64
    centre: F64


def views_in_map(scene: Scene, frame: Frame) -> tuple[View, ...]:
    """Each photo's View, linearised at the ground under it so that no result depends on a tile."""
    ground = float(np.median(frame.map_from_world(scene.points)[:, 2])) if len(scene.points) else 0.0
    centres = frame.map_from_world(scene.centres)
    views = []
    for i, photo in enumerate(scene.photos):
        nadir = np.array([centres[i, 0], centres[i, 1], ground])
        linear = frame.world_from_map_linear(nadir)
        views.append(
            View(photo, scene.cameras[scene.camera_of[i]], scene.cam_from_world[i] @ linear, centres[i]),
        )
    return tuple(views)


def save_views(views: Sequence[View], path: Path) -> None:
    """Write views as JSON: numbers keep all their digits."""
    rows = [
        {
            "photo": v.photo,
            "intrinsics": asdict(v.intrinsics),
            "cam_from_map": v.cam_from_map.tolist(),
            "centre": v.centre.tolist(),
        }
        for v in views
    ]
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")


def load_views(path: Path) -> tuple[View, ...]:
    rows = json.loads(path.read_text(encoding="utf-8"))
    return tuple(
        View(r["photo"], Intrinsics(**r["intrinsics"]), np.array(r["cam_from_map"]), np.array(r["centre"]))
        for r in rows
    )
