"""The local executor: an embedded Dask cluster in this process whose threads each drive one host."""

from __future__ import annotations

import itertools
import logging
import os
import queue
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import dask
import distributed

from passel.pipeline.events import Event, OnEvent, Outcome, StepFailure
from passel.pipeline.executor import Workplace, ending_on_signals, interrupted, raise_if_run_ends, run_with_retries
from passel.pipeline.messages import Request
from passel.pipeline.schedule import Schedule
from passel.pipeline.step import Step
from passel.pipeline.step_host import StepHost

_WINDOW = 3
"""Steps given to Dask at a time, per worker: enough to hide the round trip, few enough to keep the order."""
_CLOSING_S = 30.0
"""Dask ends in a moment, on a busy machine in some more; what has not ended then ends with the process."""
_serial = itertools.count()

_QUIET: dict[str, object] = {
    "distributed.scheduler.worker-ttl": None,
    "distributed.scheduler.allowed-failures": 10,
    "distributed.admin.tick.limit": "1h",  # a busy machine makes the loop late; that is no news
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}


class HostPool:
    """Hosts for the threads of one executor; a thread takes one for a step and gives it back warm."""

    def __init__(self, workplace: Workplace) -> None:
        self._workplace = workplace
        self._idle: list[StepHost] = []
        self._all: list[StepHost] = []
        self._guard = threading.Lock()
        self._stopped = False

    def run(self, request: Request, on_event: OnEvent) -> Outcome:
        """Runs a step, with retries, in a host that nobody else uses."""
        host = self._take(request.step.threads)
        try:
            return run_with_retries(host, request, self._workplace, on_event)
        finally:
            with self._guard:
                self._idle.append(host)

    def kill(self) -> None:
        """Kills all hosts for good, at once."""
        with self._guard:
            self._stopped = True
            for host in self._all:
                host.kill()

    def _take(self, threads: int) -> StepHost:
        """An idle host, rather one that is warm for so many threads, else a new one."""
        with self._guard:
            if self._idle:
                fitting = [h for h in self._idle if h.threads == threads]
                host = (fitting or self._idle)[-1]
                self._idle.remove(host)
                return host
            host = StepHost(self._workplace.hosts)
            if self._stopped:
                host.kill()
            self._all.append(host)
            return host


class LocalDaskExecutor:
    """Up to `workers` steps at a time, as far as their declared memory and threads fit into `memory_mb` and `workers`.

    A step that declares more than there is runs alone. Dask holds a short window of ready steps.
    """

    def __init__(self, workplace: Workplace, workers: int, memory_mb: int) -> None:
        workplace.prepare()
        self._workplace, self._workers, self._memory_mb = workplace, workers, memory_mb
        self._pool = HostPool(workplace)
        self._news: queue.SimpleQueue[_News] = queue.SimpleQueue()
        self._requests: dict[str, Request] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._stopped = False
        self._name = f"{os.getpid()}-{next(_serial)}"
        _executors[self._name] = self
        with dask.config.set(_QUIET):
            self._cluster = distributed.LocalCluster(
                n_workers=1,
                threads_per_worker=workers,
                processes=False,
                protocol="inproc://",
                dashboard_address="127.0.0.1:0",  # Dask always listens for its pages, of which we serve none
                worker_dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
                memory_limit=0,
                silence_logs=logging.CRITICAL,
                resources={"MEM": memory_mb, "CPU": workers},
            )
            self._client = distributed.Client(self._cluster, set_as_default=False)

    def run(self, steps: Sequence[Step], on_event: OnEvent) -> dict[str, Outcome]:
        running: dict[str, tuple[Step, Any]] = {}
        with ending_on_signals(self):
            schedule = Schedule(steps, self._workplace.store, on_event)
            self._fill(schedule, running)
            while running:
                news = self._news.get()
                if self._stopped:
                    raise interrupted()
                if not isinstance(news, _Finished):
                    on_event(news)
                    continue
                if news.key not in running:
                    continue  # from an earlier run that ended by an error
                step, future = running.pop(news.key)
                outcome = self._outcomes.pop(news.key, None) or _lost(step, future)
                del self._requests[news.key]
                raise_if_run_ends(outcome)
                schedule.settle(step, outcome)
                self._fill(schedule, running)
            if self._stopped:
                raise interrupted()
            return schedule.outcomes

    def stop(self) -> None:
        self._stopped = True
        self._pool.kill()
        self._news.put(_Finished(""))  # wakes `run`

    def close(self) -> None:
        """Ends hosts, threads and the cluster. May be called twice. How Dask ends is no news: the run is over."""
        self._stopped = True
        self._pool.kill()
        self._cluster.loop.asyncio_loop.set_exception_handler(lambda loop, context: None)
        for part in (self._client, self._cluster):
            with suppress(TimeoutError):
                part.close(timeout=_CLOSING_S)
        _executors.pop(self._name, None)

    def __enter__(self) -> LocalDaskExecutor:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()

    def work(self, key: str) -> None:
        """What a Dask thread does for one task."""
        request = self._requests.get(key)
        if request is not None:  # else the run was given up meanwhile
            self._outcomes[key] = self._pool.run(request, self._news.put)

    def _fill(self, schedule: Schedule, running: dict[str, tuple[Step, Any]]) -> None:
        """Hands ready steps to Dask, as many as keep all threads busy for a while."""
        while len(running) < _WINDOW * self._workers and (step := schedule.next_ready()) is not None:
            key = f"{step.digest}-{next(_serial)}"
            self._requests[key] = self._workplace.request(step, schedule.paths(step))
            needs = {"MEM": min(step.memory_mb, self._memory_mb), "CPU": min(step.threads, self._workers)}
            future = self._client.submit(
                _work, self._name, key, key=key, resources=needs, priority=-schedule.rank(step), pure=False
            )
            running[key] = (step, future)
            future.add_done_callback(self._tell)

    def _tell(self, future: Any) -> None:
        self._news.put(_Finished(future.key))


@dataclass(frozen=True)
class _Finished:
    """Dask is done with this key, in one way or another."""

    key: str


def _lost(step: Step, future: Any) -> StepFailure:
    """For a task that Dask gave up or that met a bug of ours."""
    reason = future.exception(timeout=5) if future.status == "error" else future.status
    return StepFailure(step, f"the step was lost: {reason!r}", "crash", 1, todo="report this as a bug")


_News = _Finished | Event
_executors: dict[str, LocalDaskExecutor] = {}


def _work(name: str, key: str) -> None:
    """The task: the executor is looked up here because tasks travel by pickle even inside one process."""
    _executors[name].work(key)
