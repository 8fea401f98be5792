"""Do the photos' altitudes agree with each other? Camera GPS and barometers drift and jump by tens of metres.

The altitudes are explained as a smooth surface over the ground (flying heights that follow terrain) plus a function of the order in
which photos were taken (what a sound altimeter does not have). Photos at nearly the same place but from different moments tell
the two apart; where none do, the estimate's own uncertainty is large and nothing is claimed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

_PRIOR_M = 100.0  # how far altitudes may wander at all
_NOISE_FLOOR_M = 0.3
_SMALLEST_WANDER_M = 10.0
_SIGNIFICANT = (5.0, 3.0)  # the free function of time has many ways to look large, a line or a step one
_ERRORS_RUN_TOGETHER = 2.0  # neighbours in time share GPS error, so the fit's own uncertainty is too small
_FEWEST = 12
_FEWEST_FOR_KNOTS = 60


@dataclass(frozen=True)
class AltitudeVerdict:
    """What the altitudes of a flight are worth.

    wander_m: how far they wander over time at the same place, 0 where nothing significant. at: index of the first photo after
    the largest step when one step makes up most of it, else -1. outliers: indices of single photos far off their neighbours.
    noise_m: one-sigma of the rest.
    """

    wander_m: float
    at: int
    outliers: tuple[int, ...]
    noise_m: float


def judge_altitudes(xy_m: F64, z_m: F64, order: NDArray[np.int64]) -> AltitudeVerdict:
    """xy_m (n, 2) and z_m (n,): positions, metres, finite. order (n,): the photos' indices in the order they were taken."""
    n = len(z_m)
    if n < _FEWEST:
        noise = 1.4826 * float(np.median(np.abs(z_m - np.median(z_m)))) if n else 0.0
        far = np.abs(z_m - np.median(z_m)) > max(10.0 * noise, 30.0) if n > 3 else np.zeros(n, bool)
        return AltitudeVerdict(0.0, -1, tuple(int(i) for i in np.flatnonzero(far)), noise)
    rank = np.empty(n)
    rank[order] = np.arange(n)
    z = z_m - np.median(z_m)
    surface = _surface(xy_m)
    fits = [
        _wander_of(np.hstack([(rank / (n - 1))[:, None], surface]), z, 1, -1),
        _wander_of(np.hstack([_hats(rank / (n - 1), int(np.clip(n // 10, 3, 24))), surface]), z, 0, -1),
    ]
    for first in _step_candidates(z[order]):
        step = _wander_of(np.hstack([(rank >= first)[:, None], surface]), z, 1, int(order[first]))
        fits.append(step)
    best = min((f for f in fits if f.wander_m > 0.0), key=lambda f: f.noise_m, default=None)
    if best is not None:
        return AltitudeVerdict(best.wander_m, best.at, (), best.noise_m)
    plain = fits[0] if n < _FEWEST_FOR_KNOTS else fits[1]  # with few photos a knot follows a single wrong one
    far = np.flatnonzero(np.abs(plain.residual_m) > max(8.0 * plain.noise_m, 15.0))
    return AltitudeVerdict(0.0, -1, tuple(int(i) for i in far) if len(far) <= max(1.0, 0.05 * n) else (), plain.noise_m)


@dataclass(frozen=True)
class _Fit:
    wander_m: float
    at: int
    noise_m: float
    residual_m: F64


def _wander_of(design: F64, z: F64, lone: int, at: int) -> _Fit:
    """Fit one explanation of z; its first column (lone = 1) or first hats (lone = 0) are the function of time."""
    x, covariance, noise = _robust_fit(design.astype(float), z)
    if lone:
        span, variance = abs(float(x[0])), float(covariance[0, 0])
    else:
        count = int(np.clip(len(z) // 10, 3, 24))
        high, low = int(np.argmax(x[:count])), int(np.argmin(x[:count]))
        span = float(x[high] - x[low])
        variance = float(covariance[high, high] + covariance[low, low] - 2.0 * covariance[high, low])
    certain = span > _SIGNIFICANT[lone] * _ERRORS_RUN_TOGETHER * np.sqrt(max(variance, 0.0))
    return _Fit(span if certain and span > _SMALLEST_WANDER_M else 0.0, at, noise, z - design @ x)


def _step_candidates(z_in_order: F64) -> list[int]:
    """Where the medians of the photos just before and just after differ most: up to 5 first photos after a step."""
    half = 4
    windows = np.lib.stride_tricks.sliding_window_view(z_in_order, half)
    middle = np.median(windows, axis=1)
    change = np.abs(middle[half:] - middle[:-half])
    found: list[int] = []
    for i in np.argsort(-change, kind="stable"):
        if len(found) < 5 and change[i] > _SMALLEST_WANDER_M / 2 and all(abs(i + half - f) > half for f in found):
            found.append(int(i) + half)
    return found


def _hats(t: F64, knots: int) -> F64:
    """(n, knots) weights of linear interpolation between equally spaced knots on [0, 1]."""
    return np.asarray(np.maximum(0.0, 1.0 - np.abs(t[:, None] * (knots - 1) - np.arange(knots)[None])))


def _surface(xy: F64) -> F64:
    """(n, k) bilinear hats over the flight's bounding box; only knots that photos touch."""
    low, size = xy.min(axis=0), np.ptp(xy, axis=0)
    counts = np.where(size > 0.05 * size.max(), np.clip(int(np.sqrt(len(xy)) / 3), 2, 5), 1)
    parts = [
        _hats((xy[:, k] - low[k]) / max(size[k], 1e-9), int(counts[k])) if counts[k] > 1 else np.ones((len(xy), 1))
        for k in (0, 1)
    ]
    product = (parts[0][:, :, None] * parts[1][:, None, :]).reshape(len(xy), -1)
    return np.asarray(product[:, product.max(axis=0) > 0])


def _robust_fit(design: F64, z: F64) -> tuple[F64, F64, float]:
    """(coefficients, their covariance, noise) by Huber-weighted least squares with a weak prior around 0."""
    weight = np.ones(len(z))
    noise = max(_NOISE_FLOOR_M, 1.4826 * float(np.median(np.abs(z - np.median(z)))))
    for _ in range(10):
        normal = design.T @ (design * weight[:, None]) / noise**2 + np.eye(design.shape[1]) / _PRIOR_M**2
        x = np.linalg.solve(normal, design.T @ (weight * z) / noise**2)
        residual = np.abs(z - design @ x)
        noise = max(_NOISE_FLOOR_M, 1.4826 * float(np.median(residual)))
        weight = np.minimum(1.0, 2.0 * noise / np.maximum(residual, 1e-9))
    return np.asarray(x), np.asarray(np.linalg.inv(normal)), noise
