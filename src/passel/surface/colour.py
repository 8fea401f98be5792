"""Colours: what each photo's values are multiplied by so that photos of the same ground agree, without the whole drifting away.

Photos that overlap say well how they differ, but not how bright a block is: small errors (fall-off towards the corners, hot spots) add
up from photo to photo. So differences are solved for (`gain_solver`), and what the corrections amount to over wide ground is
taken out again (`Tone`): there the map is as bright, and has the hue, that the photos have on average.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from passel.geo.grid import Bounds, Grid, Window
from passel.reconstruct.scene import Intrinsics, View
from passel.surface.camera import project as _project
from passel.surface.camera import reach_m, sees
from passel.surface.coarse import CoarseSurface
from passel.surface.gain_solver import CAMERA_TERMS, Sightings, camera_basis, photo_basis, solve
from passel.surface.place import load_place, save_place
from passel.surface.plate import Plate

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

SAMPLES_PER_PHOTO = 200
DARKEST, BRIGHTEST = 8, 244  # clipped values tell nothing; a reduced pixel near the end of the scale hides some
TABLE_NODES = 33
TONE_SIGMA = 0.3  # of a photo's width on the ground: wider differences are the photos' own
TONE_CELLS = 8  # of the tone's lattice over a photo's width
KNEE = 200.0  # brighter corrected values are bent so that only what was 255 becomes 255
NEUTRAL_FROM = (
    235.0  # a band that is nearly clipped no longer tells the hue: from here to 255 all bands take the mean factor
)


@dataclass(frozen=True)
class Tone:
    """A smooth factor over the ground: log (rows, cols, 3) float32, natural log per band at cell centres of `window` of `grid`."""

    grid: Grid
    window: Window
    log: F32

    def over(self, bounds: Bounds) -> tuple[F64, float, float]:
        """Factors (rows, cols, 3) at lattice nodes around bounds (edges repeat), and map x, y (m) of the first node."""
        around = self.grid.window(bounds).grown(2)
        rows = np.clip(np.arange(around.row, around.row + around.rows) - self.window.row, 0, self.window.rows - 1)
        cols = np.clip(np.arange(around.col, around.col + around.cols) - self.window.col, 0, self.window.cols - 1)
        factors = np.exp(self.log[np.ix_(rows, cols)].astype(np.float64))
        return factors, float(self.grid.x(around.col + 0.5)), float(self.grid.y(around.row + 0.5))


@dataclass(frozen=True)
class Gains:
    """photos: names, sorted; field: (n, 6, 3), falloff: (cameras, 2, 3) float64 log corrections per band (RGB).
    local: (n, nodes, nodes) float32 log correction of all bands at even steps over a photo.

    A pixel's corrected value is value · exp(photo terms + camera terms of `gain_solver` + local) · the tone of its ground.
    """

    photos: tuple[str, ...]
    field: F64
    cameras: tuple[str, ...]
    falloff: F64
    local: F32
    tone: Tone

    @property
    def log_gain(self) -> F64:
        """(n, 3) mean natural-log gain of each photo per band."""
        return self.field[:, 0]

    def table(self, view: View) -> F64:
        """(TABLE_NODES, TABLE_NODES, 3) factors at even steps from edge to edge of a photo; ones when it is not known."""
        i, ticks = view.intrinsics, np.linspace(0.0, 1.0, TABLE_NODES)
        u, v = (a.ravel() for a in np.meshgrid(ticks * i.width_px, ticks * i.height_px))
        px = np.column_stack([u, v])
        log = np.zeros((len(px), 3))
        if view.photo in self.photos:
            number = self.photos.index(view.photo)
            log += photo_basis(relative(i, px)) @ self.field[number]
            nodes = self.local.shape[1] - 1
            at = [np.repeat(ticks, TABLE_NODES) * nodes, np.tile(ticks, TABLE_NODES) * nodes]
            log += ndimage.map_coordinates(self.local[number].astype(np.float64), at, order=3, mode="nearest")[:, None]
            log += camera_basis(radius2(i, px)) @ self.falloff[self.cameras.index(i.camera)]
        return np.asarray(np.exp(log).reshape(TABLE_NODES, TABLE_NODES, 3))

    def save(self, out: Path) -> None:
        head = {"photos": self.photos, "cameras": self.cameras, "falloff": self.falloff.tolist()}
        (out / "gains.json").write_text(json.dumps(head), encoding="utf-8")
        save_place(self.tone.grid, self.tone.window, out / "tone.json")
        for name, array in (("field", self.field), ("local", self.local), ("tone", self.tone.log)):
            np.save(out / f"{name}.npy", array)

    @staticmethod
    def load(folder: Path, photos: Container[str] | None = None) -> Gains:
        """Arrays are memory-mapped; with `photos` only these are kept, so that a tile holds no more than it needs."""
        head = json.loads((folder / "gains.json").read_text(encoding="utf-8"))
        field, local, tone = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("field", "local", "tone"))
        rows = [i for i, name in enumerate(head["photos"]) if photos is None or name in photos]
        names = tuple(head["photos"][i] for i in rows)
        falloff = np.array(head["falloff"], float).reshape(-1, CAMERA_TERMS, 3)
        place = load_place(folder / "tone.json")
        return Gains(names, field[rows], tuple(head["cameras"]), falloff, local[rows], Tone(*place, tone))


def radius2(camera: Intrinsics, uv_px: F64) -> F64:
    """(n,) squared distance from the principal point over the squared half diagonal, of full-size pixel positions (n, 2)."""
    half = 0.25 * (camera.width_px**2 + camera.height_px**2)
    return np.asarray(((uv_px[:, 0] - camera.cx) ** 2 + (uv_px[:, 1] - camera.cy) ** 2) / half)


def relative(camera: Intrinsics, uv_px: F64) -> F64:
    """(n, 2) positions from -1 to 1 over the photo, of full-size pixel positions (n, 2)."""
    return np.asarray(uv_px * (2.0 / camera.width_px, 2.0 / camera.height_px) - 1.0)


def solve_gains(views: Sequence[View], plates: Mapping[str, Plate], surface: CoarseSurface) -> Gains:
    """Gains of all photos from samples of the coarse surface; without overlap they are 1."""
    ordered = sorted(views, key=lambda v: v.photo)
    cameras = tuple(sorted({v.intrinsics.camera for v in ordered}))
    number = {c: i for i, c in enumerate(cameras)}
    camera_of = np.array([number[v.intrinsics.camera] for v in ordered], np.int64)
    points, width_m = sample_points(ordered, surface)
    seen = sightings(ordered, plates, points)
    found = solve(seen, camera_of, len(cameras))
    # the fall-off towards the corners is the lens's and stays corrected; what photos were given each for itself is held down
    log = np.einsum("kt,ktb->kb", photo_basis(seen.uv), found.photo[seen.photo])
    tone = _tone(points[seen.point, :2], -log, found.weight, width_m, surface)
    return Gains(tuple(v.photo for v in ordered), found.photo, cameras, found.camera, found.local, tone)


def _tone(xy: F64, log: F64, weight: F64, width_m: float, surface: CoarseSurface) -> Tone:
    """The weighted mean of log values (k, 3) at map positions (k, 2), over wide ground."""
    cell_m = surface.grid.resolution_m
    grid = Grid(cell_m * max(1, round(width_m / TONE_CELLS / cell_m)), surface.grid.offset_m)
    window = grid.window(surface.grid.bounds(surface.window)).grown(1)
    row = np.floor(grid.row(xy[:, 1])).astype(np.int64) - window.row
    col = np.floor(grid.col(xy[:, 0])).astype(np.int64) - window.col
    cell, n = row * window.cols + col, window.rows * window.cols
    sigma = TONE_SIGMA * width_m / grid.resolution_m

    def wide(values: F64) -> F64:
        total = np.bincount(cell, weights=values, minlength=n).reshape(window.shape)
        return np.asarray(ndimage.gaussian_filter(total, sigma, mode="constant"))

    count = wide(weight)
    known = count > 1e-6 * max(float(count.max()), 1e-12)
    if not known.any():
        return Tone(grid, window, np.zeros((*window.shape, 3), np.float32))
    near = tuple(ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True))
    bands = [(wide(weight * log[:, b]) / np.maximum(count, 1e-300))[near] for b in range(3)]
    return Tone(grid, window, np.stack(bands, axis=-1).astype(np.float32))


def sample_points(views: Sequence[View], surface: CoarseSurface) -> tuple[F64, float]:
    """(m, 3) points of the coarse surface, spread regularly so that a photo sees about SAMPLES_PER_PHOTO; and a photo's width (m)."""
    rows, cols = np.nonzero(surface.valid)
    cell_m = surface.grid.resolution_m
    if len(rows) == 0:
        return np.zeros((0, 3)), cell_m
    low = float(np.median(surface.z[rows, cols]))
    area = float(np.median([_footprint_m2(v, low) for v in views]))
    step = max(1, int(np.sqrt(area / SAMPLES_PER_PHOTO) / cell_m))
    keep = ((rows + surface.window.row) % step == 0) & ((cols + surface.window.col) % step == 0)
    rows, cols = rows[keep], cols[keep]
    x = surface.grid.x(cols + surface.window.col + 0.5)
    y = surface.grid.y(rows + surface.window.row + 0.5)
    return np.column_stack([x, y, surface.z[rows, cols]]), float(np.sqrt(area))


