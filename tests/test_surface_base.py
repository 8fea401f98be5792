"""Photos taken from nearly the same place tell no heights: points where only they look say nothing of the ground."""

from __future__ import annotations

import numpy as np
import pytest

from passel.demo.flight import rotation_from_angles
from passel.geo.grid import Grid, Window
from passel.reconstruct.scene import Intrinsics, View
from passel.surface.camera import LEAST_BASE, base_to_height
from passel.surface.extent import with_base

HEIGHT_M = 60.0
CAMERA = Intrinsics("c", 1000, 1000, 1000.0, 1000.0, 500.0, 500.0)
GRID, BLOCK = Grid(0.5, (0.0, 0.0)), Window(-16, -16, 32, 32)
FLAT = np.zeros(BLOCK.shape, np.float32)


def views_at(*places: tuple[float, float]) -> list[View]:
    down = rotation_from_angles(0.0, -90.0, 0.0)
    return [View(f"{i}.jpg", CAMERA, down, np.array([x, y, HEIGHT_M])) for i, (x, y) in enumerate(places)]


@pytest.mark.parametrize(
    ("places", "true"),
    [
        ([(0.0, 0.0)], 0.0),
        ([(0.0, 0.0), (3.0, 0.0)], 3.0 / HEIGHT_M),
        ([(-3.0, 0.0), (12.0, 0.0), (0.0, 2.0)], np.hypot(15.0, 2.0) / HEIGHT_M),
        ([(0.0, 0.0), (500.0, 0.0)], 0.0),
    ],
    ids=["one photo", "twins", "three", "one of them sees nothing here"],
)
def test_extent_of_the_cameras_over_their_height(places: list[tuple[float, float]], true: float) -> None:
    assert base_to_height(views_at(*places), GRID, BLOCK, FLAT) == pytest.approx(true, abs=1e-6)


def test_higher_ground_is_told_better_by_the_same_cameras() -> None:
    views = views_at((-6.0, 0.0), (6.0, 0.0))
    hill = np.full(BLOCK.shape, 20.0, np.float32)
    assert base_to_height(views, GRID, BLOCK, hill) == pytest.approx(12.0 / 40.0, abs=1e-6)


def test_points_where_only_twins_look_say_nothing_of_the_ground() -> None:
    line = [(12.0 * i, 0.0) for i in range(6)]
    views = views_at(*line, (61.0, 0.0), (150.0, 0.0), (152.0, 0.0))
    rng = np.random.default_rng(5)
    good = np.column_stack([rng.uniform(-10.0, 65.0, 800), rng.uniform(-20.0, 20.0, 800), rng.normal(0.0, 0.1, 800)])
    biased = np.column_stack([rng.uniform(135.0, 165.0, 100), rng.uniform(-20.0, 20.0, 100), np.full(100, 3.0)])
    kept, least = with_base(np.vstack([good, biased]), views, GRID)
    assert least == LEAST_BASE
    assert kept[:, 2].max() < 1.0
    assert len(kept) > 0.95 * len(good)


def test_a_survey_of_twins_keeps_its_points() -> None:
    views = views_at((0.0, 0.0), (3.0, 0.0))
    rng = np.random.default_rng(6)
    points = np.column_stack([rng.uniform(-20.0, 20.0, (300, 2)), np.zeros(300)])
    kept, least = with_base(points, views, GRID)
    assert least == pytest.approx(0.25 * 3.0 / HEIGHT_M, rel=0.05)
    assert len(kept) == len(points)
