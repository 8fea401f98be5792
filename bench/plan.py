"""Planning a survey of 12,000 photos: CPU seconds of the split and of the plans, which run in one process before any step does."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from passel.geo.frames import Frame
from passel.options import Options
from passel.pipeline import plan_cameras, plan_ground
from passel.pipeline.job import Job
from passel.pipeline.step import FileInput, Step, StepInputs
from passel.pipeline.steps.ground import find_ground
from passel.reconstruct.scene import Intrinsics, Scene
from passel.survey.assemble import overlap_reach_m
from passel.survey.model import Camera, Photo, Position, Survey
from passel.survey.split import split_survey
from results import Check

T = TypeVar("T")
STRIPS, ALONG = 120, 100
HEIGHT_M, SIDE_M, FORWARD_M = 100.0, 30.0, 15.0
RUN = "12,000 photos"


def measure() -> list[Check]:
    """Each part of the planning in turn."""
    survey, scene = flight()
    job = Job(survey, FileInput("survey.json", "0" * 64), Options())
    checks: list[Check] = []

    def timed(what: str, work: Callable[[], T], wanted_s: float | None = None) -> T:
        start = time.process_time()
        made = work()
        sign = "" if wanted_s is None else "≤"
        checks.append(Check(RUN, what, time.process_time() - start, "CPU s", sign, wanted_s))
        return made

    split = timed("split", lambda: split_survey(survey, 400, 150.0, overlap_reach_m(survey)), 2.0)
    features = plan_cameras.feature_steps(job)
    pairs = timed("pairs", lambda: plan_cameras.pairs_to_match(job))
    found = timed("plan of the matches", lambda: plan_cameras.match_steps(job, features, pairs, split))
    calibration = plan_cameras.calibration_step(job, found, split)
    timed(
        "plan of the submodels", lambda: plan_cameras.submodel_steps(job, found, split.submodels, "global", calibration)
    )
    with tempfile.TemporaryDirectory() as folder:
        ground = timed("ground and tiles", lambda: _ground(job, scene, Path(folder)))
    surface = timed("plan of the surface", lambda: plan_ground.surface_steps(job, ground))
    tiles = timed("plan of the tiles", lambda: plan_ground.tile_steps(job, ground, surface))
    sizes = np.array([sum(role == "photo" for role, _ in t.inputs) for t in tiles])
    return [
        *checks,
        Check(RUN, "submodels", len(split.submodels)),
        Check(RUN, "pairs a photo", 2 * len(pairs) / len(survey.photos)),
        Check(RUN, "tiles", len(tiles)),
        Check(RUN, "photos a tile, median", float(np.median(sizes)), note=f"largest {sizes.max()}"),
    ]


def _ground(job: Job, scene: Scene, folder: Path) -> plan_ground.Ground:
    """The ground step, which a run gives to any machine, and what the plan reads of it."""
    step = plan_ground.ground_step(job, Step("align", "adjustment", "x:y", 1, None, ()))
    scene.save(folder)
    job.survey.save(folder / "survey.json")
    find_ground(StepInputs((("survey", folder / "survey.json"), ("scene", folder))), step.params, folder)
    return plan_ground.ground_of(job, step, folder)


def flight() -> tuple[Survey, Scene]:
    """Strips over flat ground, and the scene that would be found, with a point every 20 m."""
    n = STRIPS * ALONG
    strip, along = np.divmod(np.arange(n), ALONG)
    along = np.where(strip % 2, ALONG - 1 - along, along)
    noise = np.random.default_rng(0).normal(0, 1, (n, 3))
    xyz = np.column_stack([strip * SIDE_M, along * FORWARD_M, np.full(n, HEIGHT_M)]) + noise
    frame = Frame.around(np.array([[-6.8, 39.25, 0.0]]))
    places = frame.geographic_from_world(xyz)
    camera = Camera("camera", "Maker", "Model", "", 5472, 3648, 3650.0, "exif35", 0.03)
    photos = tuple(
        Photo(
            f"DJI_{k:05d}.JPG", f"DJI_{k:05d}.JPG", f"{k:064x}", 8_000_000, camera.id,
            Position(*(float(v) for v in places[k]), None, None), "", None, -90.0, None, HEIGHT_M, 1.0,
        )
        for k in range(n)
    )  # fmt: skip
    x, y = np.meshgrid(np.arange(-40, STRIPS * SIDE_M + 40, 20.0), np.arange(-40, ALONG * FORWARD_M + 40, 20.0))
    points = np.column_stack([x.ravel(), y.ravel(), np.zeros(x.size)])
    down = np.broadcast_to(np.diag([1.0, -1.0, -1.0]), (n, 3, 3))
    empty = np.zeros(0, np.int32)
    intrinsics = Intrinsics(camera.id, 5472, 3648, 3650.0, 3650.0, 2736.0, 1824.0)
    scene = Scene(
        (intrinsics,), tuple(p.name for p in photos), np.zeros(n, np.int32), down, xyz, points, empty, empty,
        np.zeros((0, 2), np.float32), empty,
    )  # fmt: skip
    return Survey(photos, (camera,), frame, (5.0, 10.0), ()), scene
