"""Steep ground: windows lie along it, and what few photos say of it must be sure."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from passel.geo.grid import Grid, Window
from passel.reconstruct.scene import Intrinsics, View
from passel.surface.blocks import BlockHeights, Plane
from passel.surface.clean import clean
from passel.surface.coarse import CoarseSurface
from passel.surface.fine import Matched
from passel.surface.match import Level, block_heights, match_level, plan_level
from passel.surface.plate import Plate
from passel.surface.steep import steep_cells

CAMERA = Intrinsics("test", 640, 480, 600.0, 600.0, 320.0, 240.0, 0.0, 0.0, 0.0, 0.0)
DOWN = np.diag([1.0, -1.0, -1.0])
ABOVE_M, CELL_M, CELLS, REACH = 60.0, 0.2, 64, 12
GRID = Grid(CELL_M, (0.0, 0.0))
WINDOW = Window(-CELLS, -CELLS, 2 * CELLS, 2 * CELLS)
VIEWS = tuple(View(f"p{k}", CAMERA, DOWN, np.array([12.0 * (k - 1), 4.0 * (k % 2), ABOVE_M])) for k in range(3))


def photos_of(plane: Plane, folder: Path) -> dict[str, Plate]:
    """Plates of the three views over a plane through the origin with a texture of noise."""
    rng, texture = np.random.default_rng(3), np.zeros((2048, 2048), np.float32)
    for blur, weight in ((1.5, 1.0), (6.0, 3.0)):
        texture += weight * blur * cv2.GaussianBlur(rng.normal(0, 1, texture.shape).astype(np.float32), (0, 0), blur)
    texture = np.clip(128 + 40 * texture / texture.std(), 0, 255)
    u, v = np.meshgrid(np.arange(CAMERA.width_px) + 0.5, np.arange(CAMERA.height_px) + 0.5)
    rays = np.stack([(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, np.ones_like(u)], -1) @ DOWN
    plates = {}
    for view in VIEWS:
        normal = np.array([-plane.east, plane.south, 1.0])
        x = view.centre - rays * (view.centre @ normal / (rays @ normal))[..., None]
        at = [(1024 + n / 0.08).astype(np.float32) for n in (x[..., 0], -x[..., 1])]
        gray = cv2.remap(texture, at[0], at[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        np.save(folder / f"{view.photo}.npy", gray.astype(np.uint8))
        plates[view.photo] = Plate(view.photo, 1.0, 1.0, 1.0, 1.0, f"{view.photo}.npy", "", str(folder))
    return plates


def far_off(plane: Plane, heights: list[BlockHeights], plates: dict[str, Plate]) -> float:
    """Share of the cells matched more than two height steps off the plane."""
    truth = plane.heights(WINDOW, WINDOW, CELL_M)
    lowest = np.round(truth / CELL_M).astype(np.int32) - REACH
    level = Level(GRID, WINDOW, CELLS, CELL_M, lowest, np.full_like(lowest, 2 * REACH + 1))
    found = match_level(level, VIEWS, plates, plan_level(level, VIEWS, heights), 1)
    assert (found.seen >= 2).all()
    return float((np.abs(found.z - truth) > 2 * CELL_M).mean())


@pytest.mark.parametrize("slope", [(0.0, 0.0), (0.8, 0.3), (-0.6, -0.8)])
def test_blocks_lie_along_the_slope(slope: tuple[float, float], tmp_path: Path) -> None:
    plane = Plane(0.0, *slope)
    plates = photos_of(plane, tmp_path)
    truth = plane.heights(WINDOW, WINDOW, CELL_M).astype(np.float32)
    along = block_heights(truth, CELLS, CELL_M)
    assert all(np.allclose((h.plane.east, h.plane.south), slope, atol=0.01) for h in along)
    off = far_off(plane, along, plates)
    assert off < 0.1 * np.hypot(*slope) + 0.001
    if slope[0]:
        level = [BlockHeights(Plane(h.plane.middle_m), h.samples_m) for h in along]
        assert far_off(plane, level, plates) > 2.5 * off


def test_every_camera_stays_well_above_a_plane() -> None:
    centres = np.array([[100.0, 0.0, 50.0], [-100.0, 0.0, 50.0], [0.0, 100.0, 50.0]])
    middle = np.zeros(2)
    steep = Plane(10.0, 0.6, 0.3)
    assert steep.above(centres, middle).min() < 0
    flatter = steep.seen_from(centres, middle)
    assert flatter.above(centres, middle).min() == pytest.approx(0.4 * 40.0)
    assert flatter.south / flatter.east == pytest.approx(0.5)
    gentle = Plane(10.0, 0.1, 0.0)
    assert gentle.seen_from(centres, middle) == gentle


def coarse_of(z: np.ndarray) -> CoarseSurface:
    return CoarseSurface(
        Grid(8 * CELL_M, (0.0, 0.0)), Window(-40, -40, 80, 80), z.astype(np.float32), np.ones((80, 80), np.uint8)
    )


def test_hillsides_are_steep_and_walls_of_houses_are_not() -> None:
    col = np.arange(80)[None] + np.zeros((80, 1))
    hill = coarse_of(0.4 * 8 * CELL_M * np.maximum(col - 40, 0))
    steep = steep_cells(hill, Window(-160, -160, 320, 320), VIEWS)
    assert steep[:, 240:].all()
    assert not steep[:, :80].any()
    house = coarse_of(np.where(np.abs(col - 40) < 3, 5.0, 0.0))
    assert not steep_cells(house, Window(-160, -160, 320, 320), VIEWS).any()


def test_two_of_few_photos_must_be_sure_on_steep_ground() -> None:
    shape = (200, 200)
    z, score = np.zeros(shape, np.float32), np.full(shape, 0.8, np.float32)
    unsure = np.zeros(shape, bool)
    unsure[:, 100:] = np.arange(100) % 8 < 4  # beside sure ones
    z[unsure], score[unsure] = 6 * CELL_M * 50, 0.5
    score[50:60, 50:60], z[50:60, 50:60] = 0.5, 0.1  # as little sure, but it continues what is around

    def measured(steep: bool, seen: int, agreeing: int) -> np.ndarray:
        return measured_of(z, score, steep, seen, agreeing)

    assert measured(steep=False, seen=2, agreeing=2)[unsure].mean() > 0.9
    assert measured(steep=True, seen=5, agreeing=2)[unsure].mean() > 0.9
    assert measured(steep=True, seen=3, agreeing=3)[unsure].mean() > 0.9
    doubted = measured(steep=True, seen=3, agreeing=2)
    assert not doubted[unsure].any()
    assert doubted[:, :90].all()


def test_whole_woods_on_steep_ground_are_no_holes() -> None:
    rng, shape = np.random.default_rng(4), (200, 200)
    crowns = rng.normal(0, 1, shape).astype(np.float32)
    assert measured_of(crowns, np.full(shape, 0.4, np.float32), steep=True, seen=2, agreeing=2).all()


def measured_of(z: np.ndarray, score: np.ndarray, steep: bool, seen: int, agreeing: int) -> np.ndarray:
    one = np.ones(z.shape, np.uint8)
    found = Matched(Window(0, 0, *z.shape), z, score, 20 * one, seen * one, agreeing * one, 0 * one)
    return clean(found, np.zeros_like(z), np.full(z.shape, steep), CELL_M * 50).measured
