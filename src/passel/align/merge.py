"""Submodels in one frame become one scene: each photo's pose from the submodel that knows it best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from passel.reconstruct.scene import Intrinsics, Scene


def merge_scenes(scenes: Sequence[Scene], cores: Sequence[frozenset[str]]) -> Scene:
    """Poses of all submodels (already in one frame). A photo in several takes the pose of the submodel whose core it is in, else of the
    one where it sees most points, of those observations that the scene has. Points are not carried over: the adjustment makes them anew
    from all matches."""
    best: dict[str, tuple[bool, int, int, int]] = {}
    for k, scene in enumerate(scenes):
        seen = np.bincount(scene.obs_photo, minlength=len(scene.photos))
        for i, name in enumerate(scene.photos):
            rank = (name in cores[k], int(seen[i]), -k, i)
            if name not in best or rank > best[name]:
                best[name] = rank
    names = sorted(best)
    chosen = [(-best[n][2], best[n][3]) for n in names]
    return Scene(
        _mean_cameras(scenes),
        tuple(names),
        np.array([scenes[k].camera_of[i] for k, i in chosen], np.int32),
        np.array([scenes[k].cam_from_world[i] for k, i in chosen]),
        np.array([scenes[k].centres[i] for k, i in chosen]),
        np.zeros((0, 3)),
        *(np.zeros(0, np.int32), np.zeros(0, np.int32)),
        np.zeros((0, 2), np.float32),
        np.zeros(0, np.int32),
        np.array([scenes[k].velocities[i] for k, i in chosen]),
    )


def _mean_cameras(scenes: Sequence[Scene]) -> tuple[Intrinsics, ...]:
    """Each camera's values, averaged over the submodels by how many of its photos they hold."""
    made = []
    for k, camera in enumerate(scenes[0].cameras):
        weight = np.array([max(int((s.camera_of == k).sum()), 1e-6) for s in scenes], float)
        rows = np.array(
            [(c.fx, c.fy, c.cx, c.cy, c.k1, c.k2, c.p1, c.p2, c.k3) for c in (s.cameras[k] for s in scenes)]
        )
        fx, fy, cx, cy, k1, k2, p1, p2, k3 = (float(v) for v in np.average(rows, axis=0, weights=weight))
        made.append(replace(camera, fx=fx, fy=fy, cx=cx, cy=cy, k1=k1, k2=k2, p1=p1, p2=p2, k3=k3))
    return tuple(made)
