"""Running the first half: submodels are tried, judged, tried again, split again, and at last left out; then all come into one frame."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from passel.errors import PasselError, ReconstructionError
from passel.pipeline import plan_cameras as plan
from passel.pipeline.events import Artifact, OnEvent, Outcome
from passel.pipeline.executor import Executor
from passel.pipeline.job import Job, first_failure, run_all
from passel.pipeline.match_all import Matched, match_all
from passel.pipeline.step import Step
from passel.survey.check import counted, some
from passel.survey.submodel import SplitPlan, Submodel

MAPPERS = ("global", "incremental")
TOLD_TILT_DEG = 3.0  # more than a gimbal may be off
SMALLEST_HALF = 6  # a submodel of fewer core photos is not split again
LETTERS = "abcdefghijklmnopqrstuvwxyz"
MOST_GROUPS = 26
SHOWN = 3
FEWEST_WITH_GPS = 4  # of a group that only GPS ties to the others: as many as the gates ask for


@dataclass(frozen=True)
class MappedSubmodel:
    """How a submodel fared. artifact: its scene, None when it is left out. attempts: mappings tried. status: 'good', 'retried',
    'resplit', 'apart' (only GPS ties it to the others) or 'quarantined'. why: the last gates or failure in words."""

    submodel: Submodel
    step: Step | None
    artifact: Artifact | None
    attempts: int
    status: str
    why: str


@dataclass(frozen=True)
class CamerasFound:
    """All cameras in one frame. aligned, adjusted: artifacts of the two steps. unmatched: pairs left out, in words."""

    submodels: tuple[MappedSubmodel, ...]
    aligned: Artifact
    adjusted: Artifact
    adjusted_step: Step
    features: tuple[Artifact, ...]
    unmatched: tuple[str, ...] = ()

    @property
    def holes(self) -> tuple[str, ...]:
        """What the map will lack, in words."""
        return tuple(
            f"submodel {m.submodel.name} ({counted(len(m.submodel.core))}: {some(m.submodel.core)}) could not be mapped: {m.why}"
            for m in self.submodels
            if m.status == "quarantined"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about pairs, positions and files, in words."""
        told = list(self.unmatched)
        turned = int(self.adjusted.manifest.fact("turned"))
        if turned:
            told.append(f"By their yaw, {turned} photos were turned by 180° after the flight: used as they were taken")
        tilt_deg = float(self.adjusted.manifest.fact("tilt_by_altitudes_deg"))
        if tilt_deg >= TOLD_TILT_DEG:
            told.append(
                f"The photos' GPS altitudes would tilt the map by {tilt_deg:.0f}° against the cameras' own angles: "
                "they set only its mean height"
            )
        off = json.loads(str(self.adjusted.manifest.fact("focals_off")))
        if off:
            told.append(
                f"The focal length is not what the photos tell: {some(off)}. If some were cut after the flight, heights may be wrong: "
                "give the photos as they were taken"
            )
        mapped = [m for m in self.submodels if m.step is not None]
        for m in mapped if len(mapped) > 1 else []:
            if m.status == "apart":
                told.append(
                    f"{len(m.submodel.core)} photos ({m.submodel.core[0]} to {m.submodel.core[-1]}) were mapped by themselves: "
                    "as far as is known, only GPS ties them to the rest"
                )
        return tuple(told)


@dataclass(frozen=True)
class _Mapping:
    """What every mapping of a run needs. found: features and matches; calibration: what submodels are mapped from, if not each its own."""

    job: Job
    found: plan.Found
    calibration: Step | None
    executor: Executor
    on_event: OnEvent

    def run(self, submodels: Sequence[Submodel], mapper: str) -> list[tuple[Submodel, Step, Outcome]]:
        """Map submodels with one mapper."""
        steps = plan.submodel_steps(self.job, self.found, submodels, mapper, self.calibration)
        outcomes = self.executor.run(steps, self.on_event) if steps else {}
        return [(submodel, step, outcomes[step.digest]) for submodel, step in zip(submodels, steps)]


