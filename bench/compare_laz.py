"""Compare a DSM with another program's point cloud: robust 7-parameter fit, then NMAD, share filled, share far off."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import laspy
import numpy as np
import rasterio
from numpy.typing import NDArray
from scipy import ndimage

F64 = NDArray[np.float64]
CELL_M = 0.1
FIT_CELLS = 60000


@dataclass(frozen=True)
class Comparison:
    """cells: 0.1 m cells that hold reference points. complete: share of them filled. nmad_m, bias_m: of the height differences.

    off_share: share of the filled cells more than 0.3 m off. scale, shift_m, tilt_deg: of the fit (reference from ours).
    bend_m: with a quadratic height trend in the fit, how far it rises or falls 50 m east and north of the middle: how differently the
    two blocks are bent; flat_nmad_m, flat_off_share: the same numbers then.
    """

    cells: int
    complete: float
    nmad_m: float
    bias_m: float
    off_share: float
    bend_m: tuple[float, float]
    flat_nmad_m: float
    flat_off_share: float
    scale: float
    shift_m: tuple[float, float, float]
    tilt_deg: float


def reference_cells(xyz: F64, cell_m: float = CELL_M) -> F64:
    """(n, 3): centre and median height of every cell that holds points."""
    key = np.floor(xyz[:, :2] / cell_m).astype(np.int64)
    order = np.lexsort((xyz[:, 2], key[:, 0], key[:, 1]))
    key, z = key[order], xyz[order, 2]
    new = np.flatnonzero(np.r_[True, (np.diff(key, axis=0) != 0).any(axis=1)])
    n = np.diff(np.r_[new, len(z)])
    return np.column_stack([(key[new] + 0.5) * cell_m, z[new + n // 2]])


def sample(z: NDArray[np.float32], west: float, north: float, cell_m: float, xy: F64) -> F64:
    """Median of the finite DSM cells in the 0.1 m around each position, NaN where there is none."""
    half = 0 if z.dtype == np.float64 else max(0, round(CELL_M / cell_m / 2 - 0.5))  # smoothed surfaces: one cell
    col = np.floor((xy[:, 0] - west) / cell_m).astype(int)
    row = np.floor((north - xy[:, 1]) / cell_m).astype(int)
    values = []
    for i in range(-half, half + 1):
        for j in range(-half, half + 1):
            r, c = row + i, col + j
            ok = (r >= 0) & (c >= 0) & (r < z.shape[0]) & (c < z.shape[1])
            v = np.full(len(xy), np.nan)
            v[ok] = z[r[ok], c[ok]]
            values.append(v)
    stack = np.array(values)
    some = np.isfinite(stack).any(axis=0)
    out = np.full(len(xy), np.nan)
    out[some] = np.nanmedian(stack[:, some], axis=0)
    return out


def fit(
    z: NDArray[np.float32], west: float, north: float, cell_m: float, cells: F64, bend: bool = False
) -> tuple[F64, F64]:
    """The 7 parameters that bring the reference cells onto the DSM, robustly; returns (parameters (10,), moved cells).

    Parameters: shift (3), small rotations about x, y, z, log scale, about the cells' middle; with `bend` also the heights of a
    quadratic trend (x², x·y, y²) 50 m from the middle, else 0. Gauss-Newton with the
    slopes of ever less smoothed DSMs; shifts of many metres are not found.
    """
    filled = np.where(np.isfinite(z), z, np.nanmedian(z)).astype(np.float64)
    middle = np.median(cells, axis=0)
    few = cells[:: max(1, len(cells) // FIT_CELLS)]
    p = _first_guess(ndimage.gaussian_filter(filled, 8.0), west, north, cell_m, (few[::10], middle))
    for sigma_cells, tolerance_m in ((24.0, 1.5), (12.0, 0.8), (6.0, 0.4), (3.0, 0.25), (1.5, 0.15)):
        smooth = ndimage.gaussian_filter(filled, sigma_cells)
        slopes = np.gradient(smooth, cell_m, axis=1), -np.gradient(smooth, cell_m, axis=0)
        for _ in range(25):
            step = _fit_step(
                (smooth if sigma_cells > 2 else z, *slopes), west, north, cell_m, (few, middle, p, tolerance_m), bend
            )
            p = p + step
            if np.abs(step[:3]).max() < 1e-4 and np.abs(step[3:]).max() < 1e-6:
                break
    return p, transform(p, middle, cells)


def _first_guess(smooth: F64, west: float, north: float, cell_m: float, reference: tuple[F64, F64]) -> F64:
    """Shift and scale of the smallest median height difference, by trying: photos' GPS may be metres off."""
    cells, middle = reference
    best, least = np.zeros(10), np.inf
    for scale in np.linspace(0.95, 1.05, 11):
        for x in np.arange(-6.0, 6.1, 0.75):
            for y in np.arange(-6.0, 6.1, 0.75):
                p = np.array([x, y, 0, 0, 0, 0, np.log(scale), 0, 0, 0])
                moved = transform(p, middle, cells)
                d = moved[:, 2] - sample(smooth, west, north, cell_m, moved[:, :2])
                d = d[np.isfinite(d)]
                p[2] = -np.median(d)
                spread = float(np.median(np.abs(d + p[2])))
                if spread < least:
                    best, least = p, spread
    return best


