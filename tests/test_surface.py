"""The surface room against an analytic world: heights, orthophoto, colours, partition, borders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import surface_world as world
from passel.geo.grid import Bounds, Grid, Tile, Window, tiles_over
from passel.surface import coarse as coarse_of
from passel.surface.blocks import MATCHING, REFINING, SAMPLES, blocks_of, choose_photos, coverage
from passel.surface.camera import ViewFinder, ground_sampling_m, heights_above_ground_m, packed, times_seen
from passel.surface.clean import fill, lonely, small_holes
from passel.surface.coarse import CoarseSurface, filled_smoothly
from passel.surface.colour import Gains, solve_gains
from passel.surface.extent import survey_ground
from passel.surface.fine import BLOCK_CELLS, REFINED_RIM_CELLS, continued, smoothed
from passel.surface.plate import Plate, load_plates, make_plate, plate_reduction, save_plates
from passel.surface.quick import quick_orthophoto
from passel.surface.refine import FEATHER_CELLS, feather
from passel.surface.resample import bilinear, onto
from passel.surface.tile import TileJob, TileResult, TileSources, make_tile, product_window

CELL_M = 0.1  # 3 GSD
GRID = Grid(CELL_M, (0.0, 0.0))
DEM = Grid(0.15, (0.0, 0.0))
ORTHO = Grid(0.04, (0.0, 0.0))
LEVEL = np.zeros((SAMPLES, SAMPLES))
GAINS = {"p11.png": 1.2, "p22.png": 0.85}


@dataclass(frozen=True)
class World:
    paths: dict[str, Path]
    plates: dict[str, Plate]
    coarse: CoarseSurface
    gains: Gains


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    paths = world.write_photos(folder, GAINS)
    reduction = plate_reduction(world.GSD_M, CELL_M)
    save_plates([make_plate(p, n, reduction, i, folder) for i, (n, p) in enumerate(paths.items())], folder)
    plates = load_plates([folder])
    views, points = world.views(), world.scene_points()
    prior = coarse_of.prior_heights(points, world.HEIGHT_M, CELL_M, (0.0, 0.0))
    grid = Grid(CELL_M * 8, (0.0, 0.0))
    tiles = [Tile("a", Window(-32, -32, 64, 64))]
    coarse = coarse_of.mosaic(grid, [(t, coarse_of.coarse_tile(t, CELL_M, prior, views, plates)) for t in tiles])
    return World(paths, plates, coarse, solve_gains(views, plates, coarse))


def run(made: World, core: Window, *, fine: bool = True, dem: Grid = GRID) -> TileResult:
    job = TileJob(Tile("t", core), GRID, dem, ORTHO, fine)
    return make_tile(job, TileSources(world.views(), made.plates, made.paths, made.coarse, made.gains))


@pytest.fixture(scope="module")
def west(made: World) -> TileResult:
    return run(made, Window(-128, -128, 128, 256))


@pytest.fixture(scope="module")
def east(made: World) -> TileResult:
    return run(made, Window(0, -128, 128, 256))


def truth(grid: Grid, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = grid.x(np.arange(window.col, window.col + window.cols) + 0.5)
    y = grid.y(np.arange(window.row, window.row + window.rows) + 0.5)
    return *np.meshgrid(x, y), world.true_heights(x, y)


def nmad(e: np.ndarray) -> float:
    return float(1.4826 * np.median(np.abs(e - np.median(e))))


def test_heights_on_open_ground_are_better_than_one_gsd(west: TileResult) -> None:
    x, y, z = truth(GRID, west.dem_window)
    open_ground = ~((x > -5.5) & (y > 1.5) & (y < 9.5)) & (np.hypot(x, y) < 11)
    e = (west.dsm - z)[open_ground]
    assert np.isfinite(e).mean() > 0.99
    e = e[np.isfinite(e)]
    assert nmad(e) < 0.7 * world.GSD_M
    assert abs(np.median(e)) < 0.3 * world.GSD_M
    assert (np.abs(e) > 0.3).mean() < 0.002


def test_roof_is_flat_at_its_height(west: TileResult) -> None:
    x, y, z = truth(GRID, west.dem_window)
    roof = (x > -3.5) & (x < 0) & (y > 3.5) & (y < 7.5)
    e = (west.dsm - z)[roof]
    assert abs(np.nanmedian(e)) < world.GSD_M
    assert (np.abs(e) > 0.3).mean() < 0.01


def test_no_step_at_the_border_of_two_tiles(made: World, west: TileResult, east: TileResult) -> None:
    both = np.concatenate([west.dsm, east.dsm], axis=1)
    undivided = run(made, Window(-128, -128, 256, 256)).dsm
    _, _, z = truth(GRID, Window(-128, -128, 256, 256))
    south = slice(128, 250)  # of the house
    difference = np.abs(both - undivided)
    assert np.nanpercentile(difference, 99) < 0.001
    assert np.array_equal(np.isfinite(both), np.isfinite(undivided))
    steps, inside = (np.diff((e - z)[south, 120:136], axis=1)[:, 7] for e in (both, undivided))
    assert np.nanmedian(np.abs(steps)) <= 1.1 * np.nanmedian(np.abs(inside))
    assert abs(np.nanmedian(steps)) < 0.003


def test_refinement_averages_over_more_photos_than_matching() -> None:
    views = world.views()
    params = [packed(v) for v in views]
    window, ground = Window(-64, -64, 128, 128), np.zeros((1, 3))
    matched, refined = (choose_photos(views, params, GRID, window, LEVEL, limits) for limits in (MATCHING, REFINING))
    assert set(matched) < set(refined)
    seen = coverage(views, params, ground)[:, 0]
    assert seen[list(refined)].sum() >= min(REFINING.per_point, seen.sum()) > seen[list(matched)].sum()


def test_blocks_flow_into_each_other() -> None:
    n, f = BLOCK_CELLS, FEATHER_CELLS
    total = np.zeros((n, 3 * n + 2 * f))
    for i in range(3):
        total[:, i * n : (i + 1) * n + 2 * f] += feather(Window(0, 0, n + 2 * f, n + 2 * f))[f:-f][n // 2]
    assert np.abs(total[:, 2 * f : -2 * f] - 1).max() < 1e-6


def test_small_steps_between_blocks_go_and_edges_stay() -> None:
    cell_m, at = 0.1, 20
    columns = np.arange(2 * at)[None] + np.zeros((2 * at, 1))
    small = np.where(columns < at, 0.0, 0.5 * cell_m).astype(np.float32)
    assert np.diff(smoothed(small, cell_m)[at]).max() < 0.2 * np.diff(small[at]).max()
    wall = np.where(columns < at, 0.0, 10 * cell_m).astype(np.float32)
    assert np.abs(smoothed(wall, cell_m) - wall).max() < 0.01 * cell_m


def test_points_say_what_is_likely() -> None:
    points = world.scene_points()
    prior = coarse_of.prior_heights(points, world.HEIGHT_M, CELL_M, (0.0, 0.0))
    window = Window(-32, -32, 64, 64)
    ground, low, high = prior.likely_over(window, coarse_of.BIN_FACTOR // 8)
    x = np.arange(-32, 32) * 8 * CELL_M + 4 * CELL_M
    true = world.true_heights(x, -x)
    open_ground = (true < np.median(true) + 1.0) & np.isfinite(ground)
    assert open_ground.mean() > 0.1
    assert np.median(np.abs(ground - true)[open_ground]) < 0.5
    assert ((low <= true) & (true <= high)).mean() > 0.9


def test_what_stands_without_points_is_not_flattened(made: World) -> None:
    """No feature was found on the house: so it is with single trees and sheds."""
    points = world.scene_points()
    west, south, east, north, roof_m = world.HOUSE
    beside = (points[:, 0] < west) | (points[:, 0] > east) | (points[:, 1] < south) | (points[:, 1] > north)
    prior = coarse_of.prior_heights(points[beside], world.HEIGHT_M, CELL_M, (0.0, 0.0))
    tile = Tile("a", Window(-32, -32, 64, 64))
    z = coarse_of.coarse_tile(tile, CELL_M, prior, world.views(), made.plates)
    coarse = coarse_of.mosaic(Grid(CELL_M * 8, (0.0, 0.0)), [(tile, z)])
    found = run(replace(made, coarse=coarse), Window(-128, -128, 128, 128))
    x, y, true = truth(GRID, found.dem_window)
    roof = (x > west + 0.3) & (y > south + 0.3) & (y < north - 0.3)
    assert (np.abs(found.dsm - roof_m)[roof] < 0.2).mean() > 0.9
    ground = (true < 2.0) & ~((x > west - 1.5) & (y > south - 1.5) & (y < north + 1.5)) & (np.hypot(x, y) < 11)
    assert (np.abs(found.dsm - true)[ground] < 0.2).mean() > 0.98


def test_finer_coarse_levels_try_all_that_is_possible() -> None:
    above = coarse_of.Heights(np.zeros((8, 8), np.float32), *(np.zeros((8, 8), np.uint8) for _ in range(3)))
    low, high = np.full((16, 16), -2.0, np.float32), np.full((16, 16), 9.0, np.float32)
    high[:, 8:] = 900.0  # steep: too much to try all of it
    lowest, count = coarse_of._heights_to_try(low, high, 0.5, above)
    assert (lowest[:, :8] * 0.5 <= -2.0).all()
    assert ((lowest + count - 1)[:, :8] * 0.5 >= 9.0).all()
    assert (count <= coarse_of.MOST_HEIGHTS).all()
    assert (lowest[:, 8:] < 0).all()
    assert ((lowest + count - 1)[:, 8:] > 0).all()


def test_doubtful_cells_take_the_ground_beside_them() -> None:
    z = np.full((40, 40), 5.0, np.float32)
    sure = np.ones((40, 40), bool)
    z[15:25, 15:25], sure[15:25, 15:25] = 9.0, False
    guess = continued(z, sure, (2.0, 4.0, 8.0))
    assert np.abs(guess - 5.0).max() < 1e-4
    assert np.isnan(continued(z, np.zeros((40, 40), bool), (2.0,))).all()


def test_orthophoto_is_true_and_evenly_coloured(west: TileResult, made: World) -> None:
    x, y, _ = truth(ORTHO, west.ortho_window)
    noise = np.random.default_rng(7).random((257, 257))
    some = np.flatnonzero((np.abs(x) < 10).ravel() & (np.abs(y) < 10).ravel())[::97]
    value = np.array([world._texture(a, b, noise) for a, b in zip(x.ravel()[some], y.ravel()[some], strict=True)])
    shown = west.ortho.reshape(-1, 4)[some]
    assert (shown[:, 3] == 255).mean() > 0.999
    # one survey-wide factor is free: gains are relative
    expected, red = 40 + 170 * value, shown[:, 0].astype(float)
    red *= np.median(expected / red)
    away_from_walls = ~(
        (np.abs(x.ravel()[some] + 4) < 1) | (np.abs(y.ravel()[some] - 3) < 1) | (np.abs(y.ravel()[some] - 8) < 1)
    )
    assert np.corrcoef(expected[away_from_walls], red[away_from_walls])[0, 1] > 0.97
    assert np.median(np.abs(expected - red)[away_from_walls]) < 6


def test_gains_undo_the_photos_exposure(made: World) -> None:
    relative = made.gains.log_gain.mean(axis=1)
    names = made.gains.photos
    usual = np.median([relative[i] for i, n in enumerate(names) if n not in GAINS])
    for name, factor in GAINS.items():
        assert relative[names.index(name)] - usual == pytest.approx(-np.log(factor), abs=0.04)


def test_gains_and_surface_survive_saving(made: World, tmp_path: Path) -> None:
    made.gains.save(tmp_path)
    made.coarse.save(tmp_path)
    again = Gains.load(tmp_path)
    assert again.photos == made.gains.photos
    assert np.array_equal(again.log_gain, made.gains.log_gain)
    assert np.array_equal(CoarseSurface.load(tmp_path).z, made.coarse.z)


def test_points_lie_on_the_surface(west: TileResult) -> None:
    p = west.points
    assert len(p.xyz) == len(p.rgb) == len(p.views) > 10000
    z = np.array([world.height(a, b) for a, b, _ in p.xyz[::50]])
    assert nmad(p.xyz[::50, 2] - z) < world.GSD_M
    assert p.views.min() >= 2


def test_a_coarser_dem_is_made_of_means(made: World, west: TileResult) -> None:
    core = Window(-128, -128, 128, 256)
    window = product_window(GRID, Tile("t", core), DEM)
    assert window.shape == (170, 85)
    z = onto(west.dsm, GRID, core, DEM, window)
    _, _, t = truth(DEM, window)
    south = slice(90, 160)
    assert nmad((z - t)[south][np.isfinite(z)[south]]) < world.GSD_M


def test_same_input_same_bytes_and_coarse_orthophoto(made: World) -> None:
    core = Window(0, 0, 128, 128)
    first, second = run(made, core, fine=False), run(made, core, fine=False)
    assert np.array_equal(first.ortho, second.ortho)
    assert (first.ortho[:, :, 3] == 255).all()
    assert len(first.points.xyz) == 16 * 16  # one a coarse cell


def test_a_coarse_map_ends_where_photos_do(made: World) -> None:
    core = Window(-256, -256, 128, 128)  # the north-west corner of the survey
    z = run(made, core, fine=False).dsm
    seen = times_seen(world.views(), GRID, core, np.zeros(core.shape))
    assert 0.1 < (seen < 2).mean() < 0.9
    inner, outer = seen >= 3, cv2.dilate((seen >= 2).astype(np.uint8), np.ones((17, 17), np.uint8)) == 0
    assert np.isfinite(z[inner]).mean() > 0.97
    assert np.isnan(z[outer]).mean() > 0.97


def test_product_windows_tile_the_plane() -> None:
    for product in (DEM, ORTHO):
        windows = [product_window(GRID, t, product) for t in tiles_over(Window(-100, -100, 300, 100), 64)]
        covered = np.zeros((1000, 2000), int)
        for w in windows:
            covered[w.row + 500 : w.row + 500 + w.rows, w.col + 700 : w.col + 700 + w.cols] += 1
        assert covered.max() == 1
        assert covered.sum() == sum(w.rows * w.cols for w in windows)


def test_resolution_ground_and_photos_of_a_tile() -> None:
    views, points = world.views(), world.scene_points()
    heights_m = heights_above_ground_m(views, points)
    assert ground_sampling_m(views, heights_m) == pytest.approx(world.GSD_M, rel=0.05)
    ground = survey_ground(views, points, float(np.median(heights_m)), GRID, 128)
    assert 9 <= len(ground.tiles) <= 25
    far = Bounds(18.0, 18.0, 19.0, 19.0)
    names = ViewFinder(views, ground.z_range_m).seeing(far)
    assert 0 < len(names) < 8
    assert ViewFinder(views, ground.z_range_m).seeing(Bounds(500, 500, 510, 510)) == []


def test_quick_look_shows_the_middle(made: World) -> None:
    picture, grid, window = quick_orthophoto(
        world.views(), made.plates, made.coarse, made.gains, Window(-12, -12, 24, 24)
    )
    assert max(picture.shape) <= 2000
    assert grid.bounds(window).west == pytest.approx(-12 * 0.8, abs=grid.resolution_m)
    assert (picture[:, :, 3] == 255).all()


def test_holes_small_are_filled_large_are_not() -> None:
    z = np.add.outer(np.arange(80.0), np.arange(80.0)).astype(np.float32)
    good = np.ones((80, 80), bool)
    good[10:14, 10:14] = False
    good[30:70, 30:70] = False
    holes = small_holes(good, 4)
    assert holes[10:14, 10:14].all()
    assert not holes[40:60, 40:60].any()
    filled = fill(np.where(good, z, np.nan).astype(np.float32), holes)
    assert np.abs(filled - z)[10:14, 10:14].max() < 2.0
    z[50, 5] += 40
    assert lonely(z, np.ones((80, 80), bool), 3.0)[50, 5]


def test_holes_are_filled_whole_or_stay_and_the_outside_stays() -> None:
    good = np.ones((120, 120), bool)
    y, x = np.mgrid[:120, :120]
    good[np.hypot(x - 30, y - 30) < 6] = False  # wider than what is closed: its middle was left as a dot
    good[60:100, 40:80] = False
    good[:, 110:] = False
    holes = small_holes(good, 4)
    assert holes[np.hypot(x - 30, y - 30) < 6].all()
    assert not holes[62:98, 42:78].any()
    assert not holes[:, 110:].any()


@pytest.mark.parametrize("reach", [8, 16, 32])
@pytest.mark.parametrize("radius", [10, 18, 25, 40, 60])
def test_two_tiles_fill_the_same_part_of_a_hole_between_them(reach: int, radius: int) -> None:
    border, rim = 200, REFINED_RIM_CELLS  # what is matched ends a rim beyond a tile's own cells
    y, x = np.mgrid[:400, :400]
    for middle in range(border - 60, border + 61, 20):
        good = np.hypot(x - middle, y - 200) >= radius
        west, east = small_holes(good & (x < border + rim), reach), small_holes(good & (x >= border - rim), reach)
        beside = np.where(x < border, west, east)
        assert beside[~good].all() or not beside[~good & (np.hypot(x - middle, y - 200) < radius / 2)].any()


def test_fills_and_resampling_keep_planes() -> None:
    grid, fine = Grid(1.0, (0.0, 0.0)), Grid(0.25, (0.0, 0.0))
    window = Window(-10, -10, 20, 20)
    x, y = np.meshgrid(grid.x(np.arange(-10, 10) + 0.5), grid.y(np.arange(-10, 10) + 0.5))
    z = (0.3 * x - 0.2 * y).astype(np.float32)
    wanted = Window(-20, -20, 40, 40)
    fx, fy = np.meshgrid(fine.x(np.arange(-20, 20) + 0.5), fine.y(np.arange(-20, 20) + 0.5))
    assert np.abs(bilinear(z, grid, window, fine, wanted) - (0.3 * fx - 0.2 * fy)).max() < 1e-5
    hole = z.copy()
    hole[5:8, 5:8] = np.nan
    full = filled_smoothly(hole)
    assert np.isfinite(full).all()
    assert np.abs(full - z).max() < 1.0


def test_blocks_are_the_same_from_every_tile() -> None:
    a = {w for w in blocks_of(Window(-256, 0, 512, 256), 128)}
    b = {w for w in blocks_of(Window(0, 0, 256, 256), 128)}
    assert b <= a


def test_a_photo_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    from passel.errors import InputError

    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not a photo")
    with pytest.raises(InputError, match=r"bad\.jpg"):
        make_plate(bad, "bad.jpg", 2, 0, tmp_path)
