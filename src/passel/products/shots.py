"""Cameras and photos as OpenDroneMap writes them: shots.geojson, cameras.json and images.json (JSON text)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from passel.geo.frames import Frame
from passel.reconstruct.scene import Intrinsics, Scene, View, views_in_map
from passel.survey.model import Camera, Photo, Survey

F64 = NDArray[np.float64]


def camera_keys(cameras: Sequence[Camera]) -> dict[str, str]:
    """OpenSfM's name of each camera by our id: 'v2 make model width height brown focal', lower case, made unique
    where needed.
    """
    keys: dict[str, str] = {}
    for c in cameras:
        focal = c.focal_prior_px / max(c.width_px, c.height_px)
        words = ("v2", c.make, c.model, str(c.width_px), str(c.height_px), "brown", f"{focal:.4g}")
        key = " ".join(" ".join(words).lower().split())
        keys[c.id] = key if key not in keys.values() else f"{key} {c.lens}".strip().lower()
        if list(keys.values()).count(keys[c.id]) > 1:
            keys[c.id] = f"{key} {c.id}"
    return keys


def cameras_json(survey: Survey, scene: Scene) -> str:
    """Calibrations in ODM's form: Brown parameters normalised by the longer side, principal point from the photo's
    centre.
    """
    keys = camera_keys(survey.cameras)
    out = {}
    for c in scene.cameras:
        size = max(c.width_px, c.height_px)
        out[keys[c.camera]] = {
            "projection_type": "brown",
            "width": c.width_px,
            "height": c.height_px,
            "focal_x": c.fx / size,
            "focal_y": c.fy / size,
            "c_x": (c.cx - c.width_px / 2) / size,
            "c_y": (c.cy - c.height_px / 2) / size,
            "k1": c.k1,
            "k2": c.k2,
            "p1": c.p1,
            "p2": c.p2,
            "k3": c.k3,
        }
    return json.dumps(out, indent=4, ensure_ascii=False)


def shots_geojson(survey: Survey, scene: Scene) -> str:
    """One feature a placed photo: `translation` is the camera centre in the map's CRS, `rotation` the axis-angle of
    camera from map.

    Positions are longitude, latitude (WGS 84) and altitude; without GPS, the local metres.
    """
    keys = camera_keys(survey.cameras)
    photos = {p.name: p for p in survey.photos}
    geographic = _lonlat(survey.frame, scene)
    features = [
        _shot(photos[v.photo], keys[v.intrinsics.camera], v, survey.frame, g)
        for v, g in zip(views_in_map(scene, survey.frame), geographic)
    ]
    return json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False)


def _shot(photo: Photo, camera: str, view: View, frame: Frame, lonlatalt: list[float]) -> dict[str, object]:
    from scipy.spatial.transform import Rotation  # loads long, for what few steps need

    c: Intrinsics = view.intrinsics
    centre = view.centre + np.array([*frame.map_offset_m, 0.0])
    # cam_from_map holds grid convergence and scale too; its nearest rotation is what other programs understand.
    u, _, vt = np.linalg.svd(view.cam_from_map)
    rotation = Rotation.from_matrix(u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt)
    seconds = capture_time_s(photo.time)
    about = {
        "filename": photo.name,
        "camera": camera,
        "focal": c.fx / max(c.width_px, c.height_px),
        "width": c.width_px,
        "height": c.height_px,
        "capture_time": 0.0 if seconds is None else seconds,
        "translation": np.round(centre, 4).tolist(),
        "rotation": np.round(rotation.as_rotvec(), 9).tolist(),
    }
    return {"type": "Feature", "properties": about, "geometry": {"type": "Point", "coordinates": lonlatalt}}


def _lonlat(frame: Frame, scene: Scene) -> list[list[float]]:
    if not frame.is_georeferenced:
        return [np.round(c, 4).tolist() for c in scene.centres]
    g = frame.geographic_from_world(scene.centres)
    return [[round(lon, 9), round(lat, 9), round(alt, 4)] for lat, lon, alt in g.tolist()]


def capture_time_s(iso: str) -> float | None:
    """Seconds since 1970 of a photo's time; a time without zone counts as UTC.

    None if it has none or it cannot be read.
    """
    try:
        when = datetime.fromisoformat(iso)
    except ValueError:
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def images_json(survey: Survey) -> str:
    """All usable photos with what their files said, in ODM's words."""
    cameras = {c.id: c for c in survey.cameras}
    return json.dumps([_image(p, cameras[p.camera]) for p in survey.photos], indent=1, ensure_ascii=False)


def _image(p: Photo, c: Camera) -> dict[str, object]:
    seconds = capture_time_s(p.time)
    gps = p.position
    return {
        "filename": p.name,
        "size": p.size_bytes,
        "width": c.width_px,
        "height": c.height_px,
        "camera_make": c.make,
        "camera_model": c.model,
        "camera_lens": c.lens,
        "camera_projection": "brown",
        "focal_ratio": c.focal_prior_px / max(c.width_px, c.height_px),
        "latitude": gps.latitude_deg if gps else None,
        "longitude": gps.longitude_deg if gps else None,
        "altitude": gps.altitude_m if gps else None,
        "gps_xy_stddev": gps.horizontal_sigma_m if gps else None,
        "gps_z_stddev": gps.vertical_sigma_m if gps else None,
        "yaw": p.yaw_deg,
        "pitch": p.pitch_deg,
        "roll": p.roll_deg,
        "relative_altitude": p.relative_altitude_m,
        "capture_time": None if seconds is None else round(seconds * 1000),
        "utc_time": None if seconds is None else round(seconds * 1000),
        "band_name": "RGB",
        "band_index": 0,
    }
