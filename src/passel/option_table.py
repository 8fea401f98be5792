"""The table of options, under OpenDroneMap's names. The command line, its help, the HTTP API's list of options and all
checks are made from it.

Each option is *supported*, or comes *later* (a run that is asked for it says so at its start and goes on without it),
or is *harmless*: it tunes a part of OpenDroneMap that Passel does not have, or asks for what is always done.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Value = bool | int | float | str | Path | None
Type = Literal["bool", "int", "float", "enum", "string", "path"]
Status = Literal["supported", "later", "harmless"]

STAGES = (
    "survey",
    "split",
    "features",
    "matches",
    "calibration",
    "mapping",
    "align",
    "coarse",
    "tiles",
    "merge",
    "report",
)
"""Passel's stages in the order they run."""

STAGE_OF_ODM = {
    "dataset": "survey",
    "split": "split",
    "merge": "merge",
    "opensfm": "align",
    "openmvs": "tiles",
    "odm_filterpoints": "tiles",
    "odm_meshing": "tiles",
    "mvs_texturing": "tiles",
    "odm_georeferencing": "tiles",
    "odm_dem": "merge",
    "odm_orthophoto": "merge",
    "odm_report": "report",
    "odm_postprocess": "report",
}
"""The last of our stages that each of OpenDroneMap's needs: points, surface and colours of a tile are made together."""

_STAGE_CHOICES = (*STAGE_OF_ODM, *(s for s in STAGES if s not in STAGE_OF_ODM))
LENSES = ("auto", "perspective", "brown")
LENSES_LATER = ("fisheye", "fisheye_opencv", "spherical", "equirectangular", "dual")


def usable_cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Range:
    """Numbers from low to high; `open_low` leaves out low itself."""

    low: float
    high: float = math.inf
    open_low: bool = False

    def holds(self, x: float) -> bool:
        return (x > self.low if self.open_low else x >= self.low) and x <= self.high

    def __str__(self) -> str:
        low = f"more than {self.low:g}" if self.open_low else f"at least {self.low:g}"
        return low if math.isinf(self.high) else f"{low}, at most {self.high:g}"


@dataclass(frozen=True)
class Option:
    """One row of the table.

    name: as on the command line, without dashes. default: None = decided from the photos. domain: a Range for numbers,
    the choices of an enum, else None. unit: '' if it has none. status: see the module; for 'later', help says what the
    map is without it. field: the field of Options it sets; '' if it only concerns the command line or is not supported.
    """

    name: str
    type: Type
    default: Value
    help: str
    domain: Range | tuple[str, ...] | None = None
    unit: str = ""
    status: Status = "supported"
    field: str = ""


def _rows(status: Status, help_text: str, *names: str, type_: Type = "bool") -> tuple[Option, ...]:
    """Unsupported options that share a sentence. Their values are not judged beyond their type."""
    default: Value = {"bool": False, "int": None, "float": None}.get(type_, "")
    return tuple(Option(n, type_, default, help_text, None, "", status) for n in names)


_POSITIVE = Range(0, open_low=True)
_CELL_CM = Range(0, 10_000, open_low=True)  # coarser cells are larger than many a survey
_IN_TILES = "the matching of ground tiles sets this itself"
_NO_MESH = "there is no textured mesh to tune"

