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
