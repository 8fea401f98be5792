"""geo.txt: positions beside the photos that replace their GPS, in OpenDroneMap's format."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import pyproj

from passel.errors import InputError
from passel.survey.gps import HIGHEST_M, LOWEST_M
from passel.survey.inspect import EXTENSIONS
from passel.survey.model import Position

_UTM = re.compile(r"(?:WGS\s*84\s+)?UTM\s+(?:zone\s+)?(\d{1,2})\s*([NS])\s*$", re.I)
_FORMAT = "a line is: photo x y [altitude [yaw pitch roll [horizontal accuracy, vertical accuracy]]]"


@dataclass(frozen=True)
class GeoEntry:
    """One line of geo.txt: the photo's name, its position (altitude None: the photo's own stays), camera angles if given."""

    name: str
    position: Position
    yaw_deg: float | None
    pitch_deg: float | None
    roll_deg: float | None


def find_geo_file(folder: Path) -> Path | None:
    """geo.txt in the photos' folder, or beside it when that is called 'images' (OpenDroneMap's project layout)."""
    places = [folder] + ([folder.parent] if folder.resolve().name == "images" else [folder / "images"])
    return next((p / "geo.txt" for p in places if (p / "geo.txt").is_file()), None)


def read_geo_file(path: Path) -> tuple[GeoEntry, ...]:
    """The entries, in the file's order; lines that begin with # are skipped. Raises InputError naming the line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"geo.txt cannot be read ({e})", str(path), "save it as UTF-8 text") from e
    numbered = [(i + 1, s.strip()) for i, s in enumerate(lines) if s.strip() and not s.strip().startswith("#")]
    if not numbered:
        raise InputError("geo.txt is empty", str(path), f"write the CRS into its first line, then photos; {_FORMAT}")
    to_degrees = pyproj.Transformer.from_crs(_parse_crs(numbered[0][1], path), 4326, always_xy=True)
    return tuple(_parse_line(line, to_degrees, f"{path}, line {i}") for i, line in numbered[1:])


def _parse_crs(line: str, path: Path) -> pyproj.CRS:
    utm = _UTM.match(line)
    if utm and 1 <= int(utm[1]) <= 60:
        return pyproj.CRS.from_epsg((32600 if utm[2].upper() == "N" else 32700) + int(utm[1]))
    todo = "write for example EPSG:4326 or WGS84 UTM 32N"
    try:
        crs = pyproj.CRS.from_user_input(line)
    except pyproj.exceptions.CRSError as e:
        raise InputError(f"The first line of geo.txt is not a coordinate system: {line[:80]!r}", str(path), todo) from e
    if not (crs.is_geographic or crs.is_projected):
        raise InputError(f"The coordinate system of geo.txt is not one of maps: {line[:80]!r}", str(path), todo)
    return crs


def _parse_line(line: str, to_degrees: pyproj.Transformer, where: str) -> GeoEntry:
    words = line.replace(",", " ").split()
    ends = [i for i, w in enumerate(words) if w.lower().endswith(EXTENSIONS)]
    after = (ends[0] if ends else 0) + 1  # names may hold spaces
    name = " ".join(words[:after])
    try:
        values = [float(w) for w in words[after:]]
    except ValueError as e:
        raise InputError(f"A value is not a number: {line[:100]!r}", where, _FORMAT) from e
    if len(values) < 2:
        raise InputError(f"A position is missing: {line[:100]!r}", where, _FORMAT)
    lon, lat = to_degrees.transform(values[0], values[1])
    if not (abs(lat) <= 90.0 and abs(lon) <= 180.0):
        todo = "check the CRS in the first line, and that x (longitude, easting) comes before y"
        raise InputError(f"The position of {name} is not on earth: {values[0]:g} {values[1]:g}", where, todo)
    if not all(map(math.isfinite, values)):
        raise InputError(f"A value is not a finite number: {line[:100]!r}", where, _FORMAT)
    told: dict[int, float] = dict(enumerate(values))
    if not LOWEST_M < told.get(2, 0.0) < HIGHEST_M:
        raise InputError(f"The altitude of {name} cannot be right: {told[2]:g} m", where, _FORMAT)
    sigmas = [told[k] if told.get(k, 0.0) > 0.0 else None for k in (6, 7)]
    position = Position(float(lat), float(lon), told.get(2), sigmas[0], sigmas[1])
    return GeoEntry(name, position, told.get(3), told.get(4), told.get(5))