def find_cameras(job: Job, split: SplitPlan, executor: Executor, on_event: OnEvent) -> CamerasFound | None:
    """Features to adjusted scene; None when the user wants an earlier end. Raises ReconstructionError when no submodel stands."""
    features = plan.feature_steps(job)
    if job.ends_with("features"):
        run_all(executor, features, on_event)
        return None
    alike = None
    if plan.needs_looks(job):
        looks = plan.looks_step(features)
        made = run_all(executor, [*features, looks], on_event)
        alike = np.load(made[looks.digest].path / "pairs.npy")
    pairs = plan.pairs_to_match(job, alike)
    found = plan.match_steps(job, features, pairs, split)
    calibration = plan.calibration_step(job, found, split)
    first = MAPPERS[0] if len(job.survey.photos) > 4 else MAPPERS[1]
    calibration = None if job.ends_with("matches") else calibration
    matched = match_all(job, found, calibration, executor, on_event)
    found = matched.found
    if job.ends_with("matches"):
        return None
    calibration = _calibrated(job, split, matched, executor, on_event)
    if job.ends_with("calibration"):
        return None
    mapping = _Mapping(job, found, calibration, executor, on_event)
    tried = mapping.run(split.submodels, first)
    mapped = _with_groups_apart(mapping, _judged(mapping, tried))
    good = [m for m in mapped if m.step is not None]
    if not good:
        broken = first_failure([step for _, step, _ in tried], {step.digest: outcome for _, step, outcome in tried})
        raise _nothing_mapped(job, mapped, broken)
    if job.ends_with("mapping"):
        return None
    aligned = plan.align_step(job, [m.submodel for m in good], [m.step for m in good if m.step])
    adjusted = plan.adjust_step(job, found, aligned)
    end = run_all(executor, [aligned, adjusted], on_event)
    detected = tuple(o for s in features if isinstance(o := matched.outcomes[s.digest], Artifact))
    return CamerasFound(tuple(mapped), end[aligned.digest], end[adjusted.digest], adjusted, detected, matched.notes)


def _calibrated(job: Job, split: SplitPlan, matched: Matched, executor: Executor, on_event: OnEvent) -> Step | None:
    """The calibration to map from. None for one submodel, and where the sample maps badly, which must not shape every submodel: each
    then calibrates itself, from the metadata."""
    calibration = plan.calibration_step(job, matched.found, split)
    if calibration is None:
        return None
    outcome = matched.outcomes.get(calibration.digest)
    if outcome is None:  # matches were lost that it was planned with
        outcome = executor.run([calibration], on_event)[calibration.digest]
    return calibration if _passed(outcome) else None


def _nothing_mapped(job: Job, mapped: Sequence[MappedSubmodel], broken: PasselError | None) -> PasselError:
    """The error when no submodel stands. broken: the first mapping that ended without any result, which is no fault of the photos."""
    if broken is not None:
        return broken
    largest = sorted(mapped, key=lambda m: (-len(m.submodel.core), m.submodel.name))[:SHOWN]
    whys = [(counted(len(m.submodel.core)), m.why or "no mapper placed them") for m in largest]
    why = whys[0][1] if len(mapped) == 1 else "; ".join(f"of {photos}: {w}" for photos, w in whys)
    return ReconstructionError(
        f"The cameras could not be found: {why}",
        f"{len(job.survey.photos)} photos",
        "photos must overlap by 60 % or more; check that they are sharp and of one place",
    )


def _judged(mapping: _Mapping, tried: Sequence[tuple[Submodel, Step, Outcome]]) -> list[MappedSubmodel]:
    """Second chances for what failed: the other mapper, then both on its parts."""
    result = [_outcome(*one, 1, "good") for one in tried]
    failed = [m.submodel for m in result if m.step is None]
    result = [m for m in result if m.step is not None]
    second = [_outcome(*one, 2, "retried") for one in mapping.run(failed, MAPPERS[1])]
    result += [m for m in second if m.step is not None]
    result += _in_parts(mapping, [m for m in second if m.step is None], 2)
    return sorted(result, key=lambda m: m.submodel.name)


