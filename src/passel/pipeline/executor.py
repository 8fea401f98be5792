"""Executors: they take a graph of steps and bring every artifact into the store. All give the same results."""

from __future__ import annotations

import hashlib
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol

from passel.errors import Interrupted, StorageError
from passel.pipeline.events import Artifact, Event, OnEvent, Outcome, StepFailure, StepStarted
from passel.pipeline.host import run_step
from passel.pipeline.messages import RETRIED_KINDS, Answer, Done, Failed, Request
from passel.pipeline.schedule import Schedule
from passel.pipeline.step import Step
from passel.pipeline.step_host import HostOptions, StepHost
from passel.pipeline.store import Store

MOST_ATTEMPTS = 3


class Executor(Protocol):
    """Runs steps, wherever that may be."""

    def run(self, steps: Sequence[Step], on_event: OnEvent) -> dict[str, Outcome]:
        """Runs the steps, which depend on each other and on the store through their ArtifactInputs.

        Returns the outcome of every step by digest. A failed step fails those that need it; all others still run.
        Raises Interrupted after `stop`, Ctrl-C or SIGTERM; StorageError when the disk refuses. Finished steps are kept.
        """

    def stop(self) -> None:
        """Ends a run from any thread: kills the processes of its steps; `run` raises Interrupted."""

    def close(self) -> None:
        """Ends all processes and threads of the executor."""


class Runner(Protocol):
    """Something that tries a step once: a host, or this very process."""

    def run(self, request: Request) -> Answer: ...


@dataclass(frozen=True)
class Workplace:
    """Where an executor works. logs: folder for what the steps print, one file a step that printed anything."""

    store: Store
    logs: Path
    hosts: HostOptions = field(default_factory=HostOptions)

    def prepare(self) -> None:
        """Makes the folders and sweeps leftovers of dead processes. Raises StorageError."""
        self.store.create()

    def request(self, step: Step, paths: tuple[tuple[str, Path], ...]) -> Request:
        return Request(step, paths, self.store.root.absolute(), self.log(step))

    def log(self, step: Step) -> Path:
        """The log file of a step: readable, safe as a file name and never two steps' at once."""
        name = re.sub(r"[^\w.-]+", "_", step.name)[:60]
        short = hashlib.sha256(step.name.encode()).hexdigest()[:6]
        stage = re.sub(r"[^\w.-]+", "_", step.stage)[:60]
        return self.logs.absolute() / stage / f"{name}-{short}.log"


class InlineRunner:
    """Runs steps in this process, for the debugger: a crash ends everything, and time limits do not hold."""

    def run(self, request: Request) -> Answer:
        return run_step(request)


def run_with_retries(runner: Runner, request: Request, workplace: Workplace, on_event: OnEvent) -> Outcome:
    """Tries a step until it is done; one that died or hung gets a fresh host, at most `MOST_ATTEMPTS` in all."""
    step = request.step
    for attempt in range(1, MOST_ATTEMPTS + 1):
        on_event(StepStarted(step, attempt))
        answer = runner.run(Request(step, request.paths, request.store, request.log, attempt))
        if isinstance(answer, Done):
            return Artifact(answer.manifest, workplace.store.path(step.digest))
        died = answer.kind in RETRIED_KINDS
        if died and (full := workplace.store.full_disk()) is not None:  # asked while the dead process's files lie there
            answer = Failed("storage", full.what, full.where, full.todo)
        failure = StepFailure(step, answer.what, answer.kind, attempt, answer.where, answer.todo)
        if died:
            workplace.store.sweep()  # what the dead process had begun
        if answer.kind not in RETRIED_KINDS:
            break
    return failure


def raise_if_run_ends(outcome: Outcome) -> None:
    """Raises when the outcome ends the whole run: the disk refuses, or it was stopped."""
    if isinstance(outcome, StepFailure) and outcome.kind in ("storage", "broken"):
        raise StorageError(outcome.message, outcome.where, outcome.todo)
    if isinstance(outcome, StepFailure) and outcome.kind == "stopped":
        raise interrupted()


def interrupted() -> Interrupted:
    return Interrupted("The run was stopped", todo="start it again: it goes on where it was")


@contextmanager
def ending_on_signals(executor: Executor) -> Iterator[None]:
    """Ctrl-C and, in the main thread, SIGTERM end the run inside: hosts killed, then Interrupted raised."""
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _as_keyboard_interrupt) if in_main else None
    try:
        yield
    except KeyboardInterrupt as error:
        with _deaf_to_signals(in_main):
            executor.stop()
        raise interrupted() from error
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _as_keyboard_interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def _deaf_to_signals(in_main: bool) -> Iterator[None]:
    """A second signal must not cut the clearing-up short: impatience, or a closed terminal, which shell and kernel both tell."""
    if not in_main:
        yield
        return
    before = {n: signal.signal(n, signal.SIG_IGN) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


class SerialExecutor:
    """One step after the other, in one host; with inline=True in this process."""

    def __init__(self, workplace: Workplace, inline: bool = False) -> None:
        workplace.prepare()
        self._workplace = workplace
        self._host = None if inline else StepHost(workplace.hosts)
        self._runner: Runner = self._host or InlineRunner()
        self._stopped = False

    def run(self, steps: Sequence[Step], on_event: OnEvent) -> dict[str, Outcome]:
        with ending_on_signals(self):
            schedule = Schedule(steps, self._workplace.store, on_event)
            while (step := schedule.next_ready()) is not None:
                if self._stopped:
                    raise interrupted()
                request = self._workplace.request(step, schedule.paths(step))
                outcome = run_with_retries(self._runner, request, self._workplace, on_event)
                raise_if_run_ends(outcome)
                schedule.settle(step, outcome)
            return schedule.outcomes

    def stop(self) -> None:
        self._stopped = True
        if self._host:
            self._host.kill()

    def close(self) -> None:
        if self._host:
            self._host.close()

    def __enter__(self) -> SerialExecutor:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()


def ignore_events(event: Event) -> None:
    """For callers that do not watch."""
