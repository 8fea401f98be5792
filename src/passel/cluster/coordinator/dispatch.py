"""The dispatcher: which worker runs which step, and what that means for the jobs. Pure: no clock, no network, no disk.

Whatever is lost, repeated or late, the next poll repairs it: a poll says all that a worker holds, and what differs from what
it should hold is told again, taken over or cancelled. Every submitted step gets exactly one `Ended`.
"""

from __future__ import annotations

from passel.cluster.coordinator import placement
from passel.cluster.coordinator.dispatch_state import (
    JobState,
    ReplacedError,
    Run,
    StalePollError,
    Task,
    Worker,
    assignment,
    hidden_paths,
)
from passel.cluster.coordinator.placement import Fit, Roster
from passel.cluster.coordinator.setbacks import DIED_KINDS, FULL_S, MOST_STRIKES, held_too_long, may_have_begun, poison
from passel.cluster.wire.drivers import Ended, Hello, ReadyStep, Started
from passel.cluster.wire.workers import LEASE_S, Failure, Finished, PollReply, PollRequest, Prefetch, Running

BROKEN_LEASE_S = 3.0
"""A worker whose connection broke is lost when it does not return within so long."""
ORPHAN_S = 600.0
"""What a worker runs for a job whose driver is not there (yet) may go on for so long."""
FORGET_S = 3600.0
"""A lost worker that does not return for so long is forgotten."""
STALL_S = 5.0
"""After a longer time without a tick nobody is blamed for silence."""
_CANCEL_AGAIN_S = 1.0

News = tuple[str, Started | Ended]
"""A job, and what its driver should know."""


