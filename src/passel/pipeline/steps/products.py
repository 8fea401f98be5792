"""Steps that merge tiles into the products, and write ODM's side files."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from passel.pipeline.step import Fact, StepInputs
from passel.products.points import merge_points
from passel.products.preview import orthophoto_preview
from passel.products.raster import RasterFacts, merge_dsm, merge_filled, merge_orthophoto
from passel.products.report_facts import scene_facts
from passel.products.shots import cameras_json, images_json, shots_geojson
from passel.products.tiles import ProductTile, read_tiles
from passel.reconstruct.scene import Scene
from passel.survey.model import Survey

ORTHOPHOTO, DSM, CLOUD = "odm_orthophoto.tif", "dsm.tif", "odm_georeferenced_model.laz"
DSM_FILLED = "dsm_filled.tif"
ORTHOPHOTO_PICTURE, DSM_PICTURE = "orthophoto.png", "dsm.png"
CAMERAS, IMAGES, SHOTS = "cameras.json", "images.json", "shots.geojson"
SCENE_FACTS = "scene_facts.json"
_FACTS = "raster.json"


@dataclass(frozen=True)
class MergeParams:
    """Nothing to choose: a product is made of its tiles alone."""


def orthophoto(inputs: StepInputs, params: MergeParams, out: Path) -> dict[str, Fact]:
    """Tiles (role 'tile', many; 'survey' file) → odm_orthophoto.tif, orthophoto.png, raster.json."""
    tiles, survey = _inputs(inputs)
    facts = merge_orthophoto(tiles, survey.frame, out / ORTHOPHOTO, _threads())
    orthophoto_preview(out / ORTHOPHOTO, out / ORTHOPHOTO_PICTURE)
    return _raster_facts(facts, out)


def dsm(inputs: StepInputs, params: MergeParams, out: Path) -> dict[str, Fact]:
    """Tiles (role 'tile', many; 'survey' file) → dsm.tif, dsm_filled.tif, dsm.png, raster.json."""
    from passel.products.relief import dsm_preview  # loads matplotlib: 0.4 CPU s that the other steps do without

    tiles, survey = _inputs(inputs)
    facts = merge_dsm(tiles, survey.frame, out / DSM, _threads())
    merge_filled(tiles, survey.frame, out / DSM_FILLED, _threads())
    dsm_preview(out / DSM, out / DSM_PICTURE)
    return _raster_facts(facts, out)


def points(inputs: StepInputs, params: MergeParams, out: Path) -> dict[str, Fact]:
    """Tiles (role 'tile', many; 'survey' file) → odm_georeferenced_model.laz, which is COPC as well."""
    tiles, survey = _inputs(inputs)
    facts = merge_points(tiles, survey.frame, out / CLOUD)
    return {"points": facts.points, "nodes": facts.nodes, "columns": facts.columns}


def side_files(inputs: StepInputs, params: MergeParams, out: Path) -> dict[str, Fact]:
    """The adjusted scene (role 'scene') and the 'survey' file → cameras.json, images.json, shots.geojson, and what the report tells."""
    survey = Survey.load(inputs.one("survey"))
    scene_facts(survey, Scene.load(inputs.one("scene"))).save(out / SCENE_FACTS)
    scene = Scene.load(inputs.one("scene"), observations=False)
    for name, text in (
        (CAMERAS, cameras_json(survey, scene)),
        (IMAGES, images_json(survey)),
        (SHOTS, shots_geojson(survey, scene)),
    ):
        (out / name).write_text(text, encoding="utf-8")
    return {"shots": len(scene.photos), "cameras": len(scene.cameras)}


def load_raster_facts(folder: Path) -> RasterFacts:
    """The facts of an orthophoto or DSM step, from its artifact folder."""
    d = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    return RasterFacts(**{**d, "bounds_m": tuple(d["bounds_m"])})


def _inputs(inputs: StepInputs) -> tuple[tuple[ProductTile, ...], Survey]:
    return read_tiles(inputs.many("tile")), Survey.load(inputs.one("survey"))


def _raster_facts(facts: RasterFacts, out: Path) -> dict[str, Fact]:
    (out / _FACTS).write_text(json.dumps(asdict(facts), indent=1), encoding="utf-8")
    return {
        "width_px": facts.width_px, "height_px": facts.height_px, "resolution_m": facts.resolution_m,
        "covered": facts.covered, "area_m2": facts.area_m2,
    }  # fmt: skip


def _threads() -> int:
    """As many as the host gives this step; the bytes are the same with any number."""
    given = os.environ.get("GDAL_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) > 0 else 1
