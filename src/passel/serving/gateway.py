"""What `serving/` gives the gateway: the server's jobs, and a way for nodes to send us the parts of a split task. And what
the fleet is given of the gateway: nodes that come and go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from passel.cluster.coordinator.status import WorkerStatus
from passel.cluster.trust.tokens import Tokens
from passel.fleet.ports import WorkerSeen
from passel.gateway.book import Book
from passel.gateway.node import node_at
from passel.gateway.policy import parts_owner
from passel.server.jobs import Job
from passel.server.service import JobService

_LIFETIME_S = 7 * 86_400.0


@dataclass(frozen=True)
class GatewayJobs:
    """The gateway's `Jobs`. service: asked for late, for the server is made after the gateway."""

    service: Callable[[], JobService]

    def job(self, uuid: str) -> Job | None:
        """The task, whoever owns it."""
        return next((j for j in self.service().all_tasks() if j.uuid == uuid), None)


@dataclass(frozen=True)
class PublicDoor:
    """The gateway's `Door`. page: the public port's address as nodes reach it, ending in '/'; '' while there is none."""

    tokens: Tokens
    page: Callable[[], str]

    def url_for(self, owner: str, job: str) -> str:
        """With a token that opens nothing but such parts, for others may read it on the node: never one of the operator's."""
        page = self.page()
        if not page:
            return ""
        return f"{page}?token={self.tokens.create('api', parts_owner(owner), _LIFETIME_S)}"

    def shut(self, url: str) -> None:
        """Revoke the token that `url_for` put into this address."""
        token = self.tokens.find("api", url.partition("?token=")[2])
        if token is not None and not token.revoked:
            self.tokens.revoke(token.id)


@dataclass(frozen=True)
class OwnWorkers:
    """The gateway's `Workers`. seen: those that the coordinator knows."""

    seen: Callable[[], Sequence[WorkerStatus]]

    def idle(self) -> bool:
        """Some are connected and take work, and none has any."""
        states = {w.state for w in self.seen()}
        return "idle" in states and "working" not in states


@dataclass(frozen=True)
class FleetNodes:
    """The fleet's `Nodes`: machines that it made and that run an image with NodeODM's API. Any thread may ask."""

    book: Book

    def nodes(self) -> tuple[WorkerSeen, ...]:
        """Nodes that answer now."""
        now_s, busy = self.book.now_s(), {a.node for a in self.book.open_attempts()}
        return tuple(WorkerSeen(n.name, n.name in busy, n.locked) for n in self.book.nodes() if n.is_online(now_s))

    def add(self, name: str, host: str, port: int, token: str) -> None:
        """Attach a node; one that is there with this address stays as it is."""
        wanted = node_at(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", token, name)
        known, there_before = self.book.node(name), self.book.node(wanted.url)
        if there_before is not None and there_before.name != name:
            self.book.delete(there_before.name)  # clouds give the address of a dead machine to the next one
        if known is None or (known.url, known.token) != (wanted.url, wanted.token):
            self.book.add(wanted)

    def drain(self, name: str, on: bool) -> None:
        """No new tasks for the node, or again some."""
        self.book.change(name, lambda node: replace(node, locked=on))

    def remove(self, name: str) -> None:
        """Detach the node."""
        self.book.delete(name)
