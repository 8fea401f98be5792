"""Facts for the report that can be read off a survey and its adjusted scene."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from passel.products.raster import RasterFacts
from passel.products.report_model import CameraFacts, GpsResidual, ProductFacts, ReconstructionFacts, Spread
from passel.products.shots import camera_keys
from passel.reconstruct.scene import Scene, project
from passel.survey.model import Survey


def camera_facts(survey: Survey, scene: Scene) -> tuple[CameraFacts, ...]:
    """Prior and calibration of each camera that has placed photos."""
    keys = camera_keys(survey.cameras)
    priors = {c.id: c for c in survey.cameras}
    photos = np.bincount(scene.camera_of, minlength=len(scene.cameras)).tolist()
    return tuple(
        CameraFacts(
            keys[c.camera], n, c.width_px, c.height_px, priors[c.camera].focal_prior_px,
            priors[c.camera].focal_prior_source, c.fx, c.cx, c.cy, c.k1, c.k2, c.k3, c.p1, c.p2,
            round(1000.0 * c.readout_s, 3),
        )
        for c, n in zip(scene.cameras, photos)
        if n
    )  # fmt: skip


def gps_residuals(survey: Survey, scene: Scene) -> tuple[GpsResidual, ...]:
    """Camera centre minus GPS, metres east, north, up, for each placed photo with a full GPS position."""
    place = {p.name: i for i, p in enumerate(survey.photos)}
    rows = [place[n] for n in scene.photos]
    difference = scene.centres - survey.positions_in_world()[rows]
    found = []
    for name, i, d in zip(scene.photos, rows, difference.tolist()):
        position = survey.photos[i].position
        if position is not None and position.altitude_m is not None and np.isfinite(d).all():
            found.append(GpsResidual(name, d[0], d[1], d[2]))
    return tuple(found)


def reprojection_rms_px(scene: Scene) -> float:
    """RMS distance between observations and projected points, pixels at full photo size; NaN without observations."""
    order = np.argsort(scene.obs_photo, kind="stable")
    bounds = np.searchsorted(scene.obs_photo[order], np.arange(len(scene.photos) + 1))
    total, count = 0.0, 0
    for i in range(len(scene.photos)):
        rows = order[bounds[i] : bounds[i + 1]]
        xyz = (scene.points[scene.obs_point[rows]] - scene.centres[i]) @ scene.cam_from_world[i].T
        error = project(scene.cameras[scene.camera_of[i]], xyz, scene.velocities[i]) - scene.obs_xy[rows]
        squares = (error**2).sum(axis=1)
        seen = np.isfinite(squares)
        total, count = total + float(squares[seen].sum()), count + int(seen.sum())
    return float(np.sqrt(total / count)) if count else float("nan")


@dataclass(frozen=True)
class SceneFacts:
    """What the report tells of the adjusted scene, so that only the step that makes it need hold the scene."""

    reconstruction: ReconstructionFacts
    cameras: tuple[CameraFacts, ...]
    gps: tuple[GpsResidual, ...]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), ensure_ascii=False), encoding="utf-8")

    @staticmethod
    def load(path: Path) -> SceneFacts:
        d = json.loads(path.read_text(encoding="utf-8"))
        r = d["reconstruction"]
        tracks = tuple((int(length), int(n)) for length, n in r.pop("track_lengths"))
        used = Spread(**r.pop("features_used"))
        return SceneFacts(
            ReconstructionFacts(**r, track_lengths=tracks, features_used=used),
            tuple(CameraFacts(**c) for c in d["cameras"]),
            tuple(GpsResidual(**g) for g in d["gps"]),
        )


def scene_facts(survey: Survey, scene: Scene) -> SceneFacts:
    """All that is told of a scene."""
    return SceneFacts(reconstruction_facts(survey, scene), camera_facts(survey, scene), gps_residuals(survey, scene))


def reconstruction_facts(survey: Survey, scene: Scene, components: int = 1) -> ReconstructionFacts:
    """The scene in numbers."""
    lengths = np.bincount(np.bincount(scene.obs_point, minlength=len(scene.points)))
    tracks = tuple((k, int(n)) for k, n in enumerate(lengths.tolist()) if k >= 2 and n)
    used = np.bincount(scene.obs_photo, minlength=len(scene.photos))
    return ReconstructionFacts(
        len(survey.photos), len(scene.photos), components, len(scene.points), len(scene.obs_point),
        reprojection_rms_px(scene), tracks, spread(used),
    )  # fmt: skip


def product_facts(gsd_m: float, orthophoto: RasterFacts, dsm: RasterFacts, points: int) -> ProductFacts:
    """The map in numbers from its rasters; points: in the cloud, 0 without one."""
    return ProductFacts(
        gsd_m, orthophoto.resolution_m, dsm.resolution_m, dsm.area_m2, dsm.covered, dsm.filled, points,
        (dsm.minimum, dsm.maximum),
    )  # fmt: skip


def capture_span(times: Sequence[str]) -> str:
    """'2024-05-01' or '2024-05-01 to 2024-05-03' of photo times (ISO 8601); '' if none is known."""
    days = sorted({t[:10] for t in times if t})
    return " to ".join(dict.fromkeys([days[0], days[-1]])) if days else ""


def spread(counts: NDArray[np.int64]) -> Spread:
    """Of counts (n,); zeros when there are none."""
    if len(counts) == 0:
        return Spread(0, 0, 0, 0)
    return Spread(float(counts.min()), float(counts.max()), float(counts.mean()), float(np.median(counts)))
