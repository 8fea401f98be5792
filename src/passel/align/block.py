"""A block of photos being adjusted: plain arrays, the shape the numba kernels want."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from passel.align.projection import pack, unpack
from passel.reconstruct.scene import Intrinsics, Scene

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
T = TypeVar("T", bound=np.generic)
Pixels = NDArray[np.float32] | NDArray[np.float64]


class Keypoints(Protocol):
    """The features' pixels (n, 2) of each photo: a tuple of arrays, or something that reads them when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, photo: int, /) -> Pixels: ...


@dataclass(frozen=True)
class Tracks:
    """Observations grouped by point: those of point p are start[p]:start[p + 1].

    start: (m + 1,) int64. photo: (k,) int32 index into the block's photos. feature: (k,) int32. xy: (k, 2) px, float32 as features have
    them: observations are most of a large survey.
    """

    start: I64
    photo: I32
    feature: I32
    xy: Pixels

    def __len__(self) -> int:
        return len(self.start) - 1

    def point_of_observation(self) -> I32:
        """(k,) index of each observation's point."""
        return self.by_observation(np.arange(len(self), dtype=np.int32))

    def by_observation(self, by_point: NDArray[T]) -> NDArray[T]:
        """(k,) of each observation what (m,) tells of its point."""
        return np.repeat(by_point, np.diff(self.start))

    def part(self, first: int, end: int) -> Tracks:
        """Some tracks in a row."""
        start = self.start[first : end + 1]
        some = slice(start[0], start[-1])
        return Tracks(start - start[0], self.photo[some], self.feature[some], self.xy[some])

    def kept(self, keep_observation: NDArray[np.bool_], minimum: int = 2) -> tuple[Tracks, NDArray[np.bool_]]:
        """The tracks with only the observations marked, and which points are left with at least `minimum` of them."""
        so_far = np.zeros(len(keep_observation) + 1, np.int32)
        np.cumsum(keep_observation, out=so_far[1:])
        count = np.diff(so_far[self.start])
        alive = count >= minimum
        chosen = keep_observation & self.by_observation(alive)
        start = np.concatenate([[0], np.cumsum(count[alive])]).astype(np.int64)
        return Tracks(start, self.photo[chosen], self.feature[chosen], self.xy[chosen]), alive


@dataclass(frozen=True)
class Cameras:
    """Intrinsics and poses. rows: (c, 9); aspect: (c,); of_photo: (n,) int32; rotations: (n, 3, 3) cam_from_world; centres: (n, 3) m;
    velocities: (n, 3) m/s in each camera's own frame."""

    models: tuple[Intrinsics, ...]
    rows: F64
    aspect: F64
    of_photo: I32
    rotations: F64
    centres: F64
    velocities: F64

    @property
    def arrays(self) -> tuple[F64, F64, I32, F64, F64, F64]:
        """What the kernels take first, in their order."""
        return self.rows, self.aspect, self.of_photo, self.rotations, self.centres, self.velocities

    @staticmethod
    def of_scene(scene: Scene) -> Cameras:
        return Cameras(
            scene.cameras,
            np.array([pack(c) for c in scene.cameras]),
            np.array([c.fy / c.fx for c in scene.cameras]),
            np.ascontiguousarray(scene.camera_of, np.int32),
            np.ascontiguousarray(scene.cam_from_world, np.float64),
            np.ascontiguousarray(scene.centres, np.float64),
            np.ascontiguousarray(scene.velocities, np.float64),
        )

    def scene(self, photos: tuple[str, ...], points: F64, tracks: Tracks) -> Scene:
        """These cameras with their points as a Scene."""
        return Scene(
            tuple(unpack(m, r) for m, r in zip(self.models, self.rows)),
            photos,
            self.of_photo,
            self.rotations,
            self.centres,
            points,
            tracks.point_of_observation(),
            tracks.photo,
            tracks.xy.astype(np.float32, copy=False),
            tracks.feature,
            self.velocities,
        )


def tracks_of_scene(scene: Scene) -> Tracks:
    """The scene's own observations as Tracks (by point, then photo)."""
    order = np.lexsort((scene.obs_photo, scene.obs_point))
    counts = np.bincount(scene.obs_point, minlength=len(scene.points))
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Tracks(start, scene.obs_photo[order], scene.obs_feature[order], scene.obs_xy[order])
