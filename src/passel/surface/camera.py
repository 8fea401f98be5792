"""Views packed for the kernels, and plain questions about them: what they see, at which ground sampling distance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from passel.geo.grid import Bounds, Grid, Window
from passel.geo.nearest import kd_tree
from passel.reconstruct.scene import Intrinsics, View

F64 = NDArray[np.float64]

PACKED = 26  # cam_from_map 9, centre 3, fx fy cx cy (array index units), k1 k2 p1 p2 k3, largest radius squared, sweep 3, flattest ray
FAR = -1.0e9  # image coordinate of what is not seen
# Rays flatter than this (from straight down) tell heights badly: of ground that two oblique photos show so, 60 % is off by more than
# 1 m, 35 % a little below. What a photo was aimed at it shows all the same, and a little beyond.
FLATTEST_DEG = 65.0
BEYOND_AIM_DEG = 10.0
FLATTEST_AT_ALL_DEG = 80.0
LEAST_BASE = 0.08  # rad between two rays that tell a height: a third of a pixel between closer ones is more than four pixels of height


@lru_cache(maxsize=256)
def largest_radius2(camera: Intrinsics) -> float:
    """Largest squared normalised radius inside the photo: beyond it the distortion polynomial may fold back into the image."""
    corner = max(
        np.hypot((u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy)
        for u in (0.0, camera.width_px)
        for v in (0.0, camera.height_px)
    )
    r = np.linspace(0.0, 4.0, 4001)
    r2 = r * r
    distorted = r * (1.0 + r2 * (camera.k1 + r2 * (camera.k2 + r2 * camera.k3)))
    end = np.flatnonzero((distorted > corner * 1.02) | (np.gradient(distorted, r) <= 0.0))
    return float(r2[end[0]] if len(end) else r2[-1])


def packed(view: View, scale_x: float = 1.0, scale_y: float = 1.0) -> F64:
    """(PACKED,) float64 for `project`; scale: pixels of the image used per pixel of the full photo."""
    i = view.intrinsics
    out = np.empty(PACKED)
    out[:9] = view.cam_from_map.ravel()
    out[9:12] = view.centre
    out[12:16] = i.fx * scale_x, i.fy * scale_y, i.cx * scale_x - 0.5, i.cy * scale_y - 0.5
    out[16:21] = i.k1, i.k2, i.p1, i.p2, i.k3
    out[21] = largest_radius2(i)
    out[22:25] = view.sweep
    out[25] = _flattest_ray(view) ** 2
    return out


def _flattest_ray(view: View) -> float:
    """Horizontal over vertical length of the flattest rays that count."""
    return float(np.tan(np.radians(np.clip(_tilt_deg(view) + BEYOND_AIM_DEG, FLATTEST_DEG, FLATTEST_AT_ALL_DEG))))


def _tilt_deg(view: View) -> float:
    """Of the line of sight from straight down."""
    axis = view.cam_from_map[2] / np.linalg.norm(view.cam_from_map[2])
    return float(np.degrees(np.arccos(np.clip(-axis[2], -1.0, 1.0))))


@njit(cache=True, nogil=True, inline="always")
def project(p: F64, x: float, y: float, z: float) -> tuple[float, float]:
    """Array indices (column, row; centres at integers) of a map point, (FAR, FAR) when behind, far outside or seen too flatly."""
    dx = x - p[9]
    dy = y - p[10]
    dz = z - p[11]
    c = p[6] * dx + p[7] * dy + p[8] * dz
    if c <= 0.01 or dx * dx + dy * dy > p[25] * dz * dz:
        return FAR, FAR
    a = p[0] * dx + p[1] * dy + p[2] * dz
    b = p[3] * dx + p[4] * dy + p[5] * dz
    late = b / (c - p[23])
    c += late * p[24]
    a = (a + late * p[22]) / c
    b = (b + late * p[23]) / c
    r2 = a * a + b * b
    if r2 > p[21]:
        return FAR, FAR
    radial = 1.0 + r2 * (p[16] + r2 * (p[17] + r2 * p[20]))
    ab = 2.0 * a * b
    u = p[12] * (a * radial + p[18] * ab + p[19] * (r2 + 2.0 * a * a)) + p[14]
    v = p[13] * (b * radial + p[18] * (r2 + 2.0 * b * b) + p[19] * ab) + p[15]
    return u, v


@njit(cache=True, nogil=True)
def project_all(p: F64, xyz: F64) -> F64:
    """(n, 3) map points → (n, 2) array indices, FAR where unseen."""
    out = np.empty((len(xyz), 2))
    for i in range(len(xyz)):
        out[i, 0], out[i, 1] = project(p, xyz[i, 0], xyz[i, 1], xyz[i, 2])
    return out


def sees(view: View, xyz: F64, border_px: float = 0.0) -> NDArray[np.bool_]:
    """(n,) which of the (n, 3) map points lie inside the photo, at least `border_px` full-size pixels from its edge."""
    uv = project_all(packed(view), np.ascontiguousarray(xyz, float))
    i = view.intrinsics
    return np.asarray(
        (uv[:, 0] >= border_px)
        & (uv[:, 1] >= border_px)
        & (uv[:, 0] <= i.width_px - 1 - border_px)
        & (uv[:, 1] <= i.height_px - 1 - border_px)
    )


def times_seen(views: Sequence[View], grid: Grid, window: Window, z: NDArray[np.floating]) -> NDArray[np.int32]:
    """(rows, cols) how many photos show the centre of each cell of a window at the heights z (rows, cols), map metres."""
    seen = np.zeros(window.shape, np.int32)
    for _, part, shown, _ in _shown_cells(views, grid, window, z):
        seen[part] += shown
    return seen


def base_to_height(views: Sequence[View], grid: Grid, window: Window, z: NDArray[np.floating]) -> NDArray[np.float32]:
    """(rows, cols) how well photos can tell the height of each cell of a window at the heights z (rows, cols), map metres: the extent of
    the cameras that show it over their height above it. 0 where fewer than two do.

    Each camera counts where its ray meets a plane one unit above the cell; the extent is the diagonal of the box around these places.
    """
    low = np.full((2, *window.shape), np.inf, np.float32)
    high = np.full((2, *window.shape), -np.inf, np.float32)
    for view, part, shown, xyz in _shown_cells(views, grid, window, z):
        above = np.maximum(view.centre[2] - xyz[:, 2], 0.1)
        for axis in (0, 1):
            place = ((view.centre[axis] - xyz[:, axis]) / above).reshape(shown.shape)
            np.minimum(low[axis][part], place, out=low[axis][part], where=shown)
            np.maximum(high[axis][part], place, out=high[axis][part], where=shown)
    extent = np.where(np.isfinite(low), high - low, 0.0)
    return np.asarray(np.hypot(extent[0], extent[1]), np.float32)


def _shown_cells(
    views: Sequence[View], grid: Grid, window: Window, z: NDArray[np.floating]
) -> Iterator[tuple[View, tuple[slice, slice], NDArray[np.bool_], F64]]:
    """Each view that may show something of a window, the part of it, (rows, cols) which cells of that part it shows, and all of their
    centres (n, 3) in map metres."""
    low = float(z.min())
    for view in views:
        reach = reach_m(view, low)
        c = np.floor(grid.col(view.centre[0] + np.array([-reach, reach]))).astype(int) - window.col
        r = np.floor(grid.row(view.centre[1] + np.array([reach, -reach]))).astype(int) - window.row
        c0, r0 = max(int(c[0]), 0), max(int(r[0]), 0)
        part = slice(r0, max(min(int(r[1]) + 1, window.rows), r0)), slice(c0, max(min(int(c[1]) + 1, window.cols), c0))
        here = z[part]
        if here.size == 0:
            continue
        x = grid.x(np.arange(c0, c0 + here.shape[1], dtype=float) + window.col + 0.5)
        y = grid.y(np.arange(r0, r0 + here.shape[0], dtype=float) + window.row + 0.5)
        gx, gy = np.meshgrid(x, y)
        xyz = np.column_stack([gx.ravel(), gy.ravel(), here.ravel()])
        yield view, part, sees(view, xyz).reshape(here.shape), xyz


def centre_seeing(view: View, point: F64) -> F64:
    """(3,) where the camera was (map metres) when it exposed the row that shows a map point (3,)."""
    _, y, z = view.cam_from_map @ (point - view.centre)
    shift = np.linalg.solve(view.cam_from_map, y / (z - view.sweep[1]) * view.sweep)
    return np.asarray(view.centre - shift)


def reach_m(view: View, z_low_m: float) -> float:
    """Horizontal distance (m) from the nadir beyond which the photo sees nothing above `z_low_m`."""
    half_angle = np.arctan(np.sqrt(largest_radius2(view.intrinsics)))
    flattest = np.tan(min(np.radians(_tilt_deg(view)) + half_angle, np.radians(FLATTEST_AT_ALL_DEG)))
    return float(max(view.centre[2] - z_low_m, 1.0) * min(flattest, _flattest_ray(view)))


class ViewFinder:
    """Which photos see a rectangle of ground: the views gathered once for the thousands of tiles that ask.

    z_range_m: lowest and highest ground, map metres.
    """

    def __init__(self, views: Sequence[View], z_range_m: tuple[float, float]) -> None:
        self._names = [v.photo for v in views]
        self._packed = np.array([packed(v) for v in views]).reshape(-1, PACKED)
        self._sizes = np.array([(v.intrinsics.width_px, v.intrinsics.height_px) for v in views], float).reshape(-1, 2)
        self._centres = np.array([v.centre[:2] for v in views]).reshape(-1, 2)
        self._reach_m = np.array([reach_m(v, z_range_m[0]) for v in views])
        self._heights = np.unique(np.array(z_range_m, float))

    def seeing(self, bounds: Bounds) -> list[str]:
        """Names of the photos that see any of the rectangle, sorted."""
        middle = np.array([(bounds.west + bounds.east) / 2, (bounds.south + bounds.north) / 2])
        half = np.hypot(bounds.east - bounds.west, bounds.north - bounds.south) / 2
        near = np.flatnonzero(np.hypot(*(self._centres - middle).T) <= half + self._reach_m)
        corners = np.array([bounds.west, bounds.south, bounds.east, bounds.north])
        return sorted(
            self._names[i]
            for i in near
            if _sees_any(self._packed[i], self._sizes[i], self._reach_m[i], corners, self._heights)
        )


@njit(cache=True, nogil=True)
def _sees_any(p: F64, size: F64, reach: float, corners: F64, heights: F64) -> bool:
    """Whether a photo sees any of 17 x 17 places of the rectangle (west, south, east, north) at the heights.

    Only of its part about the photo: a rectangle may be so large that the photo would slip between places spread over all of it.
    """
    west, south = max(corners[0], p[9] - reach), max(corners[1], p[10] - reach)
    east, north = min(corners[2], p[9] + reach), min(corners[3], p[10] + reach)
    if west > east or south > north:
        return False
    for z in heights:
        for i in range(17):
            for j in range(17):
                u, v = project(p, west + (east - west) * i / 16.0, south + (north - south) * j / 16.0, z)
                if u >= 0.0 and v >= 0.0 and u <= size[0] - 1.0 and v <= size[1] - 1.0:
                    return True
    return False


def heights_above_ground_m(views: Sequence[View], points: F64) -> F64:
    """(n,) height of each camera above the median of its nearest 60 points ((m, 3) map metres)."""
    centres = np.array([v.centre for v in views])
    _, near = kd_tree(points[:, :2]).query(centres[:, :2], k=min(60, len(points)))
    ground = np.median(points[:, 2][np.asarray(near).reshape(len(centres), -1)], axis=1)
    return np.asarray(np.maximum(centres[:, 2] - ground, 0.1))


def ground_sampling_m(views: Sequence[View], heights_m: F64) -> float:
    """Ground sampling distance of the survey: the median over photos of height above ground (n,) divided by focal length."""
    return float(np.median(heights_m / np.array([v.intrinsics.fx for v in views])))
