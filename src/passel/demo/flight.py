"""The synthetic flight: settings, cameras, true poses, and what the drone writes down about them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from passel.demo.kernels import F64
from passel.errors import UsageError
from passel.geo.frames import Frame
from passel.reconstruct.scene import Intrinsics

SENSOR_WIDTH_MM = 13.2
FOCAL_MM = 8.8  # what EXIF says; the true focal length differs by FOCAL_ERROR
FOCAL_ERROR = 0.013
MOUNT_DEG = (0.5, -0.5, 0.0)  # of every camera in its gimbal, which knows nothing of it: about right, down, forward
GIMBAL_NOISE_DEG = (0.4, 0.4, 0.5)  # one-sigma of each photo, about the same axes
LEVEL_DEG = 0.1  # one-sigma of the gimbal's idea of level in the world, one for the flight


@dataclass(frozen=True)
class DemoSettings:
    """A synthetic survey. Equal settings make equal bytes.

    strips, photos_per_strip: the lawn-mower pattern. width_px, height_px: photo size. height_m: flying height above the mean
    ground. forward_overlap, side_overlap: 0..1 at that height. seed: of world, jitter and GPS noise. heading_deg: of the
    first strip, clockwise from north.
    gps: whether photos carry positions. gps_horizontal_sigma_m, gps_vertical_sigma_m: one-sigma noise of each. altitude_drift_m:
    how far the written altitude has drifted at the end of the flight. second_camera: whether the last third of the
    photos comes from another camera of another size. latitude_deg, longitude_deg, altitude_m: origin of the truth's frame.
    """

    strips: int = 7
    photos_per_strip: int = 10
    width_px: int = 1200
    height_px: int = 900
    height_m: float = 80.0
    forward_overlap: float = 0.77
    side_overlap: float = 0.67
    seed: int = 1
    heading_deg: float = 14.0
    gps: bool = True
    gps_horizontal_sigma_m: float = 1.0
    gps_vertical_sigma_m: float = 2.0
    altitude_drift_m: float = 0.0
    second_camera: bool = False
    latitude_deg: float = 46.78
    longitude_deg: float = 6.74
    altitude_m: float = 520.0

    def __post_init__(self) -> None:
        ok = self.strips >= 1 and self.photos_per_strip >= 1 and self.width_px >= 64 and self.height_px >= 64
        if not (ok and 30 <= self.height_m <= 500 and 0 <= self.forward_overlap < 1 and 0 <= self.side_overlap < 1):
            raise UsageError(
                "demo settings out of range", "demo", "at least 1 photo of 64 px, 30 to 500 m high, overlaps 0..1"
            )

    @staticmethod
    def tiny() -> DemoSettings:
        """16 small photos for tests: about 3 CPU seconds."""
        return DemoSettings(
            strips=4,
            photos_per_strip=4,
            width_px=800,
            height_px=600,
            height_m=60.0,
            forward_overlap=0.8,
            side_overlap=0.75,
        )

    @staticmethod
    def mid() -> DemoSettings:
        """36 photos of the demo's kind on a smaller ground."""
        return DemoSettings(strips=6, photos_per_strip=6, width_px=900, height_px=675, height_m=70.0, side_overlap=0.7)

    @property
    def photos(self) -> int:
        return self.strips * self.photos_per_strip

    @property
    def gsd_m(self) -> float:
        """Ground size of a pixel at the flying height, metres."""
        return self.height_m / (self.width_px * FOCAL_MM / SENSOR_WIDTH_MM * (1 + FOCAL_ERROR))

    @property
    def half_size_m(self) -> float:
        """Half side of the world that the photos can see."""
        across, along = self.spacing_m
        reach = math.hypot(across * (self.strips - 1), along * (self.photos_per_strip - 1)) / 2
        return round(reach + 1.25 * self.height_m + 30.0)

    @property
    def spacing_m(self) -> tuple[float, float]:
        """Distance between strips and between photos of a strip."""
        gsd = self.gsd_m
        return self.width_px * gsd * (1 - self.side_overlap), self.height_px * gsd * (1 - self.forward_overlap)


@dataclass(frozen=True)
class Shot:
    """One photo as flown. name: file name. camera: index into the cameras. cam_from_world (3, 3); centre (3,) metres in the truth's
    world frame. noted: latitude, longitude (degrees), altitude (m) that EXIF tells. noted_angles_deg: yaw, pitch, roll that XMP
    tells, as the gimbal believes them. seconds: since take-off. exposure: gain of this photo."""

    name: str
    camera: int
    cam_from_world: F64
    centre: F64
    noted: tuple[float, float, float]
    noted_angles_deg: tuple[float, float, float]
    seconds: float
    exposure: float


def truth_frame(settings: DemoSettings) -> Frame:
    """The frame in which the truth is told: origin at the settings' place, height 0 at their altitude."""
    return Frame.around(np.array([[settings.latitude_deg, settings.longitude_deg, settings.altitude_m]]))


