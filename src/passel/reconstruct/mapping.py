"""Mapping a submodel: pycolmap's global mapper, or the incremental one with GPS priors, from matches that are already verified.

Runs inside a step's child process: native code can abort, hang or return nonsense, and only the gates say whether to believe it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray

from passel.geo.similarity import fit_similarity_robust
from passel.reconstruct.colmap_db import DbPhoto, write_database
from passel.reconstruct.matches import PairMatches
from passel.reconstruct.scene import Intrinsics, Scene
from passel.reconstruct.two_photos import scene_of_two

SEED = 1
ONE_PLACE_M = 0.1  # positions no farther apart than this tell no size: the receiver stood still
MIN_POINTS = 30  # A photo with fewer points has a wild pose more often than not (research/sfm.md).


class Mapper(Enum):
    """Which of pycolmap's mappers."""

    GLOBAL = "global"
    INCREMENTAL = "incremental"


@dataclass(frozen=True)
class MappingInput:
    """A submodel to map. photos[i].camera indexes `cameras`; matches index `photos`. refine_cameras: let the mapper change distortion."""

    cameras: tuple[Intrinsics, ...]
    photos: tuple[DbPhoto, ...]
    matches: tuple[PairMatches, ...]
    refine_cameras: bool


def map_photos(work: MappingInput, mapper: Mapper, scratch: Path) -> Scene | None:
    """The largest model found, in an arbitrary frame; None when there is none. Photos with too few points are dropped."""
    pycolmap.logging.minloglevel = 2
    pycolmap.set_random_seed(SEED)
    if len(work.photos) == 2:
        return scene_of_two(work.cameras, (work.photos[0], work.photos[1]), work.matches)
    work, feature_of = _with_matched_features(work)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        database = Path(folder) / "db"
        ids = write_database(database, work.cameras, work.photos, work.matches)
        run = _map_global if mapper is Mapper.GLOBAL else _map_incremental
        models = run(database, Path(folder), work)
        if not models:
            return None
        best = max(models.values(), key=lambda r: (r.num_reg_images(), r.num_points3D()))
        scene = _scene_of(best, ids, work)
    if scene is None:
        return None
    feature = scene.obs_feature.copy()
    for k, name in enumerate(scene.photos):
        mine = scene.obs_photo == k
        feature[mine] = feature_of[name][feature[mine]]
    return replace(scene, obs_feature=feature)


def _with_matched_features(work: MappingInput) -> tuple[MappingInput, dict[str, NDArray[np.int32]]]:
    """The same with only those features that are in any match, for COLMAP holds a kilobyte for each; and which they were, by photo."""
    used = [np.zeros(len(p.features.xy), np.bool_) for p in work.photos]
    for m in work.matches:
        used[m.first][m.features[:, 0]] = True
        used[m.second][m.features[:, 1]] = True
    number = [(np.cumsum(u) - 1).astype(np.int32) for u in used]
    matches = tuple(
        replace(m, features=np.column_stack([number[m.first][m.features[:, 0]], number[m.second][m.features[:, 1]]]))
        for m in work.matches
    )
    photos = tuple(replace(p, features=p.features.only(u)) for p, u in zip(work.photos, used))
    feature_of = {p.name: np.flatnonzero(u).astype(np.int32) for p, u in zip(work.photos, used)}
    return replace(work, photos=photos, matches=matches), feature_of


def _map_global(database: Path, folder: Path, work: MappingInput) -> dict[int, pycolmap.Reconstruction]:
    options = pycolmap.GlobalPipelineOptions()
    options.num_threads = options.mapper.num_threads = 1
    options.random_seed = options.mapper.random_seed = SEED
    options.mapper.rotation_averaging.random_seed = SEED
    options.mapper.global_positioning.random_seed = SEED
    options.mapper.retriangulation.random_seed = SEED
    adjustment = options.mapper.bundle_adjustment
    adjustment.refine_focal_length = False
    adjustment.refine_extra_params = work.refine_cameras
    adjustment.ceres.solver_options.num_threads = 1
    found: dict[int, pycolmap.Reconstruction] = pycolmap.global_mapping(
        str(database), str(folder), str(folder), options
    )
    return found


