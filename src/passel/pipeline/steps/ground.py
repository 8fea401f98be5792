"""Steps of the ground: extent, plates, coarse surface, colour gains, quick look, tiles. Thin: the work is in the surface room.

Roles: 'photo' (files, in the order of the params' names), 'scene' (folder of a Scene), 'survey' (survey.json); 'ground', 'plate',
'coarse_tile', 'coarse', 'gains': artifacts of the steps here. Only `find_ground` reads the scene and the survey: they grow with the
number of photos, and a tile must not. Of what does grow (views, gains, the coarse surface) a tile reads its own part.
"""

from __future__ import annotations

import json
from collections.abc import Container
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import cv2
import numpy as np

from passel.geo.grid import Grid, Tile, Window
from passel.pipeline.step import Fact, StepInputs
from passel.reconstruct.scene import Scene, View, load_views, photos_of_points, save_views, views_in_map
from passel.surface import plate as plates_of
from passel.surface.camera import ground_sampling_m, heights_above_ground_m
from passel.surface.coarse import COARSE_FACTOR, CoarseSurface, PriorHeights, coarse_tile, mosaic, prior_heights
from passel.surface.colour import Gains, solve_gains
from passel.surface.extent import SurveyLattice, rounded_up, survey_ground, with_base
from passel.surface.place import save_place
from passel.surface.plate import load_plates, save_plates
from passel.surface.quick import quick_orthophoto
from passel.surface.tile import TileJob, TileSources, make_tile
from passel.surface.wild import without_wild
from passel.survey.model import Survey

VIEWS = "views.jsonl"
ENOUGH_POINTS = 2_000_000  # to tell where the ground is: of a large survey's every so many suffices


@dataclass(frozen=True)
class PlateParams:
    """photos: names of the 'photo' inputs, in order. reduction: whole factor of the gray plate (`surface.plate.plate_reduction`)."""

    photos: tuple[str, ...]
    reduction: int


@dataclass(frozen=True)
class CoarseTileParams:
    """name, core (col, row, cols, rows) of a tile of the coarse lattice (8 matching cells); cell_m: the matching cell.

    least_base: rad, between two rays that tell a height. photos: names of the photos that see it.
    """

    name: str
    core: tuple[int, int, int, int]
    cell_m: float
    least_base: float
    photos: tuple[str, ...]


@dataclass(frozen=True)
class CoarseMosaicParams:
    """cell_m: the matching cell; offset_m: of the map frame. The tiles' places are in their artifacts."""

    cell_m: float
    offset_m: tuple[float, float]


@dataclass(frozen=True)
class GainsParams:
    """No choices: all is in the inputs."""


@dataclass(frozen=True)
class QuickParams:
    """window: (col, row, cols, rows) of the coarse lattice to show."""

    window: tuple[int, int, int, int]


@dataclass(frozen=True)
class TileParams:
    """name, core (col, row, cols, rows) of a tile of the matching lattice; cell sizes of matching, DEM and orthophoto lattices (m).

    offset_m: of the map frame. fine: match the surface; False makes the orthophoto over the coarse surface (--fast-orthophoto).
    least_base: rad, between two rays that tell a height. photos: names of the 'photo' inputs, in order.
    """

    name: str
    core: tuple[int, int, int, int]
    cell_m: float
    dem_m: float
    ortho_m: float
    offset_m: tuple[float, float]
    fine: bool
    least_base: float
    photos: tuple[str, ...]


@dataclass(frozen=True)
class GroundParams:
    """cell_gsd: the matching cell in ground sampling distances, rounded up to whole finest_m. core_cells: side of a tile's core;
    small_core_cells: where there would be no more than few_tiles."""

    cell_gsd: float
    finest_m: float
    core_cells: int
    small_core_cells: int
    few_tiles: int


