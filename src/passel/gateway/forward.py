"""Gets one task done by nodes: keeps a slot, sends, watches, fetches; and begins with what an earlier forwarder of the same
round left behind, for it may be killed at any line. A node that is gone for too long loses the task to another one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from passel.errors import PasselError, StorageError
from passel.gateway.attempt import DONE, Attempt, Stage
from passel.gateway.book import Book
from passel.gateway.client import (
    CANCELED,
    COMPLETED,
    FAILED,
    Commission,
    NodeClient,
    NodeError,
    NodeLies,
    NodeRefuses,
    NodeSilent,
    NodeUnfit,
    RemoteTask,
    TaskUnknown,
    is_full,
    opened,
)
from passel.gateway.fetching import fetch
from passel.gateway.freight import Freight, is_part
from passel.gateway.node import Node
from passel.gateway.routing import MOST_BLAMED_ATTEMPTS, MOST_DISTINCT_NODES, Need, can_fan_out
from passel.gateway.sending import send, shipment_of
from passel.server.folders import JobFolder
from passel.server.jobs import RunEnd
from passel.server.outgoing import Gate

LOST, FORGOT, NO_MEMORY, TAKEN_OUT = "lost: ", "forgot the task", "not enough memory", "its node was taken out"
_UPLOAD_SHARE = 5.0
"""Percent of the progress that stands for sending the photos."""
_NONSENSE_ALLOWED = 2
_LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True)
class Patience:
    """Seconds. silent: a node with our task may not answer for so long. poll: between two looks. wait: for a free node."""

    silent_s: float = 120.0
    poll_s: float = 2.0
    wait_s: float = 1.0


@dataclass(frozen=True)
class Voice:
    """How the forwarder talks to the server: a line of output; files sent of all, percent."""

    say: Callable[[str], None]
    stage: Callable[[str, int, int, float], None]


class Forwarder:
    """One job's. `run` it; it may be killed and another one run at any time, but not two at once. gate: where else than on their
    node results may lie.
    """

    def __init__(
        self, book: Book, freight: Freight, folder: JobFolder, voice: Voice, patience: Patience, gate: Gate
    ) -> None:
        self._gate, self._book, self._freight, self._folder, self._voice, self._patience = (
            gate,
            book,
            freight,
            folder,
            voice,
            patience,
        )
        self._photos = sum(1 for p in folder.photos.iterdir() if p.is_file())

    async def run(self) -> RunEnd:
        """How it ended. PasselError: the book or the disk cannot be used."""
        for remark in self._freight.remarks:
            self._voice.say(remark)
        while True:
            attempts = self._book.attempts(self._freight.job, self._freight.round)
            last = attempts[-1] if attempts else None
            if last is not None and last.outcome.split(";")[0] == DONE:
                return RunEnd(0)  # killed between the last two lines
            if (verdict := given_up(attempts)) is not None:
                return verdict
            attempt = last if last is not None and last.is_open else await self._next(attempts)
            end = attempt if isinstance(attempt, RunEnd) else await self._follow(attempt)
            if end is not None:
                return end

    async def _next(self, attempts: Sequence[Attempt]) -> Attempt | RunEnd:
        """A slot on a node, as soon as there is one; or the node that was lost, if it is back before."""
        told, need = "", self._need(attempts)
        if attempts:  # what failed a moment ago may fail again at once
            await asyncio.sleep(min(_LONGEST_PAUSE_S, self._patience.wait_s * 2 ** len(attempts)))
        while True:
            if attempts and (again := await self._back(attempts[-1])) is not None:
                return again
            choice, attempt = self._book.claim(need)
            if attempt is not None:
                self._voice.say(f"Node {attempt.node} gets the task")
                return attempt
            if choice.hopeless:
                return RunEnd(1, f"No node can take this task: {choice.why}", "add or enlarge nodes")
            if choice.why != told:
                self._voice.say(f"Waiting for a node: {choice.why}")
                told = choice.why
            await asyncio.sleep(self._patience.wait_s)

    def _need(self, attempts: Sequence[Attempt]) -> Need:
        freight, nodes = self._freight, {n.name: n for n in self._book.nodes()}
        starved = [nodes[a.node] for a in attempts if a.outcome.startswith(NO_MEMORY) and a.node in nodes]
        return Need(
            *(freight.job, freight.round, freight.owner, self._photos),
            avoided=frozenset(a.node for a in attempts),
            above_memory_bytes=max((n.seen.memory_bytes for n in starved if n.seen is not None), default=0),
            most_open=freight.most_open,
            is_part=is_part(freight.outputs),
            fans_out=freight.is_split and bool(freight.door) and can_fan_out(nodes.values(), self._book.now_s()),
        )

    async def _back(self, attempt: Attempt) -> Attempt | None:
        """The attempt, open again, if its node was lost with the task and is back with it."""
        node = self._book.node(attempt.node)
        if not attempt.outcome.startswith(LOST) or attempt.committed_s is None or node is None:
            return None
        if not node.is_online(self._book.now_s()):
            return None
        try:
            async with opened(node) as client:
                task = await client.task(attempt.remote_uuid)
        except NodeError:
            return None
        if task.code in {FAILED, CANCELED}:
            return None
        self._voice.say(f"Node {node.name} is back, with the task")
        return self._book.reopen(attempt)

    async def _follow(self, attempt: Attempt) -> RunEnd | None:
        """Until the attempt is over. None: another node is needed."""
        node = self._book.node(attempt.node)
        if node is None:
            self._book.end(attempt, TAKEN_OUT)
            return None
        try:
            async with opened(node) as client:
                if attempt.stage is not Stage.COMMITTED:
                    await self._send(client, attempt)
                attempt = self._book.attempts(attempt.job, attempt.round)[-1]
                return await self._watch(client, attempt)
        except NodeError as e:
            self._lost(node, e)
        return None

    async def _send(self, client: NodeClient, attempt: Attempt) -> None:
        freight = self._freight
        fans_out = attempt.fans_out and not client.node.is_passel
        outputs = json.dumps(freight.outputs) if freight.outputs else ""
        options = freight.options_json(fans_out)
        what = shipment_of(self._folder, Commission(freight.name, options, freight.skip_post_processing, outputs))

        def tell(sent: int, count: int) -> None:
            self._voice.stage("upload", sent, count, _UPLOAD_SHARE * sent / max(1, count))

        await send(self._book, attempt, client, what, tell)

    async def _watch(self, client: NodeClient, attempt: Attempt) -> RunEnd | None:
        """Look at the task until it ended, and fetch what it made."""
        loop, patience = asyncio.get_running_loop(), self._patience
        heard_s, nonsense, told = loop.time(), 0, False
        while True:
            try:
                task = await client.task(attempt.remote_uuid, attempt.lines)
            except NodeSilent as e:
                if loop.time() - heard_s > patience.silent_s:
                    raise
                if not told:
                    self._voice.say(f"{e}; waiting for it")
                told = True
            except NodeLies:
                nonsense += 1
                if nonsense > _NONSENSE_ALLOWED:
                    raise
            else:
                heard_s, nonsense, told = loop.time(), 0, False
                attempt = self._pass_on(attempt, task)
                if task.code in {COMPLETED, FAILED, CANCELED}:
                    return await self._ended(client, attempt, task)
            if self._book.node(attempt.node) is None:
                self._voice.say(f"Node {attempt.node} was taken out; another one gets the task")
                self._book.end(attempt, TAKEN_OUT)
                return None
            await asyncio.sleep(patience.poll_s)

    def _pass_on(self, attempt: Attempt, task: RemoteTask) -> Attempt:
        share = _UPLOAD_SHARE + (99.0 - _UPLOAD_SHARE) * min(100.0, max(0.0, task.progress)) / 100.0
        self._voice.stage("node", round(task.progress), 100, share)
        for line in task.lines:
            self._voice.say(line)
        return self._book.told_lines(attempt, attempt.lines + len(task.lines)) if task.lines else attempt

    async def _ended(self, client: NodeClient, attempt: Attempt, task: RemoteTask) -> RunEnd | None:
        name = client.node.name
        if task.code == COMPLETED:
            await self._fetch(client, attempt.remote_uuid)
            self._book.done(attempt, task.processing_ms / 1000.0)
            await self._tidy(client, attempt)
            return RunEnd(0)
        if NO_MEMORY in task.error.lower():
            self._voice.say(f"Node {name}: {task.error}; a larger one may do")
            self._book.end(attempt, f"{NO_MEMORY}: {task.error}", blamed=True)
            return None
        if is_full(task.error):
            raise NodeUnfit(task.error, name)
        words = "The task was canceled on its node" if task.code == CANCELED else task.error or "Processing failed"
        self._book.end(attempt, f"failed: {words}", blamed=True)
        return RunEnd(1, words, where=f"node {name}")

    async def _fetch(self, client: NodeClient, uuid: str) -> None:
        """Get the results. A full disk is waited for: they are safe on the node, and a failed task would lose them."""
        told = False
        while True:
            try:
                return await fetch(client, uuid, self._folder, self._patience.silent_s, self._gate)
            except StorageError as e:
                if not told:
                    self._voice.say(f"warning: {e}; the node keeps them until there is room here")
                told = True
            await asyncio.sleep(_LONGEST_PAUSE_S)

    async def _tidy(self, client: NodeClient, attempt: Attempt) -> None:
        """Off the node with it, if that can be done now; the coordinator sees to it otherwise."""
        try:
            await client.act("remove", attempt.remote_uuid)
        except TaskUnknown:
            pass
        except NodeError:
            return
        self._book.cleaned(attempt)

    def _lost(self, node: Node, error: NodeError) -> None:
        """Write down why the node did not get it done."""
        attempt = self._book.attempts(self._freight.job, self._freight.round)[-1]
        had_it = attempt.committed_s is not None
        if isinstance(error, TaskUnknown):
            outcome, blamed = FORGOT, had_it
        elif isinstance(error, NodeUnfit):
            # Whose disk is full before it has anything is not the task's victim; later, the task may be what fills disks.
            outcome, blamed = f"takes nothing: {error.what}", had_it or bool(self._book.sent(attempt))
            self._book.troubled(node.name, error.what, lies=True)
        elif isinstance(error, NodeRefuses):
            outcome, blamed = f"refused: {error.what}", True
        else:
            outcome, blamed = f"{LOST}{error.what}", had_it
            self._book.troubled(node.name, error.what, lies=isinstance(error, NodeLies))
        self._book.end(attempt, outcome, blamed)
        self._voice.say(f"Node {node.name}: {outcome}")


def given_up(attempts: Sequence[Attempt]) -> RunEnd | None:
    """The end of a task that failed on so many nodes that it must be the task."""
    blamed = [a for a in attempts if a.blamed]
    names = dict.fromkeys(a.node for a in blamed)
    if len(names) < MOST_DISTINCT_NODES and len(blamed) < MOST_BLAMED_ATTEMPTS:
        return None
    what = f"The task failed {len(blamed)} times on {len(names)} nodes, the last time with: {blamed[-1].outcome}"
    return RunEnd(1, what, "look at those nodes, or at the photos, and restart it", ", ".join(names))


def end_of(error: PasselError) -> RunEnd:
    """An error of ours as the end of a run."""
    return RunEnd(error.exit_code, error.what, error.todo, error.where)