def _map_incremental(database: Path, folder: Path, work: MappingInput) -> dict[int, pycolmap.Reconstruction]:
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads = options.mapper.num_threads = 1
    options.random_seed = options.mapper.random_seed = SEED
    options.triangulation.random_seed = SEED
    options.extract_colors = False
    options.min_model_size = 3
    options.ba_refine_focal_length = False
    options.ba_refine_extra_params = work.refine_cameras
    options.mapper.abs_pose_refine_focal_length = False
    options.mapper.abs_pose_refine_extra_params = False
    priors = sum(p.position is not None for p in work.photos)
    options.use_prior_position = priors >= max(3, len(work.photos) // 2)
    options.use_robust_loss_on_prior_position = True
    options.ba_global_function_tolerance = 1e-6
    options.multiple_models = True
    found: dict[int, pycolmap.Reconstruction] = pycolmap.incremental_mapping(
        str(database), str(folder), str(folder), options
    )
    return found


def _scene_of(model: pycolmap.Reconstruction, ids: Sequence[int], work: MappingInput) -> Scene | None:
    """The model as a Scene: photos by name, points in the order of their smallest observation."""
    index = {image_id: i for i, image_id in enumerate(ids)}
    images = {
        index[image.image_id]: image
        for image in model.images.values()
        if image.has_pose and image.num_points3D >= MIN_POINTS
    }
    kept = sorted(images, key=lambda i: work.photos[i].name)
    if len(kept) < 2:
        return None
    place = {i: k for k, i in enumerate(kept)}
    observations: list[tuple[int, int, int]] = []  # point id, photo, feature
    for i in kept:
        image = images[i]
        for feature in image.get_observation_point2D_idxs():
            observations.append((image.points2D[feature].point3D_id, place[i], feature))
    table = np.array(observations, np.int64).reshape(-1, 3)
    ids_of, point, count = np.unique(table[:, 0], return_inverse=True, return_counts=True)
    keep = count[point] >= 2
    table, point = table[keep], point[keep]
    used, point = np.unique(point, return_inverse=True)
    xyz = np.array([model.points3D[int(p)].xyz for p in ids_of[used]], np.float64).reshape(-1, 3)
    poses = [images[i].cam_from_world() for i in kept]
    names = tuple(work.photos[i].name for i in kept)
    xy = np.concatenate([work.photos[i].features.xy[table[table[:, 1] == k, 2]] for k, i in enumerate(kept)])
    cameras = tuple(
        _intrinsics_of(c, model.cameras[k + 1]) if k + 1 in model.cameras else c for k, c in enumerate(work.cameras)
    )
    return Scene(
        cameras,
        names,
        np.array([work.photos[i].camera for i in kept], np.int32),
        np.array([p.rotation.matrix() for p in poses]),
        np.array([images[i].projection_center() for i in kept]),
        xyz,
        point.astype(np.int32),
        table[:, 1].astype(np.int32),
        xy.astype(np.float32),
        table[:, 2].astype(np.int32),
    )


def _intrinsics_of(camera: Intrinsics, found: pycolmap.Camera) -> Intrinsics:
    fx, fy, cx, cy, k1, k2, p1, p2 = (float(v) for v in found.params)
    return Intrinsics(camera.camera, camera.width_px, camera.height_px, fx, fy, cx, cy, k1, k2, p1, p2)


def placed_by_gps(scene: Scene, gps: NDArray[np.float64], sigma: NDArray[np.float64]) -> Scene:
    """The scene moved into the world by its photos' GPS: gps, sigma (n, 3) metres in the scene's order, NaN rows without.

    With fewer than two positions, or all of them in one place, the scene stays where it is.
    Two, or some in a line, tell no roll: then up is where cameras look from.
    """
    have = np.isfinite(gps).all(axis=1)
    if have.sum() < 2 or np.ptp(gps[have], axis=0).max() < ONE_PLACE_M:
        return scene
    up = -scene.cam_from_world[:, 2, :].mean(axis=0)  # cameras look down on average
    up /= max(float(np.linalg.norm(up)), 1e-9)
    weight = np.minimum(sigma[have], 100.0)  # a missing altitude still says "near the others"
    return scene.transformed(fit_similarity_robust(scene.centres[have], gps[have], weight, up))