class Dispatcher:
    """All jobs, steps and workers. Times are seconds of one monotonic clock. epoch: makes tickets unlike those of earlier lives."""

    def __init__(self, epoch: str = "") -> None:
        self._epoch, self._serial = epoch, 0
        self.jobs: dict[str, JobState] = {}
        self.workers: dict[str, Worker] = {}
        self._orphans: dict[str, Run] = {}
        self._over, self._news = set[str](), list[News]()
        self._roster: Roster | None = None
        self._ticked_s = float("inf")

    # ---- jobs

    def begin(self, hello: Hello, now_s: float) -> None:
        """A job's driver has come (again)."""
        self.leave(hello.job, now_s)
        self._over.discard(hello.job)
        self.jobs[hello.job] = JobState(hello.job, hello.store, hello.share)

    def submit(self, job: str, ready: ReadyStep, now_s: float) -> None:
        """A step that may run. One that a worker runs already is taken over; one that is known is not doubled."""
        state = self.jobs[job]
        if ready.digest in state.tasks:
            return
        state.ended.discard(ready.digest)
        self._serial += 1
        task = Task(job, ready, self._serial, now_s)
        state.tasks[ready.digest] = task
        for run in [r for r in self._orphans.values() if r.key == task.key]:
            del self._orphans[run.ticket]
            self._tie(run, task)
        if not task.runs:
            state.queue(task, now_s)

    def leave(self, job: str, now_s: float) -> None:
        """The driver is gone, perhaps to be started again: what runs goes on for a while, as orphans."""
        state = self.jobs.pop(job, None)
        for task in state.tasks.values() if state else ():
            task.waiting = False
            for run in list(task.runs.values()):
                if run.told:
                    run.task, run.since_s = None, now_s
                    self._orphans[run.ticket] = run
                else:
                    self._drop(run)

    def withdraw(self, job: str, now_s: float) -> None:
        """The job wants nothing any more: what waits is dropped, what runs is cancelled."""
        self.leave(job, now_s)
        self._over.add(job)
        for run in [r for r in self._orphans.values() if r.key[0] == job]:
            self._cancel(run)

    def delivered(self, job: str, digest: str, worker: str) -> None:
        """A worker's artifact has come. Should it never say that the step has ended, it has all the same."""
        task = self.jobs[job].tasks.get(digest) if job in self.jobs else None
        if task is not None:
            task.delivered_by = worker
            if all(r.worker != worker for r in task.runs.values()):  # it was thought lost
                self._end(task, worker, None)

    def give_up(self, job: str, failure: Failure) -> None:
        """The job's steps end here, all for one reason."""
        for task in list(self.jobs[job].tasks.values()) if job in self.jobs else ():
            self._end(task, "", failure)

    # ---- workers

    def poll(self, name: str, request: PollRequest, now_s: float) -> None:
        """Takes what a worker says. Raises StalePollError, ReplacedError, and then nothing has changed."""
        worker = self.workers.get(name)
        if worker is None:
            worker = self.workers[name] = Worker(name, request, want_cache=not request.cache.whole)
        elif request.session in worker.past_sessions:
            raise ReplacedError("Another agent works under this name", name, "give each machine an identity of its own")
        elif request.session != worker.session:
            self._renew(worker, request, now_s)
        elif request.seq <= worker.request.seq:
            raise StalePollError("This poll was overtaken by a later one", name)
        self._hear(worker, request, now_s)
        for finished in request.finished:
            self._take_finished(worker, finished, now_s)
        self._take_running(worker, request.running, now_s)

    def connection_broke(self, name: str, poll: PollRequest, now_s: float) -> None:
        """A held poll broke off: the worker may have died. It has a moment to return, if it has not done so already."""
        if (worker := self.workers.get(name)) and worker.request is poll and not worker.lost:
            worker.gone_s = min(worker.gone_s, now_s + BROKEN_LEASE_S)

    def cut(self, name: str, now_s: float) -> None:
        """The worker's identity was revoked: it is gone for good."""
        if worker := self.workers.pop(name, None):
            self._lose(worker, now_s)

    def drain(self, name: str, drained: bool = True) -> bool:
        """Gives a worker no new steps (or again, with False). False when there is none of this name."""
        worker = self.workers.get(name)
        if worker is None or worker.lost:
            return False
        worker.asked_to_drain, worker.drain_told = drained, False
        self._roster = None
        return True

    def tick(self, now_s: float) -> None:
        """Notices what only time tells: lost workers, orphans, disks that stay full. To be called every second or so."""
        stalled_s, self._ticked_s = now_s - self._ticked_s, now_s
        if stalled_s > STALL_S:  # it was we who heard nothing: their polls lie in the queue
            for worker in self.workers.values():
                worker.gone_s += stalled_s
        for worker in list(self.workers.values()):
            if not worker.lost and now_s >= worker.gone_s:
                self._lose(worker, now_s)
            elif worker.lost and now_s >= worker.gone_s + FORGET_S:
                del self.workers[worker.name]
        for run in [r for r in self._orphans.values() if now_s - r.since_s > ORPHAN_S]:
            self._cancel(run)
        self._roster = None
        for job in self.jobs.values():
            for _, task in [e for e in job.waiting if e[1].full_on]:
                self._hold(task, now_s)
        placement.keep_free(self.jobs.values(), self._current_roster(now_s), now_s)
        self.match(now_s)
        for task in placement.slow_steps(self.jobs.values(), now_s):  # tried elsewhere, too; the first result counts
            if (found := placement.idle_for(task, self._current_roster(now_s))) is not None:
                self._give(found[0], task, found[1], now_s)

    def match(self, now_s: float) -> None:
        """Gives waiting steps to workers with room, one each in turn, so that all get some."""
        roster = self._current_roster(now_s)
        free = [w for w in roster.workers if w.free_threads() > 0]
        while free and (waiting := [j for j in self.jobs.values() if j.waiting]):
            free.sort(key=lambda w: (-w.free_threads(), w.name))
            given = []
            for worker in free:
                chosen = placement.choose(worker, waiting, roster, now_s)
                if chosen is not None:
                    self._give(worker, *chosen, now_s)
                    given.append(worker)
            free = [w for w in given if w.free_threads() > 0]

    def _current_roster(self, now_s: float) -> Roster:
        if self._roster is None:
            self._roster = Roster([w for w in self.workers.values() if w.takes_steps(now_s)])
        return self._roster

    def has_news(self, name: str, now_s: float) -> bool:
        """True when a held poll of this worker should be answered now."""
        worker = self.workers[name]
        return bool(
            worker.acknowledge
            or worker.want_cache
            or (worker.asked_to_drain and not worker.drain_told)
            or any(not r.told and not r.cancelled for r in worker.runs.values())
            or any(r.cancelled and now_s - r.cancel_told_s > _CANCEL_AGAIN_S for r in worker.runs.values())
        )

    def reply(self, name: str, seq: int, now_s: float) -> PollReply:
        """The answer to this worker's latest poll; what it says counts as told."""
        worker = self.workers[name]
        run, cancel = [], []
        for r in worker.runs.values():
            if r.cancelled:
                r.cancel_told_s = now_s
                cancel.append(r.ticket)
            elif not r.told and r.task is not None:
                r.told = True
                run.append(assignment(r, r.task, self.jobs[r.key[0]].store, worker.request.local))
        hinted = placement.to_prefetch(worker, self.jobs.values(), self._current_roster(now_s))
        prefetch = [Prefetch(t.job, hidden_paths(t.ready.inputs)) for t in hinted]
        acknowledged, worker.acknowledge = worker.acknowledge, []
        want_cache, worker.want_cache, worker.drain_told = worker.want_cache, False, True
        return PollReply(
            seq, tuple(run), tuple(cancel), tuple(acknowledged), tuple(prefetch), worker.asked_to_drain, want_cache
        )

    def take_news(self) -> list[News]:
        """For the drivers, since the last time."""
        news, self._news = self._news, []
        return news

    # ---- what a poll says

    def _renew(self, worker: Worker, request: PollRequest, now_s: float) -> None:
        """A new agent under the name: whatever the old one ran is gone."""
        self._lose(worker, now_s)
        worker.past_sessions.add(worker.session)
        worker.cached.clear()
        worker.acknowledge.clear()
        worker.want_cache, worker.full_until_s, worker.drain_told = not request.cache.whole, 0.0, False

    def _hear(self, worker: Worker, request: PollRequest, now_s: float) -> None:
        before, worker.request = worker.request, request
        same = (before.slots, before.draining, before.full) == (request.slots, request.draining, request.full)
        if worker.lost or not same or before is request:
            self._roster = None
        worker.lost, worker.gone_s = False, now_s + max(LEASE_S, 1.5 * request.wait_s)
        if request.cache.whole:
            worker.cached = set(request.cache.added)
        else:
            worker.cached.update(request.cache.added)
            worker.cached.difference_update(request.cache.removed)

    def _take_running(self, worker: Worker, running: tuple[Running, ...], now_s: float) -> None:
        for said in running:
            run = worker.runs.get(said.ticket) or self._adopt(worker, said, now_s)
            run.confirmed = run.told = True
            run.phase = said.phase
            if said.phase == "running" and run.running_s is None:
                run.running_s = now_s
                if run.task is not None:
                    self._tell(run.task, Started(run.key[1], run.attempt, worker.name))
        said_tickets = {r.ticket for r in running}
        for run in [r for r in worker.runs.values() if r.ticket not in said_tickets]:
            if run.confirmed or run.task is None:  # it had it and has it no more, or needs it no more
                self._drop(run)
                self._requeue_if_idle(run.task, now_s)
            else:
                run.told = False  # the answer was lost: it is told again

    def _adopt(self, worker: Worker, said: Running, now_s: float) -> Run:
        """A step that the worker has and we do not know of: from before our restart, or the worker was thought lost."""
        key = (said.job, said.digest)
        run = Run(said.ticket, worker.name, key, None, said.memory_mb, said.threads, said.attempt, now_s, told=True)
        worker.runs[run.ticket] = run
        job = self.jobs.get(said.job)
        task = job.tasks.get(said.digest) if job else None
        if task is not None:
            task.deaths.pop(worker.session, None)  # it lives, after all
            self._tie(run, task)
        elif said.job in self._over or (job and said.digest in job.ended):
            self._cancel(run)
        else:
            self._orphans[run.ticket] = run
        return run

    def _take_finished(self, worker: Worker, finished: Finished, now_s: float) -> None:
        """A step's end, perhaps told before, perhaps of a step that ended elsewhere meanwhile."""
        worker.acknowledge.append(finished.ticket)
        run = worker.runs.get(finished.ticket)
        job = self.jobs.get(finished.job)
        task = job.tasks.get(finished.digest) if job else None
        if run is not None:
            self._drop(run)
            worker.bytes_in += finished.bytes_in
            worker.bytes_out += finished.bytes_out
            worker.steps_done += finished.failure is None
        if job is None or task is None:
            return
        if run is not None:
            task.bytes_in += finished.bytes_in
            task.bytes_out += finished.bytes_out
        if finished.failure is None:
            job.note_seconds(task.kind, finished.seconds)
            self._end(task, worker.name, None)
        elif task.delivered_by:  # whatever went wrong then, the artifact is here
            self._end(task, task.delivered_by, None)
        elif run is not None and not run.cancelled:
            self._take_failure(worker, task, finished.failure, now_s)

    def _take_failure(self, worker: Worker, task: Task, failure: Failure, now_s: float) -> None:
        task.last_failure = failure
        if failure.kind in DIED_KINDS:
            task.failures += 1
            task.avoid.add(worker.name)
            if task.strikes >= MOST_STRIKES:
                self._end(task, worker.name, failure)
        elif failure.kind == "storage":
            task.full_on.add(worker.name)
            self._roster = None
            if not (worker.request.full or worker.request.local):  # they say themselves when there is room again
                worker.full_until_s = now_s + FULL_S
        elif failure.kind != "stopped":  # that was the worker's, not the step's
            self._end(task, worker.name, failure)
        self._requeue_if_idle(task, now_s)

    # ---- what follows

    def _lose(self, worker: Worker, now_s: float) -> None:
        """Nothing more is expected of this worker's session. Steps in its processes are under suspicion, unless it was leaving."""
        worker.lost, worker.gone_s, self._roster = True, now_s, None
        for run in list(worker.runs.values()):
            self._drop(run)
            task = run.task
            if task is None or run.cancelled:
                continue
            if may_have_begun(run, task, worker) and not worker.drains:
                task.deaths[worker.session] = worker.name
                task.avoid.add(worker.name)
                if task.strikes >= MOST_STRIKES and not task.runs and not task.delivered_by:
                    self._end(task, worker.name, poison(task))
            self._requeue_if_idle(task, now_s)

    def _give(self, worker: Worker, task: Task, fit: Fit, now_s: float) -> None:
        self.jobs[task.job].unqueue(task)
        self._serial += 1
        task.attempts += 1
        run = Run(
            f"{self._epoch}{self._serial:x}", worker.name, task.key, None, fit.memory_mb, fit.threads, task.attempts,
            now_s, exclusive=fit.exclusive,
        )  # fmt: skip
        worker.runs[run.ticket] = run
        self._tie(run, task)

    def _tie(self, run: Run, task: Task) -> None:
        """This run is for this task."""
        job = self.jobs[task.job]
        job.unqueue(task)
        run.task = task
        task.runs[run.ticket] = run
        task.attempts = max(task.attempts, run.attempt)
        job.threads += run.threads
        if run.running_s is not None:
            self._tell(task, Started(run.key[1], run.attempt, run.worker))

    def _untie(self, run: Run) -> None:
        task = run.task
        if task is not None and task.runs.pop(run.ticket, None) is not None and task.job in self.jobs:
            self.jobs[task.job].threads -= run.threads

    def _drop(self, run: Run) -> None:
        """The worker does not hold it any more."""
        if worker := self.workers.get(run.worker):
            worker.runs.pop(run.ticket, None)
        self._orphans.pop(run.ticket, None)
        self._untie(run)

    def _cancel(self, run: Run) -> None:
        """Nobody wants it; it holds its slots until the worker says that it is gone."""
        self._untie(run)
        self._orphans.pop(run.ticket, None)
        run.task, run.cancelled = None, True
        if not run.told:
            self._drop(run)

    def _requeue_if_idle(self, task: Task | None, now_s: float) -> None:
        job = self.jobs.get(task.job) if task else None
        if task and job and job.tasks.get(task.ready.digest) is task and not task.runs and not task.waiting:
            if task.delivered_by:
                self._end(task, task.delivered_by, None)
            else:
                job.queue(task, now_s)

    def _end(self, task: Task, worker: str, failure: Failure | None) -> None:
        """The one place where a step ends."""
        job = self.jobs[task.job]
        job.unqueue(task)
        del job.tasks[task.ready.digest]
        job.ended.add(task.ready.digest)
        job.made += failure is None
        job.failed += failure is not None
        for run in list(task.runs.values()):
            self._cancel(run)
        self._tell(task, Ended(task.ready.digest, task.attempts, worker, failure, task.bytes_in, task.bytes_out))

    def _hold(self, task: Task, now_s: float) -> None:
        """A step that a full disk refused may go where there is room again; given up when nobody makes any."""
        if held_too_long(task, self.workers.values(), now_s):
            self._end(task, ", ".join(sorted(task.full_on)), task.last_failure)

    def _tell(self, task: Task, news: Started | Ended) -> None:
        self._news.append((task.job, news))
