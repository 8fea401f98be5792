"""The agent's hosts: each runs one step in a process of its own, may be killed at any time, and is watched for its memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import psutil

from passel.pipeline.messages import Answer, Failed, Request
from passel.pipeline.step_host import HostOptions, StepHost

_MOST_STEPS = 512
_FAR_BEYOND = 1.25
_NEARLY_OUT = 0.04
_LEAST_FREE_MB = 300


@dataclass(frozen=True)
class Usage:
    """A step that runs, what it declared, and what its processes use."""

    ticket: str
    declared_mb: int
    used_mb: int


def is_nearly_out(free_mb: int, total_mb: int) -> bool:
    """Whether so little memory is left that the kernel may soon kill somebody."""
    return free_mb < max(_LEAST_FREE_MB, _NEARLY_OUT * total_mb)


def to_be_killed(usages: Sequence[Usage]) -> Usage | None:
    """The step that must go so that the machine lives: the one farthest beyond its declared memory; None if all keep to it."""
    beyond = [u for u in usages if u.used_mb > _FAR_BEYOND * u.declared_mb]
    return max(beyond, key=lambda u: u.used_mb - u.declared_mb, default=None)


@dataclass(frozen=True)
class _Running:
    host: StepHost
    declared_mb: int


class Hosts:
    """Runs steps in hosts, each driven by a thread; idle hosts are kept warm, at most `most_idle`."""

    def __init__(self, most_idle: int, options: HostOptions | None = None) -> None:
        self._options, self._most_idle = options, most_idle
        self._idle: list[StepHost] = []
        self._running: dict[str, _Running] = {}
        self._sentences: dict[str, Failed] = {}
        self._threads = ThreadPoolExecutor(_MOST_STEPS, thread_name_prefix="step")

    async def run(self, ticket: str, request: Request) -> Answer:
        """Runs a step to its end. Cancelled, it kills the step's processes and returns when they are gone."""
        host = self._take(request.step.threads)
        self._running[ticket] = _Running(host, request.step.memory_mb)
        work = asyncio.get_running_loop().run_in_executor(self._threads, host.run, request)
        try:
            answer = await asyncio.shield(work)
        except asyncio.CancelledError:
            host.kill()
            await asyncio.wait([work])
            raise
        finally:
            del self._running[ticket]
        sentence = self._sentences.pop(ticket, None)
        if sentence is None:
            self._give_back(host)
        else:
            answer = sentence if isinstance(answer, Failed) else answer
        return answer

    def usages(self) -> list[Usage]:
        """What runs and what it uses. Reads /proc: not for the event loop's thread."""
        found = []
        for ticket, running in list(self._running.items()):
            pid = running.host.pid
            if pid is not None:
                found.append(Usage(ticket, running.declared_mb, _used_mb(pid)))
        return found

    def kill(self, usage: Usage) -> None:
        """Ends a step for its memory: `run` answers 'died'."""
        running = self._running.get(usage.ticket)
        if running is None:
            return
        what = f"the step used {usage.used_mb} MB, declared {usage.declared_mb} MB, and the machine was nearly out of memory"
        self._sentences[usage.ticket] = Failed("died", what, "", "use fewer workers, or a machine with more memory")
        running.host.kill()

    def close(self) -> None:
        """Ends all hosts."""
        for host in [*self._idle, *(r.host for r in self._running.values())]:
            host.kill()
        self._threads.shutdown(wait=True)

    def _take(self, threads: int) -> StepHost:
        """An idle host, rather one that is warm for so many threads, else a new one."""
        if not self._idle:
            return StepHost(self._options)
        fitting = [h for h in self._idle if h.threads == threads]
        host = (fitting or self._idle)[-1]
        self._idle.remove(host)
        return host

    def _give_back(self, host: StepHost) -> None:
        self._idle.append(host)
        if len(self._idle) > self._most_idle:
            self._threads.submit(self._idle.pop(0).kill)


def _used_mb(pid: int) -> int:
    """Resident memory of a process and all that it started."""
    used_bytes = 0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                used_bytes += one.memory_info().rss
    return int(used_bytes / 1e6)