def _footprint_m2(view: View, ground_m: float) -> float:
    i = view.intrinsics
    height = max(float(view.centre[2]) - ground_m, 1.0)
    return i.width_px * i.height_px * (height / i.fx) ** 2


def sightings(views: Sequence[View], plates: Mapping[str, Plate], points: F64) -> Sightings:
    """Look every point up in the tiny image of every photo that sees it; photos are read one at a time."""
    found: list[tuple[NDArray[np.int64], NDArray[np.int64], F64, F64, F64]] = []
    low = float(points[:, 2].min()) if len(points) else 0.0
    order = np.argsort(points[:, 0], kind="stable")
    sorted_x = points[order, 0]
    for number, view in enumerate(views):
        reach = reach_m(view, low)
        lo, hi = np.searchsorted(sorted_x, (view.centre[0] - reach, view.centre[0] + reach))
        some = np.sort(order[lo:hi])
        some = some[np.abs(points[some, 1] - view.centre[1]) < reach]
        some = some[sees(view, points[some], 0.01 * view.intrinsics.width_px)]
        if len(some) == 0:
            continue
        plate = plates[view.photo]
        values, uv, ends = np.zeros((len(some), 3)), np.zeros((len(some), 2)), np.zeros((len(some), 2), np.uint8)
        look_up(plate.read_tiny(), plate.packed_tiny(view), points[some], values, uv, ends)
        full = (uv + 0.5) / np.array([plate.tiny_x, plate.tiny_y])
        good = (ends[:, 0] > DARKEST) & (ends[:, 1] < BRIGHTEST)
        full, log_value = full[good], np.log(values[good])
        numbers = np.full(len(full), number, np.int64)
        found.append((some[good], numbers, log_value, relative(view.intrinsics, full), radius2(view.intrinsics, full)))
    if not found:
        nothing = np.zeros(0, np.int64)
        return Sightings(nothing, nothing, np.zeros((0, 3)), np.zeros((0, 2)), np.zeros(0))
    point, photo, log_value, uv, r2 = (np.concatenate([f[i] for f in found]) for i in range(5))
    by_point = np.lexsort((photo, point))
    return Sightings(point[by_point], photo[by_point], log_value[by_point], uv[by_point], r2[by_point])


