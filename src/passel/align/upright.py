"""Which way is up: GPS altitudes that drift tilt a block, and a single strip has no roll by GPS; the cameras' own angles tell both.

A gimbal knows its pitch and roll to about a degree, whatever the altimeter says. Nothing but GPS altitudes holds a block's tilt in the
adjustment, so altitudes that are not believed are replaced there by the block's own heights, after it was set upright.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from passel.align.whole import Evidence
from passel.geo.similarity import Similarity, fit_similarity_robust
from passel.reconstruct.mapping import placed_by_gps
from passel.reconstruct.scene import Scene
from passel.survey.model import SHAPELESS_M

F64 = NDArray[np.float64]

MOST_SCATTER_DEG = 4.0  # of the photos' ups about their mean: beyond, the angles are not the camera's
MOST_TILT_DEG = 3.0  # between the angles' up and GPS's: a mount is not levelled better
SURE_TILT_DEG = 0.5  # GPS of which even a systematic error could not tilt the block by more is believed over the angles
UNSURE_TILT_DEG = 30.0  # GPS that could be off by so much, of a single strip, tells no tilt at all
FEWEST_TOLD = 3  # believed altitudes that tell a tilt
_SOME_DEG = 1e-3


def noted_up(scene: Scene, up_in_camera: F64) -> F64 | None:
    """(3,) unit vector in the scene's frame that points up by the photos' angles: up_in_camera (n, 3), NaN rows without angles.

    None where fewer than half of the photos tell theirs, or where they contradict each other.
    """
    told = np.isfinite(up_in_camera).all(axis=1)
    if told.sum() < max(2, len(scene.photos) // 2):
        return None
    each = np.einsum("nji,nj->ni", scene.cam_from_world[told], up_in_camera[told])
    up = np.median(each, axis=0)
    up /= max(float(np.linalg.norm(up)), 1e-9)
    scatter = np.degrees(np.arccos(np.clip(each @ up, -1.0, 1.0)))
    return np.asarray(up) if np.median(scatter) <= MOST_SCATTER_DEG else None


def tilt_by_altitudes(scene: Scene, gps: F64, sigma: F64, up_in_camera: F64) -> float:
    """By how many degrees GPS altitudes would tilt a scene; 0 where they are to be believed, else more than 0.

    gps, sigma (n, 3): world metres, NaN rows without. Altitudes that the input check has found to drift are never believed.
    """
    have = np.isfinite(gps).all(axis=1)
    if have.sum() < 2:
        return 0.0
    scene = placed_by_gps(scene, gps, sigma)
    up = noted_up(scene, up_in_camera)
    told = have & (sigma[:, 2] < SHAPELESS_M)  # photos without an altitude to believe say nothing of the others'
    if told.sum() < min(FEWEST_TOLD, have.sum()):
        up = _above(scene) if up is None else up
        return max(_angle_deg(up), _SOME_DEG)
    if up is None:
        return 0.0
    tilt = _angle_deg(up)
    xy = gps[told, :2] - gps[told, :2].mean(axis=0)
    narrow = np.ptp(xy @ np.linalg.svd(xy, full_matrices=False)[2][-1])
    possible = np.degrees(np.arctan2(float(np.median(sigma[told, 2])), max(float(narrow), 1e-3)))
    disproved = tilt > MOST_TILT_DEG and possible > SURE_TILT_DEG
    return max(tilt, _SOME_DEG) if disproved or possible > UNSURE_TILT_DEG else 0.0


def set_upright(scene: Scene, gps: F64, sigma: F64, up_in_camera: F64) -> Scene:
    """The scene upright by the photos' angles (else by how cameras look down on average); place, heading and size by horizontal GPS,
    height by the median altitude. At least two photos with GPS."""
    have = np.isfinite(gps).all(axis=1)
    up = noted_up(scene, up_in_camera)
    middle = scene.centres[have].mean(axis=0)
    turn = _turn_to_z(_above(scene) if up is None else up)
    level = scene.transformed(Similarity(1.0, turn, -turn @ middle))
    flat, target, spread = level.centres[have].copy(), gps[have].copy(), sigma[have].copy()
    flat[:, 2] = target[:, 2] = 0.0
    spread[:, 2] = spread[:, 0]
    plan = fit_similarity_robust(flat, target, spread, np.array([0.0, 0.0, 1.0]))
    heading = np.arctan2(plan.rotation[1, 0] - plan.rotation[0, 1], plan.rotation[0, 0] + plan.rotation[1, 1])
    c, s = np.cos(heading), np.sin(heading)
    about_z = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    placed = level.transformed(Similarity(plan.scale, about_z, plan.translation))
    believed = have & (sigma[:, 2] < SHAPELESS_M)
    told = believed if believed.any() else have
    height = float(np.median(gps[told, 2] - placed.centres[told, 2]))
    return placed.transformed(Similarity(1.0, np.eye(3), np.array([0.0, 0.0, height])))


def without_altitudes(evidence: Evidence, scene: Scene) -> Evidence:
    """The evidence with GPS altitudes replaced by the scene's own heights, held so loosely that they bend nothing and only
    keep its tilt (to a few degrees, while its shape changes) and height."""
    gps, sigma = evidence.gps.copy(), evidence.gps_sigma.copy()
    have = np.isfinite(gps).all(axis=1)
    gps[have, 2], sigma[have, 2] = scene.centres[have, 2], SHAPELESS_M
    return replace(evidence, gps=gps, gps_sigma=sigma)


def _above(scene: Scene) -> F64:
    """Up as most surveys are flown: cameras look down on average."""
    up = -scene.cam_from_world[:, 2, :].mean(axis=0)
    return np.asarray(up / max(float(np.linalg.norm(up)), 1e-9))


def _angle_deg(up: F64) -> float:
    return float(np.degrees(np.arccos(np.clip(up[2], -1.0, 1.0))))


def _turn_to_z(up: F64) -> F64:
    """(3, 3) the smallest turn that takes the unit vector `up` to the z axis."""
    axis = np.cross(up, [0.0, 0.0, 1.0])
    if up[2] < -1.0 + 1e-9:
        return np.diag([1.0, -1.0, -1.0])
    k = np.array([[0.0, -axis[2], axis[1]], [axis[2], 0.0, -axis[0]], [-axis[1], axis[0], 0.0]])
    return np.asarray(np.eye(3) + k + k @ k / (1.0 + up[2]))
