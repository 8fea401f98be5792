"""Position, accuracy, camera angles and time from the tags of one photo."""

from __future__ import annotations

import re

from passel.survey.exif import Tags, number, numbers, text
from passel.survey.model import Position
from passel.survey.xmp import Xmp

LOWEST_M, HIGHEST_M = -500.0, 20_000.0  # between which altitudes are believed
# One-sigma metres (horizontal, vertical) of DJI's RtkFlag: 50 fixed, 34 float, 16 single point.
_RTK_SIGMA_M = {50: (0.05, 0.1), 34: (0.5, 1.0), 16: (3.0, 6.0)}
_SIGMA_PER_DOP_M = (3.0, 6.0)  # range error of an uncorrected receiver times the dilution; height is about twice as bad
_TIME = re.compile(r"(\d{4})[:-](\d\d)[:-](\d\d)[ T](\d\d):(\d\d):(\d\d)")


def position_of(tags: Tags, xmp: Xmp) -> tuple[Position | None, str]:
    """(position or None, why GPS tags that are there were not used or '')."""
    lat, lon = _exif_degrees(tags, 1, 2, "S"), _exif_degrees(tags, 3, 4, "W")
    rtk = xmp.number("RtkFlag")
    xmp_lat = xmp.degrees("drone-dji:GpsLatitude", "GpsLatitude", "drone-dji:Latitude", "exif:GPSLatitude")
    xmp_lon = xmp.degrees(
        # DJI's first firmware with these tags misspelled one of them
        "GpsLongitude", "GpsLongtitude", "drone-dji:Longitude", "exif:GPSLongitude"
    )  # fmt: skip
    if rtk or lat is None or _invalid(lat, lon):  # with RTK the XMP has more digits
        told = xmp_lat is not None and not _invalid(xmp_lat, xmp_lon)
        lat, lon = (xmp_lat, xmp_lon) if told else (lat, lon)
    reason = _invalid(lat, lon)
    if reason or lat is None or lon is None:
        return None, reason
    horizontal, vertical = _sigmas(tags, xmp, None if rtk is None else int(rtk))
    return Position(lat, lon, _altitude(tags, xmp), horizontal, vertical), ""


def _invalid(lat: float | None, lon: float | None) -> str:
    """Why a pair cannot be a photo's place; '' if it can, or if there is none at all (None, None)."""
    if lat is None and lon is None:
        return ""
    if lat is None or lon is None:
        return "its GPS has no latitude or no longitude"
    if abs(lat) < 1e-6 and abs(lon) < 1e-6:
        return "its GPS says 0, 0: the receiver had no fix"
    if abs(lat) > 90.0 or abs(lon) > 180.0:
        return f"its GPS says latitude {lat:g}, longitude {lon:g}: there is no such place"
    return ""


def _exif_degrees(tags: Tags, ref_tag: int, tag: int, negative: str) -> float | None:
    parts = numbers(tags.gps, tag, 3)
    if parts is None:
        first = number(tags.gps, tag)
        parts = None if first is None else (first, 0.0, 0.0)
    if parts is None:
        return None
    value = parts[0] + parts[1] / 60.0 + parts[2] / 3600.0
    return -value if text(tags.gps, ref_tag).upper().startswith(negative) else value


def _altitude(tags: Tags, xmp: Xmp) -> float | None:
    """Metres; XMP's absolute altitude first, because DJI firmware has written a wrong above/below-sea flag in EXIF."""
    told = xmp.number("AbsoluteAltitude")
    if told is None:
        told = number(tags.gps, 6)
        if told is not None and (number(tags.gps, 5) or 0) in (1, 3):  # below sea level, below the ellipsoid
            told = -told
    return told if told is not None and LOWEST_M < told < HIGHEST_M else None


def _sigmas(tags: Tags, xmp: Xmp, rtk: int | None) -> tuple[float | None, float | None]:
    """One-sigma (horizontal, vertical) metres as the photo tells them, None where it does not."""
    horizontal, vertical = xmp.number("GPSXYAccuracy"), xmp.number("GPSZAccuracy")
    if rtk is not None and rtk in _RTK_SIGMA_M:
        horizontal, vertical = _RTK_SIGMA_M[rtk]
        std = [xmp.number("RtkStdLon"), xmp.number("RtkStdLat"), xmp.number("RtkStdHgt")]
        if std[0] and std[1] and std[2]:
            # the receiver's own figure leaves out the lever arm to the camera and the shutter's delay
            horizontal, vertical = max(std[0], std[1], 0.02), max(std[2], 0.03)
    if horizontal is None:
        horizontal = number(tags.gps, 31)
    dop = number(tags.gps, 11)
    if horizontal is None and dop is not None and 0.0 < dop < 50.0:
        horizontal, vertical = _SIGMA_PER_DOP_M[0] * dop, vertical or _SIGMA_PER_DOP_M[1] * dop
    return _sane(horizontal), _sane(vertical)


def _sane(sigma_m: float | None) -> float | None:
    return min(max(sigma_m, 0.005), 1000.0) if sigma_m is not None and sigma_m > 0.0 else None


def angles_of(xmp: Xmp) -> tuple[float | None, float | None, float | None]:
    """(yaw, pitch, roll) degrees in Photo's convention; camera or gimbal before body."""
    yaw = xmp.number("GimbalYawDegree", "CameraYawDegree", "GimbalYaw", "Camera:Yaw", "sensefly:Yaw", "FlightYawDegree")
    pitch = xmp.number("GimbalPitchDegree", "CameraPitchDegree", "GimbalPitch")
    roll = xmp.number("GimbalRollDegree", "CameraRollDegree", "GimbalRoll", "Camera:Roll", "sensefly:Roll")
    if pitch is None:
        pitch = xmp.number("Camera:Pitch", "sensefly:Pitch")
        # These tags count from straight down; but some makers fill them from the horizon, and then nadir is near -90.
        if pitch is not None and pitch > -45.0:
            pitch -= 90.0
    return yaw, pitch, roll


def time_of(tags: Tags) -> str:
    """ISO 8601 with subseconds as the camera's clock told it; '' without."""
    for group, tag, fraction in ((tags.exif, 0x9003, 0x9291), (tags.exif, 0x9004, 0x9292), (tags.image, 0x132, 0x9290)):
        found = _TIME.match(text(group, tag))
        if found and found[1] != "0000" and found[2] != "00":
            digits = text(tags.exif, fraction)
            date = f"{found[1]}-{found[2]}-{found[3]}T{found[4]}:{found[5]}:{found[6]}"
            return f"{date}.{digits}" if digits.isdigit() else date
    return ""
