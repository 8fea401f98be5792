"""Which photos show each ground cell of a tile's true orthophoto, with which weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

from passel.geo.grid import Grid, Window
from passel.reconstruct.scene import View
from passel.surface.blocks import blocks_of, coverage
from passel.surface.camera import FAR, packed, project, reach_m
from passel.surface.colour import Gains
from passel.surface.plate import Plate

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
I16 = NDArray[np.int16]
U8 = NDArray[np.uint8]

BLOCK_CELLS = 64
SQUARE_CELLS = 32  # whose highest point is known
CANDIDATES = 14  # photos a block may use
PER_CELL = 3  # photos blended in a cell at most
FEATHER = 0.06  # of the photo's width: weights fade towards its edge
HIDDEN_M_PER_CELL = 3.0  # how much higher (cells) a surface must be to hide the ground behind it
AROUND = 4  # cells on each side that are asked which photo shows them
RARE, USUAL = 0.25, 0.5  # of them: a photo that fewer take gives way to one that more take
SMOOTH_SIGMA, SHARP_SIGMA = 0.02, 0.002  # of tan² of the nadir angle
TINT_CELLS, TINT_MOST = 16, 25.0  # cells of the lattice, gray levels
FULL = 255


@dataclass(frozen=True)
class Choice:
    """Which photos show each cell of a window: photo (rows, cols, PER_CELL) int16, -1 none; weight u8, the sum is 255 or 0."""

    photo: I16
    weight: U8


def block_candidates(views: Sequence[View], grid: Grid, window: Window, z: F32) -> tuple[int, ...]:
    """Photos that see any of a block, most nadir first; every corner of the block keeps some."""
    x = grid.x(window.col + np.linspace(0, 1, 3) * window.cols)
    y = grid.y(window.row + np.linspace(0, 1, 3) * window.rows)
    gx, gy = np.meshgrid(x, y)
    height = float(np.median(z))
    xyz = np.column_stack([gx.ravel(), gy.ravel(), np.full(gx.size, height)])
    cameras = np.array([v.centre for v in views]).reshape(-1, 3)
    near = np.hypot(*(cameras[:, :2] - xyz[4, :2]).T)
    some = [
        i for i in range(len(views)) if near[i] < reach_m(views[i], float(z.min())) + window.cols * grid.resolution_m
    ]
    if not some:
        return ()
    seen = coverage([views[i] for i in some], [packed(views[i]) for i in some], xyz)
    tan = near[some] / np.maximum(cameras[some, 2] - height, 1.0)
    counts = np.zeros(len(xyz), int)
    chosen: list[int] = []
    for k in np.argsort(tan, kind="stable"):
        if (seen[k] & (counts < CANDIDATES // 2)).any():
            chosen.append(some[int(k)])
            counts += seen[k]
        if len(chosen) == CANDIDATES:
            break
    return tuple(chosen)


def choose(
    views: Sequence[View], plates: Mapping[str, Plate], gains: Gains, grid: Grid, core: Window, around: Window, z: F32
) -> Choice:
    """Choose and weigh the photos of every cell of `core` (whole blocks) on the surface z of `around` (float32 m, no NaN)."""
    photo = np.full((*core.shape, PER_CELL), -1, np.int16)
    score = np.full((*core.shape, PER_CELL), np.inf, np.float32)
    edge = np.zeros((*core.shape, PER_CELL), np.float32)
    params = np.stack([packed(v) for v in views])
    sizes = np.array([(v.intrinsics.width_px, v.intrinsics.height_px) for v in views], float)
    # what is thinner than three cells is noise or a twig: it hides nothing, else the ground behind it is speckled with other photos
    shade = np.asarray(cv2.morphologyEx(z, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)))
    highest = _highest(shade)
    x0, y0 = float(grid.x(around.col)), float(grid.y(around.row))
    for block in blocks_of(core, BLOCK_CELLS):
        inner, outer = block.slices_in(core), block.slices_in(around)
        some = np.array(block_candidates(views, grid, block, z[outer]), np.int64)
        if len(some) == 0:
            continue
        _visible(z, shade, highest, x0, y0, grid.resolution_m, outer[0].start, outer[1].start, some, params, sizes,
                 photo[inner], score[inner], edge[inner])  # fmt: skip
        _settle(z[outer], some, params, sizes, x0 + outer[1].start * grid.resolution_m,
                y0 - outer[0].start * grid.resolution_m, grid.resolution_m, photo[inner], score[inner], edge[inner])  # fmt: skip
    part = core.slices_in(around)
    rough = roughness(z, grid.resolution_m)[part]
    differ = _disagreement(views, plates, gains, photo, (grid, core, z[part]))
    weight = np.zeros(photo.shape, np.uint8)
    _weigh(photo, score, edge, rough, differ, weight)
    return Choice(photo, weight)


def _highest(z: F32) -> F32:
    """The highest z of every square of an array, for skipping long marches."""
    rows, cols = z.shape
    padded = np.pad(z, ((0, -rows % SQUARE_CELLS), (0, -cols % SQUARE_CELLS)), mode="edge")
    squares = padded.reshape(padded.shape[0] // SQUARE_CELLS, SQUARE_CELLS, -1, SQUARE_CELLS)
    return np.ascontiguousarray(squares.max(axis=(1, 3)))


def roughness(z: F32, cell_m: float) -> F32:
    """(rows, cols) spread of z over 9 cells, in cells: 0 on a plane."""
    flat = cv2.boxFilter(z, -1, (9, 9))
    variance = cv2.boxFilter((z - flat) ** 2, -1, (9, 9))
    return np.asarray(cv2.dilate(np.sqrt(variance) / cell_m, np.ones((9, 9), np.uint8)))


@njit(cache=True, nogil=True)
def _visible(
    z: F32, shade: F32, highest: F32, x0: float, y0: float, cell_m: float, row0: int, col0: int, some: NDArray[np.int64],
    params: F64, sizes: F64, photo: I16, score: F32, edge: F32,
) -> None:  # fmt: skip
    """Fill the most nadir photos (tan² of the nadir angle, rising) that reach each cell of a block and are not hidden from it."""
    top = float(highest.max())
    n = len(some)
    order = np.empty(n, np.int64)
    tan2 = np.empty(n)
    for r in range(photo.shape[0]):
        for c in range(photo.shape[1]):
            height = z[row0 + r, col0 + c]
            x = x0 + (col0 + c + 0.5) * cell_m
            y = y0 - (row0 + r + 0.5) * cell_m
            for i in range(n):
                p = params[some[i]]
                up = max(p[11] - height, 0.1)
                d = ((p[9] - x) ** 2 + (p[10] - y) ** 2) / (up * up)
                k = i
                while k > 0 and tan2[k - 1] > d:
                    tan2[k] = tan2[k - 1]
                    order[k] = order[k - 1]
                    k -= 1
                tan2[k] = d
                order[k] = some[i]
            m = 0
            for i in range(n):
                j = order[i]
                if m > 0 and tan2[i] - score[r, c, 0] > 5 * SMOOTH_SIGMA and edge[r, c, 0] >= 1.0:
                    break
                u, v = project(params[j], x, y, height)
                if u == FAR:
                    continue
                inside = min(u, sizes[j, 0] - 1 - u, v, sizes[j, 1] - 1 - v) - 4.0
                if inside <= 0 or _hidden(shade, highest, x0, y0, cell_m, x, y, height, params[j], top):
                    continue
                photo[r, c, m] = j
                score[r, c, m] = tan2[i]
                edge[r, c, m] = min(1.0, inside / (FEATHER * sizes[j, 0]))
                m += 1
                if m == photo.shape[2]:
                    break
            if m == 0:
                _show_hidden(order, n, params, sizes, x, y, height, photo[r, c], score[r, c], edge[r, c])


@njit(cache=True, nogil=True)
def _show_hidden(
    order: NDArray[np.int64], n: int, params: F64, sizes: F64, x: float, y: float, height: float, photo: I16, score: F32,
    edge: F32,
) -> None:  # fmt: skip
    """Hidden from every photo: what the most nadir one shows there is a better picture than a hole."""
    for i in range(n):
        u, v = project(params[order[i]], x, y, height)
        if u > 4 and v > 4 and u < sizes[order[i], 0] - 5 and v < sizes[order[i], 1] - 5:
            photo[0] = order[i]
            score[0] = 0.0
            edge[0] = 1.0
            return


@njit(cache=True, nogil=True)
def _settle(
    z: F32, some: NDArray[np.int64], params: F64, sizes: F64, x0: float, y0: float, cell_m: float, photo: I16, score: F32,
    edge: F32,
) -> None:  # fmt: skip
    """Cells whose first photo is rare around them take the photo that most around them take: no speckles where heights are noisy.

    Looks at the block alone, so that every tile decides alike.
    """
    rows, cols = z.shape
    first = photo[:, :, 0].copy()
    count = np.zeros(len(params), np.int64)
    for r in range(rows):
        for c in range(cols):
            if first[r, c] < 0:
                continue
            r0, r1, c0, c1 = (
                max(r - AROUND, 0),
                min(r + AROUND + 1, rows),
                max(c - AROUND, 0),
                min(c + AROUND + 1, cols),
            )
            same = 0
            for i in range(r0, r1):
                for j in range(c0, c1):
                    if first[i, j] == first[r, c]:
                        same += 1
            area = (r1 - r0) * (c1 - c0)
            if same > RARE * area:
                continue
            count[some] = 0
            most = first[r, c]
            for i in range(r0, r1):
                for j in range(c0, c1):
                    k = first[i, j]
                    if k >= 0:
                        count[k] += 1
                        if count[k] > count[most]:
                            most = k
            u, v = project(params[most], x0 + (c + 0.5) * cell_m, y0 - (r + 0.5) * cell_m, z[r, c])
            inside = min(u, sizes[most, 0] - 1 - u, v, sizes[most, 1] - 1 - v) - 4.0
            if count[most] < USUAL * area or inside <= 0:
                continue
            photo[r, c, 0], photo[r, c, 1:] = most, -1
            score[r, c, 0] = 0.0
            edge[r, c, 0] = min(1.0, inside / (FEATHER * sizes[most, 0]))


@njit(cache=True, nogil=True)
def _hidden(
    z: F32, highest: F32, x0: float, y0: float, cell_m: float, x: float, y: float, height: float, p: F64, top: float
) -> bool:
    """March over the surface towards the camera's nadir: does anything rise above the line of sight?"""
    dx, dy, dz = p[9] - x, p[10] - y, p[11] - height
    length = np.sqrt(dx * dx + dy * dy)
    if length < cell_m or dz <= 0:
        return False
    slope = dz / length
    tolerance = HIDDEN_M_PER_CELL * cell_m
    end = min(length, (top - height - tolerance) / slope)
    rows, cols = z.shape
    t = 1.5 * cell_m
    while t < end:
        c = int((x + dx / length * t - x0) / cell_m)
        r = int((y0 - (y + dy / length * t)) / cell_m)
        if c < 0 or r < 0 or c >= cols or r >= rows:
            return False
        line = height + slope * t + tolerance
        if z[r, c] > line:
            return True
        # over squares that are lower than the line of sight in long strides
        t += cell_m * (8.0 if _low_around(highest, r // SQUARE_CELLS, c // SQUARE_CELLS, line) else 1.0)
    return False


@njit(cache=True, nogil=True, inline="always")
def _low_around(highest: F32, r: int, c: int, line: float) -> bool:
    for i in range(max(0, r - 1), min(highest.shape[0], r + 2)):
        for j in range(max(0, c - 1), min(highest.shape[1], c + 2)):
            if highest[i, j] >= line:
                return False
    return True


def _disagreement(
    views: Sequence[View], plates: Mapping[str, Plate], gains: Gains, photo: I16, ground: tuple[Grid, Window, F32]
) -> F32:
    """(rows, cols) how differently (gray levels, averaged over 5 cells) a cell's first two photos show it."""
    grid, core, z = ground
    value = np.full((*photo.shape[:2], 2), np.nan, np.float32)
    x0, y0 = float(grid.x(core.col)), float(grid.y(core.row))
    for j in np.unique(photo[:, :, :2]):
        if j < 0:
            continue
        plate = plates[views[j].photo]
        table = gains.table(views[j]).mean(axis=2)
        _sample_gray(plate.read_gray(), plate.packed(views[j]), x0, y0, grid.resolution_m, z, photo, j, table, value)
    difference = value[:, :, 0] - value[:, :, 1]
    return np.asarray(cv2.boxFilter(np.abs(np.nan_to_num(difference - _tint(difference))), -1, (5, 5)))


def _tint(difference: F32) -> F32:
    """What photos differ by over wide ground, at most TINT_MOST: a tint that blends softly, not another thing shown."""
    rows, cols = difference.shape
    parts = difference.reshape(rows // TINT_CELLS, TINT_CELLS, cols // TINT_CELLS, TINT_CELLS)
    known = np.isfinite(parts)
    mean = np.where(known, parts, 0.0).sum(axis=(1, 3)) / np.maximum(known.sum(axis=(1, 3)), 1)
    mean = np.clip(mean, -TINT_MOST, TINT_MOST).astype(np.float32)
    return np.asarray(np.repeat(np.repeat(mean, TINT_CELLS, axis=0), TINT_CELLS, axis=1))


@njit(cache=True, nogil=True)
def _sample_gray(
    image: U8, p: F64, x0: float, y0: float, cell_m: float, z: F32, photo: I16, j: int, table: F64, value: F32
) -> None:
    h, w = image.shape
    nodes = table.shape[0] - 1
    for r in range(z.shape[0]):
        for c in range(z.shape[1]):
            for k in range(2):
                if photo[r, c, k] != j:
                    continue
                u, v = project(p, x0 + (c + 0.5) * cell_m, y0 - (r + 0.5) * cell_m, z[r, c])
                iu = min(max(int(u + 0.5), 0), w - 1)
                iv = min(max(int(v + 0.5), 0), h - 1)
                node_r, node_c = int((iv + 0.5) / h * nodes + 0.5), int((iu + 0.5) / w * nodes + 0.5)
                value[r, c, k] = image[iv, iu] * table[node_r, node_c]


@njit(cache=True, nogil=True)
def _weigh(photo: I16, score: F32, edge: F32, rough: F32, differ: F32, weight: U8) -> None:
    """Weights of each cell's photos: soft on flat ground that all show alike, nearly one photo elsewhere; 255 in all."""
    share = np.zeros(photo.shape[2])
    for r in range(photo.shape[0]):
        for c in range(photo.shape[1]):
            if photo[r, c, 0] < 0:
                continue
            doubt = min(1.0, max((rough[r, c] - 1.5) / 3.0, (differ[r, c] - 8.0) / 12.0))
            sigma = SMOOTH_SIGMA + (SHARP_SIGMA - SMOOTH_SIGMA) * max(0.0, doubt)
            # where a photo fades out at its edge the next takes over, however much steeper it looks
            left, rest, total = FULL, 1.0 - max(0.0, doubt), 0.0
            for k in range(photo.shape[2]):
                if photo[r, c, k] >= 0:
                    share[k] = max(np.exp(-(score[r, c, k] - score[r, c, 0]) / sigma), rest) if k > 0 else 1.0
                    share[k] *= edge[r, c, k] + 1e-3
                    rest *= 1.0 - edge[r, c, k]
                    total += share[k]
            for k in range(photo.shape[2] - 1, 0, -1):
                if photo[r, c, k] >= 0:
                    part = int(FULL * share[k] / total + 0.5)
                    weight[r, c, k] = part
                    left -= part
            weight[r, c, 0] = max(left, 0)
