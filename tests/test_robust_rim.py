"""What lies around the survey: wrong points and heights that only seem to be seen map no ground that is not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from passel.demo.flight import rotation_from_angles
from passel.geo.grid import Grid, Window
from passel.reconstruct.scene import Intrinsics, Scene, View, photos_of_points
from passel.surface import fine
from passel.surface.camera import times_seen
from passel.surface.coarse import prior_heights
from passel.surface.match import Level, skip_unseen
from passel.surface.wild import without_wild

HEIGHT_M = 60.0


def strip(seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Points of a strip 400 m long and 80 m wide on a hillside, and how many photos show each: two at its long sides."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-200.0, 200.0, 4000), rng.uniform(-40.0, 40.0, 4000)
    z = 0.3 * y + rng.normal(0.0, 0.2, 4000)
    return np.column_stack([x, y, z]), np.where(np.abs(y) > 25.0, 2, 4)


def test_a_patch_of_wrong_matches_beside_a_corridor_opens_no_pit() -> None:
    points, photos = strip()
    patch = np.random.default_rng(4).normal(
        (100.0, -70.0, -100.0), (4.0, 6.0, 2.0), (15, 3)
    )  # all of one pair of photos
    kept = without_wild(np.vstack([points, patch]), np.append(photos, np.full(15, 2)), HEIGHT_M)
    assert len(kept) == len(points)
    assert kept[:, 2].min() > -20.0
    assert prior_heights(kept, HEIGHT_M, 0.3, (0.0, 0.0)).low.min() > -30.0


@pytest.mark.parametrize("slope", [0.0, 1.0], ids=["plain", "as steep as 45 degrees"])
def test_ground_that_only_two_photos_show_stays(slope: float) -> None:
    points, photos = strip()
    points[:, 2] += slope * points[:, 1]
    assert len(without_wild(points, photos, HEIGHT_M)) == len(points)


def test_of_two_photos_alone_every_point_tells() -> None:
    points, _ = strip()
    points[:3, 2] -= 90.0
    kept = without_wild(points, np.full(len(points), 2), HEIGHT_M)
    assert len(kept) == len(points) - 3


def test_photos_of_points_are_counted_from_the_file(tmp_path: Path) -> None:
    camera = Intrinsics("c", 100, 80, 90.0, 90.0, 50.0, 40.0)
    point, photo = np.array([0, 0, 1, 1, 1], np.int32), np.array([0, 1, 0, 1, 2], np.int32)
    scene = Scene(
        (camera,), ("a", "b", "c"), np.zeros(3, np.int32), np.stack([np.eye(3)] * 3), np.zeros((3, 3)), np.zeros((2, 3)),
        point, photo, np.zeros((5, 2), np.float32), np.zeros(5, np.int32),
    )  # fmt: skip
    scene.save(tmp_path)
    assert photos_of_points(tmp_path).tolist() == [2, 3]


def test_cells_beyond_the_photos_have_no_heights_to_try() -> None:
    """Two photos side by side over a plain show its middle twice. Ground lower than the plain they would show farther out, too."""
    camera = Intrinsics("c", 1000, 1000, 1000.0, 1000.0, 500.0, 500.0)
    down = rotation_from_angles(0.0, -90.0, 0.0)
    views = [View(n, camera, down, np.array([x, 0.0, HEIGHT_M])) for n, x in (("a", -10.0), ("b", 10.0))]
    grid, window = Grid(1.0, (0.0, 0.0)), Window(-64, -64, 128, 128)
    seen = times_seen(views, grid, window, np.zeros(window.shape, np.float32))
    x, y = np.meshgrid(np.arange(-63.5, 64.0), -np.arange(-63.5, 64.0))
    half = HEIGHT_M / 2
    true = ((np.abs(x + 10.0) < half) & (np.abs(y) < half)).astype(int) + (
        (np.abs(x - 10.0) < half) & (np.abs(y) < half)
    )
    assert (seen != true).mean() < 0.002  # the photos' last pixel
    assert (times_seen(views, grid, window, np.full(window.shape, -20.0, np.float32)) >= 2).sum() > 1.5 * (
        true == 2
    ).sum()
    level = Level(grid, window, 64, 0.5, np.full(window.shape, -8, np.int32), np.full(window.shape, 16, np.int32))
    skip_unseen(level, [], seen >= 2)
    assert (level.count > 0).sum() == (seen >= 2).sum()
    assert (level.lowest[seen < 2] == 0).all()  # the middle of what was to be tried


def test_heights_below_the_coarse_surface_are_doubted_where_it_was_measured() -> None:
    """What stands on it is not, nor is anything where the coarse surface was only filled in."""
    z, sure = np.full((12, 12), 20.0, np.float32), np.zeros((12, 12), np.bool_)
    sure[:, 6:] = True
    lowest, highest = fine._expected(z, sure, 0.5, (slice(8, -8), slice(8, -8)))
    assert lowest.shape == highest.shape == (8, 8)
    assert (lowest[:, 4:] * 0.5 == 19.0).all()
    assert (lowest[:, :4] * 0.5 < -1e6).all()
    assert (highest * 0.5 > 1e6).all()
