"""One similarity per submodel, solved jointly: shared cameras, shared points and GPS.

Everything is points. A shared camera counts as its centre and the tips of its axes, so that its orientation counts too; GPS positions
are points of the world. Gauss-Newton on small turns, shifts and scalings with Cauchy weights between submodels; GPS terms stay quadratic
(a robust GPS term let the scale collapse, research/sfm.md §3).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from passel.geo.similarity import Similarity
from passel.reconstruct.scene import Scene

F64 = NDArray[np.float64]

POINTS_A_PAIR = 400
POINTS_KEPT = 4000  # that a pair's disagreement is told from
STRONGEST = 2000  # features of a photo by which points are known again: features come strongest first
EFFECTIVE_POINTS = 20.0  # what the points a pair shares weigh together: they are correlated
SCALE_SIGMA = 0.02


@dataclass(frozen=True)
class Shared:
    """What two submodels have in common, each in its own frame: cameras (centre and rotation) and points (n, 3)."""

    a: int
    b: int
    centres_a: F64
    centres_b: F64
    rotations_a: F64
    rotations_b: F64
    points_a: F64
    points_b: F64


@dataclass(frozen=True)
class Disagreement:
    """How far submodels are apart at what they share. Metres and degrees; median and 95th percentile; NaN when nothing is shared."""

    cameras: int
    position_median_m: float
    position_p95_m: float
    rotation_median_deg: float
    rotation_p95_deg: float
    points_median_m: float
    points_p95_m: float


def shared_between(scenes: Sequence[Scene]) -> list[Shared]:
    """Every pair of submodels with something in common."""
    found = []
    for a in range(len(scenes)):
        for b in range(a + 1, len(scenes)):
            ia, ib = _common(scenes[a].photos, scenes[b].photos)
            if not len(ia):
                continue
            pa, pb = _common_points(scenes[a], ia, scenes[b], ib)
            sa, sb = scenes[a], scenes[b]
            found.append(
                Shared(
                    a, b, sa.centres[ia], sb.centres[ib], sa.cam_from_world[ia], sb.cam_from_world[ib],
                    sa.points[pa], sb.points[pb],
                )
            )  # fmt: skip
    return found


def disagreement(shared: Sequence[Shared], placed: Sequence[Similarity]) -> Disagreement:
    """The disagreement when each submodel is moved by its similarity."""
    centre, turn, point = [np.zeros(0)], [np.zeros(0)], [np.zeros(0)]
    for s in shared:
        ta, tb = placed[s.a], placed[s.b]
        centre.append(np.linalg.norm(ta.apply(s.centres_a) - tb.apply(s.centres_b), axis=1))
        point.append(np.linalg.norm(ta.apply(s.points_a) - tb.apply(s.points_b), axis=1))
        relative = (s.rotations_a @ ta.rotation.T) @ (s.rotations_b @ tb.rotation.T).transpose(0, 2, 1)
        cosine = np.clip((np.trace(relative, axis1=1, axis2=2) - 1) / 2, -1, 1)
        turn.append(np.degrees(np.arccos(cosine)))
    c, t, p = (np.concatenate(v) for v in (centre, turn, point))

    def both(v: F64) -> tuple[float, float]:
        return (float(np.median(v)), float(np.percentile(v, 95))) if len(v) else (float("nan"), float("nan"))

    return Disagreement(len(c), *both(c), *both(t), *both(p))


def align_jointly(
    scenes: Sequence[Scene], shared: Sequence[Shared], gps: Sequence[F64], gps_sigma: Sequence[F64]
) -> list[Similarity]:
    """world_from_submodel for submodels already near their place (by GPS). gps, gps_sigma: per submodel (n, 3), NaN rows without GPS."""
    n = len(scenes)
    placed = [Similarity.identity()] * n
    reach = [max(float(np.linalg.norm(s.centres.std(axis=0))), 1e-6) for s in scenes]
    for iteration in range(30):
        h, g = np.zeros((7 * n, 7 * n)), np.zeros(7 * n)
        for s in shared:
            _add_pair(h, g, s, placed, scenes, robust=iteration > 0)
        for k in range(n):
            _add_gps(h, g, k, placed[k].apply(scenes[k].centres), gps[k], gps_sigma[k], _middle(scenes[k], placed[k]))
            block = slice(7 * k, 7 * k + 7)
            loose = np.array([*(1.0,) * 3, *(reach[k],) * 3, SCALE_SIGMA]) * (1.0 if k else 1e-3 if _no_gps(gps) else 1)
            h[block, block] += np.diag(1e-3 / loose**2)
            h[7 * k + 6, 7 * k + 6] += 1.0 / SCALE_SIGMA**2
        step: F64 = np.asarray(-np.linalg.solve(h, g), np.float64)
        placed = [_moved(placed[k], step[7 * k : 7 * k + 7], _middle(scenes[k], placed[k])) for k in range(n)]
        if np.abs(step).max() < 1e-7:
            break
    return placed


def _no_gps(gps: Sequence[F64]) -> bool:
    return not any(np.isfinite(g).all(axis=1).any() for g in gps)


def _middle(scene: Scene, placed: Similarity) -> F64:
    return np.asarray(placed.apply(scene.centres).mean(axis=0), np.float64)


def _moved(placed: Similarity, step: F64, middle: F64) -> Similarity:
    angle = float(np.linalg.norm(step[:3]))
    x, y, z = step[:3] / max(angle, 1e-300)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn = np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * (k @ k)
    scale = float(np.exp(step[6]))
    return Similarity(scale, turn, middle - scale * turn @ middle + step[3:6]).after(placed)


def _jacobian(xyz: F64, middle: F64) -> F64:
    """(n, 3, 7): how points move with a small turn, shift and scaling about `middle`."""
    d = xyz - middle
    j = np.zeros((len(xyz), 3, 7))
    j[:, 0, 1], j[:, 0, 2] = d[:, 2], -d[:, 1]
    j[:, 1, 0], j[:, 1, 2] = -d[:, 2], d[:, 0]
    j[:, 2, 0], j[:, 2, 1] = d[:, 1], -d[:, 0]
    j[:, [0, 1, 2], [3, 4, 5]] = 1.0
    j[:, :, 6] = d
    return j


def _add_pair(h: F64, g: F64, s: Shared, placed: Sequence[Similarity], scenes: Sequence[Scene], robust: bool) -> None:
    ta, tb = placed[s.a], placed[s.b]
    ma, mb = _middle(scenes[s.a], ta), _middle(scenes[s.b], tb)
    arm = 0.3 * float(np.linalg.norm(scenes[s.a].points.mean(axis=0) - scenes[s.a].centres.mean(axis=0)))
    groups = [
        (_frames(s.centres_a, s.rotations_a, arm), _frames(s.centres_b, s.rotations_b, arm), 1.0),
        _sample(s.points_a, s.points_b),
    ]
    for pa, pb, weight in groups:
        if not len(pa):
            continue
        xa, xb = ta.apply(pa), tb.apply(pb)
        miss = xa - xb
        size = np.linalg.norm(miss, axis=1)
        sigma = max(float(np.median(size)), 0.01)
        w = weight / sigma**2 / ((1.0 + (size / (3 * sigma)) ** 2) if robust else np.ones(len(size)))
        ja, jb = _jacobian(xa, ma), -_jacobian(xb, mb)
        a, b = slice(7 * s.a, 7 * s.a + 7), slice(7 * s.b, 7 * s.b + 7)
        h[a, a] += np.einsum("nij,nik,n->jk", ja, ja, w)
        h[b, b] += np.einsum("nij,nik,n->jk", jb, jb, w)
        cross = np.einsum("nij,nik,n->jk", ja, jb, w)
        h[a, b] += cross
        h[b, a] += cross.T
        g[a] += np.einsum("nij,ni,n->j", ja, miss, w)
        g[b] += np.einsum("nij,ni,n->j", jb, miss, w)


def _add_gps(h: F64, g: F64, k: int, centres: F64, gps: F64, sigma: F64, middle: F64) -> None:
    have = np.isfinite(gps).all(axis=1)
    if not have.any():
        return
    j = _jacobian(centres[have], middle)
    w = 1.0 / sigma[have] ** 2
    block = slice(7 * k, 7 * k + 7)
    h[block, block] += np.einsum("nij,nik,ni->jk", j, j, w)
    g[block] += np.einsum("nij,ni,ni->j", j, centres[have] - gps[have], w)


def _frames(centres: F64, rotations: F64, arm: float) -> F64:
    """(4 n, 3): centres and the tips of the three camera axes."""
    return np.concatenate([centres, *(centres + arm * rotations[:, axis] for axis in range(3))])


def _sample(a: F64, b: F64) -> tuple[F64, F64, float]:
    some = np.random.default_rng(0).permutation(len(a))[:POINTS_A_PAIR]
    return a[some], b[some], min(1.0, EFFECTIVE_POINTS / max(len(some), 1))


def _common(a: Sequence[str], b: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    place = {name: i for i, name in enumerate(b)}
    both = [(i, place[name]) for i, name in enumerate(a) if name in place]
    table = np.array(both, np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _common_points(
    a: Scene, photos_a: NDArray[np.int64], b: Scene, photos_b: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Points of a and b that the same feature of a shared photo observes, each pair once. photos_a, photos_b: the shared photos."""
    (key_a, point_a), (key_b, point_b) = _observed(a, photos_a), _observed(b, photos_b)
    _, at_a, at_b = np.intersect1d(key_a, key_b, return_indices=True)
    each = np.int64(max(len(b.points), 1))
    both = np.unique(point_a[at_a].astype(np.int64) * each + point_b[at_b])
    both = both[np.sort(np.random.default_rng(0).permutation(len(both))[:POINTS_KEPT])]
    return both // each, both % each


def _observed(scene: Scene, photos: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """What some photos observe: a number that stands for photo (by its place in `photos`) and feature, and the point."""
    number = np.full(len(scene.photos), -1, np.int64)
    number[photos] = np.arange(len(photos))
    mine = np.flatnonzero(number[scene.obs_photo] >= 0)
    return (number[scene.obs_photo[mine]] << 32) + scene.obs_feature[mine], scene.obs_point[mine]


def what_others_share(scenes: Iterable[Scene], names: Sequence[Collection[str]]) -> list[Scene]:
    """The scenes with the observations only that `shared_between` needs: of photos that other scenes have as well, by their strongest
    features, without pixels. names: all photos of each scene; scenes: may be read one after another."""
    times = Counter(name for some in names for name in some)
    made = []
    for scene in scenes:
        shared = np.array([times[n] > 1 for n in scene.photos], np.bool_)[scene.obs_photo]
        shared &= scene.obs_feature < STRONGEST
        made.append(
            replace(
                scene, obs_point=scene.obs_point[shared], obs_photo=scene.obs_photo[shared],
                obs_xy=np.zeros((0, 2), np.float32), obs_feature=scene.obs_feature[shared],
            )
        )  # fmt: skip
    return made
