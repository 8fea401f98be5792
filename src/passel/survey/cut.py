"""Photos made smaller or cut after the flight: what of the camera's own picture is stored, and how large."""

from __future__ import annotations

import math
from dataclasses import dataclass

from passel.survey.facts import PhotoFacts
from passel.survey.model import CENTRE_SIGMA

_USUAL_ASPECTS = (
    1.0,
    8 / 7,
    6 / 5,
    5 / 4,
    21 / 16,
    4 / 3,
    11 / 8,
    3 / 2,
    16 / 9,
    17 / 9,
    2.0,
    20 / 9,
)  # of what cameras take
_SAME_ASPECT = 0.015
_ROUNDED_PX, _ROUNDED = (
    1.5,
    0.006,
)  # by which a side may be off when a picture was made smaller; to whole tens or eights of pixels
_ANY_CUT = 0.15  # relative sigma of the focal length where nobody knows what was cut off
_ANY_CENTRE = 0.05
_VAGUEST_CENTRE = 0.25  # two sigma reach the rim
_MIDDLE = 0.05  # of a side, within which a maker's calibrated middle is the middle of the file


@dataclass(frozen=True, order=True)
class Stored:
    """What of the camera's picture a file holds.

    long_px, short_px: sides of the whole picture, in stored pixels. scale: stored pixels a pixel of the camera's; sigma: its relative
    one-sigma. centre_sigma: how far the principal point may be from the middle of the file, of its longer side. is_cut: whether
    something was cut off, or seems to have been.
    """

    is_cut: bool
    long_px: float
    short_px: float
    scale: float
    sigma: float
    centre_sigma: float


def stored_of(facts: PhotoFacts, sensor_aspect: float | None = None) -> Stored:
    """By the size that the camera wrote down beside the picture: with both sides shorter by one factor it was made smaller, else cut.
    Without that size, or where an editor wrote its own, by the aspect: what neither the sensor (`sensor_aspect`) nor any camera has was
    cut, unless the maker's calibration is for that size.

    A cut picture is taken to have the camera's own pixels, as most have; if it was made smaller, too, that is within the sigma.
    """
    long, short = max(facts.width_px, facts.height_px), min(facts.width_px, facts.height_px)
    wide, high = facts.original_width_px or 0, facts.original_height_px or 0
    if not (wide and high) and (wide or high):  # one side alone tells how much smaller
        shrunk = facts.width_px / wide if wide else facts.height_px / high
        wide, high = round(facts.width_px / shrunk), round(facts.height_px / shrunk)
    full_long, full_short = max(wide, high), min(wide, high)
    if full_long < long or full_short < short or (full_long, full_short) == (long, short):
        aspects = (*_USUAL_ASPECTS, *((sensor_aspect,) if sensor_aspect else ()))
        is_usual = any(abs(long / short / a - 1.0) < _SAME_ASPECT for a in aspects)
        if is_usual or ((full_long, full_short) == (long, short) and _is_calibrated_so(facts)):
            return Stored(False, long, short, 1.0, 0.0, CENTRE_SIGMA)
        return Stored(True, long, short, 1.0, _ANY_CUT, _ANY_CENTRE)
    if abs(short - long * full_short / full_long) <= max(_ROUNDED_PX, _ROUNDED * short):
        return Stored(False, long, short, long / full_long, 0.0, CENTRE_SIGMA)
    smallest = max(long / full_long, short / full_short)
    farthest = max(full_long - long, full_short - short) / 2 / long  # cut from the rim of the camera's picture
    centre_sigma = min(max(CENTRE_SIGMA, farthest / 2), _VAGUEST_CENTRE)
    return Stored(True, full_long, full_short, 1.0, -math.log(smallest) / 1.5, centre_sigma)


def _is_calibrated_so(facts: PhotoFacts) -> bool:
    """Whether the maker's calibration came with the photo, and nothing in it is for a picture of another size."""
    middle = (facts.xmp_middle_x_px, facts.width_px), (facts.xmp_middle_y_px, facts.height_px)
    return facts.xmp_focal_px is not None and all(m is None or abs(m / side - 0.5) < _MIDDLE for m, side in middle)
