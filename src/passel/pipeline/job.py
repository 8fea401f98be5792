"""A job: what is asked for, and where its things are. Everything a plan needs to know that is not an artifact."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from passel.errors import PasselError
from passel.option_table import STAGES
from passel.options import Options
from passel.pipeline.events import Artifact, OnEvent, Outcome, StepFailure
from passel.pipeline.executor import Executor
from passel.pipeline.step import ArtifactInput, FileInput, Step
from passel.products.layout import write_text
from passel.survey.model import Photo, Survey

WORK_FOLDER = ".passel"


@dataclass(frozen=True)
class Project:
    """The working folder of a job, inside its output folder."""

    output: Path

    @property
    def work(self) -> Path:
        return self.output / WORK_FOLDER

    @property
    def store(self) -> Path:
        return self.work / "store"

    @property
    def logs(self) -> Path:
        return self.work / "logs"


@dataclass(frozen=True)
class Job:
    """A surveyed job. survey_file: the survey as steps get it, without what changes no result: the photos' paths, the findings."""

    survey: Survey
    survey_file: FileInput
    options: Options

    @staticmethod
    def of(survey: Survey, options: Options, project: Project) -> Job:
        bare = replace(survey, photos=tuple(replace(p, path=p.name) for p in survey.photos), findings=())
        path = project.work / "survey.json"
        text = bare.as_json()
        write_text(path, text)
        return Job(survey, FileInput(str(path.absolute()), hashlib.sha256(text.encode()).hexdigest()), options)

    def ends_with(self, stage: str) -> bool:
        """Whether the user wants nothing after this stage."""
        return STAGES.index(self.options.end_with) <= STAGES.index(stage)


def photo_input(photo: Photo) -> FileInput:
    return FileInput(photo.path, photo.sha256)


def outputs(role: str, steps: Sequence[Step], *files: str) -> tuple[tuple[str, ArtifactInput], ...]:
    """The artifacts of some steps as inputs of another, all in one role. files: as `ArtifactInput.files`."""
    return tuple((role, ArtifactInput(s.digest, files)) for s in steps)


def run_all(executor: Executor, steps: Sequence[Step], on_event: OnEvent) -> Mapping[str, Artifact]:
    """Run steps that the job cannot do without. Raises the first cause when one fails."""
    outcomes = executor.run(steps, on_event)
    failed = first_failure(steps, outcomes)
    if failed is not None:
        raise failed
    return {d: o for d, o in outcomes.items() if isinstance(o, Artifact)}


def first_failure(steps: Sequence[Step], outcomes: Mapping[str, Outcome]) -> PasselError | None:
    """The error of the first step, in plan order, that failed by itself (not because another did); None if all are done."""
    failures = [o for o in (outcomes[s.digest] for s in steps) if isinstance(o, StepFailure)]
    causes = [f for f in failures if f.kind != "skipped"] or failures
    return causes[0].error() if causes else None
