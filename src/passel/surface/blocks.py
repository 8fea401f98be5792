"""Blocks of ground cells: which photos a block is matched with, on which plane, and those photos warped onto it.

Blocks lie on the world lattice and their choices depend on nothing but the block, the photos and the global surface, so two tiles that
share a block compute the same numbers for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from passel.geo.grid import Grid, Window
from passel.reconstruct.scene import View
from passel.surface.camera import centre_seeing, packed, project_all
from passel.surface.kernels import CENSUS_COLS, CENSUS_ROWS, warp
from passel.surface.plate import Plate

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]

LEAST_ANGLE_RAD = 0.03  # photos closer than this to a chosen one add nothing
SAMPLES = 5


@dataclass(frozen=True)
class PhotoLimits:
    """How many photos a block takes: per_block, the most nadir ones, or fewer if those show each point per_point times; at_most where
    they leave a part of the block to fewer than two: at the end of a flight above or beside another.
    """

    per_point: int
    per_block: int
    at_most: int


MATCHING = PhotoLimits(5, 8, 12)  # enough pairs for a robust cost; more only add parallax blur and time
REFINING = PhotoLimits(12, 16, 18)  # the errors of many cameras' places average out, those of five leave centimetres


@dataclass(frozen=True)
class Block:
    """One block: its window on the level's lattice, plane height (m) and the numbers of its photos (into the tile's views)."""

    window: Window
    plane_m: float
    photos: tuple[int, ...]


def blocks_of(window: Window, cells: int) -> list[Window]:
    """The blocks (absolute numbering) of a window that consists of whole ones, row by row."""
    assert window.col % cells == window.row % cells == window.cols % cells == window.rows % cells == 0
    return [
        Window(window.col + i, window.row + j, cells, cells)
        for j in range(0, window.rows, cells)
        for i in range(0, window.cols, cells)
    ]


def directions(views: Sequence[View], at: F64) -> F64:
    """(n, 3) unit vectors from a map point to the cameras."""
    d = np.array([v.centre for v in views]).reshape(-1, 3) - at
    return np.asarray(d / np.linalg.norm(d, axis=1, keepdims=True))


def pairs_apart(centres: F64, middle: F64, least_base: float) -> NDArray[np.bool_]:
    """(k, k) which of k cameras (centres and middle in one frame and unit) see a place so differently that they see its height: their
    rays are at least `least_base` (rad) apart.

    Two photos from one place, of two flights say, match at any height: chance would choose one.
    """
    rays = centres - middle
    rays = rays / np.linalg.norm(rays, axis=1, keepdims=True)
    return np.asarray(rays @ rays.T < np.cos(least_base))


def coverage(views: Sequence[View], params: Sequence[F64], xyz: F64) -> NDArray[np.bool_]:
    """(n views, m points) which points lie well inside which photo."""
    out = np.zeros((len(views), len(xyz)), bool)
    for k, (view, p) in enumerate(zip(views, params, strict=True)):
        i = view.intrinsics
        uv = project_all(p, xyz)
        margin_u, margin_v = 0.01 * i.width_px, 0.01 * i.height_px
        out[k] = (
            (uv[:, 0] > margin_u)
            & (uv[:, 1] > margin_v)
            & (uv[:, 0] < i.width_px - margin_u)
            & (uv[:, 1] < i.height_px - margin_v)
        )
    return out


def choose_photos(
    views: Sequence[View],
    params: Sequence[F64],
    grid: Grid,
    window: Window,
    plane_m: float,
    limits: PhotoLimits = MATCHING,
) -> tuple[int, ...]:
    """The photos to match a block with: most nadir first, each new in direction and needed somewhere in the block; then those that
    show most of what fewer than two of them do."""
    x = grid.x(window.col + np.linspace(0.02, 0.98, SAMPLES) * window.cols)
    y = grid.y(window.row + np.linspace(0.02, 0.98, SAMPLES) * window.rows)
    gx, gy = np.meshgrid(x, y)
    xyz = np.column_stack([gx.ravel(), gy.ravel(), np.full(gx.size, plane_m)])
    middle = xyz.mean(axis=0)
    seen = coverage(views, params, xyz)
    rays = directions(views, middle)
    order = np.argsort(-rays[:, 2], kind="stable")
    chosen: list[int] = []
    counts = np.zeros(len(xyz), int)
    for k in order.tolist():
        if rays[k, 2] <= 0.3 or not (seen[k] & (counts < limits.per_point)).any():
            continue
        if chosen and np.max(rays[chosen] @ rays[k]) > np.cos(LEAST_ANGLE_RAD) and counts[seen[k]].min() >= 2:
            continue
        chosen.append(k)
        counts += seen[k]
        if len(chosen) == limits.per_block:
            break
    usable = [k for k in order.tolist() if rays[k, 2] > 0.3 and k not in chosen]
    while usable and len(chosen) < limits.at_most:
        gains = (seen[usable] & (counts < 2)).sum(axis=1)
        if gains.max() == 0:
            break
        best = usable.pop(int(np.argmax(gains)))
        chosen.append(best)
        counts += seen[best]
    return tuple(chosen)


def plan_blocks(
    views: Sequence[View],
    grid: Grid,
    windows: Sequence[Window],
    planes_m: Sequence[float],
    candidates_reach_m: F64,
    limits: PhotoLimits = MATCHING,
) -> list[Block]:
    """Blocks with their photos. candidates_reach_m: (n,) how far each view sees from its nadir."""
    params = [packed(v) for v in views]
    nadirs = np.array([v.centre[:2] for v in views]).reshape(-1, 2)
    blocks = []
    for window, plane in zip(windows, planes_m, strict=True):
        b = grid.bounds(window)
        middle = np.array([(b.west + b.east) / 2, (b.south + b.north) / 2])
        near = np.hypot(*(nadirs - middle).T) <= candidates_reach_m + (b.east - b.west)
        some = np.flatnonzero(near).tolist()
        photos = choose_photos([views[i] for i in some], [params[i] for i in some], grid, window, plane, limits)
        blocks.append(Block(window, plane, tuple(some[i] for i in photos)))
    return blocks


class Pictures:
    """Plates of the photos in use at one level, opened on first use and let go after their last block, so memory stays bounded."""

    def __init__(
        self, plates: Mapping[str, Plate], views: Sequence[View], blocks: Sequence[Block], reduction: int
    ) -> None:
        self._plates, self._views, self._reduction = plates, views, reduction
        self._open: dict[int, tuple[U8, F64]] = {}
        self._last = {k: i for i, b in enumerate(blocks) for k in b.photos}

    def get(self, photo: int) -> tuple[U8, F64]:
        """The gray image (h, w) u8 and its packed camera."""
        if photo not in self._open:
            view = self._views[photo]
            plate = self._plates[view.photo]
            image, sx, sy = plate.read_gray(), plate.scale_x, plate.scale_y
            if self._reduction > 1:
                h, w = image.shape
                size = max(1, w // self._reduction), max(1, h // self._reduction)
                image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
                image.flags.writeable = False  # one compiled kernel for mapped and reduced images
                sx, sy = sx * size[0] / w, sy * size[1] / h
            self._open[photo] = image, packed(view, sx, sy)
        return self._open[photo]

    def done_with(self, block_number: int) -> None:
        for photo in [k for k in self._open if self._last[k] <= block_number]:
            del self._open[photo]


@dataclass(frozen=True)
class Warped:
    """A block's photos on its plane, one after the other in `gray` (float32, -1 unseen).

    layout: (k, 3) int64 start in `gray`, rows, columns; origin: (k, 2) first column and row relative to the block's north-west cell;
    centres: (k, 3) cameras' column, row (same origin, cells) and height (m). apart: (k, k) `pairs_apart`.
    """

    gray: F32
    layout: I64
    origin: I64
    centres: F64
    apart: NDArray[np.bool_]

    def image(self, k: int) -> F32:
        at, h, w = self.layout[k]
        return np.asarray(self.gray[at : at + h * w].reshape(h, w))


def warp_block(
    block: Block,
    grid: Grid,
    views: Sequence[View],
    pictures: Pictures,
    z_range_m: tuple[float, float],
    least_base: float,
) -> Warped:
    """Warp the block's photos onto its plane, wide enough for every height of the range and the census window.

    least_base: see `pairs_apart`.
    """
    w, b = block.window, grid.bounds(block.window)
    middle = np.array([(b.west + b.east) / 2, (b.south + b.north) / 2, block.plane_m])
    places = np.array([centre_seeing(views[k], middle) for k in block.photos]).reshape(-1, 3)
    centres = np.column_stack([grid.col(places[:, 0]) - w.col, grid.row(places[:, 1]) - w.row, places[:, 2]])
    ends = np.array([-4.0, w.cols + 4.0])  # refinement looks a few cells beyond the block
    layout, origin = np.zeros((len(centres), 3), np.int64), np.zeros((len(centres), 2), np.int64)
    size = 0
    for k, (col, row, height) in enumerate(centres):
        s = np.array([(height - block.plane_m) / max(height - z, 1.0) for z in z_range_m])
        cols = (col * (1 - s))[:, None] + ends * s[:, None]
        rows = (row * (1 - s))[:, None] + ends * s[:, None]
        c0, c1 = int(np.floor(cols.min())) - CENSUS_COLS - 1, int(np.ceil(cols.max())) + CENSUS_COLS + 2
        r0, r1 = int(np.floor(rows.min())) - CENSUS_ROWS - 1, int(np.ceil(rows.max())) + CENSUS_ROWS + 2
        origin[k] = c0, r0
        layout[k] = size, r1 - r0, c1 - c0
        size += (r1 - r0) * (c1 - c0)
    warped = Warped(np.empty(size, np.float32), layout, origin, centres, pairs_apart(places, middle, least_base))
    for k, photo in enumerate(block.photos):
        image, p = pictures.get(photo)
        x0, y0 = float(grid.x(w.col + origin[k, 0])), float(grid.y(w.row + origin[k, 1]))
        warp(image, p, x0, y0, grid.resolution_m, block.plane_m, warped.image(k))
    return warped
