"""Focal length guesses in pixels, best source first, each with an honest relative sigma."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from passel.survey.cut import Stored, stored_of
from passel.survey.facts import PhotoFacts

_FULL_FRAME_DIAGONAL_MM = math.hypot(36.0, 24.0)
_SIGMA_XMP, _SIGMA_35MM, _SIGMA_FOCAL_PLANE, _SIGMA_SENSOR, _SIGMA_GUESS = 0.02, 0.03, 0.04, 0.05, 0.3
_GUESS_PER_LONGEST_SIDE = 0.85
_SAME_ASPECT = 0.03
_VIDEO_ASPECT = 1.65  # wider than any photo sensor: 16:9 is cut out of 4:3 or 3:2


@dataclass(frozen=True)
class FocalPrior:
    """A focal length guess: pixels at stored size, where it is from (Camera.focal_prior_source), relative one-sigma."""

    focal_px: float
    source: str
    sigma: float


@dataclass(frozen=True)
class Sensor:
    """The light-sensitive area of a camera, millimetres, at its native aspect ratio."""

    width_mm: float
    height_mm: float


@lru_cache(maxsize=1)
def _table() -> dict[tuple[str, str], Sensor]:
    body = resources.files("passel.survey").joinpath("sensors.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(body.splitlines())
    return {_key(r["make"], r["model"]): Sensor(float(r["width_mm"]), float(r["height_mm"])) for r in rows}


def _key(make: str, model: str) -> tuple[str, str]:
    words = make.lower().split()
    brand = words[0] if words else ""
    # some firmware repeats the make in the model, some does not
    return brand, " ".join(w for w in model.lower().split() if w != brand)


def sensor_of(make: str, model: str) -> Sensor | None:
    """The sensor of a camera in the table, None if it is not there."""
    return _table().get(_key(make, model))


def focal_prior(facts: PhotoFacts) -> FocalPrior:
    """The best guess of a photo's focal length.

    Order: the maker's calibration in XMP, EXIF's 35 mm equivalent, focal length with focal-plane resolution, focal length with
    the sensor table, 0.85 of the longest side. Where the second and the later sources contradict each other by more than their
    sigmas, the first keeps its place with a sigma that covers the difference. So it does where the photo was cut after the flight. No
    sigma is larger than a guess's.
    """
    sensor = sensor_of(facts.make, facts.model)
    stored = stored_as(facts)
    if facts.xmp_focal_px is not None:
        return FocalPrior(facts.xmp_focal_px * stored.scale, "xmp", min(_SIGMA_GUESS, max(_SIGMA_XMP, stored.sigma)))
    found: list[FocalPrior] = []
    if facts.focal_mm is not None and facts.focal_plane_px_per_mm is not None:
        px = facts.focal_mm * facts.focal_plane_px_per_mm * facts.digital_zoom * stored.scale
        found.append(FocalPrior(px, "exif+sensor", _SIGMA_FOCAL_PLANE))
    if facts.focal_mm is not None and sensor is not None:
        px = facts.focal_mm * _px_per_mm(stored, sensor) * facts.digital_zoom
        found.append(FocalPrior(px, "sensor table", _SIGMA_SENSOR))
    if facts.focal35_mm is not None:
        found.insert(0, _from_35mm(facts, stored, sensor, found))
    found = [p for p in found if 0.2 < p.focal_px / max(facts.width_px, facts.height_px) < 20.0]
    if not found:
        guess = _GUESS_PER_LONGEST_SIDE * max(facts.width_px, facts.height_px)
        return FocalPrior(guess, "guess", _SIGMA_GUESS)
    first = found[0]
    apart = max((abs(math.log(p.focal_px / first.focal_px)) for p in found[1:]), default=0.0)
    return FocalPrior(first.focal_px, first.source, min(_SIGMA_GUESS, max(first.sigma, apart / 1.5, stored.sigma)))


def stored_as(facts: PhotoFacts) -> Stored:
    """What of the camera's picture the file holds."""
    sensor = sensor_of(facts.make, facts.model)
    return stored_of(facts, sensor.width_mm / sensor.height_mm if sensor else None)


def _from_35mm(facts: PhotoFacts, stored: Stored, sensor: Sensor | None, others: list[FocalPrior]) -> FocalPrior:
    assert facts.focal35_mm is not None
    px = facts.focal35_mm / _FULL_FRAME_DIAGONAL_MM * _native_diagonal_px(stored, sensor)
    if facts.digital_zoom > 1.0 and others:
        # makers disagree on whether the equivalent counts the digital zoom: the millimetres decide
        px = min(px, px * facts.digital_zoom, key=lambda p: abs(math.log(p / others[0].focal_px)))
    rounding = 0.5 / facts.focal35_mm  # it is a whole number
    return FocalPrior(px, "exif35", max(_SIGMA_35MM, rounding))


def _px_per_mm(stored: Stored, sensor: Sensor) -> float:
    """Pixels per millimetre when the photo uses the sensor's whole width, or its whole height if the photo is narrower."""
    long, short = stored.long_px, stored.short_px
    if long / short < sensor.width_mm / sensor.height_mm * (1.0 - _SAME_ASPECT):
        return short / sensor.height_mm
    return long / sensor.width_mm


def _native_diagonal_px(stored: Stored, sensor: Sensor | None) -> float:
    """Diagonal in pixels of the whole sensor, to which the 35 mm equivalent refers even when the photo is a 16:9 cut of it."""
    long, short = stored.long_px, stored.short_px
    aspect = 4.0 / 3.0 if long / short > _VIDEO_ASPECT else long / short
    if sensor is not None:
        aspect = sensor.width_mm / sensor.height_mm
    if abs(long / short / aspect - 1.0) < _SAME_ASPECT:
        return math.hypot(long, short)
    if long / short > aspect:
        return long * math.hypot(1.0, 1.0 / aspect)
    return short * math.hypot(1.0, aspect)
