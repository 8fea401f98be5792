"""The plan of the ground: which photos share a step, and what a tile is given."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from passel.geo.frames import Frame
from passel.geo.grid import Grid, Window, tiles_over
from passel.options import Options
from passel.pipeline.job import Job
from passel.pipeline.plan_ground import (
    PHOTOS_A_PLATE_STEP,
    SMALL_CORE_CELLS,
    Ground,
    SurfaceSteps,
    _product_cells,
    product_steps,
    surface_steps,
    tile_steps,
)
from passel.pipeline.step import ArtifactInput, FileInput, Step, StepInputs, resolve
from passel.pipeline.steps.products import MergeParams
from passel.reconstruct.scene import Intrinsics, View
from passel.surface.extent import SurveyGround
from passel.surface.tile import product_window
from passel.survey.model import Camera, Photo, Survey
from product_tiles import FRAME, Field

ROWS, COLUMNS, APART_M = 14, 15, 15.0
CELL_M, GSD_M = 0.08, 0.027


@pytest.fixture(scope="module")
def planned() -> tuple[Ground, SurfaceSteps, list[Step]]:
    """210 photos in rows, 100 m above flat ground."""
    return plan(5472, 3648)


def plan(width_px: int, height_px: int) -> tuple[Ground, SurfaceSteps, list[Step]]:
    camera = Camera("camera", "Maker", "Model", "", width_px, height_px, width_px / 1.5, "exif35", 0.03)
    row, column = np.divmod(np.arange(ROWS * COLUMNS), COLUMNS)
    photos = tuple(
        Photo(
            f"{k:03d}.jpg", f"{k:03d}.jpg", f"{k:064x}", 8_000_000, camera.id, None, "", None, -90.0, None, 100.0, 1.0
        )
        for k in range(len(row))
    )
    job = Job(
        Survey(photos, (camera,), Frame.around(np.array([[9.0, 47.0, 0.0]])), (5.0, 10.0), ()),
        FileInput("survey.json", "0" * 64),
        Options(),
    )
    lens = Intrinsics(camera.id, width_px, height_px, width_px / 1.5, width_px / 1.5, width_px / 2, height_px / 2)
    down = np.diag([1.0, -1.0, -1.0])
    views = tuple(
        View(p.name, lens, down, np.array([APART_M * c, APART_M * r, 100.0])) for p, c, r in zip(photos, column, row)
    )
    window = Window(-500, -500, 4000, 4000)
    ground = Ground(
        Step("coarse", "ground", "x:y", 1, MergeParams(), ()),
        views,
        SurveyGround(window, tuple(tiles_over(window, 768)), (-10.0, 10.0)),
        GSD_M, CELL_M, CELL_M, GSD_M, (0.0, 0.0), 0.08, (),
    )  # fmt: skip
    surface = surface_steps(job, ground)
    return ground, surface, tile_steps(job, ground, surface)


def test_plates_are_made_by_neighbourhoods(planned: tuple[Ground, SurfaceSteps, list[Step]]) -> None:
    """Each photo in one step; steps of about equal size and as wide as they are long, so that a tile needs few of them."""
    ground, surface, _ = planned
    batches = [step.params.photos for step in surface.plates]
    assert sorted(n for b in batches for n in b) == sorted(v.photo for v in ground.views)
    sizes = [len(b) for b in batches]
    assert max(sizes) <= PHOTOS_A_PLATE_STEP
    assert max(sizes) - min(sizes) <= 3
    place = {v.photo: v.centre[:2] for v in ground.views}
    for batch in batches:
        extent_m = np.ptp([place[n] for n in batch], axis=0)
        assert extent_m.max() <= 8 * APART_M
    for step in surface.plates:
        assert [i.sha256 for _, i in step.inputs if isinstance(i, FileInput)] == [
            f"{int(n[:3]):064x}" for n in step.params.photos
        ]


def test_a_tile_gets_the_plates_of_all_photos_that_see_it(planned: tuple[Ground, SurfaceSteps, list[Step]]) -> None:
    _, surface, tiles = planned
    made_by = {p.digest: set(p.params.photos) for p in surface.plates}
    for step in (*tiles, *surface.coarse_tiles):
        given = [i.digest for role, i in step.inputs if role == "plate" and isinstance(i, ArtifactInput)]
        assert len(given) == len(set(given))
        assert set(step.params.photos) <= set().union(*(made_by[d] for d in given))
        assert all(made_by[d] & set(step.params.photos) for d in given)  # and no more than that


def test_products_read_only_the_files_that_their_inputs_name(tmp_path: Path) -> None:
    """A worker that has not made the tiles fetches no others."""
    survey = Survey((), (), FRAME, (5.0, 10.0), ())
    survey.save(tmp_path / "survey.json")
    tiles = [Field().write(tmp_path / "whole", i, 0) for i in range(2)]
    made = [Step("tiles", t.name, "x:y", 1, MergeParams(), ()) for t in tiles]
    planned = product_steps(Job(survey, FileInput("survey.json", "0" * 64), Options()), made[0], made)
    for step in (planned.orthophoto, planned.dsm, planned.points):
        read = []
        for tile, (_, given) in zip(tiles, step.inputs[1:], strict=True):
            assert isinstance(given, ArtifactInput)
            place = tmp_path / step.name / tile.name
            place.mkdir(parents=True)
            for name in (p.name for p in tile.iterdir() if given.reads(p.name)):
                (place / name).hardlink_to(tile / name)
            read.append(place)
        assert all(0 < len(list(p.iterdir())) < 5 for p in read)
        assert _made(step, tmp_path, read) == _made(step, tmp_path, tiles)


def _made(step: Step, root: Path, tiles: Sequence[Path]) -> list[bytes]:
    out = Path(tempfile.mkdtemp(dir=root))
    resolve(step.function)(StepInputs((("survey", root / "survey.json"), *(("tile", t) for t in tiles))), None, out)
    return [p.read_bytes() for p in sorted(out.iterdir())]


def test_however_coarse_a_map_is_asked_for_each_tile_has_some_of_its_cells() -> None:
    """Tiles without any had failed one by one, and an empty map had been called one."""
    asked = Options(orthophoto_resolution_cm=10_000.0, dem_resolution_cm=1000.0)
    ortho_m, dem_m, notes = _product_cells(asked, GSD_M, CELL_M)
    assert dem_m == 10.0
    assert notes == (f"--orthophoto-resolution 10000 cm is above {100 * ortho_m:g} cm, which is used",)
    for tile in tiles_over(Window(-500, -500, 4000, 4000), SMALL_CORE_CELLS):
        assert min(product_window(Grid(CELL_M, (0.0, 0.0)), tile, Grid(ortho_m, (0.0, 0.0))).shape) > 0


def test_the_same_plan_again(planned: tuple[Ground, SurfaceSteps, list[Step]]) -> None:
    again = plan(5472, 3648)
    assert [s.digest for s in again[1].all] == [s.digest for s in planned[1].all]
    assert [s.digest for s in again[2]] == [s.digest for s in planned[2]]


def test_memory_follows_the_photos_size(planned: tuple[Ground, SurfaceSteps, list[Step]]) -> None:
    """A plate step reads one photo after another; one of 100 Mpx decodes to 300 MB."""
    assert planned[1].plates[0].memory_mb < 500
    assert plan(11_664, 8_750)[1].plates[0].memory_mb > 800
