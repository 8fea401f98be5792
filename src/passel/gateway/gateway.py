"""The gateway as a part of the coordinator: says which tasks go to nodes and how their forwarders are started, and looks
after the nodes.

    gateway = Gateway(data, GatewaySettings(), jobs, door)
    command = gateway.command(task, lifeline_fd)     # None: Passel's own engine makes this map
    await gateway.start(); …; await gateway.close()
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from pathlib import Path

from passel.errors import InputError
from passel.gateway.attempt import Attempt
from passel.gateway.book import Book
from passel.gateway.circle import reached
from passel.gateway.desk import NodeDesk
from passel.gateway.doors import Doors
from passel.gateway.forward import Patience
from passel.gateway.freight import freight_of, is_part
from passel.gateway.monitor import Monitor, look_at_all
from passel.gateway.node import Node
from passel.gateway.policy import Engine, Policy, ruled
from passel.gateway.ports import Door, Jobs, Workers
from passel.gateway.routing import can_fan_out, free_slots
from passel.gateway.sending import ran_here
from passel.server.api_options import notices
from passel.server.jobs import Job, State
from passel.server.ports import Machine, Task

_REMEMBERED_S = 30 * 24 * 3600.0
_FIRST_LOOK_S = 3.0
_PROMISED_S = 20.0
"""A forwarder that was started has its slot by then, or there was none."""
_WAITS_FOR_ITS_RUN = {State.QUEUED, State.RUNNING}
_OVER = {State.COMPLETED, State.FAILED, State.CANCELED, State.REMOVING}


@dataclass(frozen=True)
class GatewaySettings:
    """engine: who makes maps of tokens for which the policy does not say it. look_every_s: between two looks at a node.
    allow_private_urls: a node may send us into private networks for its results.
    """

    engine: Engine = Engine.AUTO
    policy: Policy = field(default_factory=Policy)
    patience: Patience = field(default_factory=Patience)
    look_every_s: float = 10.0
    allow_private_urls: bool = False


def book_path(data: Path) -> Path:
    """Where the book of nodes is in a coordinator's data folder."""
    return data / "gateway" / "nodes.sqlite"


