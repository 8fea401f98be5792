"""A small analytic world for the surface tests: hills, a flat-roofed house, a plane; photos rendered from exact cameras."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numba import njit

from passel.reconstruct.scene import Intrinsics, View, project

CAMERA = Intrinsics("test", 960, 720, 900.0, 900.0, 483.0, 357.5, -0.02, 0.01, 0.001, -0.0005)
HEIGHT_M = 30.0  # above the plane z = 0
GSD_M = HEIGHT_M / CAMERA.fx  # 3.3 cm
HOUSE = (-4.0, 3.0, 3.0, 8.0, 4.0)  # west, south, east, north, height (m)


@njit(cache=True)
def height(x: float, y: float) -> float:
    """Surface height (m) at a map position."""
    z = 1.2 * np.sin(x / 7.0) * np.cos(y / 6.0)
    if -4.0 < x < 3.0 and 3.0 < y < 8.0:
        z = 4.0
    return z


@njit(cache=True)
def _texture(x: float, y: float, noise: np.ndarray) -> float:
    """Band-limited texture: bilinear noise at three scales."""
    v = 0.0
    for scale, weight in ((0.2, 0.4), (0.5, 0.35), (2.1, 0.25)):
        u, w = x / scale + 1000.0, y / scale + 1000.0
        i, j = int(u), int(w)
        fu, fw = u - i, w - j
        fu, fw = fu * fu * (3 - 2 * fu), fw * fw * (3 - 2 * fw)
        n = noise.shape[0]
        a, b = noise[j % n, i % n], noise[j % n, (i + 1) % n]
        c, d = noise[(j + 1) % n, i % n], noise[(j + 1) % n, (i + 1) % n]
        v += weight * ((a * (1 - fu) + b * fu) * (1 - fw) + (c * (1 - fu) + d * fu) * fw)
    return v


@njit(cache=True)
def _render(rays: np.ndarray, centre: np.ndarray, noise: np.ndarray, out: np.ndarray) -> None:
    for r in range(rays.shape[0]):
        for c in range(rays.shape[1]):
            d = rays[r, c]
            t = (5.0 - centre[2]) / d[2]
            step = 0.4
            x, y, z = centre[0] + t * d[0], centre[1] + t * d[1], centre[2] + t * d[2]
            while z > height(x, y):
                t += step
                x, y, z = centre[0] + t * d[0], centre[1] + t * d[1], centre[2] + t * d[2]
            lo, hi = t - step, t
            for _ in range(24):
                t = 0.5 * (lo + hi)
                if centre[2] + t * d[2] > height(centre[0] + t * d[0], centre[1] + t * d[1]):
                    lo = t
                else:
                    hi = t
            x, y = centre[0] + hi * d[0], centre[1] + hi * d[1]
            v = _texture(x, y, noise)
            out[r, c, 0] = 40 + 170 * v
            out[r, c, 1] = 60 + 150 * v
            out[r, c, 2] = 50 + 120 * v


def photo(view: View, noise: np.ndarray, gain: float = 1.0, sub: int = 1) -> np.ndarray:
    """RGB u8 of the world from one view, `sub` x `sub` rays a pixel."""
    i = view.intrinsics
    rays = _camera_rays(i, sub) @ np.linalg.inv(view.cam_from_map).T
    out = np.zeros(rays.shape)
    _render(rays, view.centre, noise, out)
    out = out.reshape(i.height_px, sub, i.width_px, sub, 3).mean(axis=(1, 3)) * gain
    return np.clip(out + 0.5, 0, 255).astype(np.uint8)


@lru_cache(maxsize=4)
def _camera_rays(i: Intrinsics, sub: int) -> np.ndarray:
    u, v = np.meshgrid((np.arange(i.width_px * sub) + 0.5) / sub, (np.arange(i.height_px * sub) + 0.5) / sub)
    xy = _undistorted(i, np.column_stack([(u.ravel() - i.cx) / i.fx, (v.ravel() - i.cy) / i.fy]))
    return np.column_stack([xy, np.ones(len(xy))]).reshape(*u.shape, 3)


def _undistorted(i: Intrinsics, wanted: np.ndarray) -> np.ndarray:
    """Normalised coordinates whose distortion gives the wanted ones, by fixed-point steps."""
    xy = wanted.copy()
    unit = Intrinsics("", 0, 0, 1.0, 1.0, 0.0, 0.0, i.k1, i.k2, i.p1, i.p2, i.k3)
    for _ in range(30):
        xy += wanted - project(unit, np.column_stack([xy, np.ones(len(xy))]))
    return xy


def views() -> tuple[View, ...]:
    """Four strips of four, 6 m apart, heading turned every other strip, a little tilted."""
    rng = np.random.default_rng(5)
    out = []
    for row in range(4):
        for col in range(4):
            yaw = 0.0 if row % 2 == 0 else np.pi
            tilt = rng.normal(0, 0.03, 2)
            c, s = np.cos(yaw), np.sin(yaw)
            down = np.array([[c, s, 0], [s, -c, 0], [0, 0, -1.0]])
            rx, _ = cv2.Rodrigues(np.array([tilt[0], tilt[1], 0.0]))
            centre = np.array([-9.0 + 6.0 * col, -9.0 + 6.0 * row, HEIGHT_M + rng.normal(0, 0.3)])
            out.append(View(f"p{row}{col}.png", CAMERA, rx @ down, centre))
    return tuple(out)


def scene_points(n: int = 1500) -> np.ndarray:
    """(n, 3) points of the true surface."""
    xy = np.random.default_rng(6).uniform(-16, 16, (n, 2))
    return np.column_stack([xy, [height(x, y) for x, y in xy]])


def write_photos(folder: Path, gains: dict[str, float] | None = None) -> dict[str, Path]:
    """Render all photos into PNG files; returns their paths by name."""
    noise = np.random.default_rng(7).random((257, 257))
    paths = {}
    for view in views():
        image = photo(view, noise, (gains or {}).get(view.photo, 1.0))
        paths[view.photo] = folder / view.photo
        cv2.imwrite(str(paths[view.photo]), image[:, :, ::-1])
    return paths


def true_heights(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    gx, gy = np.meshgrid(x, y)
    return np.vectorize(height)(gx, gy)
