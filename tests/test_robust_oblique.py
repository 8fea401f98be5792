"""Oblique photos beside those from straight above: what is seen too flatly is not mapped, and no hole is left where flights end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from passel.demo.flight import rotation_from_angles
from passel.geo.grid import Bounds, Grid, Window
from passel.reconstruct.scene import Intrinsics, View
from passel.surface.blocks import SAMPLES, choose_photos, coverage
from passel.surface.camera import ViewFinder, packed, reach_m, sees

HEIGHT_M = 60.0


def view(pitch_deg: float, focal_px: float = 700.0) -> View:
    """A photo looking north, 60 m above the ground's zero."""
    camera = Intrinsics("c", 1000, 750, focal_px, focal_px, 500.0, 375.0, k1=-0.02)
    return View("a.jpg", camera, rotation_from_angles(0.0, pitch_deg, 0.0), np.array([5.0, -3.0, HEIGHT_M]))


def northwards(v: View, off_nadir_deg: float) -> np.ndarray:
    """(1, 3) ground north of the photo that it sees so far from straight down."""
    return v.centre[None] + [[0.0, HEIGHT_M * np.tan(np.radians(off_nadir_deg)), -HEIGHT_M]]


@pytest.mark.parametrize(
    ("pitch_deg", "shown_deg", "too_flat_deg"),
    [(-45.0, 64.0, 66.0), (-60.0, 57.0, 59.0), (-25.0, 74.0, 76.0), (-10.0, 79.0, 81.0)],
    ids=["to 65 degrees", "to the photo's edge", "what it was aimed at", "hardly anything beyond 80 degrees"],
)
def test_flat_rays_show_nothing(pitch_deg: float, shown_deg: float, too_flat_deg: float) -> None:
    v = view(pitch_deg)
    assert sees(v, northwards(v, shown_deg))[0]
    assert not sees(v, northwards(v, too_flat_deg))[0]


@pytest.mark.parametrize("pitch_deg", [-90.0, -75.0, -45.0, -20.0])
@pytest.mark.parametrize("focal_px", [420.0, 1400.0])
def test_nothing_is_seen_beyond_the_reach(pitch_deg: float, focal_px: float) -> None:
    v = view(pitch_deg, focal_px)
    x, y = np.meshgrid(np.arange(-500.0, 500.0, 2.0), np.arange(-500.0, 500.0, 2.0))
    ground = np.column_stack([x.ravel(), y.ravel(), np.zeros(x.size)])
    seen = sees(v, ground)
    assert seen.any()
    assert np.hypot(*(ground[seen, :2] - v.centre[:2]).T).max() <= reach_m(v, 0.0)


def test_a_tile_that_only_flat_rays_reach_needs_no_photo() -> None:
    v = view(-45.0)
    finder = ViewFinder([v], (0.0, 0.0))
    assert finder.seeing(Bounds(-20.0, 80.0, 30.0, 110.0)) == ["a.jpg"]
    assert finder.seeing(Bounds(-20.0, 135.0, 30.0, 200.0)) == []


def test_a_block_at_the_end_of_a_nadir_flight_is_matched_to_its_end() -> None:
    """Ten photos from straight above show half of the block, two oblique ones all of it."""
    camera = Intrinsics("c", 1000, 750, 1400.0, 1400.0, 500.0, 375.0)
    above, aslant = rotation_from_angles(0.0, -90.0, 0.0), rotation_from_angles(0.0, -50.0, 0.0)
    nadir = [View(f"{i}", camera, above, np.array([3.0 * i, -14.0 + 0.9 * (i % 3), HEIGHT_M])) for i in range(10)]
    oblique = [
        View(f"o{i}", replace(camera, fx=600.0, fy=600.0), aslant, np.array([9.0 * i, -45.0, HEIGHT_M]))
        for i in range(2)
    ]
    views = [*nadir, *oblique]
    params = [packed(v) for v in views]
    grid, window = Grid(0.3, (0.0, 0.0)), Window(0, -64, 128, 128)
    chosen = choose_photos(views, params, grid, window, np.zeros((SAMPLES, SAMPLES)))
    x, y = np.meshgrid(np.arange(1.0, 38.0, 2.0), np.arange(-18.0, 18.0, 2.0))
    ground = np.column_stack([x.ravel(), y.ravel(), np.zeros(x.size)])
    assert coverage(views, params, ground)[list(chosen)].sum(axis=0).min() >= 2
    assert len(chosen) <= 12
