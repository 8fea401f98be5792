"""A finished map against the truth of a synthetic survey: cameras, surface and checkpoint marks, from plain arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import Delaunay

from passel.demo.kernels import F64
from passel.demo.marks import MarkFinder
from passel.demo.truth import DemoTruth
from passel.geo.frames import Frame
from passel.geo.similarity import Similarity, fit_similarity
from passel.reconstruct.scene import Scene

SAMPLES = 250_000  # cells of the surface that are compared
OPEN_M = 2.5  # distance to the nearest object from which ground counts as open


@dataclass(frozen=True)
class Placed:
    """Cameras as found. names: photos. centres (n, 3) metres and cam_from_world (n, 3, 3) in the truth's world frame as
    the map's own georeferencing puts them there, or in the map's local frame if it has none. focal_px: (n,) at full size.
    """

    names: tuple[str, ...]
    centres: F64
    cam_from_world: F64
    focal_px: F64
    georeferenced: bool


@dataclass(frozen=True)
class MapRaster:
    """One band of a product. values: (rows, cols) heights (m, NaN = none) or grey 0..255 (NaN = none). west, north: map
    coordinates (m, no offset subtracted) of the outer corner; epsg: of the map, None for a local frame.
    """

    values: NDArray[np.float32]
    west: float
    north: float
    resolution_m: float
    epsg: int | None


@dataclass(frozen=True)
class Fit:
    """A way to lay the map over the truth before comparing. name: 'absolute' (as georeferenced), 'shift' (a robust
    translation) or 'similarity' (7 parameters), the latter two from the cameras.
    """

    name: str
    truth_from_map: Similarity


@dataclass(frozen=True)
class CameraAccuracy:
    """Cameras under one fit: photos compared, position error (3D RMS) and its horizontal and vertical parts, metres;
    median rotation error, degrees; largest error of a focal length, percent.
    """

    fit: str
    photos: int
    rmse_m: float
    horizontal_rmse_m: float
    vertical_rmse_m: float
    rotation_deg: float
    focal_percent: float


@dataclass(frozen=True)
class SurfaceAccuracy:
    """Heights on open ground under one fit, metres: cells compared, median error, normalised median absolute deviation,
    RMS, share of open cells inside the flight's outline that have a height.
    """

    fit: str
    cells: int
    median_m: float
    nmad_m: float
    rmse_m: float
    complete: float


@dataclass(frozen=True)
class MarkAccuracy:
    """Checkpoint marks in the orthophoto under one fit: marks inside the flight's outline, marks found, RMS and largest
    planimetric error in metres, and `errors_m` (found, 2) east and north.
    """

    fit: str
    marks: int
    found: int
    rmse_m: float
    largest_m: float
    errors_m: F64


def placed_from_scene(truth: DemoTruth, scene: Scene, frame: Frame) -> Placed:
    """Cameras of a scene whose world frame is the survey's `frame`; photos that are not the truth's are left out."""
    known = {s.name for s in truth.shots}
    keep = [i for i, n in enumerate(scene.photos) if n in known]
    centres, rotations = scene.centres[keep], scene.cam_from_world[keep]
    if frame.is_georeferenced:
        step = np.vstack([np.zeros(3), np.eye(3)]) * 100.0
        ends = truth.frame.world_from_geographic(frame.geographic_from_world(step))
        rotations = nearest_rotations(rotations @ np.linalg.inv((ends[1:] - ends[0]).T / 100.0))
        centres = truth.frame.world_from_geographic(frame.geographic_from_world(centres))
    focal = np.array([scene.cameras[scene.camera_of[i]].fx for i in keep])
    return Placed(tuple(scene.photos[i] for i in keep), centres, rotations, focal, frame.is_georeferenced)


def fits(truth: DemoTruth, placed: Placed) -> tuple[Fit, ...]:
    """The fits that make sense: for a map without georeferencing only the similarity."""
    true = truth.positions(placed.names)
    similarity = Fit("similarity", fit_similarity(placed.centres, true))
    if not placed.georeferenced:
        return (similarity,)
    shift = Similarity(1.0, np.eye(3), np.median(true - placed.centres, axis=0))
    return Fit("absolute", Similarity.identity()), Fit("shift", shift), similarity


def camera_accuracy(truth: DemoTruth, placed: Placed, fit: Fit) -> CameraAccuracy:
    """Compare camera positions, rotations and focal lengths."""
    e = fit.truth_from_map.apply(placed.centres) - truth.positions(placed.names)
    found = placed.cam_from_world @ fit.truth_from_map.rotation.T
    turned = np.einsum("nij,nij->n", found, truth.rotations(placed.names))
    angle = np.degrees(np.arccos(np.clip((turned - 1) / 2, -1, 1)))
    camera = {s.name: truth.cameras[s.camera] for s in truth.shots}
    focal = np.array([camera[n].fx for n in placed.names])
    square = (e**2).mean(axis=0)
    return CameraAccuracy(
        fit.name,
        len(e),
        float(np.sqrt(square.sum())),
        float(np.sqrt(square[:2].sum())),
        float(np.sqrt(square[2])),
        float(np.median(angle)),
        float(100 * np.abs(placed.focal_px / focal - 1).max()),
    )


def surface_accuracy(truth: DemoTruth, dsm: MapRaster, fit: Fit) -> SurfaceAccuracy:
    """Compare heights with the truth where nothing stands, inside the outline of the flight."""
    rows, cols = dsm.values.shape
    step = max(1, int(np.sqrt(rows * cols / SAMPLES)))
    row, col = (a.ravel() for a in np.mgrid[step // 2 : rows : step, step // 2 : cols : step])
    z = dsm.values[row, col].astype(float)
    have = np.isfinite(z)
    middle = float(np.median(z[have])) if have.any() else 0.0
    p = _truth_from_raster(truth, dsm, fit, np.column_stack([col + 0.5, row + 0.5]), np.where(have, z, middle))
    inside = _in_outline(truth, p)
    p, have = p[inside], have[inside]
    is_open = truth.world.is_open(p[:, 0], p[:, 1], OPEN_M)
    p, have = p[is_open], have[is_open]
    if not have.any():
        return SurfaceAccuracy(fit.name, 0, np.nan, np.nan, np.nan, 0.0)
    e = p[have, 2] - truth.world.height_m(p[have, 0], p[have, 1])
    median = float(np.median(e))
    nmad = float(1.4826 * np.median(np.abs(e - median)))
    return SurfaceAccuracy(fit.name, len(e), median, nmad, float(np.sqrt((e**2).mean())), float(have.mean()))


def mark_accuracy(truth: DemoTruth, ortho: MapRaster, search: Fit, report: tuple[Fit, ...]) -> tuple[MarkAccuracy, ...]:
    """Find the checkpoint marks in the orthophoto, near where `search` predicts them, and tell their errors under each fit."""
    marks = truth.world.marks
    marks = np.column_stack([marks, truth.world.ground_m(marks[:, 0], marks[:, 1])])
    marks = marks[_in_outline(truth, marks)]
    predicted = _raster_from_truth(truth, ortho, search, marks)
    steps = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]) + predicted[:, :2].mean(axis=0)
    ends = _truth_from_raster(truth, ortho, search, steps, np.full(3, predicted[:, 2].mean()))[:, :2]
    finder = MarkFinder((ends[1:] - ends[0]).T, truth.world.mark_m)
    seen = [finder.find(ortho.values, xy) for xy in predicted[:, :2]]
    ok = np.array([s is not None for s in seen], bool)
    at = np.array([s for s in seen if s is not None]).reshape(-1, 2)
    height = predicted[ok, 2]
    out = []
    for fit in report:
        back = _truth_from_raster(truth, ortho, fit, at, height)
        e = back[:, :2] - marks[ok, :2]
        d = np.hypot(e[:, 0], e[:, 1])
        rmse, largest = (float(np.sqrt((d**2).mean())), float(d.max())) if len(d) else (np.nan, np.nan)
        out.append(MarkAccuracy(fit.name, len(marks), int(ok.sum()), rmse, largest, e))
    return tuple(out)


def _map_frame(truth: DemoTruth, raster: MapRaster) -> Frame:
    """The truth's world with the raster's map, nothing subtracted."""
    return Frame(truth.frame.origin_deg, truth.frame.origin_height_m, raster.epsg, (0.0, 0.0))


def _truth_from_raster(truth: DemoTruth, raster: MapRaster, fit: Fit, col_row: F64, height: F64) -> F64:
    """(n, 3) truth's world of fractional columns and rows (n, 2), at map heights (n,) (heights of the local frame without CRS)."""
    r = raster.resolution_m
    p = np.column_stack([raster.west + r * col_row[:, 0], raster.north - r * col_row[:, 1], height])
    return fit.truth_from_map.apply(_map_frame(truth, raster).world_from_map(p))


def _raster_from_truth(truth: DemoTruth, raster: MapRaster, fit: Fit, xyz: F64) -> F64:
    """(n, 3) fractional column and row, and map height, of places in the truth's world."""
    p = _map_frame(truth, raster).map_from_world(fit.truth_from_map.inverse().apply(xyz))
    r = raster.resolution_m
    return np.column_stack([(p[:, 0] - raster.west) / r, (raster.north - p[:, 1]) / r, p[:, 2]])


def _in_outline(truth: DemoTruth, xyz: F64) -> NDArray[np.bool_]:
    """Whether each place lies in the convex outline of the camera positions."""
    outline = Delaunay(np.array([s.centre[:2] for s in truth.shots]))
    return np.asarray(outline.find_simplex(xyz[:, :2]) >= 0)


def nearest_rotations(m: F64) -> F64:
    """The rotations nearest to (n, 3, 3) matrices that are almost rotations."""
    u, _, vt = np.linalg.svd(m)
    return np.asarray(u @ vt)
