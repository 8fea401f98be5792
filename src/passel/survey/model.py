"""The survey as data: photos, the cameras that took them, the frame, and what the input check has to say."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from passel.geo.frames import Frame

CENTRE_SIGMA = 0.01
"""How far (of the longer side) a camera's principal point may be from the middle of its picture."""
SHAPELESS_M = 1000.0
"""Vertical sigma of altitudes that are wrong or drift: from here on they say nothing about the map's shape, only its mean height."""
_STEEP_DEG = -20.0  # angles flatter than this are as often the body's of a drone that flies nose down, and tell no up


@dataclass(frozen=True)
class Calibration:
    """A calibration made before, at the camera's full size: pixels, centres at .5; Brown's terms as in `reconstruct.scene.Intrinsics`."""

    fx: float
    fy: float
    cx: float
    cy: float
    k1: float
    k2: float
    p1: float
    p2: float
    k3: float


@dataclass(frozen=True)
class Camera:
    """One physical camera at one lens setting: the photos of one make, model, lens, size and focal length.

    id: stable name made of those. width_px, height_px: size as stored in the file (orientation tag ignored).
    focal_prior_px: focal length guess at full size; focal_prior_source says where it is from: 'xmp', 'exif35', 'exif+sensor',
    'sensor table', 'cameras.json' or 'guess'; focal_prior_sigma: its relative standard deviation.
    calibration: of `--cameras`, if it has one for this camera. centre_sigma: one-sigma of the principal point about the middle, of the
    longer side. is_cut: whether its photos were cut after the flight, by all that they tell.
    is_held: whether they were made smaller, and as many whole ones of the same camera beside them hold the map's shape: cut with their
    shape kept they look the same, so that their focal length is better found from the pictures.
    """

    id: str
    make: str
    model: str
    lens: str
    width_px: int
    height_px: int
    focal_prior_px: float
    focal_prior_source: str
    focal_prior_sigma: float
    calibration: Calibration | None = None
    centre_sigma: float = CENTRE_SIGMA
    is_cut: bool = False
    is_held: bool = False


@dataclass(frozen=True)
class Position:
    """A photo's GPS: degrees and metres; one-sigma accuracies in metres, None where the photo does not say."""

    latitude_deg: float
    longitude_deg: float
    altitude_m: float | None
    horizontal_sigma_m: float | None
    vertical_sigma_m: float | None


@dataclass(frozen=True)
class Photo:
    """One usable photo.

    name: file name, unique in the survey. path: where it lies. sha256, size_bytes: of the file's content.
    camera: id of its Camera. position: GPS or None. time: ISO 8601 as the photo tells it, '' if it does not.
    yaw_deg, pitch_deg, roll_deg: camera (gimbal, else body) angles, None if unknown: yaw clockwise from north, pitch -90 = nadir.
    relative_altitude_m: height above take-off if told. sharpness: variance of the Laplacian at 1/4 scale, for comparisons only.
    """

    name: str
    path: str
    sha256: str
    size_bytes: int
    camera: str
    position: Position | None
    time: str
    yaw_deg: float | None
    pitch_deg: float | None
    roll_deg: float | None
    relative_altitude_m: float | None
    sharpness: float


@dataclass(frozen=True)
class Finding:
    """One thing the input check found. severity: 'note', 'warning' or 'error'; code: short stable word; photos: names concerned."""

    severity: str
    code: str
    message: str
    photos: tuple[str, ...] = ()


def _seconds(time: str) -> float:
    try:
        return (datetime.fromisoformat(time).replace(tzinfo=None) - datetime(2000, 1, 1)).total_seconds()
    except ValueError:  # a clock that was never set, or bytes that only look like a time
        return float("nan")


@dataclass(frozen=True)
class Survey:
    """All usable photos of a job (sorted by name), their cameras (sorted by id), the frame and the findings.

    gps_sigma_m: (horizontal, vertical) one-sigma weight for photos whose GPS does not tell its accuracy, after the input check
    (altitudes that jump or drift get a larger vertical sigma).
    """

    photos: tuple[Photo, ...]
    cameras: tuple[Camera, ...]
    frame: Frame
    gps_sigma_m: tuple[float, float]
    findings: tuple[Finding, ...]

    def camera_index(self) -> NDArray[np.int64]:
        """(n,) index into `cameras` for each photo."""
        index = {c.id: i for i, c in enumerate(self.cameras)}
        return np.array([index[p.camera] for p in self.photos], np.int64)

    def positions_in_world(self) -> NDArray[np.float64]:
        """(n, 3) GPS positions in world metres; NaN rows for photos without GPS. A missing altitude becomes the frame's."""
        out = np.full((len(self.photos), 3), np.nan)
        have = [i for i, p in enumerate(self.photos) if p.position is not None]
        if have and self.frame.is_georeferenced:
            rows = []
            for i in have:
                p = self.photos[i].position
                assert p is not None
                alt = self.frame.origin_height_m if p.altitude_m is None else p.altitude_m
                rows.append((p.latitude_deg, p.longitude_deg, alt))
            out[have] = self.frame.world_from_geographic(np.array(rows))
        return out

    def position_sigmas(self) -> NDArray[np.float64]:
        """(n, 3) one-sigma of each photo's GPS east, north, up in metres; NaN rows without GPS, up = 1e4 without altitude."""
        h0, v0 = self.gps_sigma_m
        out = np.full((len(self.photos), 3), np.nan)
        for i, photo in enumerate(self.photos):
            p = photo.position
            if p is not None:
                h = p.horizontal_sigma_m or h0
                v = 1e4 if p.altitude_m is None else max(p.vertical_sigma_m or v0, 0.0)
                out[i] = h, h, v
        return out

    def times_s(self) -> NDArray[np.float64]:
        """(n,) seconds from 2000 on by the cameras' clocks; NaN for photos that do not tell a time that exists."""
        return np.array([_seconds(p.time) for p in self.photos])

    def up_in_camera(self) -> NDArray[np.float64]:
        """(n, 3) unit vectors up in each camera's frame (x right, y down, z forward) by its pitch and roll; NaN rows where it does not
        tell them or they are not a camera's that looks down."""
        out = np.full((len(self.photos), 3), np.nan)
        for i, p in enumerate(self.photos):
            if p.pitch_deg is not None and p.roll_deg is not None and p.pitch_deg <= _STEEP_DEG:
                pitch, roll = np.radians([p.pitch_deg, p.roll_deg])
                out[i] = -np.cos(pitch) * np.sin(roll), -np.cos(pitch) * np.cos(roll), np.sin(pitch)
        return out

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    def save(self, path: Path) -> None:
        path.write_text(self.as_json(), encoding="utf-8")

    @staticmethod
    def load(path: Path) -> Survey:
        d = json.loads(path.read_text(encoding="utf-8"))
        frame = d["frame"]
        origin = tuple(frame["origin_deg"]) if frame["origin_deg"] else None
        return Survey(
            photos=tuple(
                Photo(**{**p, "position": Position(**p["position"]) if p["position"] else None}) for p in d["photos"]
            ),
            cameras=tuple(
                Camera(**{**c, "calibration": Calibration(**c["calibration"]) if c["calibration"] else None})
                for c in d["cameras"]
            ),
            frame=Frame(origin, frame["origin_height_m"], frame["epsg"], tuple(frame["map_offset_m"])),
            gps_sigma_m=tuple(d["gps_sigma_m"]),
            findings=tuple(Finding(**{**f, "photos": tuple(f["photos"])}) for f in d["findings"]),
        )
