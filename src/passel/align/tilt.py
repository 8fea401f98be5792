"""The map's tilt: what GPS heights say of it weighed against the cameras' own angles, axis by axis (docs/decisions/0008).

GPS heights tilt a block by their noise over its extent; the angles' errors do not depend on the extent. So angles help small blocks and
lines, and say nothing to a large block or to positions of centimetres. Both estimates are linear: tilts are a few degrees at most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from passel.align.upright import noted_up
from passel.geo.similarity import Similarity
from passel.reconstruct.scene import Scene
from passel.survey.model import SHAPELESS_M

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

NOISE_DEG = 0.5  # of a photo's angles at least, however well they agree with each other
MOUNT_DEG = 1.0  # by which a camera may be turned in its gimbal
MOST_MOUNTS = 20  # that are told apart
LEVEL_DEG = 0.2  # by which a gimbal's idea of level is off in the world, however many photos tell it
SLOW_SHARE = 0.1  # of the claimed vertical sigma: the size of height errors that change over minutes …
SLOW_SCATTER = 3.0  # … but no more than so many times the horizontal scatter, in which such errors would show too
SLOW_S, KNOT_S, MOST_KNOTS = 900.0, 60.0, 24  # over what time they change; how finely they are followed
PHOTO_S = 3.0  # between photos that do not tell their time
LOOSE_DEG = 10.0  # what is known of a tilt before anything is told
SUREST_M = 0.01  # of a position: no antenna is known better against its camera
FEWEST = 6  # photos from which the scatter of GPS can be judged
WORTH_TELLING = 0.05  # of GPS's variance across its weakest axis: angles that could take away less are not listened to
CONTRADICTION = 30.0  # chi square of two degrees of freedom, five sigmas: one of the two is not what it claims to be
_ROUNDS, _CAUCHY = 6, 3.0


@dataclass(frozen=True)
class TiltEstimate:
    """By how much a scene would have to turn about the axes east and north to stand upright: turn (2,) rad, covariance (2, 2) rad²."""

    turn: F64
    covariance: F64


def set_level(scene: Scene, gps: F64, sigma: F64, up_in_camera: F64, time_s: F64) -> tuple[Scene, float]:
    """The adjusted scene turned to where GPS and angles together say that up is, and by how many degrees.

    gps, sigma (n, 3): world metres, NaN rows without. up_in_camera (n, 3): NaN rows without angles. time_s (n,): NaN unknown. The
    scene itself where no angles are told, where they cannot add to GPS, and where the two contradict each other.
    """
    from scipy.spatial.transform import Rotation  # loads long, for what few steps need

    by_gps, by_angles = tilt_by_gps(scene, gps, sigma, time_s), tilt_by_angles(scene, up_in_camera, time_s)
    if by_gps is None or by_angles is None:
        return scene, 0.0
    apart, both = by_angles.turn - by_gps.turn, by_angles.covariance + by_gps.covariance
    share = by_gps.covariance @ np.linalg.inv(both)  # what the angles weigh in the mean of both
    if np.linalg.eigvals(share).real.max() < WORTH_TELLING or apart @ np.linalg.solve(both, apart) > CONTRADICTION:
        return scene, 0.0
    turn = Rotation.from_rotvec([*(by_gps.turn + share @ apart), 0.0])
    have = np.isfinite(gps).all(axis=1)
    known = np.maximum(sigma[have, 2], SUREST_M) ** -2
    middle = np.average(scene.centres[have], axis=0, weights=known)  # where GPS tells heights best, they stay
    rotation = turn.as_matrix()
    return scene.transformed(Similarity(1.0, rotation, middle - rotation @ middle)), float(np.degrees(turn.magnitude()))


def tilt_by_gps(scene: Scene, gps: F64, sigma: F64, time_s: F64) -> TiltEstimate | None:
    """What GPS says of the tilt: a similarity to the positions, whose heights have white noise and errors that change slowly.

    The white noise is what the block shows; the slow errors, which it cannot show, follow from the accuracy that is claimed.
    """
    have = np.isfinite(gps).all(axis=1)
    if have.sum() < 2:
        return None
    centres, claimed = scene.centres[have], np.maximum(sigma[have], SUREST_M)
    offset, miss = centres - centres.mean(axis=0), gps[have] - centres
    seconds = _seconds(time_s, scene.photos)[have]
    slow, kept = _slow_errors(seconds)
    design = np.concatenate([_similarity(offset), np.zeros((len(offset), 3, slow.shape[1]))], axis=2)
    prior = np.zeros((design.shape[2], design.shape[2]))
    prior[[0, 1], [0, 1]] = np.radians(LOOSE_DEG) ** -2
    prior[7:, 7:] = kept
    noise, weight = claimed.copy(), np.ones(len(miss))
    for _ in range(_ROUNDS):
        slow_m = np.minimum(SLOW_SHARE * claimed[:, 2], SLOW_SCATTER * noise[:, 0])
        design[:, 2, 7:] = slow * slow_m[:, None]
        found, covariance = _fit(design, miss, np.sqrt(weight)[:, None] / noise, prior)
        left = miss - design @ found
        if len(miss) >= FEWEST:
            noise = _shown(left, claimed)
        weight = 1.0 / (1.0 + ((left / noise) ** 2).sum(axis=1) / _CAUCHY**2)
    return TiltEstimate(found[:2], covariance[:2, :2])


def tilt_by_angles(scene: Scene, up_in_camera: F64, time_s: F64) -> TiltEstimate | None:
    """What pitch and roll say of the tilt; each camera may sit askew in its gimbal, which photos of opposite headings tell apart.

    None where `noted_up` finds none.
    """
    if noted_up(scene, up_in_camera) is None:
        return None
    told = np.isfinite(up_in_camera).all(axis=1)
    of, turns = _mounts(scene.camera_of[told].astype(np.int64)), scene.cam_from_world[told]
    lean = np.einsum("nji,nj->ni", turns, up_in_camera[told])[:, :2]  # of up, as each photo tells it, in the scene
    n, cameras = len(lean), np.unique(of)
    design = np.zeros((n, 2, 2 + 3 * len(cameras)))
    design[:, 0, 1], design[:, 1, 0] = -1.0, 1.0  # up of a scene that needs the turn (x, y) leans by (-y, x)
    for k, camera in enumerate(cameras):
        mine = of == camera
        design[mine, 0, 2 + 3 * k : 5 + 3 * k] = turns[mine][:, :, 1]
        design[mine, 1, 2 + 3 * k : 5 + 3 * k] = -turns[mine][:, :, 0]
    known_deg = [LOOSE_DEG, LOOSE_DEG] + [MOUNT_DEG] * (design.shape[2] - 2)
    prior = np.diag(np.radians(known_deg) ** -2)
    order = np.argsort(_seconds(time_s, scene.photos)[told], kind="stable")
    noise, weight = np.radians(NOISE_DEG), np.ones(n)
    left = lean - np.median(lean, axis=0)
    for _ in range(_ROUNDS):
        weight = 1.0 / (1.0 + (left**2).sum(axis=1) / (_CAUCHY * noise) ** 2)
        found, covariance = _fit(design, lean, np.sqrt(weight)[:, None] / noise, prior)
        left = lean - design @ found
        spread = max(1.4826 * float(np.median(np.abs(left))), np.radians(NOISE_DEG))
        noise = spread * _repeated(left[order] * np.sqrt(weight[order])[:, None])
    return TiltEstimate(found[:2], covariance[:2, :2] + np.eye(2) * np.radians(LEVEL_DEG) ** 2)


def _mounts(camera_of: I64) -> I64:
    """(n,) which mount holds each photo's camera: a zoom lens makes many cameras, and all but the most used count as one mount."""
    cameras, photos = np.unique(camera_of, return_counts=True)
    own = cameras[np.argsort(-photos, kind="stable")[:MOST_MOUNTS]]
    return np.where(np.isin(camera_of, own), camera_of, -1)


