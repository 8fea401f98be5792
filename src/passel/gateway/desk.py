"""What people ask of the nodes: list, add, delete, lock, look, best. `passel node` and the web page's API both sit here, so
they cannot differ. Reading and writing are done at once and from any thread; what speaks with nodes is awaited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from passel.errors import UsageError
from passel.gateway.attempt import Attempt
from passel.gateway.book import Book, found_node
from passel.gateway.circle import circle
from passel.gateway.monitor import look, look_at_all
from passel.gateway.node import Node, checked_pin, node_at
from passel.gateway.routing import best, free_slots

TASKS_TOLD = 10
"""Latest tasks of a node that are told."""


@dataclass(frozen=True)
class NewNode:
    """A node to be added. url: http://host:3000, https://host, or host:port. token: '' = it asks for none. name: '' = its
    address. ca_file: path on the coordinator of the authority of its TLS certificate, '' = those that the system trusts.
    pin: SHA-256 of its own certificate in hex, '' = an authority must vouch for it. max_upload_mb_s: 0 = no limit.
    """

    url: str
    token: str = ""
    name: str = ""
    ca_file: str = ""
    pin: str = ""
    max_upload_mb_s: float = 0.0


@dataclass(frozen=True)
class NodeLine:
    """A node for people; its token is never told.

    state: 'online', 'locked', 'offline' or 'isolated' (it answered with what is no NodeODM API, and is left alone for a
    while). trouble: why it is offline or isolated, '' = nothing is wrong. our_tasks: of ours that it has. queue: tasks that it
    has in all; max_parallel: that it runs at once; free_slots: that it could begin now. max_images: photos a task, None = any.
    seconds_a_photo: measured, None = not yet. What an unseen node would say of itself is '' or 0.
    """

    name: str
    url: str
    state: str
    trouble: str
    locked: bool
    has_token: bool
    our_tasks: int
    free_slots: int
    seconds_a_photo: float | None
    max_upload_mb_s: float
    engine: str = ""
    engine_version: str = ""
    api_version: str = ""
    queue: int = 0
    max_parallel: int = 0
    max_images: int | None = None
    memory_bytes: int = 0
    cpus: int = 0


@dataclass(frozen=True)
class TaskLine:
    """A task that a node got. began_s: seconds since 1970. outcome: how it ended, or how far it is."""

    job: str
    photos: int
    began_s: float
    outcome: str


@dataclass(frozen=True)
class NodeFile:
    """All that is known of a node. tasks: the latest ones, newest first."""

    line: NodeLine
    tasks: tuple[TaskLine, ...]


@dataclass(frozen=True)
class BestNode:
    """name: of the node that a task would get now, '' = none, and why."""

    name: str
    why: str


class NodeDesk:
    """The nodes of a book, for people. All methods may raise PasselError with words for them: UsageError when there is no such
    node or the address is none, StorageError when the book cannot be written. A node is named by its name or its address.
    """

    def __init__(self, book: Book) -> None:
        self._book = book

    def lines(self) -> tuple[NodeLine, ...]:
        """All nodes, by name."""
        attempts, now_s = self._book.open_attempts(), self._book.now_s()
        return tuple(line_of(node, attempts, now_s) for node in self._book.nodes())

    def info(self, name: str) -> NodeFile:
        """All that is known of a node."""
        node = found_node(self._book, name)
        line = line_of(node, self._book.open_attempts(), self._book.now_s())
        latest = [a for a in self._book.history(1000) if a.node == node.name][:TASKS_TOLD]
        return NodeFile(line, tuple(TaskLine(a.job, a.photos, a.claimed_s, a.outcome or a.stage.value) for a in latest))

    def best(self, photos: int) -> BestNode:
        """The node that a task of so many photos would get now."""
        choice = best(self._book.nodes(), self._book.open_attempts(), photos, self._book.now_s())
        return BestNode("" if choice.node is None else choice.node.name, choice.why)

    async def add(self, new: NewNode) -> NodeLine:
        """Add a node and ask it how it is; it is added whether it answers or not. The same name again gets the new address,
        token and settings, and keeps what was measured. UsageError when it is this Passel itself or one that leads back here.
        """
        node = node_at(new.url, new.token, new.name)
        node = replace(node, ca_file=new.ca_file, pin=checked_pin(new.pin), max_upload_mb_s=new.max_upload_mb_s)
        await asyncio.to_thread(self._book.add, node)
        await look(self._book, node)
        added = found_node(self._book, node.name)
        if added.seen is not None and (why := circle(self._book.identity(), added.seen)):
            self._book.delete(node.name)
            raise UsageError(why, new.url, "it was not added; a Passel and its nodes must not be each other's nodes")
        return self.info(node.name).line

    def delete(self, name: str) -> None:
        """Take a node out; what it works on goes to other nodes."""
        self._book.delete(found_node(self._book, name).name)

    def lock(self, name: str, on: bool) -> None:
        """No new tasks for the node (it finishes those it has), or again some."""
        self._book.change(found_node(self._book, name).name, lambda node: replace(node, locked=on))

    async def update(self) -> tuple[NodeLine, ...]:
        """Ask all nodes now how they are, also those that are isolated."""
        await look_at_all(self._book, self._book.nodes())
        return self.lines()


def line_of(node: Node, attempts: Sequence[Attempt], now_s: float) -> NodeLine:
    """A node at this moment."""
    line = NodeLine(
        name=node.name,
        url=node.url,
        state=_state(node, now_s),
        trouble=node.trouble or ("" if node.is_online(now_s) else "It was not heard of lately"),
        locked=node.locked,
        has_token=bool(node.token),
        our_tasks=sum(a.node == node.name for a in attempts),
        free_slots=max(0, free_slots(node, attempts)),
        seconds_a_photo=node.seconds_a_photo,
        max_upload_mb_s=node.max_upload_mb_s,
    )
    if (seen := node.seen) is None:
        return line
    return replace(
        line,
        engine=seen.engine,
        engine_version=seen.engine_version,
        api_version=seen.api_version,
        queue=seen.queue,
        max_parallel=seen.max_parallel,
        max_images=seen.max_images,
        memory_bytes=seen.memory_bytes,
        cpus=seen.cpus,
    )


def _state(node: Node, now_s: float) -> str:
    if node.is_isolated(now_s):
        return "isolated"
    return ("locked" if node.locked else "online") if node.is_online(now_s) else "offline"
