"""A scene: cameras, poses and points in one frame."""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from passel.geo.frames import Frame
from passel.geo.similarity import Similarity

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
_ARRAYS = ("camera_of", "cam_from_world", "centres", "points", "obs_point", "obs_photo", "obs_xy", "obs_feature")
TURN = np.diag([-1.0, -1.0, 1.0])  # a photo's frame turned by 180°
_ADDED = ("velocities", "turned")  # files of older versions lack them
_NONE: dict[str, Any] = {
    "obs_point": np.zeros(0, np.int32),
    "obs_photo": np.zeros(0, np.int32),
    "obs_xy": np.zeros((0, 2), np.float32),
    "obs_feature": np.zeros(0, np.int32),
}


@dataclass(frozen=True)
class Intrinsics:
    """Brown camera model (COLMAP's and OpenCV's) of one camera at full photo size, pixel centres at .5.

    u = fx·x″ + cx with x″ = x·(1 + k1·r² + k2·r⁴ + k3·r⁶) + 2·p1·x·y + p2·(r² + 2x²), and likewise v; x, y are normalised image
    coordinates, r² = x² + y². camera: id of the survey's Camera.

    readout_s: time from the exposure of the first row to that of the last, 0 with a global shutter.
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
    readout_s: float = 0.0

    @property
    def row_s(self) -> float:
        """Seconds that one unit of y (normalised image coordinates) is exposed later."""
        return self.readout_s * self.fy / self.height_px

    def turned(self) -> Intrinsics:
        """The same camera for its photos turned by 180°."""
        return replace(
            self, cx=self.width_px - self.cx, cy=self.height_px - self.cy, p1=-self.p1, p2=-self.p2,
            readout_s=-self.readout_s,
        )  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """Cameras, poses and points; only photos with a pose are listed.

    cameras: intrinsics. photos: names, sorted. camera_of: (n,) int32 index into cameras.
    cam_from_world: (n, 3, 3) float64 rotations; x right, y down, z forward in the camera. centres: (n, 3) metres in world.
    points: (m, 3) float64 metres in world. obs_point, obs_photo: (k,) int32 indices; obs_xy: (k, 2) float32 pixels at full size,
    centres at .5; obs_feature: (k,) int32 index of the photo's feature, the same in every scene of a survey. Every point has at
    least two observations. No NaN anywhere. A pose is that of the moment when the principal point's row was exposed.

    velocities: (n, 3) m/s of each camera in its own frame, zero where unknown. turned: (n,) which photos somebody turned by 180° after
    they were taken: poses, velocities and obs_xy are those of the photo as it was taken. Both may be left out.
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
    velocities: F64 = field(default_factory=lambda: np.zeros((0, 3)))
    turned: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))

    def __post_init__(self) -> None:
        if not len(self.velocities):
            object.__setattr__(self, "velocities", np.zeros((len(self.photos), 3)))
        if not len(self.turned):
            object.__setattr__(self, "turned", np.zeros(len(self.photos), np.bool_))

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
            self.velocities * b_from_a.scale,
            self.turned,
        )

    def rotations_of_files(self) -> F64:
        """(n, 3, 3) cam_from_world of the photos as their files are stored, turned or not."""
        return np.where(self.turned[:, None, None], TURN @ self.cam_from_world, self.cam_from_world)

    def save(self, folder: Path) -> None:
        """Write scene.json and scene.npz into a folder."""
        head = {"cameras": [asdict(c) for c in self.cameras], "photos": list(self.photos)}
        (folder / "scene.json").write_text(json.dumps(head, indent=1, ensure_ascii=False), encoding="utf-8")
        np.savez(folder / "scene.npz", **{key: getattr(self, key) for key in _ARRAYS + _ADDED})

    @staticmethod
    def load(folder: Path, *, observations: bool = True) -> Scene:
        """The scene in a folder; observations=False leaves them away: they are most of a large one."""
        head = json.loads((folder / "scene.json").read_text(encoding="utf-8"))
        with np.load(folder / "scene.npz") as d:
            wanted = [d[key] if observations or key not in _NONE else _NONE[key] for key in _ARRAYS]
            added = {key: d[key] for key in _ADDED if key in d}
        return Scene(tuple(Intrinsics(**c) for c in head["cameras"]), tuple(head["photos"]), *wanted, **added)


