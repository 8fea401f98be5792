"""cameras.json (`--cameras`): calibrations in OpenDroneMap's format, matched to the survey's cameras."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from passel.errors import InputError
from passel.survey.model import Calibration, Camera

_KNOWN_PROJECTIONS = ("brown", "perspective", "simple_radial", "radial")
_TODO = "give the cameras.json of an OpenDroneMap or Passel run with the same camera"
_OPTIONAL = ("c_x", "c_y", "k1", "k2", "p1", "p2", "k3")
_SIGMA_KNOWN = 0.005
_LARGEST = 1e9  # nothing in these units is; JSON also knows numbers beyond all floats


@dataclass(frozen=True)
class KnownCalibration:
    """A calibration made earlier, in units of the photo's longer side, Brown's distortion as in `Intrinsics`.

    key: its name in the file; width_px, height_px: size it was made at. focal_x, focal_y: focal lengths; c_x, c_y: the principal
    point's offset from the photo's centre, x right, y down. Pixels are value · max(width_px, height_px), the offset plus half the
    size. camera: id of the survey's Camera it belongs to, '' before `match_calibrations`.
    """

    key: str
    width_px: int
    height_px: int
    focal_x: float
    focal_y: float
    c_x: float
    c_y: float
    k1: float
    k2: float
    p1: float
    p2: float
    k3: float
    camera: str = ""


def read_cameras_file(path_or_json: str) -> tuple[KnownCalibration, ...]:
    """The calibrations of a file, or of the JSON text itself as ODM's `--cameras` allows. Raises InputError."""
    given = path_or_json.strip()
    where = "--cameras"
    if not given.startswith("{"):
        where = given
        try:
            given = Path(given).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as e:
            raise InputError(f"The cameras file cannot be read ({e})", where, _TODO) from e
    try:
        entries = json.loads(given)
    except (ValueError, RecursionError) as e:
        raise InputError(f"The cameras file is not JSON ({e})", where, _TODO) from e
    if not isinstance(entries, dict) or not all(isinstance(v, dict) for v in entries.values()):
        raise InputError("The cameras file is not a table of cameras by name", where, _TODO)
    if not entries:
        raise InputError("The cameras file names no camera", where, _TODO)
    return tuple(_parse(key, entries[key], where) for key in sorted(entries))


def _parse(key: str, entry: dict[str, Any], where: str) -> KnownCalibration:
    projection = str(entry.get("projection_type", ""))
    if projection not in _KNOWN_PROJECTIONS:
        known = ", ".join(_KNOWN_PROJECTIONS)
        raise InputError(
            f"The camera {key!r} has the projection type {projection!r}, which is not supported",
            where,
            f"use one of {known}",
        )
    width, height = int(_number(entry, key, where, "width")), int(_number(entry, key, where, "height"))
    focal_x = _number(entry, key, where, "focal_x", "focal")
    focal_y = _number(entry, key, where, "focal_y", "focal", "focal_x")
    if min(width, height) <= 0 or min(focal_x, focal_y) <= 0:
        raise InputError(f"The camera {key!r} has a size or focal length that is not positive", where, _TODO)
    c_x, c_y, k1, k2, p1, p2, k3 = (_number(entry, key, where, name, default=0.0) for name in _OPTIONAL)
    return KnownCalibration(key, width, height, focal_x, focal_y, c_x, c_y, k1, k2, p1, p2, k3)


def _number(entry: dict[str, Any], key: str, where: str, *names: str, default: float | None = None) -> float:
    """The first of the entry's values of these names."""
    value = next((entry[n] for n in names if n in entry), default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
        raise InputError(f"The camera {key!r} has no number for {names[0]!r}", where, _TODO)
    return float(value)


def match_calibrations(
    known: Sequence[KnownCalibration], cameras: Sequence[Camera]
) -> tuple[tuple[KnownCalibration, ...], tuple[str, ...]]:
    """(calibrations with `camera` filled in, at most one a camera and in their order; ids of cameras without one).

    A calibration fits a camera of the same make, model and shape. One calibration and one camera of the same shape belong
    together whatever their names: that is how a calibration is lent to a renamed model.
    """
    matched, missing = [], []
    for camera in cameras:
        fits = [k for k in known if _same_shape(k, camera) and _words(camera) <= set(_tokens(k.key))]
        if not fits and len(known) == len(cameras) == 1 and _same_shape(known[0], camera):
            fits = list(known)
        if fits:
            best = min(fits, key=lambda k: (abs(k.focal_x * _side(camera) / camera.focal_prior_px - 1.0), k.key))
            matched.append(replace(best, camera=camera.id))
        else:
            missing.append(camera.id)
    return tuple(matched), tuple(missing)


def with_calibrations(cameras: Sequence[Camera], matched: Sequence[KnownCalibration]) -> tuple[Camera, ...]:
    """The cameras with their calibrations, at their own size."""
    by_id = {k.camera: k for k in matched}
    return tuple(_calibrated(c, by_id[c.id]) if c.id in by_id else c for c in cameras)


def _calibrated(c: Camera, k: KnownCalibration) -> Camera:
    side = _side(c)
    cx, cy = c.width_px / 2 + k.c_x * side, c.height_px / 2 + k.c_y * side
    known = Calibration(k.focal_x * side, k.focal_y * side, cx, cy, k.k1, k.k2, k.p1, k.p2, k.k3)
    return replace(
        c,
        focal_prior_px=known.fx,
        focal_prior_source="cameras.json",
        focal_prior_sigma=_SIGMA_KNOWN,
        calibration=known,
    )


def _side(camera: Camera) -> int:
    return max(camera.width_px, camera.height_px)


def _same_shape(k: KnownCalibration, c: Camera) -> bool:
    return abs(k.width_px * c.height_px / (k.height_px * c.width_px) - 1.0) < 0.01


def _tokens(name: str) -> list[str]:
    return re.findall(r"[^\s_]+", name.lower())


def _words(camera: Camera) -> set[str]:
    return set(_tokens(f"{camera.make} {camera.model}"))
