"""Photos written for the survey's tests: small, textured, with the EXIF, GPS and XMP a test asks for."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from passel.survey.assemble import assemble_survey
from passel.survey.facts import PhotoFacts, Refusal
from passel.survey.model import Finding, Position, Survey

XMP_HEAD = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:drone-dji="http://www.dji.com/drone-dji/1.0/" '
)


def attribute_xmp(**properties: str) -> str:
    """A packet with drone-dji attributes."""
    listed = " ".join(f'drone-dji:{k}="{v}"' for k, v in properties.items())
    return f"{XMP_HEAD}{listed}></rdf:Description></rdf:RDF></x:xmpmeta>"


def element_xmp(prefix: str, **properties: str) -> str:
    """A packet with elements of one prefix."""
    listed = "".join(f"<{prefix}:{k}>{v}</{prefix}:{k}>\n" for k, v in properties.items())
    return f"{XMP_HEAD}>{listed}</rdf:Description></rdf:RDF></x:xmpmeta>"


@dataclass(frozen=True)
class Shot:
    """What a test photo says. gps: latitude, longitude, altitude; exif: extra tags of the EXIF part, gps_tags of the GPS part."""

    size: tuple[int, int] = (320, 240)
    make: str = "DJI"
    model: str = "FC300S"
    gps: tuple[float, float, float] | None = None
    exif: dict[int, object] = field(default_factory=dict)
    gps_tags: dict[int, object] = field(default_factory=dict)
    xmp: str = ""
    orientation: int = 1
    seed: int = 0
    smooth: int = 1

    def image(self) -> Image.Image:
        rng = np.random.default_rng(self.seed)
        w, h = self.size
        rough = rng.integers(0, 256, (-(-h // self.smooth), -(-w // self.smooth), 3), np.uint8)
        return Image.fromarray(rough).resize((w, h), Image.Resampling.BICUBIC)

    def tags(self) -> Image.Exif:
        exif = Image.Exif()
        exif[0x10F], exif[0x110], exif[0x112] = self.make, self.model, self.orientation
        part = exif.get_ifd(0x8769)
        part.update(self.exif)
        gps = exif.get_ifd(0x8825)
        if self.gps is not None:
            lat, lon, alt = self.gps
            gps.update({1: "N" if lat >= 0 else "S", 2: _dms(abs(lat)), 3: "E" if lon >= 0 else "W", 4: _dms(abs(lon))})
            gps.update({5: b"\1" if alt < 0 else b"\0", 6: abs(alt)})
        gps.update(self.gps_tags)
        exif[0x8825], exif[0x8769] = dict(gps), dict(part)  # for TIFF, Pillow writes only what stands here
        return exif

    def write(self, path: Path) -> Path:
        out = io.BytesIO()
        kind = {".png": "PNG", ".tif": "TIFF"}.get(path.suffix.lower(), "JPEG")
        extra = {"xmp": self.xmp.encode(), "quality": 90} if kind == "JPEG" else {}
        self.image().save(out, kind, exif=self.tags(), **extra)
        path.write_bytes(out.getvalue())
        return path


def _dms(value: float) -> tuple[float, float, float]:
    minutes = (value - int(value)) * 60
    return float(int(value)), float(int(minutes)), (minutes - int(minutes)) * 60


def facts(name: str, **changes: object) -> PhotoFacts:
    """Facts of a photo without a file."""
    plain: dict[str, object] = {
        "name": name, "sha256": f"sha-{name}", "size_bytes": 1000, "width_px": 4000, "height_px": 3000,
        "original_width_px": None, "original_height_px": None, "make": "DJI", "model": "FC300S", "lens": "", "orientation": 1,
        "focal_mm": 3.61, "focal35_mm": 20.0, "digital_zoom": 1.0, "focal_plane_px_per_mm": None, "xmp_focal_px": None,
        "xmp_middle_x_px": None, "xmp_middle_y_px": None, "position": None, "gps_note": "",
        "time": "", "yaw_deg": None, "pitch_deg": None, "roll_deg": None, "relative_altitude_m": None,
        "sharpness": 1000.0,
    }  # fmt: skip
    return PhotoFacts(**{**plain, **changes})  # type: ignore[arg-type]


def serpentine(lines: int, per_line: int, spacing_m: float = 30.0) -> np.ndarray:
    """(n, 2) metres of a lawn-mower flight."""
    rows = []
    for k in range(lines):
        along = np.arange(per_line) * spacing_m
        rows += [(x, k * spacing_m * 1.5) for x in (along if k % 2 == 0 else along[::-1])]
    return np.array(rows)


def flight(xy_m: np.ndarray, altitude_m: np.ndarray, **changes: object) -> list[PhotoFacts]:
    """Facts of photos at metres east and north of 46° N 8° E, one every 2 s."""
    found = []
    for i, ((x, y), z) in enumerate(zip(xy_m, altitude_m, strict=True)):
        lat, lon = 46.0 + y / 111_150.0, 8.0 + x / 77_470.0
        time = f"2024-05-01T10:{i // 30:02d}:{i % 30 * 2:02d}"
        position = Position(float(lat), float(lon), float(z), None, 0.5)
        found.append(facts(f"p{i:04d}.jpg", **{"position": position, "time": time, **changes}))
    return found


def survey_of(photos: Sequence[PhotoFacts], refusals: Sequence[Refusal] = (), **options: object) -> Survey:
    """The survey of these photos, which need not exist."""
    return assemble_survey(photos, refusals, [Path("photos") / f.name for f in photos], **options)  # type: ignore[arg-type]


def finding(survey: Survey, code: str) -> Finding:
    """The one finding of this code."""
    found = [f for f in survey.findings if f.code == code]
    assert len(found) == 1, [f.code for f in survey.findings]
    return found[0]


def plain_flight(lines: int = 6, per_line: int = 10, noise_m: float = 1.0, seed: int = 0) -> list[PhotoFacts]:
    """A lawn-mower flight of one camera in which nothing is wrong."""
    xy = serpentine(lines, per_line)
    return flight(xy, 150.0 + np.random.default_rng(seed).normal(0, noise_m, len(xy)))
