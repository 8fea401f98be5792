"""A split run against the unsplit run of the same survey."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from measure_run import F64, scene_of
from passel.align.whole import reprojection_errors
from passel.reconstruct.scene import Scene


@dataclass(frozen=True)
class CameraDifference:
    """Cameras of two runs in the same frame, nothing fitted: photos in both, distance (m) and rotation (degrees)."""

    photos: int
    median_m: float
    rms_m: float
    largest_m: float
    median_deg: float
    largest_deg: float


@dataclass(frozen=True)
class CrossingTracks:
    """Mean reprojection error (px) of tracks whose photos lie in the cores of several submodels, and of those within one.

    alike_px: of those within, weighted to hold as many observations of each track length as those across: long tracks
    reproject worse, split or not, and tracks across are longer.
    """

    crossing: int
    crossing_px: float
    within: int
    within_px: float
    alike_px: float

    @property
    def ratio(self) -> float:
        return self.crossing_px / self.within_px

    @property
    def ratio_alike(self) -> float:
        return self.crossing_px / self.alike_px


def camera_difference(one: Scene, other: Scene) -> CameraDifference:
    """Raises ValueError when no photo is in both."""
    place = {n: i for i, n in enumerate(one.photos)}
    both = [(place[n], j) for j, n in enumerate(other.photos) if n in place]
    if not both:
        raise ValueError("no photo is in both runs")
    i, j = (np.array(v) for v in zip(*both))
    d = np.linalg.norm(one.centres[i] - other.centres[j], axis=1)
    trace = np.einsum("nij,nij->n", one.cam_from_world[i], other.cam_from_world[j])
    angle: F64 = np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1)))
    return CameraDifference(
        len(i), float(np.median(d)), float(np.sqrt((d**2).mean())), float(d.max()), float(np.median(angle)), float(angle.max())
    )  # fmt: skip


def core_of(output: Path) -> dict[str, int]:
    """The submodel (a number) in whose core each photo of a split run lies, from odm_report/submodels.geojson."""
    features = json.loads((output / "odm_report" / "submodels.geojson").read_text(encoding="utf-8"))["features"]
    photos = [f["properties"] for f in features if f["properties"]["kind"] == "photo"]
    number = {s: k for k, s in enumerate(dict.fromkeys(p["submodel"] for p in photos))}
    return {p["photo"]: number[p["submodel"]] for p in photos}


def crossing_tracks(output: Path, core: dict[str, int]) -> CrossingTracks:
    """Tracks of a run's adjusted scene, sorted by the cores given."""
    scene = scene_of(output)
    error = reprojection_errors(scene)
    crosses = _spread(scene, np.array([core[n] for n in scene.photos]))
    seen = crosses[scene.obs_point]
    length = np.bincount(scene.obs_point, minlength=len(scene.points))[scene.obs_point]
    across, within = (np.bincount(length[s], minlength=int(length.max()) + 1) for s in (seen, ~seen))
    total = np.bincount(length[~seen], error[~seen], minlength=len(across))
    both = (across > 0) & (within > 0)
    return CrossingTracks(
        int(crosses.sum()),
        float(error[seen].mean()) if seen.any() else np.nan,
        int((~crosses).sum()),
        float(error[~seen].mean()) if (~seen).any() else np.nan,
        float((across[both] * total[both] / within[both]).sum() / across[both].sum()) if both.any() else np.nan,
    )


def _spread(scene: Scene, core_of_photo: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(points,) whether a point's photos lie in more than one core."""
    core = core_of_photo[scene.obs_photo]
    low = np.full(len(scene.points), np.iinfo(np.int64).max)
    high = np.full(len(scene.points), -1)
    np.minimum.at(low, scene.obs_point, core)
    np.maximum.at(high, scene.obs_point, core)
    return np.asarray(low < high)
