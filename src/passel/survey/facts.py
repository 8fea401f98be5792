"""What one file says about itself, before it belongs to a survey: facts of a photo, or why it is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from passel.survey.model import Position


@dataclass(frozen=True)
class PhotoFacts:
    """One readable photo.

    name: file name. sha256, size_bytes: of its content. width_px, height_px: as stored (the orientation tag turns nothing).
    original_width_px, original_height_px: the size the camera wrote down, None if not told; another means made smaller or cut.
    make, model, lens: '' if not told. orientation: EXIF's 1 to 8, 1 if not told, for information only.
    focal_mm: the lens; focal35_mm: its 35 mm equivalent; digital_zoom: ≥ 1. focal_plane_px_per_mm: pixels of the camera's own
    picture per mm of the sensor. xmp_focal_px: the maker's calibrated focal length, in the same pixels; xmp_middle_x_px,
    xmp_middle_y_px: its principal point.
    position, time, yaw_deg, pitch_deg, roll_deg, relative_altitude_m, sharpness: as in Photo.
    gps_note: why the GPS tags there are not used, '' if they are or there are none.
    """

    name: str
    sha256: str
    size_bytes: int
    width_px: int
    height_px: int
    original_width_px: int | None
    original_height_px: int | None
    make: str
    model: str
    lens: str
    orientation: int
    focal_mm: float | None
    focal35_mm: float | None
    digital_zoom: float
    focal_plane_px_per_mm: float | None
    xmp_focal_px: float | None
    xmp_middle_x_px: float | None
    xmp_middle_y_px: float | None
    position: Position | None
    gps_note: str
    time: str
    yaw_deg: float | None
    pitch_deg: float | None
    roll_deg: float | None
    relative_altitude_m: float | None
    sharpness: float


@dataclass(frozen=True)
class Refusal:
    """A file that cannot be used. code: 'unreadable', 'empty', 'not-an-image', 'truncated', 'damaged', 'sixteen-bit',
    'unsupported', 'too-small', 'name' or 'folder'; message: what is wrong and what to do."""

    name: str
    code: str
    message: str


def save_facts(path: Path, facts: Sequence[PhotoFacts], refusals: Sequence[Refusal]) -> None:
    """Write a batch as JSON, in the order given."""
    d = {"photos": [asdict(f) for f in facts], "refused": [asdict(r) for r in refusals]}
    path.write_text(json.dumps(d, indent=1, ensure_ascii=False), encoding="utf-8")


def load_facts(path: Path) -> tuple[tuple[PhotoFacts, ...], tuple[Refusal, ...]]:
    """Read what `save_facts` wrote."""
    d = json.loads(path.read_text(encoding="utf-8"))
    facts = tuple(
        PhotoFacts(**{**p, "position": Position(**p["position"]) if p["position"] else None}) for p in d["photos"]
    )
    return facts, tuple(Refusal(**r) for r in d["refused"])
