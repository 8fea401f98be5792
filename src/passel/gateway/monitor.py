"""Looks after the nodes beside the work: asks each how it is, and takes off them what nobody needs there any more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import TypeVar

from passel.errors import StorageError
from passel.gateway.attempt import DONE, Attempt, Stage
from passel.gateway.book import Book
from passel.gateway.circle import circle
from passel.gateway.client import (
    COMPLETED,
    NodeClient,
    NodeError,
    NodeLies,
    NodeUntrusted,
    TaskUnknown,
    fingerprint_of,
    opened,
)
from passel.gateway.node import Node

K = TypeVar("K")
T = TypeVar("T")
log = logging.getLogger("passel.gateway")

_STEP_S = 0.5
_FORWARDER_ENDS_S = 3.0
"""A canceled job's forwarder is gone after so long, and commits nothing any more."""
_UNREACHABLE_S = 3 * 24 * 3600.0
"""A node that was away for so long has thrown away what it had; NodeODM keeps ended tasks for two days."""


async def look(book: Book, node: Node) -> bool:
    """Ask a node how it is, and write down the answer. Whether it answered as it should."""
    try:
        async with opened(node) as client:
            seen = await client.info()
        if words := circle(await asyncio.to_thread(book.identity), seen):
            if node.trouble != words:
                log.warning("node %s: %s", node.name, words)
            await asyncio.to_thread(book.shunned, node.name, seen, words)
            return False
    except NodeError as e:
        trouble = await _told(node, e)
        if node.trouble != trouble:
            log.warning("node %s: %s", node.name, trouble)
        await asyncio.to_thread(book.troubled, node.name, trouble, isinstance(e, NodeLies))
        return False
    if node.trouble:
        log.info("node %s answers again", node.name)
    await asyncio.to_thread(book.answered, node, seen)
    return True


async def _told(node: Node, error: NodeError) -> str:
    """The error in words; of a strange certificate also what would pin it."""
    shown = await asyncio.to_thread(fingerprint_of, node) if isinstance(error, NodeUntrusted) else ""
    return f"{error.what}; if {shown} is its SHA-256, add it with --pin" if shown else error.what


async def look_at_all(book: Book, nodes: Iterable[Node]) -> None:
    """Ask them all at once; none holds up another."""
    await asyncio.gather(*(look(book, n) for n in nodes))


class Monitor:
    """Runs in the coordinator. is_wanted: whether the attempt's job still waits for its outcome."""

    def __init__(self, book: Book, is_wanted: Callable[[Attempt], bool], look_every_s: float) -> None:
        self._book, self._is_wanted, self._look_every_s = book, is_wanted, look_every_s
        self._due_s: dict[str, float] = {}
        self._looking: dict[str, asyncio.Task[bool]] = {}
        self._sweeping: dict[int, asyncio.Task[None]] = {}
        self._unwanted_s: dict[int, float] = {}

    async def run(self) -> None:
        """Until it is canceled. A book that cannot be used now is tried again."""
        try:
            while True:
                try:
                    await self._turn()
                except StorageError as e:
                    log.error("%s", e)
                await asyncio.sleep(_STEP_S)
        finally:
            working = [*self._looking.values(), *self._sweeping.values()]
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)

    async def _turn(self) -> None:
        now_s = asyncio.get_running_loop().time()
        nodes = {n.name: n for n in await asyncio.to_thread(self._book.nodes)}
        _drop_ended(self._looking)
        _drop_ended(self._sweeping)
        for name in set(self._due_s) - set(nodes):
            del self._due_s[name]
        for node in nodes.values():
            isolated = node.is_isolated(self._book.now_s())
            if node.name not in self._looking and not isolated and self._due_s.get(node.name, 0.0) <= now_s:
                self._due_s[node.name] = now_s + self._look_every_s
                self._looking[node.name] = asyncio.create_task(look(self._book, node))
        unclean = await asyncio.to_thread(self._book.unclean_attempts)
        newest = {a.job: a.id for a in unclean}
        unwanted = [a for a in unclean if a.id < newest[a.job] or not self._is_wanted(a)]
        self._unwanted_s = {a.id: self._unwanted_s.get(a.id, now_s) for a in unwanted}
        for attempt in unwanted:
            if attempt.id not in self._sweeping and now_s - self._unwanted_s[attempt.id] > _FORWARDER_ENDS_S:
                await self._sweep(attempt, nodes.get(attempt.node))

    async def _sweep(self, attempt: Attempt, node: Node | None) -> None:
        """Nobody waits for it: free its slot, and take it off its node when that can be reached."""
        if attempt.is_open:
            await asyncio.to_thread(self._book.end, attempt, "no longer wanted")
        if attempt.stage is Stage.CLAIMED:
            await asyncio.to_thread(self._book.cleaned, attempt)
        elif node is None or self._book.now_s() - attempt.claimed_s > _UNREACHABLE_S:
            await asyncio.to_thread(self._book.cleaned, attempt, "what it left on the node could not be removed")
        elif node.is_online(self._book.now_s()):
            self._sweeping[attempt.id] = asyncio.create_task(self._take_off(attempt, node))

    async def _take_off(self, attempt: Attempt, node: Node) -> None:
        remark = ""
        try:
            async with opened(node) as client:
                if not attempt.outcome.startswith(DONE) and await _had_completed(client, attempt.remote_uuid):
                    remark = "had completed on its node; its results were dropped"
                await client.act("remove", attempt.remote_uuid)  # of a task, or of an upload if the node can do that
        except TaskUnknown:
            pass
        except NodeError as e:
            log.info("node %s: %s", node.name, e.what)
            await asyncio.sleep(self._look_every_s)
            return
        await asyncio.to_thread(self._book.cleaned, attempt, remark)


async def _had_completed(client: NodeClient, uuid: str) -> bool:
    try:
        return (await client.task(uuid)).code == COMPLETED
    except TaskUnknown:
        return False


def _drop_ended(tasks: dict[K, asyncio.Task[T]]) -> None:
    for key in [k for k, task in tasks.items() if task.done()]:
        error = tasks.pop(key).exception()
        if error is not None:
            log.error("looking after nodes: %s", error)
