"""The plan of the first half: photos to cameras. It grows in known places: after the survey, after look-alikes are found (no GPS),
and after submodels were judged."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

import numpy as np

from passel.pipeline.job import Job, outputs, photo_input
from passel.pipeline.step import ArtifactInput, Input, Step
from passel.pipeline.steps.block import AdjustParams, AlignParams
from passel.pipeline.steps.cameras import (
    FeatureParams,
    LooksParams,
    MatchParams,
    SubmodelParams,
    prior_cameras,
)
from passel.reconstruct.pairs import all_pairs, pairs_by_position, pairs_by_time
from passel.survey.assemble import footprint_m
from passel.survey.check import time_order
from passel.survey.split import photo_places
from passel.survey.submodel import SplitPlan, Submodel

Inputs = tuple[tuple[str, Input], ...]
Pairs = tuple[tuple[int, int], ...]

CAMERAS = "passel.pipeline.steps.cameras"
BLOCK = "passel.pipeline.steps.block"

EXHAUSTIVE = 60  # photos without GPS up to which every pair is matched
CROWD = 5  # photos without GPS, one after the other, that the place of a neighbour in time cannot stand for any more
LOOK_ALIKES, FOLLOWING = 20, 4
PAIRS_A_STEP = 100
SAMPLE = 40  # photos the calibration is made from
REACH = 2.5  # footprints within which two photos may share ground


@dataclass(frozen=True)
class Found:
    """The steps of features and matches, which every later step of the cameras builds on. features: in survey order."""

    features: tuple[Step, ...]
    matches: tuple[Step, ...]
    pairs_of: tuple[Pairs, ...]


def feature_steps(job: Job) -> list[Step]:
    cameras = {c.id: c for c in job.survey.cameras}
    steps = []
    for photo in job.survey.photos:
        c = cameras[photo.camera]
        params = FeatureParams(c.width_px, c.height_px, job.options.feature_quality)
        megapixels = c.width_px * c.height_px / 1e6
        steps.append(
            Step(
                "features", photo.name, f"{CAMERAS}:features", 2, params, (("photo", photo_input(photo)),),
                memory_mb=int(450 + 5 * megapixels), limit_s=600,
            )
        )  # fmt: skip
    return steps


def looks_step(features: Sequence[Step]) -> Step:
    """Look-alikes among photos without GPS."""
    return Step(
        "pairs", "looks", f"{CAMERAS}:looks", 1, LooksParams(LOOK_ALIKES, FOLLOWING), outputs("features", features),
        memory_mb=1500,
    )  # fmt: skip


def needs_looks(job: Job) -> bool:
    """Whether pairs must be found by looks: many photos without GPS, and too many photos to match every pair."""
    return len(job.survey.photos) > EXHAUSTIVE and len(_anywhere(job)) > 0


def pairs_to_match(job: Job, alike: np.ndarray | None = None) -> np.ndarray:
    """(p, 2) survey indices: by GPS where there is any, and by time where that contradicts it; photos that may be anywhere by looks.

    alike: (p, 2) pairs of photos that look alike, None where every pair is few.
    """
    anywhere = _anywhere(job)
    if alike is None:
        alike = all_pairs(len(job.survey.photos) if len(anywhere) else 0)
    by_looks = alike[np.isin(alike, anywhere).any(axis=1)]
    places = photo_places(job.survey)
    if places is None:
        return by_looks
    reach = footprint_m(job.survey)
    order = np.argsort([p.name for p in job.survey.photos])
    known = np.flatnonzero(~np.isin(order, anywhere))  # places, not survey indices
    near = pairs_by_position(places.xy_m[known], None if reach is None else REACH * reach)
    pairs = np.concatenate([order[known][near].reshape(-1, 2), by_looks])
    if all(p.time for p in job.survey.photos):
        as_taken = time_order([job.survey.photos[int(i)] for i in order[known]])
        pairs = np.concatenate([pairs, order[known][pairs_by_time(places.xy_m[known], as_taken)]])
    return np.unique(np.sort(pairs, axis=1), axis=0)


def _anywhere(job: Job) -> np.ndarray:
    """Survey indices of the photos that may show any part of the survey: all where none has GPS, else those without it that are more
    than `CROWD` together, such as a flight of a drone that wrote none. Their nearest ten by place are chance."""
    places = photo_places(job.survey)
    if places is None:
        return np.arange(len(job.survey.photos))
    order = np.argsort([p.name for p in job.survey.photos])
    lacking = np.array([job.survey.photos[int(i)].position is None for i in order], np.bool_)
    if not lacking.any():
        return np.zeros(0, np.int64)
    _, place, count = np.unique(places.xy_m[lacking], axis=0, return_inverse=True, return_counts=True)
    return np.sort(order[lacking][count[place.ravel()] > CROWD])


def match_steps(job: Job, features: Sequence[Step], pairs: np.ndarray, plan: SplitPlan) -> Found:
    """Chunks of pairs that share photos, so that few features are loaded for many pairs."""
    photos = job.survey.photos
    core = {name: k for k, s in enumerate(plan.submodels) for name in s.core}
    rank = {
        i: r for r, i in enumerate(sorted(range(len(photos)), key=lambda i: (core[photos[i].name], photos[i].name)))
    }
    ordered = sorted(
        ((int(a), int(b)) for a, b in pairs), key=lambda p: (min(rank[p[0]], rank[p[1]]), max(rank[p[0]], rank[p[1]]))
    )
    chunks = _chunks(ordered, PAIRS_A_STEP)
    planner = _MatchPlanner(job, features)
    steps = tuple(planner.step(f"pairs_{number:05d}", chunk) for number, chunk in enumerate(chunks))
    return Found(tuple(features), steps, tuple(chunks))


def in_smaller_chunks(job: Job, found: Found, broken: Container[str], pairs_a_step: int) -> Found:
    """The same with the match steps of these digests replaced by steps of fewer pairs."""
    planner = _MatchPlanner(job, found.features)
    made: list[tuple[Step, Pairs]] = []
    for step, pairs in zip(found.matches, found.pairs_of):
        if step.digest in broken:
            parts = enumerate(_chunks(pairs, pairs_a_step))
            made += [(planner.step(f"{step.name}_{number:02d}", part), part) for number, part in parts]
        else:
            made.append((step, pairs))
    return replace(found, matches=tuple(s for s, _ in made), pairs_of=tuple(p for _, p in made))


def without(found: Found, broken: Container[str]) -> Found:
    """The same less the match steps of these digests."""
    kept = [(s, p) for s, p in zip(found.matches, found.pairs_of) if s.digest not in broken]
    return replace(found, matches=tuple(s for s, _ in kept), pairs_of=tuple(p for _, p in kept))


def _chunks(pairs: Sequence[tuple[int, int]], most: int) -> list[Pairs]:
    return [tuple(pairs[i : i + most]) for i in range(0, len(pairs), most)]


class _MatchPlanner:
    """Makes match steps of pairs (survey indices); what they share is looked up once."""

    def __init__(self, job: Job, features: Sequence[Step]) -> None:
        self._photos, self._features = job.survey.photos, features
        self._cameras, self._camera_of = prior_cameras(job.survey), job.survey.camera_index()

    def step(self, name: str, pairs: Pairs) -> Step:
        used = sorted({i for pair in pairs for i in pair})
        local = {i: k for k, i in enumerate(used)}
        params = MatchParams(
            tuple(self._photos[i].name for i in used),
            tuple((local[a], local[b]) for a, b in pairs),
            self._cameras,
            tuple(int(self._camera_of[i]) for i in used),
        )
        inputs = outputs("features", [self._features[i] for i in used])
        return Step("matches", name, f"{CAMERAS}:matches", 1, params, inputs, memory_mb=1000, limit_s=1800)


def calibration_step(job: Job, found: Found, plan: SplitPlan) -> Step | None:
    """A pass over a connected sample in the thick of the survey; None for one submodel, which calibrates itself."""
    if len(plan.submodels) < 2:
        return None
    places = photo_places(job.survey)
    assert places is not None, "a split survey has positions"
    cameras = [p.camera for p in sorted(job.survey.photos, key=lambda p: p.name)]
    middle = np.median(places.xy_m, axis=0)
    # Start in the thick of it: the photo whose neighbours are nearest, among those not at the survey's edge.
    distance = np.linalg.norm(places.xy_m - middle, axis=1)
    start = places.xy_m[int(np.argmin(distance))]
    order = np.lexsort((np.arange(len(cameras)), np.linalg.norm(places.xy_m - start, axis=1)))
    names = sorted(places.names[i] for i in order[:SAMPLE])
    sample = Submodel("calibration", tuple(names), ())
    return _mapping("calibration", job, found, sample, "incremental", None)


def submodel_steps(
    job: Job, found: Found, submodels: Sequence[Submodel], mapper: str, calibration: Step | None
) -> list[Step]:
    return [_mapping("mapping", job, found, s, mapper, calibration) for s in submodels]


def _mapping(stage: str, job: Job, found: Found, submodel: Submodel, mapper: str, calibration: Step | None) -> Step:
    index = {p.name: i for i, p in enumerate(job.survey.photos)}
    wanted = {index[n] for n in submodel.photos}
    chunks = [
        step for step, pairs in zip(found.matches, found.pairs_of) if any(a in wanted and b in wanted for a, b in pairs)
    ]
    inputs: Inputs = (
        ("survey", job.survey_file),
        *outputs("features", [found.features[index[n]] for n in submodel.photos]),
        *outputs("matches", chunks),
        *((("calibration", ArtifactInput(calibration.digest)),) if calibration else ()),
    )
    params = SubmodelParams(
        submodel.name, submodel.photos, mapper, job.options.feature_quality, job.options.camera_lens
    )
    n = len(submodel.photos)
    return Step(
        stage, f"{submodel.name}_{mapper}", f"{CAMERAS}:submodel", 14, params, inputs,
        memory_mb=500 + 2 * n, limit_s=1800 + 30.0 * n,
    )  # fmt: skip


def align_step(job: Job, submodels: Sequence[Submodel], mapped: Sequence[Step]) -> Step:
    params = AlignParams(
        tuple(s.name for s in submodels), tuple(s.core for s in submodels), not job.options.sm_no_align
    )
    inputs: Inputs = (("survey", job.survey_file), *outputs("scene", mapped))
    memory = 500 + sum(len(s.photos) for s in submodels) // 16
    return Step("align", "similarities", f"{BLOCK}:align", 2, params, inputs, memory_mb=memory, limit_s=6 * 3600)


def _readout_s(job: Job) -> float | None:
    return job.options.rolling_shutter_readout_ms / 1000.0 if job.options.rolling_shutter else None


def adjust_step(job: Job, found: Found, aligned: Step) -> Step:
    names = tuple(p.name for p in job.survey.photos)
    params = AdjustParams(names, job.options.feature_quality, job.options.camera_lens, _readout_s(job))
    inputs: Inputs = (
        ("survey", job.survey_file),
        ("aligned", ArtifactInput(aligned.digest)),
        *outputs("features", found.features),
        *outputs("matches", found.matches),
    )
    memory = 500 + len(job.survey.photos) // 6
    return Step("align", "adjustment", f"{BLOCK}:adjust", 18, params, inputs, memory_mb=memory, limit_s=24 * 3600)
