"""Any history of lost, late and repeated polls, deaths and restarts: every step ends once, no worker is given too much."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dispatch_world import ScriptedWorker, ready
from passel.cluster.coordinator.dispatch import Dispatcher
from passel.cluster.coordinator.dispatch_state import ReplacedError, StalePollError
from passel.cluster.wire.drivers import Ended, Hello, ReadyStep
from passel.cluster.wire.workers import Failure, PollReply, PollRequest, Slots

WORKERS = (("small", Slots(1, 1000)), ("middle", Slots(2, 3000)), ("large", Slots(4, 4000)))
JOBS = ("j1", "j2")
NAMES = st.sampled_from([name for name, _ in WORKERS])


class Histories(RuleBasedStateMachine):
    """`store` has the artifacts that workers delivered; `pending` is what each job's driver waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.lives = 0
        self.serial = 0
        self.workers = {name: ScriptedWorker(name, slots) for name, slots in WORKERS}
        self.late: list[tuple[str, PollRequest]] = []
        self.unread: list[tuple[str, PollReply]] = []
        self.pending: dict[str, dict[str, ReadyStep]] = {job: {} for job in JOBS}
        self.store: set[tuple[str, str]] = set()
        self.failed: set[tuple[str, str]] = set()
        self.wishes_to_die: set[str] = set()
        self.start_coordinator()

    def start_coordinator(self) -> None:
        self.lives += 1
        self.dispatcher = Dispatcher(f"life{self.lives}-")
        for job in JOBS:
            self.start_driver(job)

    def start_driver(self, job: str) -> None:
        """As PasselExecutor does: what is in the store is taken, the rest is submitted."""
        self.dispatcher.begin(Hello(job, f"/{job}"), self.now_s)
        for digest, step in list(self.pending[job].items()):
            if (job, digest) in self.store:
                del self.pending[job][digest]
            else:
                self.dispatcher.submit(job, step, self.now_s)

    def settle(self) -> None:
        self.dispatcher.match(self.now_s)
        for job, news in self.dispatcher.take_news():
            if isinstance(news, Ended):
                assert news.digest in self.pending[job], "ended twice, or never asked for"
                del self.pending[job][news.digest]
                if news.failure is None:
                    assert (job, news.digest) in self.store, "ended without an artifact"
                else:
                    self.failed.add((job, news.digest))

    def exchange(self, name: str, request: PollRequest) -> PollReply | None:
        try:
            self.dispatcher.poll(name, request, self.now_s)
        except (StalePollError, ReplacedError):
            return None
        self.settle()
        return self.dispatcher.reply(name, request.seq, self.now_s)

    # ---- the job's side

    @rule(
        job=st.sampled_from(JOBS), memory_mb=st.sampled_from([100, 900, 2500, 9000]), threads=st.sampled_from([1, 2, 8])
    )
    def submit(self, job: str, memory_mb: int, threads: int) -> None:
        self.serial += 1
        step = ready(
            f"{job}-{self.serial}", self.serial % 7, memory_mb, threads, stage=f"s{self.serial % 2}", k=self.serial
        )
        self.pending[job][step.digest] = step
        self.dispatcher.submit(job, step, self.now_s)
        self.settle()

    @rule(job=st.sampled_from(JOBS))
    def submit_again(self, job: str) -> None:
        for step in list(self.pending[job].values())[:2]:
            self.dispatcher.submit(job, step, self.now_s)

    @rule(job=st.sampled_from(JOBS))
    def driver_restarts(self, job: str) -> None:
        self.dispatcher.leave(job, self.now_s)
        self.settle()
        self.start_driver(job)
        self.settle()

    @rule(job=st.sampled_from(JOBS))
    def withdraw(self, job: str) -> None:
        self.dispatcher.withdraw(job, self.now_s)
        self.pending[job].clear()
        self.dispatcher.begin(Hello(job, f"/{job}"), self.now_s)

    @rule()
    def coordinator_restarts(self) -> None:
        self.start_coordinator()

    # ---- the workers' side

    @rule(name=NAMES)
    def poll(self, name: str) -> None:
        reply = self.exchange(name, self.workers[name].request())
        if reply is not None:
            self.workers[name].take(reply)

    @rule(name=NAMES)
    def poll_and_lose_the_answer(self, name: str) -> None:
        self.exchange(name, self.workers[name].request())

    @rule(name=NAMES)
    def poll_that_is_late(self, name: str) -> None:
        self.late.append((name, self.workers[name].request()))

    @precondition(lambda self: self.late)
    @rule(again=st.booleans())
    def late_poll_arrives(self, again: bool) -> None:
        name, request = self.late[0] if again else self.late.pop(0)
        reply = self.exchange(name, request)
        if reply is not None:
            self.unread.append((name, reply))

    @precondition(lambda self: self.unread)
    @rule()
    def late_answer_arrives(self) -> None:
        name, reply = self.unread.pop(0)
        worker = self.workers[name]
        if all(a.ticket.startswith(f"life{self.lives}-") for a in reply.run):
            worker.take(reply)

    @rule(name=NAMES)
    def run_all(self, name: str) -> None:
        for ticket in self.workers[name].held:
            self.workers[name].run(ticket)

    @rule(name=NAMES, end=st.sampled_from(["", "", "", "died", "timeout", "error", "storage", "stopped"]))
    def finish_one(self, name: str, end: str) -> None:
        worker = self.workers[name]
        ticket = next((t for t, h in worker.held.items() if h.phase != "fetching"), None)
        if ticket is None:
            return
        assignment = worker.held[ticket].assignment
        if not end:
            self.store.add((assignment.job, assignment.digest))
        worker.finish(ticket, Failure(end, end) if end else None)

    @rule(name=NAMES)
    def upload_one(self, name: str) -> None:
        for held in list(self.workers[name].held.values())[:1]:
            if held.phase == "running":
                held.phase = "sending"

    @rule(name=NAMES)
    def artifact_arrives(self, name: str) -> None:
        for assignment in [h.assignment for h in self.workers[name].held.values() if h.phase == "sending"][:1]:
            self.store.add((assignment.job, assignment.digest))
            self.dispatcher.delivered(assignment.job, assignment.digest, name)
            self.settle()

    @rule(name=NAMES)
    def worker_dies(self, name: str) -> None:
        self.workers[name].restart()

    @rule(name=NAMES, draining=st.booleans(), full=st.booleans())
    def worker_changes(self, name: str, draining: bool, full: bool) -> None:
        self.workers[name].draining, self.workers[name].full = draining, full

    @rule(name=NAMES)
    def connection_breaks(self, name: str) -> None:
        known = self.dispatcher.workers.get(name)
        if known:
            self.dispatcher.connection_broke(name, known.request, self.now_s)

    @rule(seconds=st.sampled_from([0.5, 4.0, 16.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s = min(end_s, self.now_s + 4.0)
            self.dispatcher.tick(self.now_s)
        self.settle()

    @invariant()
    def no_worker_holds_more_than_it_has(self) -> None:
        for worker in self.workers.values():
            used = worker.used()
            assert used.memory_mb <= worker.slots.memory_mb, worker.name
            assert used.cpus <= worker.slots.cpus, worker.name

    def teardown(self) -> None:
        """When the trouble is over, everything that was asked for ends."""
        for worker in self.workers.values():
            worker.draining = worker.full = False
            worker.seq += 1000
        for _ in range(60 + 4 * self.serial):
            if not any(self.pending.values()):
                break
            self.now_s += 5.0
            self.dispatcher.tick(self.now_s)
            for name in self.workers:
                self.poll(name)
                self.run_all(name)
                self.poll(name)
                for _ in list(self.workers[name].held):
                    self.finish_one(name, "")
                self.poll(name)
            self.no_worker_holds_more_than_it_has()
        assert not any(self.pending.values()), f"starved: {self.pending}"


Histories.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    database=None,
)
TestHistories = Histories.TestCase