def _in_parts(
    mapping: _Mapping, failed: Sequence[MappedSubmodel], attempts: int, may_halve: bool = True
) -> list[MappedSubmodel]:
    """What becomes of failed submodels that are cut: their parts, and what is left out. Of a half that fails, too, only the photos that
    can be mapped without the rest are tried again. attempts: mappings tried before."""
    if not failed:
        return []
    cut = [(m, *_parts(mapping.job, m, may_halve)) for m in failed]
    result = [m for m, parts, _ in cut if not parts]
    result += [rest for m, parts, kind in cut if parts for rest in _in_no_part(m, parts, kind)]
    kind_of = {p.name: kind for _, parts, kind in cut for p in parts}
    tried = _by_either(mapping, [p for _, parts, _ in cut for p in parts], attempts)
    lost = [m for m in tried if m.step is None]
    result += [m for m in tried if m.step is not None or kind_of[m.submodel.name] == "standing"]
    for again, halve in (("groups", may_halve), ("halves", False)):
        result += _in_parts(mapping, [m for m in lost if kind_of[m.submodel.name] == again], attempts + 2, halve)
    return result


def _by_either(mapping: _Mapping, submodels: Sequence[Submodel], attempts: int) -> list[MappedSubmodel]:
    """How parts of submodels fare with one mapper, and those that fail with the other. attempts: mappings tried before."""
    good: list[MappedSubmodel] = []
    failed: list[MappedSubmodel] = []
    left = list(submodels)
    for attempt, mapper in enumerate(MAPPERS, attempts + 1):
        tried = [_outcome(s, step, outcome, attempt, _tied(s)) for s, step, outcome in mapping.run(left, mapper)]
        good += [m for m in tried if m.step is not None]
        failed = [m for m in tried if m.step is None]
        left = [m.submodel for m in failed]
    return good + failed


def _passed(outcome: Outcome) -> bool:
    """Whether a mapping was made and stands; a mapper that crashed or hung left nothing."""
    return isinstance(outcome, Artifact) and bool(outcome.manifest.fact("passed"))


def _outcome(submodel: Submodel, step: Step, outcome: Outcome, attempts: int, status: str) -> MappedSubmodel:
    if isinstance(outcome, Artifact) and _passed(outcome):
        return MappedSubmodel(submodel, step, outcome, attempts, status, "")
    why = str(outcome.manifest.fact("why")) if isinstance(outcome, Artifact) else outcome.message
    return MappedSubmodel(
        submodel, None, outcome if isinstance(outcome, Artifact) else None, attempts, "quarantined", why
    )


def _groups(job: Job, mapped: MappedSubmodel, suffixes: Sequence[str]) -> list[Submodel]:
    """Submodels, named by suffixes, of photos that a mapping said matches hold together, apart from its other photos; only those with
    GPS, for nothing else tells where they belong."""
    if mapped.artifact is None or not job.survey.frame.is_georeferenced:
        return []
    core, halo = set(mapped.submodel.core), set(mapped.submodel.halo)
    made = []
    for suffix, group in zip(suffixes, json.loads(str(mapped.artifact.manifest.fact("groups")))):
        own = tuple(n for n in group if n in core)
        if _has_its_place(job, own):
            made.append(Submodel(mapped.submodel.name + suffix, own, tuple(n for n in group if n in halo)))
    return made


def _with_groups_apart(mapping: _Mapping, mapped: Sequence[MappedSubmodel]) -> list[MappedSubmodel]:
    """The submodels, and those of photos that good ones had left out and that make a good one by themselves."""
    suffixes = [f"x{k}" for k in range(MOST_GROUPS)]
    left = [s for m in mapped if m.step is not None for s in _groups(mapping.job, m, suffixes)]
    tried = _by_either(mapping, left, 0)
    added = [m for m in tried if m.step is not None]
    gone = {n for m in added for n in m.submodel.core}
    kept = [
        replace(m, submodel=replace(m.submodel, core=tuple(n for n in m.submodel.core if n not in gone)))
        for m in mapped
    ]
    return sorted([*kept, *added], key=lambda m: m.submodel.name)