def _fit_step(
    surfaces: tuple[F64, F64, F64],
    west: float,
    north: float,
    cell_m: float,
    at: tuple[F64, F64, F64, float],
    bend: bool,
) -> F64:
    """One Gauss-Newton step with Tukey weights; `at`: reference cells, their middle, parameters, tolerance (m)."""
    cells, middle, p, tolerance_m = at
    moved = transform(p, middle, cells)
    height, gx, gy = (sample(s, west, north, cell_m, moved[:, :2]) for s in surfaces)
    d = moved[:, 2] - height
    ok = np.isfinite(d) & (np.abs(gx) < 3) & (np.abs(gy) < 3) & (np.abs(d) < tolerance_m)
    q, gx, gy, d = (cells - middle)[ok], gx[ok], gy[ok], d[ok]
    shift = np.column_stack([-gx, -gy, np.ones(len(q))])
    moves = [np.cross(axis, q) for axis in np.eye(3)] + [q]
    a = np.column_stack([shift] + [(shift * m).sum(axis=1) for m in moves] + ([_trend(q)] if bend else []))
    w = (1 - (d / tolerance_m) ** 2) ** 2
    found = np.linalg.lstsq((a * w[:, None]).T @ a, -(a * w[:, None]).T @ d, rcond=None)[0]
    return np.concatenate([found, np.zeros(10 - len(found))])


def _trend(q: F64) -> F64:
    x, y = q[:, 0] / 50.0, q[:, 1] / 50.0
    return np.column_stack([x * x, x * y, y * y])


def transform(p: F64, middle: F64, xyz: F64) -> F64:
    q = xyz - middle
    rotated = q + np.cross(np.broadcast_to(p[3:6], q.shape), q)
    moved = rotated * np.exp(p[6]) + middle + p[:3]
    moved[:, 2] += _trend(q) @ p[7:]
    return np.asarray(moved)


def compare(z: NDArray[np.float32], west: float, north: float, cell_m: float, xyz: F64) -> tuple[Comparison, F64]:
    """Compare a DSM (rows, cols; NaN where empty; map metres) with reference points (n, 3); also the (n cells, 4) x, y, z, difference.

    A cell counts as filled when a DSM cell inside it, or touching its centre, is.
    """
    cells = reference_cells(xyz)
    p, moved = fit(z, west, north, cell_m, cells)
    d = sample(z, west, north, cell_m, moved[:, :2]) - moved[:, 2]
    ok = np.isfinite(d)
    bias = float(np.median(d[ok]))
    # Again with a quadratic height trend among the fit's unknowns: what is left is not how the two blocks are bent.
    p2, straight = fit(z, west, north, cell_m, cells, bend=True)
    flat = sample(z, west, north, cell_m, straight[:, :2]) - straight[:, 2]
    flat = flat[np.isfinite(flat)]
    result = Comparison(
        cells=len(cells),
        complete=float(ok.mean()),
        nmad_m=float(1.4826 * np.median(np.abs(d[ok] - bias))),
        bias_m=bias,
        off_share=float((np.abs(d[ok]) > 0.3).mean()),
        bend_m=(float(-p2[7]), float(-p2[9])),
        flat_nmad_m=float(1.4826 * np.median(np.abs(flat - np.median(flat)))),
        flat_off_share=float((np.abs(flat) > 0.3).mean()),
        scale=float(np.exp(p[6])),
        shift_m=(float(p[0]), float(p[1]), float(p[2])),
        tilt_deg=float(np.degrees(np.hypot(p[3], p[4]))),
    )
    return result, np.column_stack([moved, d])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dsm", type=Path, help="DSM GeoTIFF")
    parser.add_argument("laz", type=Path, help="reference cloud in the same CRS")
    arguments = parser.parse_args()
    with rasterio.open(arguments.dsm) as raster:
        z = raster.read(1, masked=True).filled(np.nan).astype(np.float32)
        t = raster.transform
    las = laspy.read(arguments.laz)
    middle = np.array([t.c, t.f, 0.0])
    result, _ = compare(z, 0.0, 0.0, t.a, las.xyz - middle)
    print(json.dumps(asdict(result), indent=1))


if __name__ == "__main__":
    main()
