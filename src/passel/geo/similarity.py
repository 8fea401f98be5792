"""Similarity transforms `b_from_a`: rotation, uniform scale, translation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Similarity:
    """x_b = scale · rotation · x_a + translation; scale > 0, rotation (3, 3) proper, translation (3,) in b's unit."""

    scale: float
    rotation: Array
    translation: Array

    @staticmethod
    def identity() -> Similarity:
        return Similarity(1.0, np.eye(3), np.zeros(3))

    def apply(self, xyz: Array) -> Array:
        """(n, 3) points of a → (n, 3) points of b."""
        return np.asarray(self.scale * (xyz @ self.rotation.T) + self.translation)

    def inverse(self) -> Similarity:
        r = self.rotation.T
        return Similarity(1.0 / self.scale, r, -(r @ self.translation) / self.scale)

    def after(self, first: Similarity) -> Similarity:
        """The transform that applies `first`, then this one."""
        return Similarity(
            self.scale * first.scale,
            self.rotation @ first.rotation,
            self.scale * (self.rotation @ first.translation) + self.translation,
        )


def fit_similarity(xyz_a: Array, xyz_b: Array, weight: Array | None = None) -> Similarity:
    """Least-squares similarity b_from_a of paired points (n ≥ 3, 3), not all on a line (Umeyama 1991)."""
    w = np.ones(len(xyz_a)) if weight is None else np.asarray(weight, float)
    w = w / w.sum()
    mean_a, mean_b = w @ xyz_a, w @ xyz_b
    a, b = xyz_a - mean_a, xyz_b - mean_b
    u, d, vt = np.linalg.svd((b * w[:, None]).T @ a)
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ flip @ vt
    variance = float((w[:, None] * a**2).sum())
    scale = float(np.trace(np.diag(d) @ flip)) / max(variance, 1e-300)
    return Similarity(scale, rotation, mean_b - scale * rotation @ mean_a)


def fit_similarity_robust(xyz_a: Array, xyz_b: Array, sigma_b: Array, up_a: Array | None = None) -> Similarity:
    """b_from_a for points (n ≥ 2, 3) of which some in b may be grossly wrong; sigma_b (n, 3) metres.

    Iteratively reweighted (Cauchy) from several starts. up_a (3,): the direction in a that points up in b; it settles the rotation
    about the line when the points lie on one (a single strip, a corridor).
    """
    weight = 1.0 / np.maximum((sigma_b**2).mean(axis=1), 1e-12)
    sigma = np.sqrt(1.0 / weight)
    best: tuple[float, Similarity] | None = None
    rng = np.random.default_rng(0)
    n = len(xyz_a)
    starts = [np.arange(n)] + [rng.choice(n, min(n, max(4, n // 3)), replace=False) for _ in range(12 if n > 4 else 0)]
    for start in starts:
        w = np.zeros(n)
        w[start] = weight[start]
        fit = _fit_with_up(xyz_a, xyz_b, w, up_a)
        for _ in range(15):
            miss = np.linalg.norm(fit.apply(xyz_a) - xyz_b, axis=1) / sigma
            # The scatter found decides what is an outlier: GPS is often far better or worse than it says.
            scatter = max(float(np.median(miss)), 1e-9)
            fit = _fit_with_up(xyz_a, xyz_b, weight / (1.0 + (miss / (2.0 * scatter)) ** 2), up_a)
        cost = float(np.median(np.linalg.norm(fit.apply(xyz_a) - xyz_b, axis=1) / sigma))
        if best is None or cost < best[0] * 0.99:
            best = (cost, fit)
    assert best is not None
    return best[1]


def _fit_with_up(a: Array, b: Array, weight: Array, up_a: Array | None) -> Similarity:
    """`fit_similarity`, with a virtual point above each point when the points are nearly on a line."""
    w = weight / weight.sum()
    spread = np.linalg.svd((a - w @ a) * np.sqrt(w)[:, None], compute_uv=False)
    if up_a is None or (len(spread) > 1 and spread[1] > 0.05 * spread[0]):
        return fit_similarity(a, b, weight)
    length = max(float(spread[0]), 1e-9)
    spread_b = np.linalg.svd((b - w @ b) * np.sqrt(w)[:, None], compute_uv=False)[0]
    above = b + np.array([0.0, 0.0, spread_b])
    return fit_similarity(
        np.concatenate([a, a + length * up_a]), np.concatenate([b, above]), np.concatenate([weight, weight])
    )
