"""The worker agent: it polls the coordinator, does what it is told, and tells what it has done (decision 4).

One poll is always under way. News (a step that ended, a step that only sends) does not wait for it: another poll goes out. What the
coordinator has not acknowledged is told again, what it asked for twice is done once, and a coordinator that is away changes
nothing for the steps that run.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from passel.cluster.wire.workers import (
    Assignment,
    CacheNews,
    Finished,
    MachineInfo,
    Phase,
    PollReply,
    PollRequest,
    Running,
    Slots,
)
from passel.cluster.worker.agent_options import WAIT_S
from passel.cluster.worker.hosts import Hosts, is_nearly_out, to_be_killed
from passel.cluster.worker.machine import free_memory_mb, machine_info
from passel.cluster.worker.transfer import Link
from passel.cluster.worker.workplace import Workplace
from passel.errors import Interrupted

_log = logging.getLogger("passel.worker")
_GATHER_S = 0.005
"""News that comes at the same time goes out in one poll."""
_ARRIVED_S, _SENDING_S = 0.1, 0.03
"""What mostly is followed by more news at once waits for it so long: that a step has arrived, that it only sends."""
_LONGEST_LOOK_S = 2.0
_FILLED_MB_A_S = 4000
"""Twice what a thread may fill in a second: while there is much more, nobody looks."""
_MACHINE_S = 2.0
"""So long what was found out about the machine is told again."""


@dataclass(frozen=True)
class AgentSettings:
    """slots: what steps may take here in all. local: this is the coordinator's machine. wait_s: a poll is held at most so long.

    memory_check_s: between two looks at the memory where little is left. free_memory_mb: how much is left, by measurement.
    """

    slots: Slots
    local: bool = False
    wait_s: float = WAIT_S
    longest_pause_s: float = 2.0
    memory_check_s: float = 0.5
    free_memory_mb: Callable[[], int] = free_memory_mb


@dataclass
class _Held:
    """A step that this worker has. task: what works on it."""

    assignment: Assignment
    phase: Phase = "fetching"
    task: asyncio.Task[None] | None = None


@dataclass
class _CacheTold:
    """What the coordinator must learn about the cache. It is told in every poll until one that told all of it is answered."""

    whole: bool = True
    added: dict[str, None] = field(default_factory=dict)
    removed: dict[str, None] = field(default_factory=dict)

    def take(self, news: CacheNews) -> None:
        for came, went, keys in ((self.added, self.removed, news.added), (self.removed, self.added, news.removed)):
            for key in keys:
                went.pop(key, None)
                came[key] = None

    def news(self) -> CacheNews:
        return CacheNews(False, tuple(self.added), tuple(self.removed))

    def confirmed(self, told: CacheNews) -> None:
        """A poll that told this was answered."""
        if told.whole:
            self.whole = False
        for pending, keys in ((self.added, told.added), (self.removed, told.removed)):
            for key in keys:
                pending.pop(key, None)


class Agent:
    """One worker's life, from its first poll until it has drained. `run` it in an event loop."""

    def __init__(self, link: Link, workplace: Workplace, hosts: Hosts, settings: AgentSettings) -> None:
        self._link, self._workplace, self._hosts, self._settings = link, workplace, hosts, settings
        self._session, self._seq = uuid.uuid4().hex, 0
        self._held: dict[str, _Held] = {}
        self._finished: dict[str, Finished] = {}
        self._cache = _CacheTold()
        self._news = asyncio.Event()
        self._draining = self._told_to_drain = False
        self._stopped = asyncio.Event()
        self._fatal: BaseException | None = None
        self._failed_polls = 0
        self._machine, self._machine_s = machine_info(workplace.disk), time.monotonic()
        self._later: asyncio.TimerHandle | None = None

    def drain(self) -> None:
        """Takes no more steps; `run` returns when those that run are finished and delivered."""
        if not self._draining:
            count = len(self._held)
            steps = "1 step" if count == 1 else f"{count} steps"
            _log.warning("%s; once more to stop now", f"finishing {steps}, taking no more" if count else "leaving")
        self._draining = True
        self._news.set()

    def stop(self) -> None:
        """Ends now: `run` raises Interrupted, steps that run are lost here and run elsewhere."""
        self._stopped.set()

    async def run(self) -> None:
        """Works until drained. Raises RefusedError when the coordinator does not want this worker, Interrupted after `stop`."""
        parts = {asyncio.create_task(one) for one in (self._keep_polling(), self._watch_memory(), self._stopped.wait())}
        try:
            ended, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in ended:
                part.result()
            if self._stopped.is_set():
                raise Interrupted("The worker was stopped", todo="its steps run elsewhere")
        finally:
            tasks = [*parts, *(h.task for h in self._held.values() if h.task is not None)]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_polling(self) -> None:
        """A poll after the other; with news, one more beside a poll that is still held, whose answer then no longer counts."""
        held_polls: list[asyncio.Task[float]] = []
        try:
            while True:
                await asyncio.sleep(_GATHER_S)
                self._all_is_said()
                leaving = self._draining and not self._held and not self._finished
                held_polls.append(asyncio.create_task(self._poll(0.0 if leaving else self._settings.wait_s)))
                for outdated in held_polls[:-2]:
                    outdated.cancel()
                del held_polls[:-2]
                await self._either(held_polls[-1])
                if self._fatal is not None:
                    raise self._fatal
                if held_polls[-1].done():
                    pause_s = held_polls[-1].result()
                    if leaving and not self._held:
                        return
                    if pause_s > 0:
                        await self._either(asyncio.create_task(asyncio.sleep(pause_s)))
        finally:
            for poll in held_polls:
                poll.cancel()
            await asyncio.gather(*held_polls, return_exceptions=True)

    def _say(self, within_s: float) -> None:
        """There is news, to be told in so long or together with what comes before."""
        if self._later is not None:
            if self._later.when() <= asyncio.get_running_loop().time() + within_s:
                return
            self._later.cancel()
        self._later = asyncio.get_running_loop().call_later(within_s, self._news.set)

    def _all_is_said(self) -> None:
        """The next poll tells all there is."""
        self._news.clear()
        if self._later is not None:
            self._later.cancel()
            self._later = None

    async def _either(self, task: asyncio.Task[float] | asyncio.Task[None]) -> None:
        """Until the task has ended or there is news."""
        news = asyncio.create_task(self._news.wait())
        await asyncio.wait({task, news}, return_when=asyncio.FIRST_COMPLETED)
        news.cancel()

    async def _poll(self, wait_s: float) -> float:
        """One poll; returns the seconds to wait before the next."""
        request = self._request(wait_s)
        try:
            reply = await self._link.poll(request)
        except OSError:
            self._failed_polls += 1
            return min(0.1 * 2.0 ** min(self._failed_polls, 10), self._settings.longest_pause_s)
        self._failed_polls = 0
        if request.seq == self._seq:  # else it was overtaken
            self._cache.confirmed(request.cache)
            self._obey(reply)
        return reply.interval_s

    def _request(self, wait_s: float) -> PollRequest:
        """All that there is to say."""
        self._seq += 1
        place = self._workplace
        self._cache.take(place.take_news())
        running = [
            Running(a.ticket, a.job, a.digest, h.phase, a.attempt, a.memory_mb, a.threads)
            for a, h in ((h.assignment, h) for h in self._held.values())
        ]
        return PollRequest(
            self._session,
            self._seq,
            wait_s,
            self._machine_now(),
            self._settings.slots,
            tuple(running),
            tuple(self._finished.values()),
            place.everything() if self._cache.whole else self._cache.news(),
            self._draining,
            place.full,
            self._settings.local,
        )

    def _machine_now(self) -> MachineInfo:
        if time.monotonic() - self._machine_s > _MACHINE_S:
            self._machine, self._machine_s = machine_info(self._workplace.disk), time.monotonic()
        return self._machine

    def _obey(self, reply: PollReply) -> None:
        for ticket in reply.acknowledged:
            self._finished.pop(ticket, None)
        self._cache.whole |= reply.want_cache
        if reply.drain and not self._told_to_drain:
            _log.warning("the coordinator gives this worker no more steps")
        self._told_to_drain = reply.drain
        for ticket in reply.cancel:
            held = self._held.get(ticket)
            if held is not None and held.task is not None and not held.task.cancelling():
                held.task.cancel()  # once, though it is told until the step is gone: a second one would cut its clearing up short
        for assignment in reply.run:
            if not self._draining and assignment.ticket not in self._held and assignment.ticket not in self._finished:
                held = self._held[assignment.ticket] = _Held(assignment)
                held.task = asyncio.create_task(self._work(held))
                held.task.add_done_callback(self._note_end)
        for hint in reply.prefetch:
            self._workplace.prefetch(hint.job, hint.inputs)
        if reply.cancel:
            self._news.set()
        if reply.run:
            self._say(_ARRIVED_S)

    async def _work(self, held: _Held) -> None:
        """One step, from assignment to report."""
        assignment = held.assignment

        def on_phase(phase: Phase) -> None:
            held.phase = phase
            if phase == "running":
                self._news.set()
            else:
                self._say(_SENDING_S if phase == "sending" else _ARRIVED_S)

        try:
            self._finished[assignment.ticket] = await self._workplace.work(assignment, on_phase)
        finally:
            del self._held[assignment.ticket]
            self._news.set()

    def _note_end(self, task: asyncio.Task[None]) -> None:
        """Refused, or a bug: then the agent ends, and its supervisor starts a new one."""
        if not task.cancelled() and self._fatal is None:
            self._fatal = task.exception()
        self._news.set()

    async def _watch_memory(self) -> None:
        """So that the machine lives: a step far beyond what it declared goes before the kernel takes somebody else."""
        pause_s = self._settings.memory_check_s
        while True:
            await asyncio.sleep(pause_s)
            free_mb = self._settings.free_memory_mb()
            full_s = free_mb / (_FILLED_MB_A_S * self._settings.slots.cpus)
            pause_s = max(self._settings.memory_check_s, min(full_s, _LONGEST_LOOK_S))
            if not is_nearly_out(free_mb, self._machine.memory_mb):
                continue
            victim = to_be_killed(await asyncio.to_thread(self._hosts.usages))
            if victim is not None:
                _log.warning("a step uses %d MB and declared %d: it is ended", victim.used_mb, victim.declared_mb)
                self._hosts.kill(victim)
