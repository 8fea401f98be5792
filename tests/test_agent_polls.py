"""What the agent says and does, poll by poll, against a coordinator whose answers are written here; they may be late or lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from passel.cluster.wire.workers import Assignment, CacheNews, Finished, PollReply, PollRequest, Slots
from passel.cluster.worker.agent import Agent, AgentSettings
from passel.cluster.worker.answers import RefusedError
from passel.cluster.worker.hosts import Hosts
from passel.errors import Interrupted

SETTINGS = AgentSettings(Slots(2, 1000), wait_s=30.0, longest_pause_s=0.02)


@dataclass
class Script:
    """A link and a workplace in one: polls wait here for their answers, steps for their ends."""

    polls: list[tuple[PollRequest, asyncio.Future[PollReply]]] = field(default_factory=list)
    steps: dict[str, asyncio.Future[None]] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)
    news: CacheNews = field(default_factory=CacheNews)
    disk: Path = Path("/")
    full: bool = False

    async def poll(self, request: PollRequest) -> PollReply:
        future: asyncio.Future[PollReply] = asyncio.get_running_loop().create_future()
        self.polls.append((request, future))
        return await future

    async def work(self, assignment: Assignment, on_phase: Callable[[str], None]) -> Finished:
        self.begun.append(assignment.ticket)
        on_phase("running")
        self.steps[assignment.ticket] = asyncio.get_running_loop().create_future()
        await self.steps[assignment.ticket]
        return Finished(assignment.ticket, assignment.job, assignment.digest, assignment.attempt)

    def everything(self) -> CacheNews:
        return CacheNews(True, ("old",))

    def take_news(self) -> CacheNews:
        news, self.news = self.news, CacheNews()
        return news

    def prefetch(self, job: str, inputs: object) -> None:
        """Nothing to bring."""

    async def asked(self, fits: Callable[[PollRequest], bool]) -> tuple[PollRequest, asyncio.Future[PollReply]]:
        """The latest poll, as soon as it is one like this."""
        async with asyncio.timeout(30):
            while not (self.polls and fits(self.polls[-1][0]) and not self.polls[-1][1].done()):
                await asyncio.sleep(0.005)
        return self.polls[-1]

    async def answer(self, fits: Callable[[PollRequest], bool], **reply: object) -> PollRequest:
        """Answers the latest poll as soon as it is one like this."""
        request, future = await self.asked(fits)
        future.set_result(PollReply(request.seq, **reply))  # type: ignore[arg-type]
        return request


def played(
    play: Callable[[Script, Agent], Coroutine[object, object, None]],
    ends: bool = False,
    world: Callable[[], Script] = Script,
) -> None:
    """Runs an agent against the script's play; ends: the agent ends by itself, and its exception is raised."""

    async def go() -> None:
        script, hosts = world(), Hosts(1)
        agent = Agent(script, script, hosts, SETTINGS)  # type: ignore[arg-type]
        life = asyncio.create_task(agent.run())
        try:
            await play(script, agent)
            if ends:
                await asyncio.wait_for(life, 30)
        finally:
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)
            hosts.close()

    asyncio.run(go())


def told(ticket: str) -> Assignment:
    return Assignment(ticket, "job", "d" * 64, "stage", ticket, 1, 100, 1, "")


def holds(*tickets: str) -> Callable[[PollRequest], bool]:
    """Polls that say so, with all steps in their processes."""
    return lambda p: tuple(r.ticket for r in p.running if r.phase == "running") == tickets and not p.finished


def anything(request: PollRequest) -> bool:
    return True


def test_the_first_poll_tells_everything_and_the_next_what_is_new():
    async def play(script: Script, agent: Agent) -> None:
        first = await script.answer(anything)
        assert first.cache == CacheNews(True, ("old",))
        script.news = CacheNews(False, ("new",), ("gone",))
        second, lost = await script.asked(lambda p: "new" in p.cache.added)
        lost.set_exception(ConnectionResetError())
        again = await script.answer(lambda p: p.seq > second.seq)
        assert again.cache == second.cache == CacheNews(False, ("new",), ("gone",))
        assert (await script.answer(lambda p: p.seq > again.seq)).cache == CacheNews()
        await script.answer(anything, want_cache=True)
        await script.answer(lambda p: p.cache.whole)

    played(play)


def test_what_is_told_twice_is_done_once():
    async def play(script: Script, agent: Agent) -> None:
        await script.answer(anything, run=(told("a"),))
        await script.answer(holds("a"), run=(told("a"),))
        await script.answer(holds("a"))
        assert script.begun == ["a"]

    played(play)