def _fit(design: F64, seen: F64, weight: F64, prior: F64) -> tuple[F64, F64]:
    """The unknowns (k,) and their covariance from what n photos tell, in a values each: design (n, a, k), seen (n, a); weight: 1 over
    sigma, of the same or a fitting shape. prior (k, k): information that they are zero. What nothing tells stays zero."""
    rows = (design * weight[:, :, None]).reshape(-1, design.shape[2])
    covariance = np.asarray(np.linalg.pinv(rows.T @ rows + prior, hermitian=True), np.float64)
    return covariance @ (rows.T @ (seen * weight).ravel()), covariance


def _similarity(offset: F64) -> F64:
    """(n, 3, 7) how positions (n, 3) about their middle move with turns about x, y, z (rad), shifts (m), and size."""
    x, y, z = offset.T
    out = np.zeros((len(offset), 3, 7))
    out[:, 1, 0], out[:, 2, 0] = -z, y
    out[:, 0, 1], out[:, 2, 1] = z, -x
    out[:, 0, 2], out[:, 1, 2] = -y, x
    out[:, :, 3:6] = np.eye(3)
    out[:, :, 6] = offset
    return out


def _seconds(time_s: F64, photos: tuple[str, ...]) -> F64:
    """(n,) seconds in flight; pauses count as no more than what makes the slow errors new. By name where a time is missing."""
    if not np.isfinite(time_s).all():
        return PHOTO_S * np.argsort(np.argsort(photos)).astype(float)
    order = np.argsort(time_s, kind="stable")
    out = np.empty(len(time_s))
    out[order] = np.cumsum(np.minimum(np.diff(time_s[order], prepend=time_s[order[:1]]), SLOW_S))
    return out