def _tied(part: Submodel) -> str:
    """The status of a part of a submodel: whether it shares photos with others."""
    return "resplit" if part.halo else "apart"


def _parts(job: Job, mapped: MappedSubmodel, may_halve: bool) -> tuple[list[Submodel], str]:
    """What a failed submodel is cut into, and what these are: the 'groups' that matches hold together, else 'halves' of what is one, or,
    of one too small for that or a half itself, what is 'standing': the photos that can be mapped without the rest."""
    groups = _groups(job, mapped, LETTERS)
    if len(groups) > 1:
        return groups, "groups"
    halves = _halves(job, mapped.submodel) if may_halve else []
    return (halves, "halves") if halves else (_standing(job, mapped), "standing")


def _has_its_place(job: Job, names: Sequence[str]) -> bool:
    """Whether GPS alone tells where a model of these photos belongs."""
    located = {p.name for p in job.survey.photos if p.position is not None}
    return sum(n in located for n in names) >= FEWEST_WITH_GPS


def _standing(job: Job, mapped: MappedSubmodel) -> list[Submodel]:
    """The part of a failed submodel that its mapping said may be mapped alone; none if there is no such part, or nothing ties it to
    other submodels: neither photos they share nor enough GPS."""
    if mapped.artifact is None:
        return []
    stands = set(json.loads(str(mapped.artifact.manifest.fact("stands"))))
    own, near = (tuple(n for n in names if n in stands) for names in (mapped.submodel.core, mapped.submodel.halo))
    tied = near or _has_its_place(job, own)
    all_there_is = len(mapped.submodel.core) == len(job.survey.photos)
    return [Submodel(f"{mapped.submodel.name}a", own, near)] if own and (tied or all_there_is) else []


def _in_no_part(mapped: MappedSubmodel, parts: Sequence[Submodel], kind: str) -> list[MappedSubmodel]:
    """Of photos that no part has for its own: as left out. kind: of the parts."""
    taken = {n for p in parts for n in p.core}
    rest = tuple(n for n in mapped.submodel.core if n not in taken)
    if not rest:
        return []
    beside_placed = (
        kind == "standing" and mapped.artifact is not None and int(mapped.artifact.manifest.fact("photos")) > 0
    )
    why = "no mapper could place them" if beside_placed else "neither what they show nor GPS ties them to the others"
    return [
        MappedSubmodel(
            Submodel(f"{mapped.submodel.name}_rest", rest, ()), None, None, mapped.attempts, "quarantined", why
        )
    ]


def _halves(job: Job, submodel: Submodel) -> list[Submodel]:
    """The submodel cut in two across its longer side; none if too small. Each half has the other's near photos as halo, and what of the
    submodel's own halo lies on its side, so that it still shares photos with every neighbour."""
    index = {p.name: i for i, p in enumerate(job.survey.photos)}
    everywhere = job.survey.positions_in_world()[:, :2]
    xy = everywhere[[index[n] for n in submodel.core]]
    if len(submodel.core) < 2 * SMALLEST_HALF or not np.isfinite(xy).all():
        return []
    axis = int(np.argmax(np.ptp(xy, axis=0)))
    order = np.lexsort((np.arange(len(xy)), xy[:, axis]))
    middle = len(order) // 2
    border = max(3, len(order) // 5)
    made = []
    for letter, core, near in (
        ("a", order[:middle], order[middle : middle + border]),
        ("b", order[middle:], order[middle - border : middle]),
    ):
        names = tuple(sorted(submodel.core[i] for i in core))
        cut = xy[order[middle], axis]
        outer = [n for n in submodel.halo if (everywhere[index[n], axis] < cut) == (letter == "a")]
        halo = (*(submodel.core[i] for i in near), *outer)
        made.append(Submodel(f"{submodel.name}{letter}", names, tuple(sorted(halo))))
    return made