def true_cameras(settings: DemoSettings) -> tuple[Intrinsics, ...]:
    """The true calibration of each camera; no two numbers agree with EXIF."""
    first = _camera("Demo", settings.width_px, settings.height_px, 1 + FOCAL_ERROR, 1.0)
    if not settings.second_camera:
        return (first,)
    width, height = round(settings.width_px * 0.875), round(settings.height_px * 0.875)
    return first, _camera("Demo 2", width, height, 1 - 0.9 * FOCAL_ERROR, -0.7)


def _camera(model: str, width: int, height: int, focal_ratio: float, bend: float) -> Intrinsics:
    focal = width * FOCAL_MM / SENSOR_WIDTH_MM * focal_ratio
    return Intrinsics(
        camera=model,
        width_px=width,
        height_px=height,
        fx=focal,
        fy=focal,
        cx=width * 0.5 + 0.0063 * width * bend,
        cy=height * 0.5 - 0.0047 * width * bend,
        k1=-0.042 * bend,
        k2=0.017 * bend,
        p1=0.0006 * bend,
        p2=-0.0004 * bend,
    )


def rotation_from_angles(yaw_deg: float, pitch_deg: float, roll_deg: float) -> F64:
    """(3, 3) cam_from_world (camera x right, y down, z forward; world east, north, up).

    yaw clockwise from north, pitch -90 looks straight down with the yaw direction at the top of the picture, roll clockwise about
    the line of sight.
    """
    yaw, pitch, roll = np.radians([yaw_deg, pitch_deg, roll_deg])
    heading, up = np.array([math.sin(yaw), math.cos(yaw), 0.0]), np.array([0.0, 0.0, 1.0])
    forward = heading * math.cos(pitch) + up * math.sin(pitch)
    top = -heading * math.sin(pitch) + up * math.cos(pitch)
    right = np.cross(forward, top)
    x = right * math.cos(roll) - top * math.sin(roll)
    return np.array([x, np.cross(forward, x), forward])


def fly(settings: DemoSettings) -> tuple[Shot, ...]:
    """Every photo of the flight in the order taken."""
    rng = np.random.default_rng([settings.seed, 77])
    frame = truth_frame(settings)
    across, along = settings.spacing_m
    n, per = settings.photos, settings.photos_per_strip
    jitter = rng.standard_normal((n, 6)) * (0.9, 0.9, 1.2, 2.0, 1.4, 1.4)
    noise = rng.standard_normal((n, 3)) * (
        settings.gps_horizontal_sigma_m,
        settings.gps_horizontal_sigma_m,
        settings.gps_vertical_sigma_m,
    )
    unknown = Rotation.from_rotvec(MOUNT_DEG + rng.standard_normal((n, 3)) * GIMBAL_NOISE_DEG, degrees=True).as_matrix()
    exposure = np.exp(np.clip(0.05 * rng.standard_normal(n), -0.1, 0.1) + 0.06 * np.sin(np.arange(n) / 9.0))
    level = Rotation.from_rotvec([*rng.standard_normal(2) * LEVEL_DEG, 0.0], degrees=True).as_matrix()
    turn = math.radians(settings.heading_deg)
    east, north = np.array([math.cos(turn), -math.sin(turn)]), np.array([math.sin(turn), math.cos(turn)])
    shots = []
    for i in range(n):
        strip, step = divmod(i, per)
        back = strip % 2 == 1
        forward = (per - 1 - step if back else step) - (per - 1) / 2
        plan = east * across * (strip - (settings.strips - 1) / 2) + north * along * forward
        height = MEAN_GROUND_M + settings.height_m + 2.0 * math.sin(i / 11.0)
        centre = np.array([plan[0], plan[1], height]) + jitter[i, :3]
        angles = np.array([settings.heading_deg + 180.0 * back, -90.0, 0.0]) + jitter[i, 3:]
        drift = np.array([0.0, 0.0, settings.altitude_drift_m * i / max(1, n - 1)])
        lat, lon, alt = frame.geographic_from_world((centre + noise[i] + drift)[None])[0]
        yaw, pitch, roll = (float(a) for a in angles)
        shots.append(
            Shot(
                name=f"DEMO_{i + 1:04d}.JPG",
                camera=1 if settings.second_camera and i >= 2 * n // 3 else 0,
                cam_from_world=unknown[i] @ rotation_from_angles(yaw, pitch, roll) @ level,
                centre=centre,
                noted=(float(lat), float(lon), float(alt)),
                noted_angles_deg=((yaw + 180) % 360 - 180, pitch, roll),
                seconds=round(2.7 * i + 6.0 * strip, 2),
                exposure=float(exposure[i]),
            )
        )
    return tuple(shots)


MEAN_GROUND_M = 10.9