def photos_of_points(folder: Path) -> NDArray[np.int64]:
    """(m,) photos that show each point of the scene in a folder, without reading the rest of its observations."""
    with np.load(folder / "scene.npz") as d:
        return np.bincount(d["obs_point"], minlength=len(d["points"]))


def project(camera: Intrinsics, xyz_in_camera: F64, velocity: F64 | None = None) -> F64:
    """(n, 3) points in the camera frame (z forward) → (n, 2) pixels; NaN behind the camera.

    velocity: (3,) m/s of the camera in its own frame: a point is seen where it is when its row is exposed.
    """
    z = np.where(xyz_in_camera[:, 2] > 1e-9, xyz_in_camera[:, 2], np.nan)
    seen = np.column_stack([xyz_in_camera[:, :2], z])
    if velocity is not None:
        late_s = camera.row_s * seen[:, 1] / (z + camera.row_s * velocity[1])
        seen = seen - late_s[:, None] * velocity
    x, y = seen[:, 0] / seen[:, 2], seen[:, 1] / seen[:, 2]
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

    sweep (3,): metres by which points move in the camera while one unit of y (normalised image coordinates) is exposed: a point at
    (X, Y, Z) is seen at (X, Y, Z) + y · sweep, where y = Y / (Z - sweep[1]). Zero with a global shutter.
    """

    photo: str
    intrinsics: Intrinsics
    cam_from_map: F64
    centre: F64
    sweep: F64 = field(default_factory=lambda: np.zeros(3))


def views_in_map(scene: Scene, frame: Frame) -> tuple[View, ...]:
    """Each photo's View, linearised at the ground under it so that no result depends on a tile."""
    ground = float(np.median(frame.map_from_world(scene.points)[:, 2])) if len(scene.points) else 0.0
    centres, rotations = frame.map_from_world(scene.centres), scene.rotations_of_files()
    views = []
    for i, photo in enumerate(scene.photos):
        nadir = np.array([centres[i, 0], centres[i, 1], ground])
        linear = frame.world_from_map_linear(nadir)
        camera, velocity = scene.cameras[scene.camera_of[i]], scene.velocities[i]
        if scene.turned[i]:
            camera, velocity = camera.turned(), TURN @ velocity
        views.append(View(photo, camera, rotations[i] @ linear, centres[i], -camera.row_s * velocity))
    return tuple(views)


def save_views(views: Sequence[View], path: Path) -> None:
    """Write a line a view: the photo's name and the rest, both JSON, with a tab between. Numbers keep all their digits."""
    with path.open("w", encoding="utf-8", newline="\n") as f:
        for v in views:
            rest = {
                "intrinsics": asdict(v.intrinsics),
                "cam_from_map": v.cam_from_map.tolist(),
                "centre": v.centre.tolist(),
                "sweep": v.sweep.tolist(),
            }
            f.write(f"{json.dumps(v.photo)}\t{json.dumps(rest, ensure_ascii=False)}\n")


def load_views(path: Path, photos: Container[str] | None = None) -> tuple[View, ...]:
    """The views of a file, in its order; of these photos only, so that a tile holds no more than it needs."""
    found = []
    with path.open(encoding="utf-8", newline="\n") as f:
        for line in f:
            name, _, rest = line.partition("\t")
            photo = json.loads(name)
            if photos is None or photo in photos:
                r = json.loads(rest)
                centre, sweep = np.array(r["centre"]), np.array(r.get("sweep", (0.0, 0.0, 0.0)))
                found.append(View(photo, Intrinsics(**r["intrinsics"]), np.array(r["cam_from_map"]), centre, sweep))
    return tuple(found)
