"""A dispatcher with scripted workers and drivers, for tests: polls are delivered, lost or repeated as the test says."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from passel.cluster.coordinator.dispatch import Dispatcher
from passel.cluster.wire.drivers import Ended, Hello, ReadyStep, Started
from passel.cluster.wire.workers import (
    Assignment,
    CacheNews,
    Failure,
    Finished,
    InputRef,
    MachineInfo,
    PollReply,
    PollRequest,
    Running,
    Slots,
)


def ready(
    name: str,
    rank: int = 0,
    memory_mb: int = 500,
    threads: int = 1,
    stage: str = "s",
    function: str = "f",
    **inputs: int,
) -> ReadyStep:
    """A step whose digest is its name; inputs: key → bytes."""
    refs = tuple(InputRef("in", "artifact", key, size_bytes=size) for key, size in inputs.items())
    return ReadyStep(name, stage, name, rank, memory_mb, threads, "", refs, "/log", function)


@dataclass
class Held:
    """A step that a scripted worker has."""

    assignment: Assignment
    phase: str = "fetching"


@dataclass
class ScriptedWorker:
    """What an agent remembers: it says all of it in each poll, and believes only the answer to its latest one."""

    name: str
    slots: Slots
    session: str = "1"
    seq: int = 0
    held: dict[str, Held] = field(default_factory=dict)
    finished: dict[str, Finished] = field(default_factory=dict)
    cached: tuple[str, ...] = ()
    draining: bool = False
    full: bool = False
    local: bool = False

    def request(self) -> PollRequest:
        self.seq += 1
        running = tuple(
            Running(h.assignment.ticket, h.assignment.job, h.assignment.digest, h.phase, h.assignment.attempt,
                    h.assignment.memory_mb, h.assignment.threads)  # type: ignore[arg-type]
            for h in self.held.values()
        )  # fmt: skip
        machine = MachineInfo(self.name, self.slots.cpus, self.slots.memory_mb, self.slots.memory_mb, 10_000)
        return PollRequest(
            self.session, self.seq, 10.0, machine, self.slots, running, tuple(self.finished.values()),
            CacheNews(whole=True, added=self.cached), self.draining, self.full, self.local,
        )  # fmt: skip

    def take(self, reply: PollReply) -> None:
        """Does what the answer says, unless it is an old one."""
        if reply.seq != self.seq:
            return
        for ticket in reply.acknowledged:
            self.finished.pop(ticket, None)
        for ticket in reply.cancel:
            self.held.pop(ticket, None)
        for assignment in reply.run:
            if assignment.ticket not in self.finished:
                self.held.setdefault(assignment.ticket, Held(assignment))

    def run(self, ticket: str) -> None:
        self.held[ticket].phase = "running"

    def finish(self, ticket: str, failure: Failure | None = None, seconds: float = 1.0) -> None:
        a = self.held.pop(ticket).assignment
        self.finished[ticket] = Finished(ticket, a.job, a.digest, a.attempt, failure, seconds, bytes_in=10, bytes_out=5)

    def restart(self) -> None:
        """As after kill -9."""
        self.session, self.seq = f"{int(self.session) + 1}", 0
        self.held.clear()
        self.finished.clear()

    def used(self) -> Slots:
        busy = [h.assignment for h in self.held.values() if h.phase != "sending"]
        return Slots(sum(a.threads for a in busy), sum(a.memory_mb for a in busy))


class World:
    """A dispatcher, its clock and what it told the drivers."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.dispatcher = Dispatcher("t")
        self.started: list[Started] = []
        self.ended: dict[str, Ended] = {}

    def job(self, name: str = "job", share: float = 1.0) -> None:
        self.dispatcher.begin(Hello(name, f"/{name}/store", share), self.now_s)

    def submit(self, *steps: ReadyStep, job: str = "job") -> None:
        for step in steps:
            self.dispatcher.submit(job, step, self.now_s)

    def poll(self, worker: ScriptedWorker, lost: bool = False) -> PollReply:
        """One poll and its answer; lost: the answer does not arrive."""
        self.dispatcher.poll(worker.name, worker.request(), self.now_s)
        self.dispatcher.match(self.now_s)
        reply = self.dispatcher.reply(worker.name, worker.seq, self.now_s)
        self.listen()
        if not lost:
            worker.take(reply)
        return reply

    def listen(self) -> None:
        for _, news in self.dispatcher.take_news():
            if isinstance(news, Started):
                self.started.append(news)
            else:
                assert news.digest not in self.ended, "a step ended twice"
                self.ended[news.digest] = news

    def later(self, seconds: float, *polling: ScriptedWorker) -> None:
        """Time passes; these workers go on polling meanwhile."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s = min(end_s, self.now_s + 1.0)
            self.dispatcher.tick(self.now_s)
            for worker in polling:
                self.poll(worker)
        self.listen()

    def work(self, worker: ScriptedWorker, failure: Failure | None = None) -> list[str]:
        """The worker gets what it can and finishes all of it; the digests."""
        self.poll(worker)
        tickets = list(worker.held)
        done = [worker.held[t].assignment.digest for t in tickets]
        for ticket in tickets:
            worker.run(ticket)
        self.poll(worker)
        for ticket in tickets:
            worker.finish(ticket, failure)
        self.poll(worker)
        return done


def small(name: str = "a", cpus: int = 2, memory_mb: int = 2000, **more: object) -> ScriptedWorker:
    return replace(ScriptedWorker(name, Slots(cpus, memory_mb)), **more)  # type: ignore[arg-type]


def digests(worker: ScriptedWorker) -> list[str]:
    """Of the steps that it has."""
    return [h.assignment.digest for h in worker.held.values()]