SUPPORTED = (
    Option("output", "path", None, "folder for the map (with --project-path: the project's folder)"),
    Option("project-path", "path", None, "OpenDroneMap's form: folder of projects; photos lie in NAME/images"),
    Option(
        "name", "string", "", "title of the map in the report; with --project-path the project's name", field="name"
    ),
    Option("split", "int", 400, "photos a submodel", Range(1), "photos", field="split"),
    Option(
        "split-overlap",
        "float",
        150.0,
        "overlap of submodels",
        Range(0),
        "m",
        field="split_overlap_m",
    ),
    Option("split-image-groups", "path", None, "image_groups.txt: own submodels", field="split_image_groups"),
    Option(
        "engine",
        "enum",
        "auto",
        "on a server that has NodeODM nodes: who makes the map, Passel itself or OpenDroneMap on a node",
        ("auto", "passel", "odm"),
    ),
    Option("sm-no-align", "bool", False, "place submodels by GPS and shared points only", field="sm_no_align"),
    Option(
        "feature-quality",
        "enum",
        "high",
        "size at which photos are searched for features",
        ("ultra", "high", "medium", "low", "lowest"),
        field="feature_quality",
    ),
    Option(
        "orthophoto-resolution", "float", None, "cell of the map", _CELL_CM, "cm/px", field="orthophoto_resolution_cm"
    ),
    Option("dem-resolution", "float", None, "cell of the surface model", _CELL_CM, "cm/px", field="dem_resolution_cm"),
    Option("ignore-gsd", "bool", False, "allow cells finer than the photos resolve", field="ignore_gsd"),
    Option("dsm", "bool", False, "make the surface model (it is always made)", field="dsm"),
    Option("fast-orthophoto", "bool", False, "quick map from a coarser surface", field="fast_orthophoto"),
    Option(
        "camera-lens",
        "enum",
        "auto",
        "lens model; so far auto, perspective or brown",
        (*LENSES, *LENSES_LATER),
        field="camera_lens",
    ),
    Option("cameras", "string", "", "camera parameters: path or text of a cameras.json", field="cameras"),
    Option(
        "rolling-shutter", "bool", False, "rows are exposed one after the other, in flight", field="rolling_shutter"
    ),
    Option(
        "rolling-shutter-readout",
        "float",
        0.0,
        "time from first to last row; 0: found from the photos",
        Range(0),
        "ms",
        field="rolling_shutter_readout_ms",
    ),
    Option(
        "gps-accuracy",
        "float",
        None,
        "GPS accuracy of photos that do not tell it",
        _POSITIVE,
        "m",
        field="gps_accuracy_m",
    ),
    Option("geo", "path", None, "geo.txt: positions (and angles) of the photos", field="geo"),
    Option("cluster", "string", "", "URL of a Passel that does the work; the map is brought back"),
    Option("sm-cluster", "string", "", "the same under OpenDroneMap's name; any NodeODM server will do"),
    Option("token", "string", "", "with --cluster or --sm-cluster: API token (default: $PASSEL_TOKEN)"),
    Option("max-concurrency", "int", usable_cores(), "cores to use", Range(1), "cores", field="max_concurrency"),
    Option("rerun-all", "bool", False, "forget earlier work and make everything again", field="rerun_all"),
    Option("rerun-from", "enum", "", "make everything again from this stage on", _STAGE_CHOICES, field="rerun_from"),
    Option("end-with", "enum", "report", "last stage to run", _STAGE_CHOICES, field="end_with"),
)

LATER = (
    *_rows("later", "control points are not used: the map is placed by GPS alone", "gcp", type_="path"),
    *_rows("later", "no terrain model is made", "dtm"),
    *_rows("later", "points are not classified", "pc-classify", "pc-rectify"),
    *_rows("later", "this product is not made", "3d-tiles", "tiles", "gltf", "pc-ept", "pc-csv", "pc-las"),
    *_rows("later", "this product is not made", "orthophoto-png", "orthophoto-kmz", "orthophoto-cutline"),
    *_rows("later", "this product is not made", "dem-euclidean-map"),
    *_rows("later", "no product can be left out", "skip-orthophoto"),
    Option("merge", "enum", "all", "all products are merged", ("all", "pointcloud", "orthophoto", "dem"), "", "later"),
    *_rows("later", "everything the photos see is mapped", "boundary", type_="string"),
    Option("crop", "float", 0.0, "everything the photos see is mapped", Range(0), "m", "later"),
    *_rows("later", "everything the photos see is mapped", "auto-boundary"),
    Option("auto-boundary-distance", "float", 0.0, "everything the photos see is mapped", Range(0), "m", "later"),
    *_rows("later", "the map is not aligned to other data", "align", type_="path"),
    Option("gps-z-offset", "float", 0.0, "heights are those of the photos", None, "m", "later"),
    *_rows("later", "camera parameters are adjusted", "use-fixed-camera-params"),
    Option(
        "radiometric-calibration",
        "enum",
        "none",
        "colours are not reflectances",
        ("none", "camera", "camera+sun"),
        "",
        "later",
    ),
    Option("primary-band", "string", "auto", "photos are taken as colour photos", None, "", "later"),
    *_rows("later", "photos are taken as colour photos", "skip-band-alignment"),
    *_rows("later", "photos are not masked", "sky-removal", "bg-removal"),
    *_rows("later", "videos are not read", "video-limit", "video-resolution", type_="int"),
    *_rows("later", "videos are not read", "video", type_="path"),
    Option("pc-sample", "float", 0.0, "the cloud is not thinned", Range(0), "m", "later"),
    Option(
        "orthophoto-compression", "string", "DEFLATE", "the orthophoto is compressed without loss", None, "", "later"
    ),
    *_rows("later", "results are not copied", "copy-to", type_="path"),
    *_rows("later", "no stage can be run alone; use --rerun-from and --end-with", "rerun", type_="string"),
)