def test_an_end_is_news_and_is_repeated_until_acknowledged():
    async def play(script: Script, agent: Agent) -> None:
        await script.answer(anything, run=(told("a"),))
        _, held = await script.asked(holds("a"))
        script.steps["a"].set_result(None)
        request, lost = await script.asked(lambda p: len(p.finished) == 1)
        assert not held.done(), "the poll before is still held"
        assert request.running == ()
        lost.set_exception(ConnectionResetError())
        await script.answer(lambda p: p.seq > request.seq and len(p.finished) == 1)
        await script.answer(lambda p: len(p.finished) == 1, acknowledged=("a",))
        await script.answer(lambda p: not p.finished)

    played(play)


def test_the_answer_to_a_poll_that_was_overtaken_does_not_count():
    async def play(script: Script, agent: Agent) -> None:
        await script.answer(anything, run=(told("a"),))
        request, held = await script.asked(holds("a"))
        script.steps["a"].set_result(None)
        await script.asked(lambda p: len(p.finished) == 1)
        held.set_result(PollReply(request.seq, run=(told("late"),), acknowledged=("a",)))
        await script.answer(lambda p: len(p.finished) == 1, acknowledged=("a",))
        await script.answer(lambda p: not p.finished)
        assert script.begun == ["a"]

    played(play)


def test_what_is_cancelled_is_gone_and_not_reported():
    async def play(script: Script, agent: Agent) -> None:
        await script.answer(anything, run=(told("a"), told("b")))
        await script.answer(holds("a", "b"), cancel=("a", "unknown"))
        await script.answer(holds("b"))
        assert script.steps["a"].cancelled()

    played(play)


def test_a_cancel_that_is_told_again_does_not_cut_clearing_up_short():
    cleared = asyncio.Event()

    class Slow(Script):
        async def work(self, assignment: Assignment, on_phase: Callable[[str], None]) -> Finished:
            try:
                return await super().work(assignment, on_phase)
            finally:
                await may_end.wait()
                cleared.set()

    may_end = asyncio.Event()

    async def play(script: Script, agent: Agent) -> None:
        await script.answer(anything, run=(told("a"),))
        await script.answer(holds("a"), cancel=("a",))
        again = await script.answer(anything, cancel=("a",))
        await script.answer(lambda p: p.seq > again.seq)
        may_end.set()
        await script.answer(lambda p: not p.running)
        assert cleared.is_set()

    played(play, world=Slow)


def test_a_coordinator_that_is_away_stops_nothing():
    async def play(script: Script, agent: Agent) -> None:
        await script.answer(anything, run=(told("a"),))
        for _ in range(5):
            request, future = await script.asked(holds("a"))
            future.set_exception(TimeoutError())
            await script.asked(lambda p, seq=request.seq: p.seq > seq)
        script.steps["a"].set_result(None)
        await script.answer(lambda p: len(p.finished) == 1)

    played(play)


def test_draining_takes_nothing_new_and_ends_when_all_is_told():
    async def play(script: Script, agent: Agent) -> None:
        await script.answer(anything, run=(told("a"),))
        await script.asked(holds("a"))
        agent.drain()
        await script.answer(lambda p: p.draining, run=(told("b"),))
        script.steps["a"].set_result(None)
        await script.answer(lambda p: len(p.finished) == 1, acknowledged=("a",))
        assert (await script.answer(lambda p: not p.finished)).wait_s == 0.0
        assert script.begun == ["a"]

    played(play, ends=True)


def test_stopping_ends_at_once():
    async def play(script: Script, agent: Agent) -> None:
        await script.answer(anything, run=(told("a"),))
        await script.asked(holds("a"))
        agent.drain()
        agent.stop()

    with pytest.raises(Interrupted):
        played(play, ends=True)


@pytest.mark.parametrize("error", [RefusedError("This worker was shut out"), KeyError("a bug")])
def test_a_refusal_or_a_bug_in_a_step_ends_the_agent(error):
    async def play(script: Script, agent: Agent) -> None:
        await script.answer(anything, run=(told("a"),))
        await script.asked(holds("a"))
        script.steps["a"].set_exception(error)

    with pytest.raises(type(error)):
        played(play, ends=True)


def test_a_refused_poll_ends_the_agent():
    async def play(script: Script, agent: Agent) -> None:
        _, future = await script.asked(anything)
        future.set_exception(RefusedError("another version"))

    with pytest.raises(RefusedError, match="another version"):
        played(play, ends=True)
