"""A survey in words, for the terminal and the report."""

from __future__ import annotations

from statistics import median

import numpy as np

from passel.survey.check import counted
from passel.survey.model import SHAPELESS_M, Survey

_SOURCES = {
    "xmp": "maker's calibration",
    "exif35": "35 mm equivalent in EXIF",
    "exif+sensor": "EXIF",
    "sensor table": "sensor table",
    "cameras.json": "cameras file",
    "guess": "a guess",
}
_MARKS = {"error": "✗", "warning": "!", "note": "·"}


def estimate_gsd_m(survey: Survey) -> float | None:
    """Ground sampling distance, metres a pixel, from heights above take-off and focal priors; None where no photo tells one."""
    index = survey.camera_index()
    found = [
        p.relative_altitude_m / survey.cameras[int(k)].focal_prior_px
        for p, k in zip(survey.photos, index, strict=True)
        if p.relative_altitude_m is not None and p.relative_altitude_m > 2.0
    ]
    return median(found) if found else None


def flown_area_m2(survey: Survey) -> float | None:
    """Area of the convex hull of the positions, m²; None without GPS or with all positions on a line."""
    xyz = survey.positions_in_world()
    xy = xyz[np.isfinite(xyz[:, 0]), :2]
    if len(xy) < 3:
        return None
    from scipy.spatial import ConvexHull, QhullError

    try:
        return float(ConvexHull(xy).volume)  # in two dimensions the "volume" is the area
    except QhullError:
        return None


def describe_survey(survey: Survey) -> str:
    """A few lines: photos, cameras, GPS, area, GSD, findings."""
    total_mb = sum(p.size_bytes for p in survey.photos) / 1e6
    size = f"{total_mb / 1000:.1f} GB" if total_mb >= 1000 else f"{total_mb:.0f} MB"
    lines = [f"{len(survey.photos)} photos, {size}"]
    counts = np.bincount(survey.camera_index(), minlength=len(survey.cameras))
    for c, n in zip(survey.cameras, counts, strict=True):
        source = _SOURCES.get(c.focal_prior_source, c.focal_prior_source)
        lines.append(
            f"camera {c.id}: {counted(n)}, focal {c.focal_prior_px:.0f} px ± {100 * c.focal_prior_sigma:.2g} % ({source})"
        )
    lines.append(_gps_line(survey))
    gsd = estimate_gsd_m(survey)
    if gsd is not None:
        lines.append(f"estimated ground resolution {100 * gsd:.1f} cm a pixel")
    lines += [f"{_MARKS.get(f.severity, '')} {f.message}" for f in survey.findings]
    return "\n".join(lines)


def _gps_line(survey: Survey) -> str:
    if not survey.frame.is_georeferenced:
        return "no usable GPS: local frame"
    have = sum(p.position is not None for p in survey.photos)
    sigma = np.nanmedian(survey.position_sigmas(), axis=0)
    height = f"height ± {sigma[2]:.3g} m" if sigma[2] < SHAPELESS_M else "height only on average"
    line = f"GPS: {have} of {len(survey.photos)} photos, ± {sigma[0]:.3g} m, {height}, EPSG:{survey.frame.epsg}"
    area = flown_area_m2(survey)
    return line if area is None else f"{line}; flown over {area / 1e4:.1f} ha"
