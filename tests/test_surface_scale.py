"""A tile's memory does not grow with the survey: the same tile of a small survey and of one with thousands of photos more."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import surface_world as world
from passel.geo.grid import Grid, Tile, Window
from passel.pipeline.step import StepInputs
from passel.pipeline.steps import ground as steps
from passel.reconstruct.scene import save_views
from passel.surface import coarse as coarse_of
from passel.surface.camera import LEAST_BASE
from passel.surface.coarse import CoarseSurface, prior_heights
from passel.surface.colour import Gains, Tone, solve_gains
from passel.surface.gain_solver import CAMERA_TERMS, LOCAL_NODES, PHOTO_TERMS
from passel.surface.plate import load_plates, make_plate, plate_reduction, save_plates

CELL_M = 0.1
GRID = Grid(CELL_M * coarse_of.COARSE_FACTOR, (0.0, 0.0))
MORE_PHOTOS, MORE_CELLS = 12_000, 5_000  # photos elsewhere; side of the large coarse surface
MOST_MORE_BYTES = 4_000_000  # names; the large survey's arrays are 200 MB


@dataclass(frozen=True)
class Folder:
    """An artifact folder that serves as 'ground', 'coarse' and 'gains' at once."""

    path: Path
    photos: tuple[tuple[str, Path], ...]
    plates: Path

    def inputs(self) -> StepInputs:
        photos = [("photo", p) for _, p in self.photos]
        return StepInputs(
            (*((role, self.path) for role in ("ground", "coarse", "gains")), ("plate", self.plates), *photos)
        )


@pytest.fixture(scope="module")
def surveys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, Folder]:
    """The analytic world alone, and as the corner of a large survey."""
    root = tmp_path_factory.mktemp("scale")
    plates_folder, small, large = (root / n for n in ("plates", "small", "large"))
    for folder in (plates_folder, small, large):
        folder.mkdir()
    paths = world.write_photos(root)
    reduction = plate_reduction(world.GSD_M, CELL_M)
    save_plates(
        [make_plate(p, n, reduction, i, plates_folder) for i, (n, p) in enumerate(paths.items())], plates_folder
    )
    plates, views, points = load_plates([plates_folder]), world.views(), world.scene_points()
    tile = Tile("a", Window(-32, -32, 64, 64))
    prior = prior_heights(points, world.HEIGHT_M, CELL_M, (0.0, 0.0))
    z = coarse_of.coarse_tile(tile, CELL_M, prior, views, plates)
    surface = coarse_of.mosaic(GRID, [(tile, z)])
    gains = solve_gains(views, plates, surface)
    save_views(views, small / steps.VIEWS)
    for part in (prior, surface, gains):
        part.save(small)
    far = [replace(views[0], photo=f"z{i}.png", centre=np.array([500.0 + i, 0.0, 30.0])) for i in range(MORE_PHOTOS)]
    save_views([*views, *far], large / steps.VIEWS)
    prior_heights(
        np.vstack([points, points + np.array([4000.0, -4000.0, 0.0])]), world.HEIGHT_M, CELL_M, (0.0, 0.0)
    ).save(large)
    _embedded(surface).save(large)
    _with_strangers(gains, [v.photo for v in far]).save(large)
    photos = tuple(paths.items())
    return Folder(small, photos, plates_folder), Folder(large, photos, plates_folder)


def _embedded(surface: CoarseSurface) -> CoarseSurface:
    """The same surface in the corner of a much larger one, whose edge goes on as its own does."""
    w, n = surface.window, MORE_CELLS
    rows, cols = np.minimum(np.arange(n), w.rows - 1), np.minimum(np.arange(n), w.cols - 1)
    z, valid = (np.ascontiguousarray(a[np.ix_(rows, cols)]) for a in (surface.z, surface.valid))
    return CoarseSurface(surface.grid, Window(w.col, w.row, n, n), z, valid)


def _with_strangers(gains: Gains, names: list[str]) -> Gains:
    n = len(names)
    window = Window(gains.tone.window.col, gains.tone.window.row, 2000, 2000)
    rows, cols = (np.minimum(np.arange(2000), k - 1) for k in gains.tone.window.shape)
    return Gains(
        (*gains.photos, *names), np.concatenate([gains.field, np.ones((n, PHOTO_TERMS, 3))]), gains.cameras,
        gains.falloff, np.concatenate([gains.local, np.ones((n, LOCAL_NODES, LOCAL_NODES), np.float32)]),
        Tone(gains.tone.grid, window, gains.tone.log[np.ix_(rows, cols)]),
    )  # fmt: skip


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_ground_tile(surveys: tuple[Folder, Folder], tmp_path: Path) -> None:
    peaks = []
    for survey in surveys:
        names = tuple(n for n, _ in survey.photos)
        params = steps.TileParams("t", (0, 0, 128, 128), CELL_M, CELL_M, 0.1, (0.0, 0.0), False, LEAST_BASE, names)
        out = tmp_path / survey.path.name
        out.mkdir()
        steps.tile(survey.inputs(), params, out)  # compiles
        peaks.append(peak_bytes(partial(steps.tile, survey.inputs(), params, out)))
    assert peaks[1] - peaks[0] < MOST_MORE_BYTES, peaks
    for name in ("dsm.npy", "ortho.npy", "shown.npy", "tile.json"):
        assert (tmp_path / "small" / name).read_bytes() == (tmp_path / "large" / name).read_bytes()


def test_a_coarse_tile(surveys: tuple[Folder, Folder], tmp_path: Path) -> None:
    peaks = []
    for survey in surveys:
        names = tuple(n for n, _ in survey.photos)
        params = steps.CoarseTileParams("t", (-32, -32, 64, 64), CELL_M, LEAST_BASE, names)
        steps.make_coarse_tile(survey.inputs(), params, tmp_path)
        peaks.append(peak_bytes(partial(steps.make_coarse_tile, survey.inputs(), params, tmp_path)))
    assert peaks[1] - peaks[0] < MOST_MORE_BYTES, peaks


def test_what_only_some_need_is_read_for_them(surveys: tuple[Folder, Folder]) -> None:
    small, large = surveys
    wanted = {n for n, _ in small.photos}
    a, b = Gains.load(small.path), Gains.load(large.path, wanted)
    assert a.photos == b.photos
    assert np.array_equal(a.field, b.field)
    assert np.array_equal(a.local, b.local)
    assert len(json.loads((large.path / "gains.json").read_text())["photos"]) == MORE_PHOTOS + len(wanted)
    assert b.falloff.shape[1] == CAMERA_TERMS
