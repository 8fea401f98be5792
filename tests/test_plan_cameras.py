"""The plan of the cameras: what its steps may need, so that a field PC takes a survey of 12,000 photos."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from passel.geo.frames import Frame
from passel.options import Options
from passel.pipeline.job import Job
from passel.pipeline.plan_cameras import Found, adjust_step, align_step, needs_looks, pairs_to_match, submodel_steps
from passel.pipeline.step import FileInput, Step
from passel.pipeline.steps.products import MergeParams
from passel.survey.model import Camera, Photo, Position, Survey
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


def _flown(strips: int, without: Collection[int]) -> tuple[Job, np.ndarray]:
    """A lawn-mower flight of strips of ten photos, 20 m by 30 m apart, in which some have no GPS; and where all of them truly are."""
    frame = Frame.around(np.array([[47.0, 9.0, 0.0]]))
    number = np.arange(10 * strips)
    along = np.where(number // 10 % 2, 9 - number % 10, number % 10) * 20.0
    xyz = np.column_stack([number // 10 * 30.0, along, np.full(len(number), 80.0)])
    degrees = frame.geographic_from_world(xyz)
    noted = [None if k in without else Position(a, b, c, None, None) for k, (a, b, c) in enumerate(degrees.tolist())]
    camera = Camera("camera", "Maker", "Model", "", 4000, 3000, 3000.0, "exif35", 0.03)
    when = [f"2026-01-01T00:{k // 60:02d}:{k % 60:02d}" for k in number.tolist()]
    photos = tuple(
        Photo(f"{k:04d}.jpg", "", "0" * 64, 1, camera.id, noted[k], when[k], *(None,) * 4, 1.0) for k in number.tolist()
    )
    return Job(Survey(photos, (camera,), frame, (5.0, 10.0), ()), FileInput("survey.json", "0" * 64), Options()), xyz


def _partners(pairs: np.ndarray, xyz: np.ndarray) -> np.ndarray:
    """How many photos each is matched with that are near enough to show the same ground."""
    near = np.linalg.norm(xyz[pairs[:, 0]] - xyz[pairs[:, 1]], axis=1) < 50.0
    return np.bincount(pairs[near].ravel(), minlength=len(xyz))


def test_a_flight_without_gps_beside_one_with_it_is_matched_by_looks() -> None:
    job, xyz = _flown(40, range(200, 400))
    i, j = np.triu_indices(len(xyz), 1)
    near = np.linalg.norm(xyz[i] - xyz[j], axis=1) < 50.0
    alike = np.column_stack([i, j])[near]
    assert needs_looks(job)
    assert _partners(pairs_to_match(job, alike), xyz).min() >= 3
    small, xyz = _flown(6, range(30, 60))
    assert not needs_looks(small)
    assert _partners(pairs_to_match(small), xyz).min() >= 3


def test_looks_choose_no_pair_of_photos_with_gps() -> None:
    job, xyz = _flown(12, ())
    lacking, _ = _flown(12, (5, 40, 41, 77))
    everything = np.column_stack(np.triu_indices(len(xyz), 1))
    assert not needs_looks(job)
    assert not needs_looks(lacking)  # single gaps: the neighbours in time know the place
    assert np.array_equal(pairs_to_match(job, everything), pairs_to_match(job))
    job, _ = _flown(12, range(60, 80))
    extra = {tuple(p) for p in pairs_to_match(job, everything).tolist()} - {
        tuple(p) for p in pairs_to_match(job, everything[:0]).tolist()
    }
    assert extra
    assert all(a in range(60, 80) or b in range(60, 80) for a, b in extra)
