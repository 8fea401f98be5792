"""What the web UI needs from others, as Protocols: `serving/` fills them, tests use small stand-ins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class WorkerView:
    """A machine. state: 'ready', 'busy', 'draining', 'lost' or the like. running: names of its steps."""

    name: str
    state: str
    hostname: str
    cpus: int
    memory_mb: int
    free_memory_mb: int
    gpu: str = ""
    running: tuple[str, ...] = ()
    steps_done: int = 0
    local: bool = False


@dataclass(frozen=True)
class PasselView:
    """The machines at a moment. steps_a_minute: over the last minutes. rest_s: until all jobs are done, None = unknown.

    join_lines: what to type on another machine, with TOKEN for a join token; empty when nothing listens beyond this machine.
    open_line: what to type here instead, so that others can join.
    """

    name: str
    version: str
    uptime_s: float
    steps_a_minute: float
    rest_s: float | None
    workers: tuple[WorkerView, ...] = ()
    join_lines: tuple[str, ...] = ()
    open_line: str = ""


@dataclass(frozen=True)
class TokenView:
    """A token without its secret. created_s, expires_s: seconds since 1970; trouble: '' or why it opens nothing."""

    id: str
    kind: str
    name: str
    created_s: float
    expires_s: float | None
    uses: int
    trouble: str = ""


class Passel(Protocol):
    """The machines and tokens. Everything may raise PasselError with words for the user."""

    def view(self) -> PasselView:
        """This moment."""
        ...

    def drain(self, worker: str, drained: bool) -> None:
        """No new steps for this worker, or again some."""
        ...

    def revoke_worker(self, worker: str) -> None:
        """Shut a worker out for good."""
        ...

    def tokens(self) -> Sequence[TokenView]:
        """All tokens, oldest first."""
        ...

    def create_token(self, kind: str, name: str, expires_in_s: float | None) -> str:
        """The token, shown this once. kind: 'join' or 'api'."""
        ...

    def renew_invitation(self, token: str, expires_in_s: float) -> bool:
        """Make a join token good for so long from now. False when it opens nothing any more."""
        ...

    def revoke_token(self, id: str) -> None:
        """It opens nothing from now on."""
        ...


@dataclass(frozen=True)
class NodeView:
    """A NodeODM node, without its token.

    state: 'online', 'locked', 'offline' or 'isolated' (it answered with what is no NodeODM API, and is left alone for a
    while). trouble: why it gets no tasks, '' = nothing is wrong. our_tasks: of ours that it has; queue: tasks that it has in
    all; max_parallel: that it runs at once. max_images: photos a task, None = any. seconds_a_photo: measured, None = not yet.
    """

    name: str
    url: str
    state: str
    trouble: str
    locked: bool
    has_token: bool
    our_tasks: int
    queue: int
    max_parallel: int
    max_images: int | None
    seconds_a_photo: float | None
    max_upload_mb_s: float
    engine: str
    engine_version: str


@dataclass(frozen=True)
class NodeTask:
    """A task that a node got. began_s: seconds since 1970. outcome: how it ended, or how far it is."""

    job: str
    photos: int
    began_s: float
    outcome: str


@dataclass(frozen=True)
class NodeInfo:
    """All that is known of a node. tasks: the latest ones, newest first."""

    node: NodeView
    tasks: tuple[NodeTask, ...]


@dataclass(frozen=True)
class BestNode:
    """name: of the node that a task would get now, '' = none, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class NewNode:
    """A node to be added. pin: SHA-256 of its TLS certificate in hex, '' = an authority vouches. max_upload_mb_s: 0 = no limit."""

    url: str
    token: str = ""
    name: str = ""
    pin: str = ""
    max_upload_mb_s: float = 0.0


class Nodes(Protocol):
    """NodeODM nodes behind this server. Everything may raise PasselError with words for the user."""

    def lines(self) -> Sequence[NodeView]:
        """All nodes, by name."""
        ...

    def info(self, node: str) -> NodeInfo:
        """All that is known of a node."""
        ...

    def best(self, photos: int) -> BestNode:
        """The node that a task of so many photos would get now."""
        ...

    async def add(self, new: NewNode) -> None:
        """Add a node and ask it how it is; it is added whether it answers or not."""
        ...

    def delete(self, node: str) -> None:
        """Take a node out."""
        ...

    def lock(self, node: str, on: bool) -> None:
        """No new tasks for the node, or again some."""
        ...

    async def update(self) -> None:
        """Ask all nodes now how they are."""
        ...


@dataclass(frozen=True)
class Survey:
    """What is known of photos before they are mapped.

    state: 'running', 'done' or 'failed'. words: the input check, a line each, warnings first. plan: GeoJSON text of photos and
    submodels, '' while unknown. forecast_s: of the whole job on the machines there are, None = unknown.
    """

    state: str
    words: tuple[str, ...] = ()
    plan: str = ""
    forecast_s: float | None = None


class Surveyor(Protocol):
    """Looks at uploaded photos before the job is started: reads them, checks them, splits them; makes no map."""

    async def survey(self, uuid: str, photos: Path, words: Sequence[str]) -> Survey:
        """Begins at the first call for these photos and options, then says how far it is. words: options as a command line."""
        ...


@dataclass(frozen=True)
class Services:
    """passel: None where there are no machines to show (test mode). surveyor: None = no look before the start. nodes: None = no
    gateway here.
    """

    passel: Passel | None = None
    surveyor: Surveyor | None = None
    nodes: Nodes | None = None
