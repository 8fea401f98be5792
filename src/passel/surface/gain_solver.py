"""The sparse least squares behind the colour gains: smooth log corrections of photos and cameras that make sightings of a point agree.

Points are eliminated on the fly and the rest is solved by conjugate gradients with a fixed number of steps, so memory grows with the
sightings only, and 12,000 photos take seconds. What such a system determines badly, brightness that drifts over many photos, converges
last and is taken out afterwards (`colour.Tone`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

if TYPE_CHECKING:
    from scipy import sparse

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

# photo: 1, u, v, u² - 1/3, u·v, v² - 1/3, with u, v from -1 to 1 over it; camera: q - 1/3, q² - 0.16, with q the squared radius over
# the squared half diagonal; all but the first are near 0 on average over a photo
PHOTO_TERMS, CAMERA_TERMS = 6, 2
# expected log deviation: brightness, then what the bands differ from it (a photo's hue is nearly that of its neighbours)
COMMON_SIGMA = (0.5, 0.1, 0.1, 0.05, 0.05, 0.05)
BAND_SIGMA = (0.1, 0.02, 0.02, 0.01, 0.01, 0.01)
CAMERA_SIGMA = (0.3, 0.06)  # brightness, bands
NOISE = 0.06  # of a log value: half of a doubtful sighting's weight is gone there (Cauchy)
TRUST = (
    0.15  # of a log value: what a sighting weighs against the priors; the errors of sightings side by side are alike
)
LOCAL_NODES = 13  # over a photo's width and height
LOCAL_DOUBT = 6.0  # sightings: what rests on fewer is mostly chance
LOCAL_MOST = 0.15
ROUNDS = 5
STEPS = 60


@dataclass(frozen=True)
class Sightings:
    """What photos see at sample points, sorted by point: (k,) point and photo numbers, (k, 3) log values, (k, 2) u, v, (k,) q."""

    point: I64
    photo: I64
    log_value: F64
    uv: F64
    radius2: F64


def photo_basis(uv: F64) -> F64:
    """(k, PHOTO_TERMS) of relative positions (k, 2)."""
    u, v = uv[:, 0], uv[:, 1]
    return np.column_stack([np.ones(len(uv)), u, v, u * u - 1 / 3, u * v, v * v - 1 / 3])


def camera_basis(radius2: F64) -> F64:
    """(k, CAMERA_TERMS) of squared relative radii (k,)."""
    return np.column_stack([radius2 - 1 / 3, radius2**2 - 0.16])


@dataclass(frozen=True)
class Solution:
    """Log corrections per band: photo (photos, PHOTO_TERMS, 3), camera (cameras, CAMERA_TERMS, 3); for all bands alike: local (photos,
    LOCAL_NODES, LOCAL_NODES) float32 at even steps from edge to edge of a photo, rows first. weight: (k,) of the sightings, 0 to 1.
    """

    photo: F64
    camera: F64
    local: F32
    weight: F64


def solve(seen: Sightings, camera_of: I64, cameras: int) -> Solution:
    """Corrections that make sightings of the same point agree; zero where nothing is known. camera_of: (photos,) camera numbers."""
    n = len(camera_of)
    phi = _design(seen, camera_of, cameras)
    starts = (
        np.flatnonzero(np.r_[True, seen.point[1:] != seen.point[:-1]]) if len(seen.point) else np.zeros(0, np.int64)
    )
    weight = np.ones(len(seen.point))
    if len(seen.point) == 0:
        local = np.zeros((n, LOCAL_NODES, LOCAL_NODES), np.float32)
        return Solution(np.zeros((n, PHOTO_TERMS, 3)), np.zeros((cameras, CAMERA_TERMS, 3)), local, weight)
    points = _Points(starts, np.diff(np.r_[starts, len(seen.point)]))
    common = seen.log_value.mean(axis=1, keepdims=True)
    prior = _prior(COMMON_SIGMA, CAMERA_SIGMA[0], n, cameras)
    x = np.zeros((phi.shape[1], 1))
    for _ in range(ROUNDS):
        x = _conjugate_gradients(phi, points, weight / TRUST**2, prior, -common, x)
        residual = points.less_mean(common + phi @ x, weight)[:, 0]
        weight = 1.0 / (1.0 + (residual / NOISE) ** 2)
    prior = _prior(BAND_SIGMA, CAMERA_SIGMA[1], n, cameras)
    bands = seen.log_value - common
    x = x + _conjugate_gradients(phi, points, weight / TRUST**2, prior, -bands, np.zeros((phi.shape[1], 3)))
    local = _local(seen, n, points.less_mean(common + (phi @ x).mean(axis=1, keepdims=True), weight)[:, 0], weight)
    split = n * PHOTO_TERMS
    return Solution(x[:split].reshape(n, PHOTO_TERMS, 3), x[split:].reshape(cameras, CAMERA_TERMS, 3), local, weight)


def _local(seen: Sightings, photos: int, residual: F64, weight: F64) -> F32:
    """What is left, smoothed over each photo: hot spots around the shadow of the camera are brighter than any polynomial says.

    Every photo is drawn to the mean of all that see the ground, so wide brightness comes from all of them and only detail from the few
    that are shown; the mean itself does not move.
    """
    node = np.clip(np.rint((seen.uv + 1.0) * (0.5 * (LOCAL_NODES - 1))), 0, LOCAL_NODES - 1).astype(np.int64)
    cell = (seen.photo * LOCAL_NODES + node[:, 1]) * LOCAL_NODES + node[:, 0]

    def smooth(values: F64) -> F64:
        total = np.bincount(cell, weights=values, minlength=photos * LOCAL_NODES**2)
        nodes = total.reshape(photos, LOCAL_NODES, LOCAL_NODES)
        # 4 pi: so that a sum over the kernel counts sightings
        return np.asarray(ndimage.gaussian_filter(nodes, (0.0, 1.0, 1.0), mode="constant")) * (4 * np.pi)

    local = -smooth(weight * residual) / (smooth(weight) + LOCAL_DOUBT)
    return np.clip(local, -LOCAL_MOST, LOCAL_MOST).astype(np.float32)


@dataclass(frozen=True)
class _Points:
    """Runs of sightings of the same point: where each starts, and its length."""

    start: I64
    length: I64

    def less_mean(self, values: F64, weight: F64) -> F64:
        """(k, bands) values without the weighted mean of their point."""
        total = np.add.reduceat(values * weight[:, None], self.start, axis=0)
        mean = total / np.add.reduceat(weight, self.start)[:, None]
        return np.asarray(values - np.repeat(mean, self.length, axis=0))


def _design(seen: Sightings, camera_of: I64, cameras: int) -> sparse.csr_matrix:
    """(sightings, unknowns): a photo's terms side by side, the cameras' terms after all photos'."""
    from scipy import sparse  # loads long, and tiles, which only apply gains, do without

    terms = PHOTO_TERMS + CAMERA_TERMS
    values = np.concatenate([photo_basis(seen.uv), camera_basis(seen.radius2)], axis=1)
    first = camera_of[seen.photo] * CAMERA_TERMS + len(camera_of) * PHOTO_TERMS
    columns = np.concatenate(
        [seen.photo[:, None] * PHOTO_TERMS + np.arange(PHOTO_TERMS), first[:, None] + np.arange(CAMERA_TERMS)], axis=1
    )
    shape = len(seen.photo), len(camera_of) * PHOTO_TERMS + cameras * CAMERA_TERMS
    rows = np.arange(len(seen.photo) + 1) * terms
    return sparse.csr_matrix((values.ravel(), columns.ravel().astype(np.int32), rows.astype(np.int32)), shape=shape)


