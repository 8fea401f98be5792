"""What the dispatcher remembers: jobs with their waiting steps, workers, and which step runs where. No decisions here."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field, replace

from passel.cluster.wire.drivers import ReadyStep
from passel.cluster.wire.workers import Assignment, Failure, InputRef, Phase, PollRequest, Slots, WireError

Key = tuple[str, str]
"""(job, digest)."""
Kind = tuple[str, str]
"""Stage and function of a step."""
Need = tuple[int, int]
"""(memory in MB, threads)."""


class StalePollError(WireError):
    """A poll that was overtaken by a later one."""


class ReplacedError(WireError):
    """A poll of an agent that another one of the same name has replaced."""


@dataclass(eq=False)
class Run:
    """A step on a worker. task: None for an orphan, whose job has not (yet) submitted it.

    told: it was in an answer since the worker's last poll. confirmed: the worker said that it has it. cancelled: it should end.
    """

    ticket: str
    worker: str
    key: Key
    task: Task | None
    memory_mb: int
    threads: int
    attempt: int
    since_s: float
    told: bool = False
    confirmed: bool = False
    cancelled: bool = False
    cancel_told_s: float = float("-inf")
    exclusive: bool = False
    phase: Phase = "fetching"
    running_s: float | None = None

    @property
    def takes_slots(self) -> bool:
        return self.phase != "sending"


@dataclass(eq=False)
class Task:
    """A submitted step that has no end yet.

    deaths: workers lost while they ran it, by session. failures: times it died or hung on a worker that lived.
    avoid: workers to go round. full_on: workers whose disk refused it. held_since_s: when no other was left.
    delivered_by: whose artifact is here already, '' as long as there is none.
    """

    job: str
    ready: ReadyStep
    order: int
    waiting_since_s: float
    attempts: int = 0
    failures: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    deaths: dict[str, str] = field(default_factory=dict)
    avoid: set[str] = field(default_factory=set)
    full_on: set[str] = field(default_factory=set)
    held_since_s: float | None = None
    runs: dict[str, Run] = field(default_factory=dict)
    waiting: bool = False
    hinted_to: str = ""
    delivered_by: str = ""
    last_failure: Failure | None = None

    @property
    def key(self) -> Key:
        return self.job, self.ready.digest

    @property
    def threads(self) -> int:
        return max(1, self.ready.threads)

    @property
    def need(self) -> Need:
        return self.ready.memory_mb, self.threads

    @property
    def is_special(self) -> bool:
        """True when it may not run everywhere where others of its size may."""
        return bool(self.failures or self.deaths or self.avoid or self.full_on)

    @property
    def strikes(self) -> int:
        """How often something died with it."""
        return self.failures + len(self.deaths)

    @property
    def kind(self) -> Kind:
        """With whom it may be compared: stages have steps of several functions, some of which take ten times as long."""
        return self.ready.stage, self.ready.function

    @property
    def place(self) -> tuple[int, int]:
        return self.ready.rank, self.order


@dataclass(eq=False)
class JobState:
    """A job whose driver is there. threads: that its steps take now. seconds: (count, mean) of steps that ended, by kind.

    special: waiting steps that may not run everywhere. passed: waiting steps that others were put before, and since when.
    """

    name: str
    store: str
    share: float
    threads: int = 0
    tasks: dict[str, Task] = field(default_factory=dict)
    waiting: list[tuple[tuple[int, int], Task]] = field(default_factory=list)
    waiting_in_stage: dict[str, int] = field(default_factory=dict)
    waiting_by_need: dict[Need, int] = field(default_factory=dict)
    special: set[str] = field(default_factory=set)
    passed: dict[str, float] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    made: int = 0
    failed: int = 0
    seconds: dict[Kind, tuple[int, float]] = field(default_factory=dict)

    def queue(self, task: Task, now_s: float) -> None:
        """Puts a task into the line by its rank."""
        task.waiting, task.waiting_since_s = True, now_s
        task.hinted_to = ""
        bisect.insort(self.waiting, (task.place, task), key=lambda entry: entry[0])
        stage = task.ready.stage
        self.waiting_in_stage[stage] = self.waiting_in_stage.get(stage, 0) + 1
        self.waiting_by_need[task.need] = self.waiting_by_need.get(task.need, 0) + 1
        if task.is_special:
            self.special.add(task.ready.digest)

    def unqueue(self, task: Task) -> None:
        """Takes it out of the line."""
        if task.waiting:
            task.waiting = False
            self.waiting_in_stage[task.ready.stage] -= 1
            self.waiting_by_need[task.need] -= 1
            self.special.discard(task.ready.digest)
            self.passed.pop(task.ready.digest, None)
            del self.waiting[bisect.bisect_left(self.waiting, task.place, key=lambda entry: entry[0])]

    def note_seconds(self, kind: Kind, seconds: float) -> None:
        count, mean = self.seconds.get(kind, (0, 0.0))
        self.seconds[kind] = count + 1, mean + (seconds - mean) / (count + 1)


@dataclass(eq=False)
class Worker:
    """A worker as of its last poll.

    gone_s: when it will count as lost. full_until_s: its disk refused a step. kept_for: the large step that it is emptied for.
    """

    name: str
    request: PollRequest
    gone_s: float = 0.0
    asked_to_drain: bool = False
    drain_told: bool = False
    full_until_s: float = 0.0
    want_cache: bool = False
    lost: bool = False
    cached: set[str] = field(default_factory=set)
    runs: dict[str, Run] = field(default_factory=dict)
    acknowledge: list[str] = field(default_factory=list)
    past_sessions: set[str] = field(default_factory=set)
    kept_for: Task | None = None
    steps_done: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    @property
    def session(self) -> str:
        return self.request.session

    @property
    def slots(self) -> Slots:
        return self.request.slots

    @property
    def drains(self) -> bool:
        return self.asked_to_drain or self.request.draining

    def takes_steps(self, now_s: float) -> bool:
        return not (self.lost or self.drains or self.request.full or self.full_until_s > now_s)

    def busy(self) -> list[Run]:
        """The runs that take memory and threads."""
        return [r for r in self.runs.values() if r.takes_slots]

    def free_threads(self) -> int:
        return self.slots.cpus - sum(r.threads for r in self.runs.values() if r.takes_slots)


def assignment(run: Run, task: Task, store: str, local: bool) -> Assignment:
    """What the worker is told; where things are on this machine only when it is on it."""
    ready = task.ready
    inputs = ready.inputs if local else hidden_paths(ready.inputs)
    return Assignment(
        run.ticket, task.job, ready.digest, ready.stage, ready.name, run.attempt, run.memory_mb, run.threads, ready.step,
        inputs, store if local else "", ready.log if local else "",
    )  # fmt: skip


def hidden_paths(inputs: tuple[InputRef, ...]) -> tuple[InputRef, ...]:
    """For a worker that does not see this disk."""
    return tuple(replace(i, path="") if i.path else i for i in inputs)