@njit(cache=True, nogil=True)
def look_up(image: U8, p: F64, points: F64, values: F64, uv: F64, ends: U8) -> None:
    """Bilinear RGB of points in an image, clamped to its edge; ends: (n, 2) the least and largest of all that went into it."""
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
        ends[i, 0] = min(image[iv, iu].min(), image[iv, iu1].min(), image[iv1, iu].min(), image[iv1, iu1].min())
        ends[i, 1] = max(image[iv, iu].max(), image[iv, iu1].max(), image[iv1, iu].max(), image[iv1, iu1].max())
        for band in range(3):
            top = image[iv, iu, band] * (1 - fu) + image[iv, iu1, band] * fu
            low = image[iv1, iu, band] * (1 - fu) + image[iv1, iu1, band] * fu
            values[i, band] = top * (1 - fv) + low * fv


@njit(cache=True, nogil=True, inline="always")
def at_node(table: F64, col: float, row: float, factor: F64) -> None:
    """Multiply factor (3,) by a table (rows, cols, 3), bilinear at a position in nodes; clamped to its edge."""
    rows, cols = table.shape[:2]
    col = min(max(col, 0.0), cols - 1.0)
    row = min(max(row, 0.0), rows - 1.0)
    c = min(int(col), cols - 2)
    r = min(int(row), rows - 2)
    fc = col - c
    fr = row - r
    a, b, d, e = (1 - fr) * (1 - fc), (1 - fr) * fc, fr * (1 - fc), fr * fc
    for band in range(3):
        factor[band] *= (
            a * table[r, c, band]
            + b * table[r, c + 1, band]
            + d * table[r + 1, c, band]
            + e * table[r + 1, c + 1, band]
        )


@njit(cache=True, nogil=True, inline="always")
def correct(value: F64, factor: F64) -> None:
    """Correct RGB value (3,) in place. What was below 255 stays below; highlights bend and keep their hue instead of clipping."""
    brightest = max(value[0], value[1], value[2])
    mean = (factor[0] + factor[1] + factor[2]) / 3.0
    neutral = min(max((brightest - NEUTRAL_FROM) / (255.0 - NEUTRAL_FROM), 0.0), 1.0)
    top, most = 0.0, 1.0
    for band in range(3):
        f = factor[band] + (mean - factor[band]) * neutral
        value[band] *= f
        if value[band] > top:
            top, most = value[band], f
    if top <= KNEE or most <= 1.0:
        return
    start = KNEE / most
    slope = (
        most * (255.0 - start) / (255.0 - KNEE)
    )  # in shares of the bent part: as steep as below the knee where it begins
    share = (top / most - start) / (255.0 - start)
    bent = KNEE + (255.0 - KNEE) * slope * share / (1.0 + (slope - 1.0) * share)
    bent = min(bent, 255.0 - (255.0 - brightest) / 5.0)
    for band in range(3):
        value[band] *= bent / top