def _prior(photo_sigma: tuple[float, ...], camera_sigma: float, photos: int, cameras: int) -> F64:
    sigma = np.r_[np.tile(photo_sigma, photos), np.full(cameras * CAMERA_TERMS, camera_sigma)]
    return np.asarray(sigma[:, None] ** -2.0)


def _conjugate_gradients(
    phi: sparse.csr_matrix, points: _Points, weight: F64, prior: F64, wanted: F64, start: F64
) -> F64:
    """Minimise the weighted squares of (phi x - wanted, less each point's mean) plus the prior, every column for itself."""

    def normal(x: F64) -> F64:
        return np.asarray(phi.T @ (weight[:, None] * points.less_mean(phi @ x, weight)) + prior * x)

    scale = 1.0 / (np.asarray(phi.multiply(phi).T @ weight)[:, None] + prior)
    x = start.copy()
    residual = phi.T @ (weight[:, None] * points.less_mean(wanted, weight)) - normal(x)
    step = scale * residual
    energy = (residual * step).sum(axis=0)
    enough = 1e-10 * energy + 1e-12
    for _ in range(STEPS):
        if (energy <= enough).all():
            break
        moved = normal(step)
        length = energy / np.maximum((step * moved).sum(axis=0), 1e-300)
        x += length * step
        residual = residual - length * moved
        better = scale * residual
        last, energy = energy, (residual * better).sum(axis=0)
        step = better + energy / np.maximum(last, 1e-300) * step
    return x
