"""The plan of the second half: cameras to ground tiles to products. All of it is known once the cameras are adjusted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from passel.geo.grid import Grid, Tile, Window, tiles_over
from passel.options import Options
from passel.pipeline.job import Job, outputs, photo_input
from passel.pipeline.step import ArtifactInput, Input, Step
from passel.pipeline.steps.ground import (
    VIEWS,
    CoarseMosaicParams,
    CoarseTileParams,
    GainsParams,
    GroundParams,
    PlateParams,
    QuickParams,
    TileParams,
)
from passel.pipeline.steps.products import MergeParams
from passel.reconstruct.scene import View, load_views
from passel.surface.camera import ViewFinder
from passel.surface.coarse import COARSE_FACTOR, COARSE_MARGIN
from passel.surface.extent import SurveyGround, SurveyLattice, rounded_up
from passel.surface.fine import MARGIN_CELLS
from passel.surface.plate import plate_reduction
from passel.survey.split import compact_parts

GROUND = "passel.pipeline.steps.ground"
PRODUCTS = "passel.pipeline.steps.products"

CELL_GSD = 3.0  # matching cell in ground sampling distances: finer gains nothing (research/surface.md §1b)
CORE_CELLS = 768
SMALL_CORE_CELLS = 384  # a survey of few tiles is cut finer, so that every core has work
SMALL_SURVEY_TILES = 8
PHOTOS_A_PLATE_STEP = 40
COARSE_CORE_CELLS = 384
FINEST_M = 0.001  # cell sizes are whole millimetres
# Of a photo's ground pixel: finer cells cost memory without end and show nothing, whatever was asked for.
_FINEST_PARTS = 8

TINY_FILES = ("plates.json", "*_tiny.npy")
"""Of plates, what colours and previews read: a twentieth of their bytes."""

Inputs = tuple[tuple[str, Input], ...]


@dataclass(frozen=True)
class Ground:
    """What is mapped and how finely. step: made the rest. gsd_m: median ground sampling distance; cell_m, dem_m, ortho_m: cells of the
    lattices. least_base: rad, between two rays that tell a height."""

    step: Step
    views: tuple[View, ...]
    ground: SurveyGround
    gsd_m: float
    cell_m: float
    dem_m: float
    ortho_m: float
    offset_m: tuple[float, float]
    least_base: float
    notes: tuple[str, ...]

    @property
    def grid(self) -> Grid:
        return Grid(self.cell_m, self.offset_m)


@dataclass(frozen=True)
class SurfaceSteps:
    """The steps before the tiles. plates: of some neighbouring photos each, which are the names in their params."""

    plates: tuple[Step, ...]
    coarse_tiles: tuple[Step, ...]
    coarse: Step
    gains: Step
    quick: Step

    @property
    def all(self) -> list[Step]:
        return [*self.plates, *self.coarse_tiles, self.coarse, self.gains, self.quick]


@dataclass(frozen=True)
class ProductSteps:
    """The steps that make the files users get."""

    orthophoto: Step
    dsm: Step
    points: Step
    side_files: Step

    @property
    def all(self) -> list[Step]:
        return [self.orthophoto, self.dsm, self.points, self.side_files]


def ground_step(job: Job, scene: Step) -> Step:
    """The step that finds the ground under the adjusted scene: lattices, tiles, views."""
    params = GroundParams(CELL_GSD, FINEST_M, CORE_CELLS, SMALL_CORE_CELLS, SMALL_SURVEY_TILES)
    return Step(
        "coarse", "ground", f"{GROUND}:find_ground", 6, params,
        (("survey", job.survey_file), ("scene", ArtifactInput(scene.digest))),
        memory_mb=500 + len(job.survey.photos) // 8, limit_s=2 * 3600,
    )  # fmt: skip


def ground_of(job: Job, step: Step, folder: Path) -> Ground:
    """What `ground_step` found, and the products' lattices by the options. folder: its artifact."""
    found = SurveyLattice.load(folder)
    ortho_m, dem_m, notes = _product_cells(job.options, found.gsd_m, found.cell_m)
    return Ground(
        step, load_views(folder / VIEWS), found.ground, found.gsd_m, found.cell_m, dem_m, ortho_m,
        job.survey.frame.map_offset_m, found.least_base, notes,
    )  # fmt: skip