class Gateway:
    """Made before the server, started and closed in its event loop. StorageError when the book cannot be opened."""

    def __init__(
        self, data: Path, settings: GatewaySettings, jobs: Jobs, door: Door, workers: Workers | None = None
    ) -> None:
        self.book = Book(book_path(data))
        self.desk = NodeDesk(self.book)
        self._identity = self.book.identity()
        self._settings, self._jobs, self._workers = settings, jobs, workers
        self._doors = Doors(self.book, door, self._is_over)
        self._promised_s: dict[str, float] = {}
        self._monitor = Monitor(self.book, self._is_wanted, settings.look_every_s)
        self._watching: tuple[asyncio.Task[None], ...] = ()

    async def start(self) -> None:
        """Begin to look after the nodes. Before the server starts jobs, so that these find the nodes online."""
        await asyncio.to_thread(self.book.forget_old, self.book.now_s() - _REMEMBERED_S)
        first = asyncio.create_task(look_at_all(self.book, self.nodes()))
        await asyncio.wait([first], timeout=_FIRST_LOOK_S)
        first.cancel()
        self._watching = (asyncio.create_task(self._monitor.run()), asyncio.create_task(self._doors.run()))

    async def close(self) -> None:
        """Leave the nodes alone; what they work on they go on with."""
        for watching in self._watching:
            watching.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        await asyncio.to_thread(self.book.close)

    def nodes(self) -> tuple[Node, ...]:
        """The registry."""
        return self.book.nodes()

    def slots(self) -> int:
        """Tasks that all usable nodes together run at once."""
        now_s = self.book.now_s()
        usable = [n.seen for n in self.nodes() if n.seen is not None and n.is_online(now_s) and not n.locked]
        return sum(seen.max_parallel for seen in usable)

    def machine(self) -> Machine:
        """Memory and processors of the nodes that are online, for the server's /info, and which Passels are behind us."""
        now_s, nodes = self.book.now_s(), self.nodes()
        seen = [n.seen for n in nodes if n.seen is not None and n.is_online(now_s)]
        memory = sum(s.memory_bytes for s in seen)
        return Machine(memory, memory, sum(s.cpus for s in seen), reached(self._identity, nodes))

    def command(self, task: Task, lifeline_fd: int) -> tuple[str, ...] | None:
        """The forwarder of this task, or None when Passel's own engine is to run it. InputError: its token may not do this.

        A round that began on a node stays with the nodes, whatever the policy says by now.
        """
        job = self._jobs.job(task.uuid)
        if job is None or not (self.book.attempts(job.uuid, job.order.created_ms) or self._goes_to_nodes(job, task)):
            return None
        allowance = self._settings.policy.of(job.owner)
        if allowance.max_images is not None and job.images_count > allowance.max_images:
            raise InputError(
                f"{job.images_count} photos are more than the {allowance.max_images} that this token may send"
            )
        options, told = ruled(job.order.options, allowance)
        if allowance.engine is Engine.ODM and _asked(job) is Engine.PASSEL:
            told = (*told, "note: --engine passel is not for this token; a node makes the map")
        if notices(job.order.options, ()):
            told = (
                *told,
                "note: a node makes this map: what was said of options that Passel lacks does not hold there",
            )
        folder, door = task.photos.parent, ""
        if any(o.name == "split" for o in options):
            door = self._doors.open(job.owner, job.uuid)
            if not door or not can_fan_out(self.nodes(), self.book.now_s()):
                told = (*told, "note: the node works on all parts of the split by itself")
        freight_of(job, door, allowance.most_tasks, options, told).write(folder)
        patience = self._settings.patience
        words = {"book": self.book.path, "folder": folder, "lifeline": lifeline_fd, "silent-s": patience.silent_s}
        words |= {"poll-s": patience.poll_s, "wait-s": patience.wait_s}
        named = (str(w) for name, value in words.items() for w in (f"--{name}", value))
        private = ("--private-urls",) if self._settings.allow_private_urls else ()
        return (sys.executable, "-P", "-m", "passel.gateway.forward_driver", *named, *private)

    def _goes_to_nodes(self, job: Job, task: Task) -> bool:
        """What the token's policy demands, else what the task asks for, else what the server does. What our own engine has
        begun it goes on with, unless somebody demands a node. InputError: only a node could make it, and there is none.
        """
        engine, asked = self._settings.policy.of(job.owner).engine, _asked(job)
        if engine in {None, Engine.AUTO}:
            engine = (engine or self._settings.engine) if asked is Engine.AUTO else asked
        if is_part(job.order.outputs):
            if engine is Engine.PASSEL or not self.nodes():
                raise InputError(
                    "This is a submodel of OpenDroneMap's own split-merge, which Passel's engine cannot make",
                    todo="add a NodeODM node; or give Passel the whole survey: --split without --sm-cluster",
                )
            return True
        if engine is not Engine.AUTO:
            return engine is Engine.ODM
        return not ran_here(task.output) and self._is_better_on_a_node(job)

    def _is_better_on_a_node(self, job: Job) -> bool:
        """A node that is free, else workers of our own that are, else a node that will be free."""
        now_s, attempts = self.book.now_s(), self.book.open_attempts()
        able = [n for n in self.nodes() if _could_take(n, job.images_count, now_s)]
        if not able or self._workers is None or not self._workers.idle():
            return bool(able)
        claimed = {a.job for a in attempts}
        waiting = {j: s for j, s in self._promised_s.items() if j not in claimed and now_s - s < _PROMISED_S}
        self._promised_s = waiting
        free = sum(max(0, free_slots(n, attempts)) for n in able) > len(waiting.keys() - {job.uuid})
        if free:
            self._promised_s[job.uuid] = now_s
        return free

    def _is_over(self, uuid: str) -> bool:
        """Whether nobody works on the job any more, or it is gone."""
        job = self._jobs.job(uuid)
        return job is None or job.state in _OVER

    def _is_wanted(self, attempt: Attempt) -> bool:
        """Whether the attempt's round still waits for it. Asked in the event loop."""
        job = self._jobs.job(attempt.job)
        ours = job is not None and job.order.created_ms == attempt.round and job.state in _WAITS_FOR_ITS_RUN
        return ours and (attempt.is_open or not attempt.outcome.startswith("done"))


def _asked(job: Job) -> Engine:
    return Engine(next((str(o.value) for o in job.order.options if o.name == "engine"), "auto"))


def _could_take(node: Node, photos: int, now_s: float) -> bool:
    fits = node.seen is None or node.seen.max_images is None or photos <= node.seen.max_images
    return fits and node.is_online(now_s) and not node.locked
