"""Frames: the map's projection everywhere on earth, and the ways between the frames."""

from __future__ import annotations

import numpy as np
import pytest

from passel.geo.frames import Frame


@pytest.mark.parametrize(
    ("latitude", "longitude", "epsg"),
    [
        (46.8, 7.5, 32632),
        (-33.9, -70.0, 32719),
        (-17.0, 179.9999, 32760),
        (-17.0, -179.9999, 32701),
        (0.0, -180.0, 32601),
        (60.4, 5.3, 32632),  # Bergen
        (60.4, 2.9, 32631),
        (78.2, 8.9, 32631),  # Svalbard
        (78.2, 9.0, 32633),
        (78.2, 15.6, 32633),
        (78.2, 33.0, 32637),
        (83.9, -30.0, 32626),
        (85.5, 20.0, 5041),
        (-89.9, 20.0, 5042),
    ],
)
def test_the_map_is_metric_and_oriented_everywhere(latitude: float, longitude: float, epsg: int) -> None:
    """100 m on the ground are 100 m in the map within a projection's scale error, turned by the convergence alone."""
    frame = Frame.around(np.array([[latitude, longitude, 100.0]]))
    assert frame.epsg == epsg
    xyz = np.array([[0.0, 0.0, 0.0], [100.0, 0.0, 0.0], [0.0, 100.0, 0.0], [30.0, -40.0, 7.0]])
    in_map = frame.map_from_world(xyz)
    flat = in_map[:, :2] - in_map[0, :2]
    assert np.linalg.norm(flat, axis=1) == pytest.approx([0.0, 100.0, 100.0, 50.0], abs=0.7)
    assert np.linalg.det(flat[1:3]) == pytest.approx(100.0**2, rel=0.015)  # no mirror image
    assert frame.world_from_map(in_map) == pytest.approx(xyz, abs=1e-5)
    assert frame.world_from_map_linear(in_map[0]) @ np.append(flat[3], 7.0) == pytest.approx(xyz[3], abs=0.05)
    assert f'ID["EPSG",{epsg}]' in frame.crs_wkt


@pytest.mark.parametrize("west", [-180.0, 179.99])
def test_a_flight_over_the_antimeridian_stays_together(west: float) -> None:
    longitudes = (west + np.linspace(0.0, 0.02, 10) + 180.0) % 360.0 - 180.0
    rows = np.column_stack([np.full(10, -17.0), longitudes, np.full(10, 50.0)])
    frame = Frame.around(rows)
    for way in (frame.world_from_geographic(rows), frame.map_from_world(frame.world_from_geographic(rows))):
        assert np.diff(way[:, 0]) == pytest.approx(np.full(9, 236.5), abs=1.0)
    back = frame.geographic_from_world(frame.world_from_geographic(rows))
    assert (back[:, 1] - rows[:, 1] + 180.0) % 360.0 - 180.0 == pytest.approx(np.zeros(10), abs=1e-9)
