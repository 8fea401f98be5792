"""The executor of a passel: it knows the order of a job's steps, hands ready ones to the coordinator, and learns their outcome."""

from __future__ import annotations

import pickle
import queue
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from passel.cluster.user_files import ChangedError, UserFiles
from passel.cluster.wire.drivers import (
    Brought,
    Capacity,
    Ended,
    Hello,
    ReadyStep,
    Started,
    WantFiles,
    Withdraw,
    from_line,
    to_line,
)
from passel.cluster.wire.workers import Failure, InputRef, WireError, pack
from passel.errors import PasselError, StorageError
from passel.pipeline.events import Artifact, Delivery, OnEvent, Outcome, StepFailure, StepStarted
from passel.pipeline.executor import MOST_ATTEMPTS, Workplace, ending_on_signals, interrupted, raise_if_run_ends
from passel.pipeline.manifest import Manifest
from passel.pipeline.schedule import Schedule
from passel.pipeline.step import ArtifactInput, FileInput, Input, Step
from passel.pipeline.store import Store

_STEPS_A_THREAD = 3
"""Ready steps handed over at a time, for each thread of the passel: enough to keep all busy, few enough to keep the order."""
_FEWEST_STEPS = 30
_CONNECT_S = 5.0


class CoordinatorLostError(PasselError):
    """Begin again: the link to the coordinator broke (it ended, or another driver took over the job), or an artifact was lost."""

    exit_code = 75  # sysexits' "try again": whoever started this driver starts it again


@dataclass(frozen=True)
class JobLink:
    """How a driver reaches the coordinator: the socket, the job's name, and its share of a busy passel. most_cores: that its steps
    may use at once, 0 = any number.
    """

    socket: Path
    job: str
    share: float = 1.0
    most_cores: int = 0


_News = Started | Ended | Capacity | None
"""None: look whether the run was stopped or the link lost."""


class PasselExecutor:
    """Runs steps on the workers of a passel. on_capacity is called (in any thread) when machines come and go."""

    def __init__(self, workplace: Workplace, link: JobLink, on_capacity: Callable[[Capacity], None]) -> None:
        workplace.prepare()
        self._workplace = replace(workplace, store=Store(workplace.store.root, self._bring))
        self._on_capacity = on_capacity
        self._brought: queue.SimpleQueue[Brought | None] = queue.SimpleQueue()
        self._news: queue.SimpleQueue[_News] = queue.SimpleQueue()
        self._window = _FEWEST_STEPS
        self._most_cores = link.most_cores
        self._files = UserFiles()
        self._stopped = self._lost = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(_CONNECT_S)
            self._socket.connect(str(link.socket))
            self._socket.settimeout(None)
        except OSError as error:
            self._socket.close()
            what = f"The coordinator does not answer: {error.strerror or error}"
            raise CoordinatorLostError(what, str(link.socket), "is `passel serve` running?") from error
        self._reader = threading.Thread(target=self._read, name="coordinator", daemon=True)
        self._reader.start()
        self._send(Hello(link.job, str(workplace.store.root.absolute()), link.share))

    def run(self, steps: Sequence[Step], on_event: OnEvent) -> dict[str, Outcome]:
        with ending_on_signals(self):
            self._files.note(steps)
            schedule = Schedule(steps, self._workplace.store, on_event)
            submitter = _Submitter(schedule, self._workplace, self._files)
            running: dict[str, _Submitted] = {}
            self._fill(schedule, submitter, running)
            while running:
                news = self._news.get()
                self._raise_if_over()
                if isinstance(news, Started) and news.digest in running:
                    on_event(StepStarted(running[news.digest].step, news.attempt, news.worker))
                elif isinstance(news, Ended) and news.digest in running:
                    self._settle(schedule, running, news)
                    self._fill(schedule, submitter, running)
                elif isinstance(news, Capacity):
                    self._fill(schedule, submitter, running)
            self._raise_if_over()
            return schedule.outcomes

    def stop(self) -> None:
        self._stopped = True
        with suppress(CoordinatorLostError):
            self._send(Withdraw("stopped"))
        self._news.put(None)
        self._brought.put(None)

    def close(self) -> None:
        """Says that the job wants nothing more, and hangs up. May be called twice."""
        with suppress(CoordinatorLostError):
            self._send(Withdraw("closed"))
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join(timeout=5)
        self._socket.close()

    def __enter__(self) -> PasselExecutor:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()

    def _fill(self, schedule: Schedule, submitter: _Submitter, running: dict[str, _Submitted]) -> None:
        """Hands ready steps over, as many as keep all workers busy for a while."""
        while self._wants_more(running) and (step := schedule.next_ready()) is not None:
            found = self._workplace.store.find(step.digest)  # a worker may have brought it before we were started again
            if found is not None:
                schedule.settle(step, self._artifact(found))
                continue
            try:
                ready = submitter.ready(step)
            except ChangedError as changed:
                schedule.settle(step, StepFailure(step, changed.what, "error", 0, changed.where, changed.todo))
                continue
            running[step.digest] = _Submitted(step, ready)
            self._send(ready)

    def _wants_more(self, running: dict[str, _Submitted]) -> bool:
        """What is handed over may run: so a job that is to use few cores hands over few steps."""
        few = not self._most_cores or sum(s.step.threads for s in running.values()) < self._most_cores
        return few and len(running) < self._window

    def _settle(self, schedule: Schedule, running: dict[str, _Submitted], ended: Ended) -> None:
        submitted = running[ended.digest]
        step, store = submitted.step, self._workplace.store
        outcome: Outcome
        if ended.failure is not None:
            outcome = self._failure(step, ended, ended.failure)
            raise_if_run_ends(outcome)
        else:
            manifest = store.find(ended.digest)
            if manifest is None and submitted.tries < MOST_ATTEMPTS:  # damaged or removed since: it is made again
                submitted.tries += 1
                self._send(submitted.ready)
                return
            outcome = self._outcome(step, ended, manifest)
        del running[ended.digest]
        schedule.settle(step, outcome)

    def _outcome(self, step: Step, ended: Ended, manifest: Manifest | None) -> Outcome:
        if manifest is None:
            what = f"worker {ended.worker} said that the step was done, but its artifact is not in the store"
            where = str(self._workplace.store.path(step.digest))
            return StepFailure(step, what, "died", ended.attempts, where, "check the disk of the coordinator")
        return self._artifact(manifest, Delivery(ended.worker, ended.attempts, ended.bytes_in, ended.bytes_out))

    def _artifact(self, manifest: Manifest, delivery: Delivery | None = None) -> Artifact:
        store = self._workplace.store
        return Artifact(manifest, store.path(manifest.digest), delivery, store.bring_of(manifest.digest))

    def _bring(self, digest: str) -> None:
        """Waits until the coordinator has fetched these files from the bucket."""
        if not self._workplace.store.is_away(digest):
            return
        self._send(WantFiles(digest))
        while True:
            news = self._brought.get()
            self._raise_if_over()
            if news is not None and news.digest == digest:
                break
        if news.failure is not None:
            raise StorageError(news.failure.what, news.failure.where, news.failure.todo)

    def _failure(self, step: Step, ended: Ended, failure: Failure) -> StepFailure:
        """The worker's words, with the log kept here and named by its place here."""
        log = self._workplace.log(step)
        words = [failure.what, failure.where, failure.todo]
        if failure.log_tail:
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(failure.log_tail, "utf-8", errors="surrogateescape")
        if failure.log:
            words = [w.replace(failure.log, str(log)) for w in words]
        what = f"{words[0]} (on {ended.worker})" if ended.worker else words[0]
        return StepFailure(step, what, failure.kind, ended.attempts, words[1], words[2])

    def _raise_if_over(self) -> None:
        if self._stopped:
            raise interrupted()
        if self._lost:
            raise CoordinatorLostError(
                "The link to the coordinator broke", todo="the job goes on when it is started again"
            )

    def _send(self, record: Hello | ReadyStep | WantFiles | Withdraw) -> None:
        try:
            self._socket.sendall(to_line(record))
        except OSError as error:
            raise CoordinatorLostError("The link to the coordinator broke", str(error)) from error

    def _read(self) -> None:
        """The thread that listens to the coordinator."""
        try:
            with self._socket.makefile("rb") as lines:
                for line in lines:
                    record = from_line(line)
                    if isinstance(record, Capacity):
                        self._window = max(_FEWEST_STEPS, _STEPS_A_THREAD * record.threads)
                        self._on_capacity(record)
                    if isinstance(record, Brought):
                        self._brought.put(record)
                    if isinstance(record, Started | Ended | Capacity):
                        self._news.put(record)
        except (OSError, WireError):
            pass  # the same as an end
        self._lost = True
        self._news.put(None)
        self._brought.put(None)


