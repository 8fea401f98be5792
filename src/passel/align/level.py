"""A block without GPS set level: ground horizontal, cameras above it, at a size that is easy to look at."""

from __future__ import annotations

import numpy as np

from passel.geo.similarity import Similarity
from passel.reconstruct.scene import Scene

HEIGHT_M = 100.0  # arbitrary, and the report says so: photos alone do not know their scale


def levelled(scene: Scene) -> Scene:
    """The scene with its ground plane horizontal at height 0 and its cameras 100 m above it (median)."""
    middle = np.median(scene.points, axis=0)
    offset = scene.points - middle
    near = np.linalg.norm(offset, axis=1) <= 3.0 * np.median(np.linalg.norm(offset, axis=1))
    _, _, axes = np.linalg.svd(offset[near] - offset[near].mean(axis=0), full_matrices=False)
    up = axes[2]
    if np.median((scene.centres - middle) @ up) < 0:
        up = -up
    east = axes[0] - up * (axes[0] @ up)
    east /= np.linalg.norm(east)
    rotation = np.stack([east, np.cross(up, east), up])
    height = float(np.median((scene.centres - middle) @ up))
    scale = HEIGHT_M / max(height, 1e-9)
    return scene.transformed(Similarity(scale, rotation, -scale * rotation @ middle))
