"""Which photos one camera took, at one setting and stored alike, and what their metadata say of it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from passel.survey.cut import Stored
from passel.survey.facts import PhotoFacts
from passel.survey.model import Camera
from passel.survey.sensors import FocalPrior, focal_prior, stored_as

# Relative sigma of the focal length of photos made smaller, beside as many whole ones of the same camera. These hold the map's shape; had
# the others been cut with their shape kept, which looks the same, they would bend it.
_PERHAPS_CUT = 0.3


def cameras_of(facts: Sequence[PhotoFacts]) -> tuple[tuple[Camera, ...], dict[str, str], dict[str, str]]:
    """(cameras by id, camera id by photo name, by camera id what stays when only the zoom changes)."""
    groups = defaultdict(list)
    for f in facts:
        focal = f.focal_mm if f.focal_mm is not None else f.focal35_mm
        unit = "mm" if f.focal_mm is not None else "mm-equivalent"
        setting = "" if focal is None else f"{round(focal * f.digital_zoom, 2):g}{unit}"
        groups[(f.make, f.model, f.lens, f.width_px, f.height_px, setting, stored_as(f))].append(f)
    whole = Counter[tuple[str, str, str]]()
    for key, photos in groups.items():
        if not key[-1].is_cut and key[-1].scale == 1.0:
            whole[key[:3]] += len(photos)
    cameras, camera_of, bodies = [], {}, {}
    ids: set[str] = set()
    for key in sorted(groups):
        make, model, lens, width, height, setting, stored = key
        body = " ".join(
            w for w in (_without_make(make, model), lens, f"{width}x{height}", _of(width, height, stored)) if w
        )
        camera_id = _unique(_slug(f"{body} {setting}"), ids)
        prior = weightiest([focal_prior(f) for f in groups[key]])
        is_held = stored.scale < 1.0 and whole[key[:3]] >= len(groups[key])
        sigma = max(prior.sigma, _PERHAPS_CUT) if is_held else prior.sigma
        camera = Camera(camera_id, make, model, lens, width, height, prior.focal_px, prior.source, sigma)
        cameras.append(replace(camera, centre_sigma=stored.centre_sigma, is_cut=stored.is_cut))
        camera_of.update({f.name: camera_id for f in groups[key]})
        bodies[camera_id] = body
    return tuple(sorted(cameras, key=lambda c: c.id)), camera_of, bodies


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
