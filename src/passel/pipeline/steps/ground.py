"""Steps of the ground: plates, coarse surface, colour gains, quick look, tiles. Thin: read inputs, call the surface room, write files.

Roles: 'photo' (files, in the order of the params' names), 'scene' (folder of a Scene), 'survey' (survey.json); 'views', 'plate',
'coarse_tile', 'coarse', 'gains': artifacts of the steps here. Only `make_views` reads the scene: its points grow with the survey, and
a tile must not.
"""

from __future__ import annotations

import json
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import cv2
import numpy as np

from passel.geo.grid import Grid, Tile, Window
from passel.pipeline.step import Fact, StepInputs
from passel.reconstruct.scene import Scene, View, load_views, save_views, views_in_map
from passel.surface import plate as plates_of
from passel.surface.coarse import COARSE_FACTOR, CoarseSurface, PriorHeights, coarse_tile, mosaic, prior_heights
from passel.surface.colour import Gains, solve_gains
from passel.surface.plate import load_plates, save_plates
from passel.surface.quick import quick_orthophoto
from passel.surface.tile import TileJob, TileSources, make_tile
from passel.survey.model import Survey


@dataclass(frozen=True)
class PlateParams:
    """photos: names of the 'photo' inputs, in order. reduction: whole factor of the gray plate (`surface.plate.plate_reduction`)."""

    photos: tuple[str, ...]
    reduction: int


@dataclass(frozen=True)
class CoarseTileParams:
    """name, core (col, row, cols, rows) of a tile of the coarse lattice (8 matching cells); cell_m: the matching cell."""

    name: str
    core: tuple[int, int, int, int]
    cell_m: float


@dataclass(frozen=True)
class CoarseMosaicParams:
    """cell_m: the matching cell. The tiles' places are in their artifacts."""

    cell_m: float


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

    fine: match the surface; False makes the orthophoto over the coarse surface (--fast-orthophoto). photos: names of the 'photo'
    inputs, in order.
    """

    name: str
    core: tuple[int, int, int, int]
    cell_m: float
    dem_m: float
    ortho_m: float
    fine: bool
    photos: tuple[str, ...]


@dataclass(frozen=True)
class ViewsParams:
    """cell_m: the matching cell."""

    cell_m: float


def make_views(inputs: StepInputs, params: ViewsParams, out: Path) -> dict[str, Fact]:
    """What the ground needs of a scene: its views in the map frame, and where the ground may be."""
    survey, scene = Survey.load(inputs.one("survey")), Scene.load(inputs.one("scene"))
    views = views_in_map(scene, survey.frame)
    points = survey.frame.map_from_world(scene.points)
    save_views(views, out / "views.json")
    prior_heights(views, points, params.cell_m, survey.frame.map_offset_m).save(out / "prior.npz")
    return {"views": len(views)}


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
    views = _read_views(inputs)
    plates = load_plates(inputs.many("plate"))
    prior = PriorHeights.load(inputs.one("views") / "prior.npz")
    tile = Tile(params.name, Window(*params.core))
    z = coarse_tile(tile, params.cell_m, prior, [v for v in views if v.photo in plates], plates)
    np.save(out / "z.npy", z)
    (out / "tile.json").write_text(json.dumps(asdict(tile)), encoding="utf-8")
    return {"filled": float(np.isfinite(z).mean())}


def make_coarse_mosaic(inputs: StepInputs, params: CoarseMosaicParams, out: Path) -> dict[str, Fact]:
    """Put the coarse tiles together and fill what is missing."""
    survey = Survey.load(inputs.one("survey"))
    tiles = []
    for folder in inputs.many("coarse_tile"):
        head = json.loads((folder / "tile.json").read_text(encoding="utf-8"))
        tiles.append((Tile(head["name"], Window(**head["core"])), np.load(folder / "z.npy")))
    surface = mosaic(Grid(params.cell_m * COARSE_FACTOR, survey.frame.map_offset_m), tiles)
    surface.save(out)
    return {"measured": float(surface.valid.mean())}


def make_gains(inputs: StepInputs, params: GainsParams, out: Path) -> dict[str, Fact]:
    """Colour gains of all photos."""
    views = _read_views(inputs)
    plates = load_plates(inputs.many("plate"))
    gains = solve_gains([v for v in views if v.photo in plates], plates, CoarseSurface.load(inputs.one("coarse")))
    gains.save(out)
    factors = np.exp(gains.log_gain) if len(gains.photos) else np.ones((1, 3))
    return {"least_gain": float(factors.min()), "largest_gain": float(factors.max())}


def make_quick(inputs: StepInputs, params: QuickParams, out: Path) -> dict[str, Fact]:
    """A first orthophoto of the whole survey: quick.png (RGBA) and its place in quick.json."""
    views = _read_views(inputs)
    plates = load_plates(inputs.many("plate"))
    surface, gains = CoarseSurface.load(inputs.one("coarse")), Gains.load(inputs.one("gains"))
    some = [v for v in views if v.photo in plates]
    picture, grid, window = quick_orthophoto(some, plates, surface, gains, Window(*params.window))
    (out / "quick.png").write_bytes(cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA))[1].tobytes())
    head = {"grid": asdict(grid), "window": asdict(window)}
    (out / "quick.json").write_text(json.dumps(head), encoding="utf-8")
    return {"columns": window.cols, "rows": window.rows}


def tile(inputs: StepInputs, params: TileParams, out: Path) -> dict[str, Fact]:
    """Make one ground tile: dsm.npy, filled.npy, ortho.npy, points.npz and the windows they cover in tile.json."""
    _one_thread()
    survey, views = Survey.load(inputs.one("survey")), _read_views(inputs)
    plates = load_plates(inputs.many("plate"))
    photos = dict(zip(params.photos, inputs.many("photo"), strict=True))
    offset = survey.frame.map_offset_m
    job = TileJob(
        Tile(params.name, Window(*params.core)),
        Grid(params.cell_m, offset),
        Grid(params.dem_m, offset),
        Grid(params.ortho_m, offset),
        params.fine,
    )
    some = [v for v in views if v.photo in plates and v.photo in photos]
    sources = TileSources(
        some, plates, photos, CoarseSurface.load(inputs.one("coarse")), Gains.load(inputs.one("gains"))
    )
    result = make_tile(job, sources)
    result.save(out)
    head = {
        "name": params.name,
        "dsm_window": astuple(result.dem_window),
        "ortho_window": astuple(result.ortho_window),
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


def _read_views(inputs: StepInputs) -> tuple[View, ...]:
    return load_views(inputs.one("views") / "views.json")