HARMLESS = (
    *_rows("harmless", "features and pairs are chosen from the photos", "min-num-features", type_="int"),
    *_rows(
        "harmless", "features and pairs are chosen from the photos", "matcher-neighbors", "matcher-order", type_="int"
    ),
    *_rows("harmless", "features and pairs are chosen from the photos", "feature-type", "matcher-type", type_="string"),
    *_rows("harmless", "mapping chooses the method that passes its checks", "sfm-algorithm", type_="string"),
    *_rows(
        "harmless",
        "mapping chooses the method that passes its checks",
        "use-hybrid-bundle-adjustment",
        "sfm-no-partial",
    ),
    *_rows("harmless", "GPS is always used, control points are not", "use-exif", "force-gps"),
    *_rows("harmless", "no GPU is needed", "no-gpu"),
    *_rows("harmless", "there is no mesh", "use-3dmesh", "skip-3dmodel"),
    *_rows("harmless", "there is no mesh", "mesh-size", "mesh-octree-depth", type_="int"),
    *_rows("harmless", _IN_TILES, "pc-quality", type_="string"),
    *_rows("harmless", _IN_TILES, "pc-filter", type_="float"),
    *_rows("harmless", _IN_TILES, "pc-skip-geometric"),
    *_rows("harmless", _IN_TILES, "dem-decimation", "dem-gapfill-steps", type_="int"),
    *_rows(
        "harmless",
        "it tunes the terrain model",
        "smrf-scalar",
        "smrf-slope",
        "smrf-threshold",
        "smrf-window",
        type_="float",
    ),
    *_rows("harmless", _NO_MESH, "texturing-skip-global-seam-leveling", "texturing-keep-unseen-faces"),
    *_rows("harmless", _NO_MESH, "texturing-single-material", "texturing-skip-local-seam-leveling"),
    *_rows("harmless", _NO_MESH, "texturing-data-term", "texturing-outlier-removal-type", type_="string"),
    *_rows("harmless", "rasters always are tiled COGs with overviews", "build-overviews", "cog", "orthophoto-no-tiled"),
    *_rows("harmless", "the cloud always is a COPC file", "pc-copc"),
    *_rows("harmless", "the report is always written", "skip-report"),
    *_rows("harmless", "what is not needed again is not kept", "optimize-disk-space"),
    *_rows("harmless", "log.json always holds it", "verbose", "debug", "time"),
    *_rows("harmless", "OpenDroneMap no longer has it either", "resize-to", "depthmap-resolution", type_="float"),
    *_rows("harmless", "OpenDroneMap no longer has it either", "texturing-tone-mapping", type_="string"),
    *_rows("harmless", "OpenDroneMap no longer has it either", "pc-geometric"),
)

TABLE: tuple[Option, ...] = SUPPORTED + LATER + HARMLESS
BY_NAME = {o.name: o for o in TABLE}
SHORT = {"-e": "end-with", "-r": "rerun"}  # as OpenDroneMap abbreviates them