def _slow_errors(seconds: F64) -> tuple[F64, F64]:
    """What the slow errors are made of, at size one: (n, k) weights of knots in time between which they run straight, and the (k, k)
    information that keeps the knots of that size and so slow, a first-order Markov process."""
    start, length = float(seconds.min()), float(np.ptp(seconds))
    knots = int(np.clip(np.ceil(length / KNOT_S) + 1, 2, MOST_KNOTS))
    spacing_s = max(length / (knots - 1), 1e-3)
    at = (seconds[:, None] - start) / spacing_s
    alike = float(np.exp(-spacing_s / SLOW_S))
    step = np.eye(knots) - alike * np.eye(knots, k=-1)
    step[1:] /= np.sqrt(1.0 - alike**2)
    return np.maximum(0.0, 1.0 - np.abs(at - np.arange(knots))), np.asarray(step.T @ step)


def _shown(left: F64, claimed: F64) -> F64:
    """(n, 3) the claimed sigmas times what makes them the scatter that is left, horizontally and vertically."""
    out = claimed.copy()
    for axes in ([0, 1], [2]):
        usable = claimed[:, axes[0]] < SHAPELESS_M
        if usable.sum() >= FEWEST:
            ratio = 1.4826 * float(np.median(np.abs(left[usable][:, axes] / claimed[usable][:, axes])))
            out[:, axes] *= min(ratio * np.sqrt(len(left) / (len(left) - 3.0)), 10.0)
    return np.maximum(out, SUREST_M)


def _repeated(left: F64) -> float:
    """By how much more noise of neighbours in time (n, 2) counts that repeats itself from photo to photo; 1 if it does not."""
    alike = float((left[1:] * left[:-1]).sum() / max(float((left**2).sum()), 1e-300))
    alike = float(np.clip(alike, 0.0, 0.9))
    return float(np.sqrt((1.0 + alike) / (1.0 - alike)))
