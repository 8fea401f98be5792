"""Which photos one camera took, at one setting and stored alike, and what their metadata say of it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from passel.geo.nearest import kd_tree
from passel.survey.cut import Stored
from passel.survey.facts import PhotoFacts
from passel.survey.model import Camera, Survey
from passel.survey.sensors import FocalPrior, focal_prior, stored_as

_SMALLER = 0.97  # of the whole picture's size: what a lossless turn leaves is no smaller copy


@dataclass(frozen=True)
class CamerasTold:
    """cameras: by id. of: camera id by photo name. bodies: by camera id what stays when only the zoom changes. wholes: by the id of a
    camera of photos made smaller those of its whole ones at the same focal length."""

    cameras: tuple[Camera, ...]
    of: dict[str, str]
    bodies: dict[str, str]
    wholes: dict[str, tuple[str, ...]]


def cameras_of(facts: Sequence[PhotoFacts]) -> CamerasTold:
    """What the photos tell of their cameras."""
    groups = defaultdict(list)
    for f in facts:
        focal = f.focal_mm if f.focal_mm is not None else f.focal35_mm
        unit = "mm" if f.focal_mm is not None else "mm-equivalent"
        setting = "" if focal is None else f"{round(focal * f.digital_zoom, 2):g}{unit}"
        groups[(f.make, f.model, f.lens, f.width_px, f.height_px, setting, stored_as(f))].append(f)
    cameras, camera_of, bodies = [], {}, {}
    smaller, whole = {}, defaultdict(list)
    ids: set[str] = set()
    for key in sorted(groups):
        make, model, lens, width, height, setting, stored = key
        body = " ".join(
            w for w in (_without_make(make, model), lens, f"{width}x{height}", _of(width, height, stored)) if w
        )
        camera_id = _unique(_slug(f"{body} {setting}"), ids)
        prior = weightiest([focal_prior(f) for f in groups[key]])
        camera = Camera(camera_id, make, model, lens, width, height, prior.focal_px, prior.source, prior.sigma)
        cameras.append(replace(camera, centre_sigma=stored.centre_sigma, is_cut=stored.is_cut))
        camera_of.update({f.name: camera_id for f in groups[key]})
        bodies[camera_id] = body
        if stored.scale < _SMALLER:
            smaller[camera_id] = make, model, lens, setting
        elif not stored.is_cut:
            whole[make, model, lens, setting].append(camera_id)
    wholes = {c: tuple(whole[taken]) for c, taken in smaller.items() if taken in whole}
    return CamerasTold(tuple(sorted(cameras, key=lambda c: c.id)), camera_of, bodies, wholes)


def with_held(survey: Survey, wholes: Mapping[str, Sequence[str]], reach_m: float) -> Survey:
    """The survey with those cameras marked as held (`Camera.is_held`) that have as many whole photos beside theirs, within `reach_m`.

    wholes: of `CamerasTold`.
    """
    xy, of = survey.positions_in_world()[:, :2], np.array([p.camera for p in survey.photos])
    have = np.isfinite(xy[:, 0])
    held = set()
    for camera, others in wholes.items():
        own, whole = xy[have & (of == camera)], xy[have & np.isin(of, others)]
        if len(own) and len(whole) >= len(own) and np.median(kd_tree(whole).query(own)[0]) <= reach_m:
            held.add(camera)
    return replace(
        survey, cameras=tuple(replace(c, is_held=c.id in held and c.calibration is None) for c in survey.cameras)
    )


def _of(width_px: int, height_px: int, stored: Stored) -> str:
    """What a file of that size is a part or a smaller copy of, in words for the camera's id; '' if it is the whole picture."""
    if not stored.is_cut and stored.scale == 1.0:
        return ""
    long, short = round(stored.long_px / stored.scale), round(stored.short_px / stored.scale)
    return "cut" if (long, short) == (max(width_px, height_px), min(width_px, height_px)) else f"of {long}x{short}"


def weightiest(priors: Sequence[FocalPrior]) -> FocalPrior:
    """What a camera's photos say of its focal length: the medians of the source that weighs most, by how many photos have it and how
    sure it is, so that one odd photo does not speak for all."""
    by_source = defaultdict(list)
    for p in priors:
        by_source[p.source].append(p)
    best = max(sorted(by_source), key=lambda source: sum(p.sigma**-2 for p in by_source[source]))
    return FocalPrior(median(p.focal_px for p in by_source[best]), best, median(p.sigma for p in by_source[best]))


def _without_make(make: str, model: str) -> str:
    return model if model.lower().startswith(make.lower()) else f"{make} {model}"


def _slug(words: str) -> str:
    return re.sub(r"[^\w.]+", "-", words.lower()).strip("-.") or "camera"


def _unique(name: str, taken: set[str]) -> str:
    unique, k = name, 2
    while unique in taken:
        unique, k = f"{name}-{k}", k + 1
    taken.add(unique)
    return unique
