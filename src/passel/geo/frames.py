"""The frames of a survey.

*world*  local east-north-up metres at the survey's origin: Cartesian, so straight lines stay straight and the earth's
         curvature is neither ignored nor bent into the block. Cameras are found and adjusted here.
*map*    easting, northing (UTM, near the poles UPS; minus a whole-metre offset) and height above the ellipsoid or whatever surface the
         photos' altitudes refer to. Products are made here. Over one photo's view, map and world differ by a linear map.

A survey without GPS has only a local frame: world and map are the same and no CRS is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyproj

Array = NDArray[np.float64]

LOCAL_WKT = 'LOCAL_CS["Passel local frame (no GPS)",UNIT["metre",1],AXIS["X",EAST],AXIS["Y",NORTH]]'


@dataclass(frozen=True)
class Frame:
    """Where a survey's world and map frames lie.

    origin_deg: latitude and longitude (WGS 84, degrees) of the world origin, None without GPS.
    origin_height_m: height of the world origin in the photos' own altitude datum.
    epsg: code of the map's projected CRS, None without GPS.
    map_offset_m: whole metres (easting, northing) subtracted from map coordinates, so that float arithmetic keeps millimetres.
    """

    origin_deg: tuple[float, float] | None
    origin_height_m: float
    epsg: int | None
    map_offset_m: tuple[float, float]

    @staticmethod
    def local() -> Frame:
        """The frame of a survey without GPS: arbitrary origin, heading and scale."""
        return Frame(None, 0.0, None, (0.0, 0.0))

    @staticmethod
    def around(latlonalt: Array) -> Frame:
        """The frame for positions (n, 3) of latitude, longitude (degrees) and altitude (m): origin at their median."""
        lat, _, alt = np.median(latlonalt, axis=0)
        lon = _middle_longitude_deg(latlonalt[:, 1])
        epsg = _map_epsg(float(lat), lon)
        lat, lon, alt = round(float(lat), 6), round(lon, 6), round(float(alt))
        east, north = _map_from_geographic(epsg).transform(lon, lat)
        return Frame((lat, lon), float(alt), epsg, (float(round(east, -2)), float(round(north, -2))))

    @property
    def is_georeferenced(self) -> bool:
        return self.origin_deg is not None

    @property
    def crs_wkt(self) -> str:
        """WKT of the map's CRS."""
        if self.epsg is None:
            return LOCAL_WKT
        import pyproj  # loads long, and most steps stay in one frame

        return str(pyproj.CRS.from_epsg(self.epsg).to_wkt())

    def world_from_geographic(self, latlonalt: Array) -> Array:
        """(n, 3) latitude, longitude (degrees), altitude (m) → (n, 3) world metres."""
        p = np.atleast_2d(np.asarray(latlonalt, float))
        x, y, z = _world_from_geographic(self).transform(p[:, 1], p[:, 0], p[:, 2])
        return np.column_stack([x, y, z])

    def geographic_from_world(self, xyz_in_world: Array) -> Array:
        """(n, 3) world metres → (n, 3) latitude, longitude (degrees), altitude (m)."""
        p = np.atleast_2d(np.asarray(xyz_in_world, float))
        lon, lat, alt = _world_from_geographic(self).transform(p[:, 0], p[:, 1], p[:, 2], direction="INVERSE")
        return np.column_stack([lat, lon, alt])

    def map_from_world(self, xyz_in_world: Array) -> Array:
        """(n, 3) world metres → (n, 3) easting, northing minus the offset, and height, metres."""
        p = np.atleast_2d(np.asarray(xyz_in_world, float))
        if self.epsg is None:
            return p.copy()
        g = self.geographic_from_world(p)
        east, north = _map_from_geographic(self.epsg).transform(g[:, 1], g[:, 0])
        return np.column_stack([east - self.map_offset_m[0], north - self.map_offset_m[1], g[:, 2]])

    def world_from_map(self, xyz_in_map: Array) -> Array:
        """Inverse of `map_from_world`."""
        p = np.atleast_2d(np.asarray(xyz_in_map, float))
        if self.epsg is None:
            return p.copy()
        lon, lat = _map_from_geographic(self.epsg).transform(
            p[:, 0] + self.map_offset_m[0], p[:, 1] + self.map_offset_m[1], direction="INVERSE"
        )
        return self.world_from_geographic(np.column_stack([lat, lon, p[:, 2]]))

    def world_from_map_linear(self, xyz_in_map: Array) -> Array:
        """The (3, 3) derivative d world / d map at one map point (3,): convergence, projection scale and the local vertical."""
        if self.epsg is None:
            return np.eye(3)
        step_m = 50.0
        p = np.repeat(np.asarray(xyz_in_map, float)[None], 6, axis=0)
        p[[0, 1, 2], [0, 1, 2]] += step_m
        p[[3, 4, 5], [0, 1, 2]] -= step_m
        w = self.world_from_map(p)
        return np.asarray((w[:3] - w[3:]).T / (2 * step_m))


def _middle_longitude_deg(longitudes_deg: Array) -> float:
    """The median counted from the first one: beside the antimeridian the plain median of 179.99 and -179.99 is Greenwich."""
    first = float(longitudes_deg[0])
    beside = (longitudes_deg - first + 180.0) % 360.0 - 180.0
    return (first + float(np.median(beside)) + 180.0) % 360.0 - 180.0


def _map_epsg(lat_deg: float, lon_deg: float) -> int:
    """The UTM zone as surveyors there count it; beyond 84° N and 80° S, where UTM ends, UPS."""
    if not -80.0 <= lat_deg <= 84.0:
        return 5041 if lat_deg > 0 else 5042
    zone = int((lon_deg + 180.0) // 6.0) + 1
    if 56.0 <= lat_deg < 64.0 and 3.0 <= lon_deg < 6.0:
        zone = 32  # south-west Norway
    if lat_deg >= 72.0 and 0.0 <= lon_deg < 42.0:
        zone = 31 + 2 * int((lon_deg + 3.0) // 12.0)  # Svalbard: 31, 33, 35, 37
    return (32600 if lat_deg >= 0 else 32700) + zone


@lru_cache(maxsize=64)
def _map_from_geographic(epsg: int) -> pyproj.Transformer:
    import pyproj

    return pyproj.Transformer.from_crs(4326, epsg, always_xy=True)


@lru_cache(maxsize=64)
def _world_from_geographic(frame: Frame) -> pyproj.Transformer:
    import pyproj

    assert frame.origin_deg is not None, "a local frame has no geographic coordinates"
    lat, lon = frame.origin_deg
    return pyproj.Transformer.from_pipeline(
        "+proj=pipeline +step +proj=unitconvert +xy_in=deg +xy_out=rad +step +proj=cart +ellps=WGS84 "
        f"+step +proj=topocentric +ellps=WGS84 +lon_0={lon} +lat_0={lat} +h_0={frame.origin_height_m}"
    )
