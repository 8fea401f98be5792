"""The plan of the cameras: what its steps may need, so that a field PC takes a survey of 12,000 photos."""

from __future__ import annotations

import numpy as np

from passel.geo.frames import Frame
from passel.options import Options
from passel.pipeline.job import Job
from passel.pipeline.plan_cameras import Found, adjust_step, align_step, submodel_steps
from passel.pipeline.step import FileInput, Step
from passel.pipeline.steps.products import MergeParams
from passel.survey.model import Camera, Photo, Survey
from passel.survey.submodel import Submodel

PHOTOS, CORE, HALO = 12_000, 400, 500
MOST_MB = 2500  # issue 2: peak memory of a process, whatever the survey


def test_no_step_of_twelve_thousand_photos_needs_a_large_machine() -> None:
    names = tuple(f"{k:05d}.jpg" for k in range(PHOTOS))
    camera = Camera("camera", "Maker", "Model", "", 5472, 3648, 3650.0, "exif35", 0.03)
    photos = tuple(Photo(n, n, "0" * 64, 1, camera.id, None, "", None, None, None, None, 1.0) for n in names)
    survey = Survey(photos, (camera,), Frame.around(np.array([[9.0, 47.0, 0.0]])), (5.0, 10.0), ())
    job = Job(survey, FileInput("survey.json", "0" * 64), Options())
    submodels = [
        Submodel(f"submodel_{k:04d}", names[k : k + CORE], (names[:k] + names[k + CORE :])[:HALO])
        for k in range(0, PHOTOS, CORE)
    ]
    features = tuple(Step("features", n, "x:y", 1, MergeParams(), ()) for n in names[:1]) * PHOTOS
    found = Found(features, (), ())
    mapped = submodel_steps(job, found, submodels, "global", None)
    aligned = align_step(job, submodels, mapped)
    for step in (*mapped, aligned, adjust_step(job, found, aligned)):
        assert step.memory_mb <= MOST_MB, step.name
