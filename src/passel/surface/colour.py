"""Colour gains: one factor per photo and band, and each camera's fall-off towards the corners, from the same ground seen twice."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import spsolve

from passel.reconstruct.scene import Intrinsics, View
from passel.surface.camera import project as _project
from passel.surface.camera import reach_m, sees
from passel.surface.coarse import CoarseSurface
from passel.surface.plate import Plate

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

SAMPLES_PER_PHOTO = 120
PRIOR_SIGMA = 0.5  # of a log gain: photos without neighbours keep their colours
VIGNETTE_SIGMA = 0.2
DARKEST, BRIGHTEST = 12, 243  # clipped values tell nothing
ROUNDS = 6


@dataclass(frozen=True)
class Gains:
    """photos: names, sorted; log_gain: (n, 3) float64 natural log per band (RGB). cameras: ids; falloff: (c, 2) float64.

    A pixel's corrected value is value · exp(log_gain + falloff[0]·q + falloff[1]·q²), q = squared distance from the principal point
    over the squared half diagonal.
    """

    photos: tuple[str, ...]
    log_gain: F64
    cameras: tuple[str, ...]
    falloff: F64

    def of(self, view: View) -> F64:
        """(5,) log gain of the three bands and the two fall-off terms of one photo; zeros when it is not known."""
        out = np.zeros(5)
        if view.photo in self.photos:
            out[:3] = self.log_gain[self.photos.index(view.photo)]
        if view.intrinsics.camera in self.cameras:
            out[3:] = self.falloff[self.cameras.index(view.intrinsics.camera)]
        return out

    def save(self, out: Path) -> None:
        head = {"photos": self.photos, "cameras": self.cameras}
        (out / "gains.json").write_text(json.dumps(head, ensure_ascii=False), encoding="utf-8")
        np.savez(out / "gains.npz", log_gain=self.log_gain, falloff=self.falloff)

    @staticmethod
    def load(folder: Path) -> Gains:
        head = json.loads((folder / "gains.json").read_text(encoding="utf-8"))
        with np.load(folder / "gains.npz") as d:
            return Gains(tuple(head["photos"]), d["log_gain"], tuple(head["cameras"]), d["falloff"])


@dataclass(frozen=True)
class Sightings:
    """What photos see at sample points: (k,) point and photo numbers, (k, 3) log values, (k,) squared relative radius."""

    point: NDArray[np.int64]
    photo: NDArray[np.int64]
    log_value: F64
    radius2: F64


def radius2(camera: Intrinsics, uv_px: F64) -> F64:
    """(n,) q of full-size pixel positions (n, 2)."""
    half = 0.25 * (camera.width_px**2 + camera.height_px**2)
    return np.asarray(((uv_px[:, 0] - camera.cx) ** 2 + (uv_px[:, 1] - camera.cy) ** 2) / half)


def solve_gains(views: Sequence[View], plates: Mapping[str, Plate], surface: CoarseSurface) -> Gains:
    """Gains of all photos by robust least squares over samples of the coarse surface, drawn to 0 where nothing is known."""
    ordered = sorted(views, key=lambda v: v.photo)
    cameras = tuple(sorted({v.intrinsics.camera for v in ordered}))
    camera_of = np.array([cameras.index(v.intrinsics.camera) for v in ordered], np.int64)
    points = sample_points(ordered, surface)
    seen = sightings(ordered, plates, points)
    n, c = len(ordered), len(cameras)
    solution = np.zeros((n + 2 * c, 3))
    a, left, right = _pairs(seen, camera_of, n, c)
    prior = sparse.diags(np.r_[np.full(n, PRIOR_SIGMA**-2), np.full(2 * c, VIGNETTE_SIGMA**-2)])
    b = seen.log_value[right] - seen.log_value[left]
    for _ in range(ROUNDS):
        residual = (a @ solution) - b if a.shape[0] else np.zeros((0, 3))
        # one weight for the three bands: a car that moved is wrong in all; Cauchy with 6 % of a gray level's log
        weight = 1.0 / (1.0 + (residual**2).mean(axis=1) / 0.06**2)
        weighted = a.T @ sparse.diags(weight / 0.06**2)
        solution = np.asarray(spsolve((weighted @ a + prior).tocsc(), weighted @ b)).reshape(n + 2 * c, 3)
    falloff = solution[n:].mean(axis=1).reshape(c, 2)
    return Gains(tuple(v.photo for v in ordered), solution[:n] - solution[:n].mean(axis=0), cameras, falloff)


def sample_points(views: Sequence[View], surface: CoarseSurface) -> F64:
    """(m, 3) points of the coarse surface, spread regularly so that a photo sees about SAMPLES_PER_PHOTO."""
    rows, cols = np.nonzero(surface.valid)
    if len(rows) == 0:
        return np.zeros((0, 3))
    cell_m = surface.grid.resolution_m
    low = float(np.median(surface.z[rows, cols]))
    area = float(np.median([_footprint_m2(v, low) for v in views]))
    step = max(1, int(np.sqrt(area / SAMPLES_PER_PHOTO) / cell_m))
    keep = ((rows + surface.window.row) % step == 0) & ((cols + surface.window.col) % step == 0)
    rows, cols = rows[keep], cols[keep]
    x = surface.grid.x(cols + surface.window.col + 0.5)
    y = surface.grid.y(rows + surface.window.row + 0.5)
    return np.column_stack([x, y, surface.z[rows, cols]])


def _footprint_m2(view: View, ground_m: float) -> float:
    i = view.intrinsics
    height = max(float(view.centre[2]) - ground_m, 1.0)
    return i.width_px * i.height_px * (height / i.fx) ** 2


def sightings(views: Sequence[View], plates: Mapping[str, Plate], points: F64) -> Sightings:
    """Look every point up in the tiny image of every photo that sees it; photos are read one at a time."""
    found: list[tuple[NDArray[np.int64], NDArray[np.int64], F64, F64]] = []
    low = float(points[:, 2].min()) if len(points) else 0.0
    order = np.argsort(points[:, 0], kind="stable")
    sorted_x = points[order, 0]
    for number, view in enumerate(views):
        reach = reach_m(view, low)
        lo, hi = np.searchsorted(sorted_x, (view.centre[0] - reach, view.centre[0] + reach))
        some = np.sort(order[lo:hi])
        some = some[np.abs(points[some, 1] - view.centre[1]) < reach]
        some = some[sees(view, points[some], 0.03 * view.intrinsics.width_px)]
        if len(some) == 0:
            continue
        plate = plates[view.photo]
        values, uv = np.zeros((len(some), 3)), np.zeros((len(some), 2))
        look_up(plate.read_tiny(), plate.packed_tiny(view), points[some], values, uv)
        full = (uv + 0.5) / np.array([plate.tiny_x, plate.tiny_y])
        good = (values.min(axis=1) > DARKEST) & (values.max(axis=1) < BRIGHTEST)
        log_value = np.log(values[good])
        n = len(log_value)
        found.append((some[good], np.full(n, number, np.int64), log_value, radius2(view.intrinsics, full)[good]))
    if not found:
        return Sightings(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3)), np.zeros(0))
    point, photo, log_value, r2 = (np.concatenate([f[i] for f in found]) for i in range(4))
    by_point = np.lexsort((photo, point))
    return Sightings(point[by_point], photo[by_point], log_value[by_point], r2[by_point])


@njit(cache=True, nogil=True)
def look_up(image: U8, p: F64, points: F64, values: F64, uv: F64) -> None:
    """Bilinear RGB of points in an image; clamped to its edge."""
    h, w = image.shape[:2]
    for i in range(len(points)):
        u, v = _project(p, points[i, 0], points[i, 1], points[i, 2])
        uv[i, 0] = u
        uv[i, 1] = v
        u = min(max(u, 0.0), w - 1.001)
        v = min(max(v, 0.0), h - 1.001)
        iu = int(u)
        iv = int(v)
        iu1 = min(iu + 1, w - 1)
        iv1 = min(iv + 1, h - 1)
        fu = u - iu
        fv = v - iv
        for band in range(3):
            top = image[iv, iu, band] * (1 - fu) + image[iv, iu1, band] * fu
            low = image[iv1, iu, band] * (1 - fu) + image[iv1, iu1, band] * fu
            values[i, band] = top * (1 - fv) + low * fv


def _pairs(
    seen: Sightings, camera_of: NDArray[np.int64], n: int, c: int
) -> tuple[sparse.csr_matrix, NDArray[np.int64], NDArray[np.int64]]:
    """Equations between sightings one and two apart at the same point: (rows, n + 2c) coefficients, and the two sightings' numbers."""
    left, right = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for apart in (1, 2):
        first = np.flatnonzero(seen.point[:-apart] == seen.point[apart:])
        left.append(first)
        right.append(first + apart)
    i, j = np.concatenate(left), np.concatenate(right)
    rows = np.arange(len(i))
    ci, cj = n + 2 * camera_of[seen.photo[i]], n + 2 * camera_of[seen.photo[j]]
    qi, qj = seen.radius2[i], seen.radius2[j]
    columns = np.concatenate([seen.photo[i], seen.photo[j], ci, ci + 1, cj, cj + 1])
    ones = np.ones(len(i))
    values = np.concatenate([ones, -ones, qi, qi**2, -qj, -(qj**2)])
    return sparse.csr_matrix((values, (np.tile(rows, 6), columns)), shape=(len(i), n + 2 * c)), i, j
