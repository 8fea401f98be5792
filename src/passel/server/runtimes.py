"""What a job has only while the server runs: its lock, its output, its driver, what the driver said last."""

from __future__ import annotations

import asyncio
import secrets
import threading
from dataclasses import dataclass, field

from passel.server.console import Console
from passel.server.drivers import Driver, Stages, StepSeen
from passel.server.folders import JobFolder
from passel.server.multipart import BodyWatch
from passel.server.uploads import Receiver, Tally

STEPS_KEPT = 50_000
"""The job of 12,000 photos has 27,000."""


class StepLog:
    """The steps of a run that have finished, oldest first, for readers who come again and again and want what is new."""

    def __init__(self) -> None:
        self._key, self._steps = secrets.token_hex(4), list[StepSeen]()

    def add(self, step: StepSeen) -> None:
        """One more; what is too much is left out."""
        if len(self._steps) < STEPS_KEPT:
            self._steps.append(step)

    @property
    def mark(self) -> str:
        """How far it is now; another run's marks are others."""
        return f"{self._key}.{len(self._steps)}"

    def since(self, mark: str) -> list[StepSeen]:
        """What came after this mark; everything when it is none of this run."""
        key, _, count = mark.partition(".")
        known = int(count) if key == self._key and count.isdecimal() and len(count) < 10 else 0
        return self._steps[known:]


@dataclass(frozen=True)
class Live:
    """What a running driver last said. steps: all that have finished. holes: what the map lacks."""

    stages: Stages = field(default_factory=Stages)
    steps: StepLog = field(default_factory=StepLog)
    holes: tuple[str, ...] = ()


@dataclass
class Runtime:
    """lock: held for every change of state. stop: told to threads that work for the job. task: what works on it now;
    appending: files that are sent in pieces just now, by name; tally: what its owner's limits need to know;
    drives: it is a run, of which only some go at once. made: stage and name of each step that
    was, however often; deaths: of its driver since the latest of them."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    stop: threading.Event = field(default_factory=threading.Event)
    receivers: set[Receiver] = field(default_factory=set)
    tally: Tally | None = None
    appending: dict[str, BodyWatch] = field(default_factory=dict)
    live: Live = field(default_factory=Live)
    driver: Driver | None = None
    task: asyncio.Task[None] | None = None
    drives: bool = False
    made: set[tuple[str, str]] = field(default_factory=set)
    deaths: int = 0
    console: Console | None = None

    def console_in(self, folder: JobFolder) -> Console:
        """The job's output, opened at its first use."""
        if self.console is None:
            self.console = Console(folder.console)
        return self.console


class Runtimes:
    """The runtimes of all jobs that were touched since the start."""

    def __init__(self) -> None:
        self._all: dict[str, Runtime] = {}

    def of(self, uuid: str) -> Runtime:
        """The job's, made at its first use."""
        return self._all.setdefault(uuid, Runtime())

    def find(self, uuid: str) -> Runtime | None:
        """The job's, if it has one."""
        return self._all.get(uuid)

    def forget(self, uuid: str) -> None:
        """The job is gone."""
        self._all.pop(uuid, None)
