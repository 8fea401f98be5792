"""stats.json, in the words of OpenSfM and OpenDroneMap, from the report's facts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from passel.products.report_model import CameraFacts, GpsResidual, ReportFacts, Spread


@dataclass(frozen=True)
class GpsSummary:
    """Camera positions minus GPS over all photos, metres: mean, standard deviation and RMS (east, north, up), and in
    space.

    rms_3d_m: root mean square length; ce90_m, le90_m: 90th percentiles of the horizontal and vertical distance.
    """

    photos: int
    mean_m: tuple[float, float, float]
    std_m: tuple[float, float, float]
    rms_m: tuple[float, float, float]
    rms_3d_m: float
    ce90_m: float
    le90_m: float


def gps_summary(residuals: Sequence[GpsResidual]) -> GpsSummary | None:
    """None without residuals."""
    if not residuals:
        return None
    d = np.array([(r.east_m, r.north_m, r.up_m) for r in residuals])
    rms = np.sqrt((d**2).mean(axis=0))
    return GpsSummary(
        len(d),
        _three(d.mean(axis=0)),
        _three(d.std(axis=0)),
        _three(rms),
        float(np.sqrt((rms**2).sum())),
        float(np.percentile(np.hypot(d[:, 0], d[:, 1]), 90)),
        float(np.percentile(np.abs(d[:, 2]), 90)),
    )


def _three(v: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(v[0]), float(v[1]), float(v[2])


def stats_json(facts: ReportFacts) -> str:
    """JSON text; every number is finite or null."""
    r, p = facts.reconstruction, facts.products
    tracks = sum(n for _, n in r.track_lengths)
    over_two = [(k, n) for k, n in r.track_lengths if k > 2]
    steps = {s.stage: round(s.wall_s, 3) for s in facts.stages}
    out = {
        "processing_statistics": {
            "steps_times": {**steps, "Total Time": round(facts.total_s, 3)},
            "cpu_seconds": {s.stage: round(s.cpu_s, 3) for s in facts.stages},
            "date": facts.captured,
            "area": p.area_m2,
        },
        "features_statistics": {
            "detected_features": _spread(facts.features_detected),
            "reconstructed_features": _spread(r.features_used),
        },
        "reconstruction_statistics": {
            "components": r.components,
            "has_gps": bool(facts.gps),
            "has_gcp": False,
            "initial_shots_count": r.photos,
            "reconstructed_shots_count": r.photos_placed,
            "reconstructed_points_count": r.points,
            "observations_count": r.observations,
            "average_track_length": r.observations / tracks if tracks else 0.0,
            "average_track_length_over_two": _average(over_two),
            "histogram_track_length": {str(k): n for k, n in r.track_lengths},
            "reprojection_error_pixels": r.reprojection_px,
        },
        "camera_errors": {c.id: _camera(c) for c in facts.cameras},
        "gps_errors": _gps(gps_summary(facts.gps)),
        "alignment": [
            {
                "step": a.step, "shared": a.shared, "median_m": a.median_m, "p95_m": a.p95_m,
                "median_deg": a.median_deg, "p95_deg": a.p95_deg,
            }
            for a in facts.alignment
        ],
        "submodels": [
            {"name": s.name, "core": s.core, "halo": s.halo, "placed": s.placed, "status": s.status}
            for s in facts.submodels
        ],
        "point_cloud_statistics": {"dense": bool(p.points), "stats": {"statistic": [{"count": p.points}]}},
        "odm_processing_statistics": {
            "total_time": facts.total_s,
            "total_time_human": human_seconds(facts.total_s),
            "average_gsd": p.gsd_m * 100,
        },
    }  # fmt: skip
    return json.dumps(_finite(out), indent=1, ensure_ascii=False, allow_nan=False)


def human_seconds(seconds: float) -> str:
    """'1h 02m 03s'."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}h {minutes:02d}m {whole % 60:02d}s" if hours else f"{minutes}m {whole % 60:02d}s"


def _spread(s: Spread) -> dict[str, float]:
    return {"min": s.minimum, "max": s.maximum, "mean": s.mean, "median": s.median}


def _average(lengths: Sequence[tuple[int, int]]) -> float:
    count = sum(n for _, n in lengths)
    return sum(k * n for k, n in lengths) / count if count else 0.0


def _camera(c: CameraFacts) -> dict[str, object]:
    size = max(c.width_px, c.height_px)
    prior = {"focal_x": c.focal_prior_px / size, "focal_y": c.focal_prior_px / size, "c_x": 0.0, "c_y": 0.0}
    prior |= {"k1": 0.0, "k2": 0.0, "p1": 0.0, "p2": 0.0, "k3": 0.0}
    focal = c.focal_px / size
    centre = {"c_x": (c.cx_px - c.width_px / 2) / size, "c_y": (c.cy_px - c.height_px / 2) / size}
    optimized = {
        "focal_x": focal,
        "focal_y": focal,
        **centre,
        "k1": c.k1,
        "k2": c.k2,
        "p1": c.p1,
        "p2": c.p2,
        "k3": c.k3,
    }
    return {"initial_values": prior, "optimized_values": optimized}


def _gps(s: GpsSummary | None) -> dict[str, object]:
    if s is None:
        return {}
    axes = ("x", "y", "z")
    return {
        "mean": dict(zip(axes, s.mean_m)),
        "std": dict(zip(axes, s.std_m)),
        "error": dict(zip(axes, s.rms_m)),
        "average_error": s.rms_3d_m,
        "ce90": s.ce90_m,
        "le90": s.le90_m,
    }


def _finite(value: object) -> object:
    """NaN and infinity are no JSON: null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
