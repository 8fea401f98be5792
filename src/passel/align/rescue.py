"""Photos that no mapper placed and that plain matches cannot place: rough pose, guided matching, and a hard look at the result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from passel.align.guided import Sighting, Sought, look_for
from passel.align.resect import (
    Pose,
    Unplaced,
    matches_of,
    points_by_feature,
    points_seen,
    pose_from_points,
    with_photos,
)
from passel.reconstruct.features import Features
from passel.reconstruct.matches import PairMatches
from passel.reconstruct.scene import Scene, project

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

MOST_TRIED = 200  # photos a call, about a CPU second each
NEIGHBOURS = 10
FEW = 8  # matched points from which a rough pose is tried
TRIED = 4  # neighbours whose attitude is tried
# Windows (noise units) of the rounds. A rough pose from matched points starts with the third, a guess with the second, then the first.
WINDOWS = (300.0, 90.0, 30.0, 12.0)
INLIER = 4.0  # noise units
CALIBRATED_PAIR = 2  # COLMAP's code
# What makes a pose certain. Under a wrong pose features fit by chance: of those in the last window one in nine, for it has nine times
# the inliers' area (seneca_half: 0.13 under wrong poses, 0.48 for a blurred photo's right one, 0.8 to 0.95 for sharp photos').
MIN_INLIERS = 30
MIN_SHARE = 0.35
MIN_CELLS = 8  # of 4 × 4 that hold an inlier
MAX_TILT_DEG = 35.0  # from how the neighbours look
GPS_SIGMAS = 4.0
GPS_SHARE = 0.02  # of the survey's extent


@dataclass(frozen=True)
class Positions:
    """GPS of all photos of the survey, by survey index: (n, 3) world metres and sigmas, NaN rows without."""

    gps: F64
    sigma: F64


@dataclass(frozen=True)
class Rescued:
    """The scene with the photos placed, and their matches with placed photos, so that the adjustment can hold them."""

    scene: Scene
    matches: tuple[PairMatches, ...]


@dataclass(frozen=True)
class _Surroundings:
    """Placed photos around one that is not: their places in the scene, nearest first, and the points that they see."""

    neighbours: tuple[int, ...]
    sought: Sought


def rescue(
    scene: Scene,
    survey_index: Sequence[int],
    unplaced: Sequence[Unplaced],
    matches: Iterable[PairMatches],
    positions: Positions,
    load: Callable[[int], Features],
) -> Rescued:
    """Every unplaced photo that can be placed beyond doubt, placed.

    survey_index: of the scene's photos, in order. load: the features of a photo by survey index, with descriptors; called only for
    unplaced photos and their neighbours, one at a time, so that memory stays small. Of very many unplaced photos (a submodel left out)
    only those with most matches are tried; what they win brings the next within reach.
    """
    if not len(scene.points) or not unplaced:
        return Rescued(scene, ())
    placed: list[tuple[Unplaced, Pose]] = []
    found: list[PairMatches] = []
    own = matches_of(unplaced, matches)
    point_of = points_by_feature(scene, survey_index, own)
    seen = {u.survey_index: points_seen(u, own[u.survey_index], point_of) for u in unplaced}
    likely = sorted(unplaced, key=lambda u: (-len(seen[u.survey_index]), u.name))[:MOST_TRIED]
    for photo in sorted(likely, key=lambda u: u.name):
        features = load(photo.survey_index)
        if len(features.xy) < MIN_INLIERS:
            continue
        around = _surroundings(scene, survey_index, photo, own[photo.survey_index], positions, load)
        if around is None:
            continue
        result = _place(scene, survey_index, photo, features, around, seen[photo.survey_index], positions)
        if result is not None:
            pose, sighting = result
            placed.append((photo, pose))
            found += _as_matches(scene, survey_index, photo, sighting)
    return Rescued(with_photos(scene, placed), tuple(found))


def _surroundings(
    scene: Scene,
    survey_index: Sequence[int],
    photo: Unplaced,
    matches: Sequence[PairMatches],
    positions: Positions,
    load: Callable[[int], Features],
) -> _Surroundings | None:
    """The best-matched photos first, then the nearest by GPS."""
    place = {s: k for k, s in enumerate(survey_index)}
    count = np.zeros(len(survey_index))
    for m in matches:
        other = m.second if m.first == photo.survey_index else m.first if m.second == photo.survey_index else -1
        if other in place:
            count[place[other]] += len(m.features)
    here = positions.gps[photo.survey_index]
    away = np.linalg.norm((positions.gps[list(survey_index)] - here)[:, :2], axis=1)
    away = np.where(np.isfinite(away), away, np.inf)
    matched = [int(k) for k in np.lexsort((away, -count)) if count[k] > 0][: NEIGHBOURS // 2]
    near = [int(k) for k in np.argsort(away, kind="stable") if np.isfinite(away[k]) and k not in matched]
    neighbours = (*matched, *near[: NEIGHBOURS - len(matched)])
    if not neighbours:
        return None
    point, descriptors = [], []
    for k in neighbours:
        seen = np.flatnonzero(scene.obs_photo == k)
        point.append(scene.obs_point[seen].astype(np.int64))
        descriptors.append(load(survey_index[k]).descriptors[scene.obs_feature[seen]])
    points = np.concatenate(point)
    order = np.argsort(points, kind="stable")
    return _Surroundings(neighbours, Sought(points[order], np.concatenate(descriptors)[order]))


def _place(
    scene: Scene,
    survey_index: Sequence[int],
    photo: Unplaced,
    features: Features,
    around: _Surroundings,
    seen: Mapping[int, int],
    positions: Positions,
) -> tuple[Pose, Sighting] | None:
    """The first rough pose that leads to a certain one."""
    for pose, windows in _rough_poses(scene, survey_index, photo, around, seen, positions):
        result = _refined(scene, photo, features, around.sought, pose, windows)
        if result is not None and _certain(scene, survey_index, photo, around, result, positions):
            return result.pose, result.sighting
    return None


def _rough_poses(
    scene: Scene,
    survey_index: Sequence[int],
    photo: Unplaced,
    around: _Surroundings,
    seen: Mapping[int, int],
    positions: Positions,
) -> list[tuple[Pose, tuple[float, ...]]]:
    """From the few points its features are matched to; then as its neighbours look, moved by GPS."""
    rough: list[tuple[Pose, tuple[float, ...]]] = []
    if len(seen) >= FEW:
        feature = np.array(sorted(seen), np.int64)
        point = np.array([seen[int(f)] for f in feature], np.int64)
        solved = pose_from_points(scene, photo, Sighting(feature, point), 2 * INLIER * photo.noise_px)
        if solved is not None and len(solved[1]) >= min(FEW, max(6, len(seen) // 2)):
            rough.append((solved[0], WINDOWS[2:]))
    here = positions.gps[photo.survey_index]
    guesses = []
    for k in around.neighbours[:TRIED]:
        step = here - positions.gps[survey_index[k]]
        centre = scene.centres[k] + (step * (1.0, 1.0, 0.0) if np.isfinite(step).all() else 0.0)
        guesses.append(Pose(scene.cam_from_world[k], centre))
    return [*rough, *((g, WINDOWS[1:]) for g in guesses), *((g, WINDOWS) for g in guesses)]


@dataclass(frozen=True)
class _Refined:
    pose: Pose
    sighting: Sighting
    share: float


def _refined(
    scene: Scene, photo: Unplaced, features: Features, sought: Sought, pose: Pose, windows: tuple[float, ...]
) -> _Refined | None:
    """The pose after rounds of guided matching in ever smaller windows; share: of the last round's finds that agree with it."""
    camera, xy = scene.cameras[photo.camera], features.xy.astype(np.float64)
    size = np.array([camera.width_px, camera.height_px], float)
    refined = None
    for window in windows:
        seen = project(camera, (scene.points[sought.point] - pose.centre) @ pose.cam_from_world.T)
        reach = window * photo.noise_px
        with np.errstate(invalid="ignore"):
            outside = ((seen < -reach) | (seen > size + reach)).any(axis=1)
        seen[outside] = np.nan
        sighting = look_for(sought, seen, xy, features.descriptors, reach, photo.noise_px)
        solved = pose_from_points(scene, photo, sighting, INLIER * photo.noise_px)
        if solved is None:
            return None
        pose, inliers = solved
        good = Sighting(sighting.feature[inliers], sighting.point[inliers])
        refined = _Refined(pose, good, len(inliers) / len(sighting.feature))
    return refined