def find_ground(inputs: StepInputs, params: GroundParams, out: Path) -> dict[str, Fact]:
    """What the ground needs of a scene: views in the map frame, where the ground is and may be, how fine it is seen, its tiles."""
    survey = Survey.load(inputs.one("survey"))
    scene, frame = Scene.load(inputs.one("scene"), observations=False), survey.frame
    some = slice(None, None, 1 + len(scene.points) // ENOUGH_POINTS)
    views, points = views_in_map(scene, frame), frame.map_from_world(scene.points[some])
    save_views(views, out / VIEWS)
    heights_m = heights_above_ground_m(views, points)
    gsd_m, above_m = ground_sampling_m(views, heights_m), float(np.median(heights_m))
    points = without_wild(points, photos_of_points(inputs.one("scene"))[some], above_m)
    grid = Grid(rounded_up(params.cell_gsd * gsd_m, params.finest_m), frame.map_offset_m)
    points, least_base = with_base(points, views, grid)
    found = survey_ground(views, points, above_m, grid, params.core_cells)
    if len(found.tiles) <= params.few_tiles:
        found = survey_ground(views, points, above_m, grid, params.small_core_cells)
    prior_heights(points, above_m, grid.resolution_m, grid.offset_m).save(out)
    SurveyLattice(gsd_m, grid.resolution_m, least_base, found).save(out)
    return {"views": len(views), "gsd_m": gsd_m, "tiles": len(found.tiles)}


def make_plate(inputs: StepInputs, params: PlateParams, out: Path) -> dict[str, Fact]:
    """Reduce the photos for matching (gray) and for colours and previews (tiny)."""
    _one_thread()
    files = inputs.many("photo")
    plates = [
        plates_of.make_plate(path, name, params.reduction, number, out)
        for number, (path, name) in enumerate(zip(files, params.photos, strict=True))
    ]
    save_plates(plates, out)
    return {"photos": len(plates)}


def make_coarse_tile(inputs: StepInputs, params: CoarseTileParams, out: Path) -> dict[str, Fact]:
    """Match one tile of the coarse surface from the 'plate's given."""
    _one_thread()
    views, plates = _read_views(inputs, params.photos), load_plates(inputs.many("plate"))
    prior = PriorHeights.load(inputs.one("ground"))
    tile = Tile(params.name, Window(*params.core))
    z = coarse_tile(tile, params.cell_m, prior, views, plates, params.least_base)
    np.save(out / "z.npy", z)
    (out / "tile.json").write_text(json.dumps(asdict(tile)), encoding="utf-8")
    return {"filled": float(np.isfinite(z).mean())}


def make_coarse_mosaic(inputs: StepInputs, params: CoarseMosaicParams, out: Path) -> dict[str, Fact]:
    """Put the coarse tiles together and fill what is missing."""
    tiles = []
    for folder in inputs.many("coarse_tile"):
        head = json.loads((folder / "tile.json").read_text(encoding="utf-8"))
        tiles.append((Tile(head["name"], Window(**head["core"])), np.load(folder / "z.npy")))
    surface = mosaic(Grid(params.cell_m * COARSE_FACTOR, params.offset_m), tiles)
    surface.save(out)
    return {"measured": float(surface.valid.mean())}


def make_gains(inputs: StepInputs, params: GainsParams, out: Path) -> dict[str, Fact]:
    """Colour gains of all photos."""
    plates = load_plates(inputs.many("plate"))
    gains = solve_gains(_read_views(inputs, plates), plates, CoarseSurface.load(inputs.one("coarse")))
    gains.save(out)
    factors = np.exp(gains.log_gain) if len(gains.photos) else np.ones((1, 3))
    return {"least_gain": float(factors.min()), "largest_gain": float(factors.max())}


def make_quick(inputs: StepInputs, params: QuickParams, out: Path) -> dict[str, Fact]:
    """A first orthophoto of the whole survey: quick.png (RGBA) and its place in quick.json."""
    plates = load_plates(inputs.many("plate"))
    surface, gains = CoarseSurface.load(inputs.one("coarse")), Gains.load(inputs.one("gains"))
    views = _read_views(inputs, plates)
    picture, grid, window = quick_orthophoto(views, plates, surface, gains, Window(*params.window))
    (out / "quick.png").write_bytes(cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA))[1].tobytes())
    save_place(grid, window, out / "quick.json")
    return {"columns": window.cols, "rows": window.rows}


def tile(inputs: StepInputs, params: TileParams, out: Path) -> dict[str, Fact]:
    """Make one ground tile: dsm.npy, filled.npy, ortho.npy, shown.npy, points.npz and the windows they cover in tile.json."""
    _one_thread()
    photos = dict(zip(params.photos, inputs.many("photo"), strict=True))
    offset = params.offset_m
    job = TileJob(
        Tile(params.name, Window(*params.core)),
        Grid(params.cell_m, offset),
        Grid(params.dem_m, offset),
        Grid(params.ortho_m, offset),
        params.fine,
        params.least_base,
    )
    sources = TileSources(
        _read_views(inputs, photos), load_plates(inputs.many("plate")), photos,
        CoarseSurface.load(inputs.one("coarse")), Gains.load(inputs.one("gains"), photos),
    )  # fmt: skip
    result = make_tile(job, sources)
    kept = result.cropped()
    kept.save(out)
    head = {
        "name": params.name,
        "dsm_window": astuple(kept.dem_window),
        "ortho_window": astuple(kept.ortho_window),
        "dsm_resolution_m": params.dem_m,
        "ortho_resolution_m": params.ortho_m,
    }
    (out / "tile.json").write_text(json.dumps(head), encoding="utf-8")
    return {
        "dsm_known": float(np.isfinite(result.dsm).mean()),
        "dsm_filled": float(result.filled.mean()),
        "ortho_shown": float((result.ortho[:, :, 3] > 0).mean()),
        "points": len(result.points.xyz),
    }


def _one_thread() -> None:
    """Parallelism comes from steps side by side; OpenCV's own threads would only fight over the same cores."""
    cv2.setNumThreads(1)


def _read_views(inputs: StepInputs, photos: Container[str]) -> tuple[View, ...]:
    return load_views(inputs.one("ground") / VIEWS, photos)
