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
from passel.surface.kernels import CENSUS_COLS, CENSUS_ROWS, PROJECTED, warp
from passel.surface.plate import Plate

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]

LEAST_ANGLE_RAD = 0.03  # photos closer than this to a chosen one add nothing
SAMPLES = 5
LEAST_DISTANCE = 0.3  # a camera from what stands above the plane, of its height above it; nothing nearer is looked for
LEAST_ABOVE = 0.4  # a camera above a block's plane, of its height above the block's middle


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
class Plane:
    """What a block's photos are warped onto: its height in the block's middle (m), how it rises to the east and south (metres a metre).

    Windows on it lie along the ground: on a steep slope two photos see the same in no level window.
    """

    middle_m: float
    east: float = 0.0
    south: float = 0.0

    def steps_m(self, cell_m: float) -> tuple[float, float]:
        """Rise from a column to the next, and from a row to the next."""
        return self.east * cell_m, self.south * cell_m

    def heights(self, block: Window, part: Window, cell_m: float) -> F64:
        """(rows, cols) m at the cells of `part`; block: whose plane it is, or that grown to all sides."""
        east, south = self.steps_m(cell_m)
        cols = part.col - block.col + np.arange(part.cols) - (block.cols - 1) / 2
        rows = part.row - block.row + np.arange(part.rows) - (block.rows - 1) / 2
        return np.asarray(self.middle_m + south * rows[:, None] + east * cols)

    def above(self, places: F64, middle: F64) -> F64:
        """(k,) how far above the plane places (k, 3) are; middle: (2,) of the block; map metres."""
        east, north = places[:, 0] - middle[0], places[:, 1] - middle[1]
        return np.asarray(places[:, 2] - self.middle_m - self.east * east + self.south * north)

    def seen_from(self, places: F64, middle: F64) -> Plane:
        """The same, or less steep: until all cameras at `places` (k, 3) are well above it."""
        height = places[:, 2] - self.middle_m
        rise = height - self.above(places, middle)
        over = rise > (1 - LEAST_ABOVE) * height
        if not over.any():
            return self
        less = max(0.0, float(((1 - LEAST_ABOVE) * height[over] / rise[over]).min()))
        return Plane(self.middle_m, self.east * less, self.south * less)


@dataclass(frozen=True)
class BlockHeights:
    """Where the ground of a block is thought to be: samples_m, (SAMPLES, SAMPLES) float64 heights at its `sample_places`, which tell what
    photos show on a steep slope; and the plane along it."""

    plane: Plane
    samples_m: F64


@dataclass(frozen=True)
class Block:
    """One block: its window on the level's lattice, its plane and the numbers of its photos (into the tile's views)."""

    window: Window
    plane: Plane
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


def sample_places(width: float) -> F64:
    """Where a block `width` wide is looked at, along either side."""
    return np.linspace(0.02, 0.98, SAMPLES) * width


def choose_photos(
    views: Sequence[View],
    params: Sequence[F64],
    grid: Grid,
    window: Window,
    samples_m: F64,
    limits: PhotoLimits = MATCHING,
) -> tuple[int, ...]:
    """The photos to match a block with: most nadir first, each new in direction and needed somewhere in the block; then those that
    show most of what fewer than two of them do. samples_m: (SAMPLES, SAMPLES) heights at the block's `sample_places`."""
    at = sample_places(1.0)
    gx, gy = np.meshgrid(grid.x(window.col + at * window.cols), grid.y(window.row + at * window.rows))
    xyz = np.column_stack([gx.ravel(), gy.ravel(), samples_m.ravel()])
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
    heights: Sequence[BlockHeights],
    candidates_reach_m: F64,
    limits: PhotoLimits = MATCHING,
) -> list[Block]:
    """Blocks with their photos. candidates_reach_m: (n,) how far each view sees from its nadir."""
    params = [packed(v) for v in views]
    nadirs = np.array([v.centre[:2] for v in views]).reshape(-1, 2)
    blocks = []
    for window, z in zip(windows, heights, strict=True):
        b = grid.bounds(window)
        middle = np.array([(b.west + b.east) / 2, (b.south + b.north) / 2])
        near = np.hypot(*(nadirs - middle).T) <= candidates_reach_m + (b.east - b.west)
        some = np.flatnonzero(near).tolist()
        photos = choose_photos([views[i] for i in some], [params[i] for i in some], grid, window, z.samples_m, limits)
        chosen = tuple(
            some[i] for i in photos if views[some[i]].centre[2] > z.plane.middle_m
        )  # others see no such ground
        centres = np.array([views[k].centre for k in chosen]).reshape(-1, 3)
        blocks.append(Block(window, z.plane.seen_from(centres, middle), chosen))
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
    centres: (k, 3) cameras' column, row (same origin, cells) and height above the plane (m). apart: (k, k) `pairs_apart`.
    """

    gray: F32
    layout: I64
    origin: I64
    centres: F64
    apart: NDArray[np.bool_]

    def image(self, k: int) -> F32:
        at, h, w = self.layout[k]
        return np.asarray(self.gray[at : at + h * w].reshape(h, w))


def _on_lattice(place: float) -> int:
    """The last cell of those that are projected exactly up to here: the same whatever a tile needs of the block."""
    return int(np.floor(place / PROJECTED)) * PROJECTED


def warp_block(
    block: Block,
    grid: Grid,
    views: Sequence[View],
    pictures: Pictures,
    above_m: tuple[float, float],
    least_base: float,
) -> Warped:
    """Warp the block's photos onto its plane, wide enough for every height in the range above it and the census window.

    least_base: see `pairs_apart`.
    """
    w, b = block.window, grid.bounds(block.window)
    middle = np.array([(b.west + b.east) / 2, (b.south + b.north) / 2, block.plane.middle_m])
    places = np.array([centre_seeing(views[k], middle) for k in block.photos]).reshape(-1, 3)
    above = block.plane.above(places, middle)
    centres = np.column_stack([grid.col(places[:, 0]) - w.col, grid.row(places[:, 1]) - w.row, above])
    ends = np.array([-4.0, w.cols + 4.0])  # refinement looks a few cells beyond the block
    layout, origin = np.zeros((len(centres), 3), np.int64), np.zeros((len(centres), 2), np.int64)
    size = 0
    for k, (col, row, height) in enumerate(centres):
        s = np.array([height / max(height - z, LEAST_DISTANCE * height, 1.0) for z in above_m])
        cols = (col * (1 - s))[:, None] + ends * s[:, None]
        rows = (row * (1 - s))[:, None] + ends * s[:, None]
        c0, c1 = _on_lattice(cols.min() - CENSUS_COLS - 1), int(np.ceil(cols.max())) + CENSUS_COLS + 2
        r0, r1 = _on_lattice(rows.min() - CENSUS_ROWS - 1), int(np.ceil(rows.max())) + CENSUS_ROWS + 2
        origin[k] = c0, r0
        layout[k] = size, r1 - r0, c1 - c0
        size += (r1 - r0) * (c1 - c0)
    warped = Warped(np.empty(size, np.float32), layout, origin, centres, pairs_apart(places, middle, least_base))
    z = float(block.plane.heights(w, Window(w.col, w.row, 1, 1), grid.resolution_m)[0, 0])
    east, south = block.plane.steps_m(grid.resolution_m)
    for k, photo in enumerate(block.photos):
        image, p = pictures.get(photo)
        c0, r0 = origin[k]
        x0, y0 = float(grid.x(w.col + c0)), float(grid.y(w.row + r0))
        warp(image, p, x0, y0, grid.resolution_m, z + c0 * east + r0 * south, east, south, warped.image(k))
    return warped