def _certain(
    scene: Scene,
    survey_index: Sequence[int],
    photo: Unplaced,
    around: _Surroundings,
    found: _Refined,
    positions: Positions,
) -> bool:
    camera = scene.cameras[photo.camera]
    if len(found.sighting.feature) < MIN_INLIERS or found.share < MIN_SHARE:
        return False
    cell = np.clip(photo.xy[found.sighting.feature] / (camera.width_px, camera.height_px) * 4, 0, 3).astype(int)
    if len(np.unique(cell[:, 1] * 4 + cell[:, 0])) < MIN_CELLS:
        return False
    near = list(around.neighbours)
    look = scene.cam_from_world[near, 2].mean(axis=0)
    tilt = np.degrees(np.arccos(np.clip(found.pose.cam_from_world[2] @ look / np.linalg.norm(look), -1.0, 1.0)))
    if not tilt <= MAX_TILT_DEG:
        return False
    here, sigma = positions.gps[photo.survey_index], positions.sigma[photo.survey_index]
    if not np.isfinite(here).all():
        return True
    extent = float(np.linalg.norm(np.ptp(scene.centres[:, :2], axis=0)))
    miss = found.pose.centre - here
    allowed = max(GPS_SIGMAS * float(sigma[0]), GPS_SHARE * extent)
    return bool(np.linalg.norm(miss[:2]) <= allowed)


def _as_matches(scene: Scene, survey_index: Sequence[int], photo: Unplaced, sighting: Sighting) -> list[PairMatches]:
    """The sightings as matches with every photo that observes the points."""
    feature_of = np.full(len(scene.points), -1, np.int64)
    feature_of[sighting.point] = sighting.feature
    seen = np.flatnonzero(feature_of[scene.obs_point] >= 0)
    eye, made = np.eye(3), []
    for k in np.unique(scene.obs_photo[seen]):
        mine = seen[scene.obs_photo[seen] == k]
        pairs = np.column_stack([feature_of[scene.obs_point[mine]], scene.obs_feature[mine]]).astype(np.int32)
        made.append(PairMatches(photo.survey_index, survey_index[int(k)], pairs, CALIBRATED_PAIR, eye, eye, eye))
    return made