def _product_cells(options: Options, gsd_m: float, cell_m: float) -> tuple[float, float, tuple[str, ...]]:
    """(orthophoto cell, DEM cell, what to tell the user): as asked for, but not finer than the photos resolve, nor so coarse that a
    cell with its middle in a tile reaches beyond the tile's margin."""
    cells, notes = [], []
    coarsest_m = 2 * MARGIN_CELLS * cell_m
    for name, asked_cm, default_m in (
        ("orthophoto", options.orthophoto_resolution_cm, rounded_up(gsd_m, FINEST_M)),
        ("dem", options.dem_resolution_cm, cell_m),
    ):
        finest_m = max(FINEST_M, gsd_m / _FINEST_PARTS)
        if asked_cm is None:
            cells.append(default_m)
        elif options.ignore_gsd and asked_cm / 100.0 < finest_m:
            cells.append(finest_m)
            notes.append(f"--{name}-resolution {asked_cm:g} cm is below {100 * finest_m:.3g} cm, which is used")
        elif asked_cm / 100.0 < gsd_m and not options.ignore_gsd:
            cells.append(rounded_up(gsd_m, FINEST_M))
            notes.append(
                f"--{name}-resolution {asked_cm:g} cm is finer than the photos resolve: {100 * cells[-1]:g} cm is used "
                "(--ignore-gsd overrules)"
            )
        elif asked_cm / 100.0 > coarsest_m:
            cells.append(coarsest_m)
            notes.append(f"--{name}-resolution {asked_cm:g} cm is above {100 * coarsest_m:g} cm, which is used")
        else:
            cells.append(asked_cm / 100.0)
    return cells[0], cells[1], tuple(notes)


def surface_steps(job: Job, ground: Ground) -> SurfaceSteps:
    """Plates, coarse surface, colour gains and the first look."""
    plates = _plate_steps(job, ground)
    plate_of = _plates_of(plates)
    base: Inputs = (("ground", ArtifactInput(ground.step.digest)),)
    coarse_grid = Grid(ground.cell_m * COARSE_FACTOR, ground.offset_m)
    window = _coarse_window(ground.ground.window)
    finder = ViewFinder(ground.views, ground.ground.z_range_m)
    coarse_tiles = []
    for tile in tiles_over(window, COARSE_CORE_CELLS):
        bounds = coarse_grid.bounds(tile.padded(COARSE_MARGIN))
        names = finder.seeing(bounds)
        if names:
            coarse_tiles.append(_coarse_tile_step(tile, ground, base, names, _once(plate_of[n] for n in names)))
    memory = 500 + window.cols * window.rows // 25_000
    coarse = Step(
        "coarse", "mosaic", f"{GROUND}:make_coarse_mosaic", 3, CoarseMosaicParams(ground.cell_m, ground.offset_m),
        outputs("coarse_tile", coarse_tiles), memory_mb=memory,
    )  # fmt: skip
    gains = Step(
        "coarse", "gains", f"{GROUND}:make_gains", 7, GainsParams(),
        (*base, ("coarse", ArtifactInput(coarse.digest)), *outputs("plate", plates, *TINY_FILES)),
        memory_mb=1000 + len(ground.views) // 10,
    )  # fmt: skip
    quick = Step(
        "coarse", "quick", f"{GROUND}:make_quick", 5, QuickParams(_four(window)),
        (
            *base, ("coarse", ArtifactInput(coarse.digest)), ("gains", ArtifactInput(gains.digest)),
            *outputs("plate", plates, *TINY_FILES),
        ), memory_mb=800,
    )  # fmt: skip
    return SurfaceSteps(tuple(plates), tuple(coarse_tiles), coarse, gains, quick)


