"""Where the photos of a survey fall on the ground, for the look at it before the start: as far as they tell it themselves, on flat
ground at the height of take-off. Nothing is mapped with these outlines.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from passel.survey.model import Survey

F64 = NDArray[np.float64]
_LOWEST_M = 2.0
"""Heights above take-off below this are no flight, or not known."""
_MOST_HEIGHTS = 3.0
"""A ray to near the horizon ends this many flying heights away."""


def with_footprints(plan: str, survey_file: Path) -> str:
    """The plan (GeoJSON text) with a `footprint`, four corners in degrees, for each photo that tells position, height and angles.

    The plan as it was when the survey cannot be read.
    """
    try:
        survey, content = Survey.load(survey_file), json.loads(plan)
    except (OSError, ValueError, KeyError, TypeError):
        return plan
    known, corners = footprints_in_world(survey)
    if not len(known):
        return plan
    degrees = np.round(survey.frame.geographic_from_world(corners.reshape(-1, 3))[:, [1, 0]], 7).reshape(-1, 4, 2)
    of = {survey.photos[i].name: d.tolist() for i, d in zip(known.tolist(), degrees)}
    for feature in content["features"]:
        if (outline := of.get(feature["properties"].get("photo", ""))) is not None:
            feature["properties"]["footprint"] = outline
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def footprints_in_world(survey: Survey) -> tuple[NDArray[np.int64], F64]:
    """(k,) indices of photos that tell enough, and (k, 4, 3) the corners of each on the ground, in world metres, going round."""
    cameras = {c.id: c for c in survey.cameras}
    known, shape = [], []
    for i, p in enumerate(survey.photos):
        angles, height_m, c = (p.yaw_deg, p.pitch_deg, p.roll_deg), p.relative_altitude_m, cameras[p.camera]
        if p.position is not None and None not in angles and height_m is not None and height_m > _LOWEST_M:
            known.append(i)
            half = c.width_px / 2 / c.focal_prior_px, c.height_px / 2 / c.focal_prior_px
            shape.append((*(float(a or 0.0) for a in angles), height_m, *half))
    index = np.array(known, np.int64)
    if not known or not survey.frame.is_georeferenced:
        return index[:0], np.zeros((0, 4, 3))
    yaw_deg, pitch_deg, roll_deg, height, half_width, half_height = np.array(shape, np.float64).T
    right, up, forward = _axes(np.radians(yaw_deg), np.radians(pitch_deg), np.radians(roll_deg))
    corners = np.empty((len(known), 4, 3))
    for k, (x, y) in enumerate(((-1, 1), (1, 1), (1, -1), (-1, -1))):
        ray = forward + right * (x * half_width)[:, None] + up * (y * half_height)[:, None]
        level = np.linalg.norm(ray[:, :2], axis=1)
        tangent = np.where(ray[:, 2] < 0, level / np.maximum(-ray[:, 2], 1e-9), np.inf)
        reach = height * np.minimum(tangent, _MOST_HEIGHTS) / np.maximum(level, 1e-9)
        corners[:, k, :2], corners[:, k, 2] = ray[:, :2] * reach[:, None], -height
    return index, corners + survey.positions_in_world()[index][:, None, :]


def _axes(yaw: F64, pitch: F64, roll: F64) -> tuple[F64, F64, F64]:
    """(n, 3) each, east, north, up: the picture's right, its top, and where the camera looks. Radians."""
    zero = np.zeros_like(yaw)
    forward = np.column_stack([np.cos(pitch) * np.sin(yaw), np.cos(pitch) * np.cos(yaw), np.sin(pitch)])
    level = np.column_stack([np.cos(yaw), -np.sin(yaw), zero])
    upright = np.cross(level, forward)
    c, s = np.cos(roll)[:, None], np.sin(roll)[:, None]
    return c * level - s * upright, s * level + c * upright, forward
