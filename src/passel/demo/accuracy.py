"""How true a finished map of a synthetic survey is, read from the products that every user gets."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window as PixelWindow
from scipy.spatial.transform import Rotation

from passel.demo.checks import (
    CameraAccuracy,
    MapRaster,
    MarkAccuracy,
    Placed,
    SurfaceAccuracy,
    camera_accuracy,
    fits,
    mark_accuracy,
    nearest_rotations,
    surface_accuracy,
)
from passel.demo.truth import DemoTruth
from passel.errors import InputError
from passel.geo.frames import Frame
from passel.products.layout import Layout

MOST_CELLS = 8000  # rows and columns read of a raster, about its middle


@dataclass(frozen=True)
class DemoAccuracy:
    """The map against the truth, each under all fits. gsd_m: of the photos; resolution_m: of surface and orthophoto."""

    photos: int
    gsd_m: float
    cameras: tuple[CameraAccuracy, ...]
    surface: tuple[SurfaceAccuracy, ...]
    marks: tuple[MarkAccuracy, ...]

    @property
    def text(self) -> str:
        """A few lines for people."""
        lines = [f"Against the truth (a photo pixel is {100 * self.gsd_m:.1f} cm on the ground):"]
        for fit, title in _TITLES.items():
            rows = [self._of_cameras(c) for c in self.cameras if c.fit == fit]
            rows += [self._of_surface(s) for s in self.surface if s.fit == fit]
            rows += [self._of_marks(m) for m in self.marks if m.fit == fit]
            lines += [f"  {title}", *(f"    {row}" for row in rows)] if rows else []
        return "\n".join(lines)

    def _of_cameras(self, c: CameraAccuracy) -> str:
        return (
            f"cameras     {c.rmse_m:.3f} m RMS ({c.horizontal_rmse_m:.3f} across, {c.vertical_rmse_m:.3f} up), turned by "
            f"{c.rotation_deg:.3f}° (median), focal length {c.focal_percent:.2f} % off; {c.photos} of {self.photos} photos"
        )

    def _of_surface(self, s: SurfaceAccuracy) -> str:
        if not s.cells:
            return "surface     has no height on open ground"
        return (
            f"surface     NMAD {s.nmad_m:.3f} m = {s.nmad_m / self.gsd_m:.2f} photo pixels, median {s.median_m:+.3f} m, "
            f"RMS {s.rmse_m:.3f} m; {100 * s.complete:.1f} % of the open ground has heights"
        )

    def _of_marks(self, m: MarkAccuracy) -> str:
        found = f"{m.found} of {m.marks} checkpoint marks found"
        if not m.found:
            return f"orthophoto  {found}"
        return (
            f"orthophoto  {m.rmse_m:.3f} m RMS = {m.rmse_m / self.gsd_m:.2f} photo pixels, "
            f"largest {m.largest_m:.3f} m; {found}"
        )

    def json(self) -> str:
        """The same numbers for machines."""
        d = asdict(self)
        for m in d["marks"]:
            m["errors_m"] = np.round(m["errors_m"], 4).tolist()
        return json.dumps(d, indent=1)


_TITLES = {
    "absolute": "as georeferenced: mostly what is left of the noise of the photos' GPS, which shifts and tilts the map",
    "shift": "its mean shift removed: the tilt is left",
    "similarity": "laid over the truth (7 parameters): what the reconstruction itself is worth",
}


def measure(truth: DemoTruth, folder: Path) -> DemoAccuracy:
    """Compare the products in an output folder with the truth. A product that is not there is left out.

    Raises InputError where the cameras (odm_report/shots.geojson) are missing or fewer than three.
    """
    layout = Layout(folder)
    placed = read_placed(truth, layout.shots)
    ways = fits(truth, placed)
    cameras = tuple(camera_accuracy(truth, placed, f) for f in ways)
    dsm = _read(layout.dsm) if layout.dsm.exists() else None
    surface = tuple(surface_accuracy(truth, dsm, f) for f in ways) if dsm else ()
    ortho = _read(layout.orthophoto) if layout.orthophoto.exists() else None
    marks = mark_accuracy(truth, ortho, ways[-1], ways) if ortho else ()
    return DemoAccuracy(len(truth.shots), truth.settings.gsd_m, cameras, surface, marks)


def read_placed(truth: DemoTruth, shots: Path) -> Placed:
    """Cameras of a shots.geojson in the truth's world frame (or the map's local frame when the survey has no GPS)."""
    try:
        features = json.loads(shots.read_text(encoding="utf-8"))["features"]
    except (OSError, ValueError, KeyError) as e:
        raise InputError("no cameras to compare with the truth", str(shots), "finish the run first") from e
    known = {s.name for s in truth.shots}
    about = sorted(
        (f["properties"] for f in features if f["properties"]["filename"] in known), key=lambda p: p["filename"]
    )
    if len(about) < 3:
        raise InputError(f"{len(about)} cameras are too few to compare with the truth", str(shots), "see the report")
    centres = np.array([p["translation"] for p in about], float)
    rotations = Rotation.from_rotvec(np.array([p["rotation"] for p in about], float)).as_matrix()
    if truth.settings.gps:
        frame = Frame(truth.frame.origin_deg, truth.frame.origin_height_m, truth.frame.epsg, (0.0, 0.0))
        turn = np.linalg.inv(frame.world_from_map_linear(centres.mean(axis=0)))
        rotations, centres = nearest_rotations(rotations @ turn), frame.world_from_map(centres)
    focal = np.array([p["focal"] * max(p["width"], p["height"]) for p in about])
    return Placed(tuple(p["filename"] for p in about), centres, rotations, focal, truth.settings.gps)


def _read(path: Path) -> MapRaster:
    """Heights or grey values about the middle of a GeoTIFF, NaN where it has none."""
    with rasterio.open(path) as d:
        cols, rows = min(d.width, MOST_CELLS), min(d.height, MOST_CELLS)
        window = PixelWindow((d.width - cols) // 2, (d.height - rows) // 2, cols, rows)
        values: NDArray[np.float32]
        if d.count >= 3:
            values = (d.read([1, 2, 3], window=window).astype(np.float32) * _GREY).sum(axis=0)
            values[d.dataset_mask(window=window) == 0] = np.nan
        else:
            values = np.ma.filled(d.read(1, window=window, masked=True).astype(np.float32), np.nan)
        t = d.transform
        west, north = t.c + t.a * window.col_off, t.f + t.e * window.row_off
        epsg = d.crs.to_epsg() if d.crs and d.crs.is_projected else None
        return MapRaster(values, west, north, abs(t.a), epsg)


_GREY = np.array([0.299, 0.587, 0.114], np.float32)[:, None, None]