def _plate_steps(job: Job, ground: Ground) -> list[Step]:
    """Plates take 40 ms a photo, less than a step costs to place: a step makes those of some neighbours, which the same tiles need."""
    photos = {p.name: p for p in job.survey.photos}
    reduction = plate_reduction(ground.gsd_m, ground.cell_m)
    megapixels = max((v.intrinsics.width_px * v.intrinsics.height_px / 1e6 for v in ground.views), default=0.0)
    xy_m = np.round(np.array([v.centre[:2] for v in ground.views]), 3).reshape(-1, 2)
    parts = compact_parts(xy_m, np.arange(len(xy_m)), -(-len(xy_m) // PHOTOS_A_PLATE_STEP))
    steps = []
    for number, part in enumerate(parts):
        names = tuple(ground.views[i].photo for i in part)
        inputs = tuple(("photo", photo_input(photos[n])) for n in names)
        steps.append(
            Step(
                "coarse", f"plates_{number:05d}", f"{GROUND}:make_plate", 1, PlateParams(names, reduction), inputs,
                memory_mb=int(300 + 6 * megapixels),
            )
        )  # fmt: skip
    return steps


def _plates_of(plates: Sequence[Step]) -> dict[str, Step]:
    """The step that makes a photo's plate, by the photo's name."""
    return {name: step for step in plates for name in step.params.photos}


def _once(steps: Iterable[Step]) -> list[Step]:
    return list({s.digest: s for s in steps}.values())


def _coarse_tile_step(tile: Tile, ground: Ground, base: Inputs, photos: Sequence[str], plates: Sequence[Step]) -> Step:
    params = CoarseTileParams(tile.name, _four(tile.core), ground.cell_m, ground.least_base, tuple(photos))
    return Step(
        "coarse", f"tile {tile.name}", f"{GROUND}:make_coarse_tile", 13, params, (*base, *outputs("plate", plates)),
        memory_mb=1500, limit_s=3600,
    )  # fmt: skip


def tile_steps(job: Job, ground: Ground, surface: SurfaceSteps) -> list[Step]:
    """One step a ground tile, with only the photos that can see it."""
    photos = {p.name: p for p in job.survey.photos}
    plate_of = _plates_of(surface.plates)
    finder = ViewFinder(ground.views, ground.ground.z_range_m)
    steps = []
    for tile in ground.ground.tiles:
        bounds = ground.grid.bounds(tile.padded(MARGIN_CELLS))
        names = finder.seeing(bounds)
        if len(names) < 2:
            continue
        params = TileParams(
            tile.name, _four(tile.core), ground.cell_m, ground.dem_m, ground.ortho_m, ground.offset_m,
            not job.options.fast_orthophoto, ground.least_base, tuple(names),
        )  # fmt: skip
        inputs: Inputs = (
            ("ground", ArtifactInput(ground.step.digest)),
            ("coarse", ArtifactInput(surface.coarse.digest)),
            ("gains", ArtifactInput(surface.gains.digest)),
            *outputs("plate", _once(plate_of[n] for n in names)),
            *(("photo", photo_input(photos[n])) for n in names),
        )
        steps.append(Step("tiles", tile.name, f"{GROUND}:tile", 39, params, inputs, memory_mb=2200, limit_s=2 * 3600))
    return steps


def product_steps(job: Job, scene: Step, tiles: Sequence[Step]) -> ProductSteps:
    """Merging and side files."""
    params = MergeParams()

    def merge(name: str, *files: str) -> Step:
        inputs: Inputs = (("survey", job.survey_file), *outputs("tile", tiles, "tile.json", *files))
        return Step("merge", name, f"{PRODUCTS}:{name}", 3, params, inputs, memory_mb=800, limit_s=12 * 3600)

    sides: Inputs = (("survey", job.survey_file), ("scene", ArtifactInput(scene.digest)))
    memory = 500 + len(job.survey.photos) // 8
    side_files = Step("merge", "side_files", f"{PRODUCTS}:side_files", 3, params, sides, memory_mb=memory)
    return ProductSteps(
        merge("orthophoto", "ortho.npy", "shown.npy"),
        merge("dsm", "dsm.npy", "filled.npy"),
        merge("points", "points.npz"),
        side_files,
    )


def _coarse_window(window: Window) -> Window:
    """The matching window on the coarse lattice, rounded outwards."""
    f = COARSE_FACTOR
    c0, r0 = window.col // f, window.row // f
    return Window(c0, r0, -(-(window.col + window.cols) // f) - c0, -(-(window.row + window.rows) // f) - r0)


def _four(window: Window) -> tuple[int, int, int, int]:
    col, row, cols, rows = astuple(window)
    return col, row, cols, rows
