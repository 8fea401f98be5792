"""What happens in a run, as told to progress displays and the run's log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from passel.errors import PasselError, StepError
from passel.pipeline.manifest import Manifest
from passel.pipeline.messages import Kind
from passel.pipeline.step import Step
from passel.pipeline.store import Bring


@dataclass(frozen=True)
class Delivery:
    """How an artifact came from a worker of a passel. bytes: that went over the network for it, in all attempts."""

    worker: str
    attempts: int
    bytes_in: int
    bytes_out: int


@dataclass(frozen=True)
class Artifact:
    """A finished step: its manifest and the folder with its files. delivery: None when it was made on this machine.

    bring: fetches the files, which are kept elsewhere, into the folder.
    """

    manifest: Manifest
    folder: Path
    delivery: Delivery | None = None
    bring: Bring | None = None

    @property
    def path(self) -> Path:
        """The folder, with its files in it. Fetching them may take a while. Raises PasselError."""
        if self.bring is not None:
            self.bring(self.manifest.digest)
        return self.folder


@dataclass(frozen=True)
class StepFailure:
    """A step without artifact. kind: see `messages.Kind`. attempts: tries made. where, todo: for the user."""

    step: Step
    message: str
    kind: Kind
    attempts: int
    where: str = ""
    todo: str = ""

    def error(self) -> PasselError:
        """The failure as the error to raise when the run cannot do without the step."""
        place = self.where or f"{self.step.stage} {self.step.name}"
        return StepError(self.message, place, self.todo)


Outcome = Artifact | StepFailure


@dataclass(frozen=True)
class StepsPlanned:
    """An executor got these steps, each digest once; some may be in the store already."""

    steps: tuple[Step, ...]


@dataclass(frozen=True)
class StepStarted:
    """A step is being tried; attempt is 1 for the first try. worker: by which one, '' on this machine."""

    step: Step
    attempt: int = 1
    worker: str = ""


@dataclass(frozen=True)
class StepDone:
    """A step's artifact is there. reused: it was in the store before the run."""

    step: Step
    manifest: Manifest
    reused: bool
    delivery: Delivery | None = None

    @property
    def stage(self) -> str:
        return self.step.stage


@dataclass(frozen=True)
class StepFailed:
    """A step failed for good, or was skipped because an input failed."""

    failure: StepFailure

    @property
    def stage(self) -> str:
        return self.failure.step.stage


Event = StepsPlanned | StepStarted | StepDone | StepFailed
OnEvent = Callable[[Event], None]