@dataclass
class _Submitted:
    """A step that the coordinator has. tries: how often it was handed over."""

    step: Step
    ready: ReadyStep
    tries: int = 1


class _Submitter:
    """Describes ready steps for workers that do not see this disk."""

    def __init__(self, schedule: Schedule, workplace: Workplace, files: UserFiles) -> None:
        self._schedule, self._workplace, self._files = schedule, workplace, files
        self._known: dict[tuple[str, Input], InputRef] = {}

    def ready(self, step: Step) -> ReadyStep:
        """Raises ChangedError."""
        paths = self._schedule.paths(step)
        inputs = tuple(self._ref(role, given, path) for (role, given), (_, path) in zip(step.inputs, paths))
        return ReadyStep(
            step.digest,
            step.stage,
            step.name,
            self._schedule.rank(step),
            step.memory_mb,
            step.threads,
            pack(pickle.dumps(step)),
            inputs,
            str(self._workplace.log(step).absolute()),
            step.function,
        )

    def _ref(self, role: str, given: Input, path: Path) -> InputRef:
        found = self._known.get((role, given))
        if found is None:
            found = self._files.ref(role, given) if isinstance(given, FileInput) else self._artifact(role, given, path)
            self._known[role, given] = found
        return found

    def _artifact(self, role: str, given: ArtifactInput, path: Path) -> InputRef:
        store = self._workplace.store
        manifest = store.find(given.digest)
        if manifest is None:
            what = "An artifact was damaged or removed while the job ran: it is made again"
            raise CoordinatorLostError(what, str(store.path(given.digest).parent))
        files = tuple(f for f in manifest.files if given.reads(f.name))
        return InputRef(
            role,
            "artifact",
            given.digest,
            size_bytes=sum(f.size_bytes for f in files),
            files=files,
            path=str(path),
            away=store.is_away(given.digest),
            part=len(files) < len(manifest.files),
        )
