"""How fast each camera moved when it took its photo: from where and when the same camera took the photos before and after."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from passel.align.block import Cameras

F64 = NDArray[np.float64]

WINDOW_S = 10.0  # clocks that tell whole seconds are averaged over so much before and after, on a straight course
LEAST_COSINE = 0.5  # between steps of one course
LEAST_S = 0.5  # between photos that a clock of whole seconds calls simultaneous
PAUSE = 4.0  # times the camera's median step: longer ones are pauses or changes of battery


def velocities(cameras: Cameras, time_s: F64) -> F64:
    """(n, 3) m/s in each camera's own frame; zero where photos before and after do not tell. time_s: (n,), NaN unknown."""
    in_world = np.zeros_like(cameras.centres)
    for k in range(len(cameras.rows)):
        mine = np.flatnonzero((cameras.of_photo == k) & np.isfinite(time_s))
        mine = mine[np.argsort(time_s[mine], kind="stable")]
        in_world[mine] = _along(cameras.centres[mine], time_s[mine])
    return np.asarray(np.einsum("nij,nj->ni", cameras.rotations, in_world))


def _along(centres: F64, time_s: F64) -> F64:
    """(n, 3) velocities of one camera's photos, in order of time.

    Steps that go the same way are one course. A step that is like neither its predecessor nor its successor tells nothing: it joins two
    strips, or the camera hovers.
    """
    out = np.zeros_like(centres)
    if len(centres) < 3:
        return out
    step, lasted = np.diff(centres, axis=0), np.diff(time_s)
    length = np.linalg.norm(step, axis=1)
    unbroken = lasted <= PAUSE * max(float(np.median(lasted)), 1.0)
    cosine = (step[:-1] * step[1:]).sum(axis=1) / np.maximum(length[:-1] * length[1:], 1e-300)
    alike = (cosine >= LEAST_COSINE) & unbroken[:-1] & unbroken[1:]  # steps i and i + 1
    course = np.concatenate([[False], alike]) | np.concatenate([alike, [False]])
    for i in range(len(centres)):
        first = last = i
        while first > 0 and course[first - 1] and (first == i or (_near(time_s, first - 1, i) and alike[first - 1])):
            first -= 1
        while last < len(step) and course[last] and (last == i or (_near(time_s, last + 1, i) and alike[last - 1])):
            last += 1
        turns = first < i < last and not alike[i - 1]
        ends = [(first, i), (i, last)] if turns else [(first, last)]
        out[i] = np.mean([(centres[b] - centres[a]) / max(time_s[b] - time_s[a], LEAST_S) for a, b in ends], axis=0)
    return out


def _near(time_s: F64, i: int, j: int) -> bool:
    return bool(abs(time_s[i] - time_s[j]) <= WINDOW_S)
