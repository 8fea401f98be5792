"""What `serving/` gives the web UI: the machines and tokens of this passel, and a look at photos before they are mapped."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path

from passel.cluster.coordinator.admin import Overview
from passel.cluster.coordinator.admin import Passel as Admin
from passel.cluster.coordinator.status import WorkerStatus
from passel.cluster.trust.tokens import KINDS, Tokens
from passel.errors import UsageError
from passel.gateway import desk
from passel.web.ports import BestNode, NewNode, NodeInfo, NodeTask, NodeView, PasselView, Survey, TokenView, WorkerView

CPU_S_A_PHOTO = 5.0
"""Until this server has made maps of its own: brighton_beach in bench/results/summary.md."""
_PROGRESS_LINE = re.compile(r"\w+ \d+/\d+ ")
_MOST_WORDS = 200
_PLAN, _SURVEY = "odm_report/submodels.geojson", ".passel/survey.json"


def join_lines(page: str, host: str, workers_port: int) -> tuple[str, ...]:
    """What to type on another machine: with nothing installed, and with Passel installed. page: URL of the public port."""
    return (
        f"curl -fsS {page}join | sh -s -- TOKEN",
        f"passel join https://{f'[{host}]' if ':' in host else host}:{workers_port} --token TOKEN",
    )


@dataclass(frozen=True)
class UiPassel:
    """The UI's `Passel`. join_lines, local (name of this machine's worker): asked for at each view, for they change.
    open_line: starts this passel so that others can join.
    """

    admin: Admin
    book: Tokens
    join_lines: Callable[[], tuple[str, ...]]
    local: Callable[[], str]
    open_line: str

    def view(self) -> PasselView:
        """This moment."""
        now: Overview = self.admin.overview()
        workers = tuple(_worker(w, self.local()) for w in now.passel.workers)
        return PasselView(
            now.name, now.version, now.uptime_s, now.steps_a_minute, now.rest_s, workers, self.join_lines(), self.open_line
        )  # fmt: skip

    def drain(self, worker: str, drained: bool) -> None:
        """No new steps for this worker, or again some. Raises UsageError."""
        if not self.admin.drain(worker, drained):
            raise UsageError("no such worker is connected", worker)

    def revoke_worker(self, worker: str) -> None:
        """Shut a worker out for good. Raises UsageError."""
        self.admin.revoke(worker)

    def tokens(self) -> Sequence[TokenView]:
        """All tokens, oldest first."""
        now_s = self.book.now_s()
        return [
            TokenView(t.id, t.kind, t.name, t.created_s, t.expires_s, t.uses, t.trouble(now_s))
            for t in self.book.list()
        ]

    def create_token(self, kind: str, name: str, expires_in_s: float | None) -> str:
        """The token, shown this once."""
        for known in KINDS:
            if kind == known:
                return self.book.create(known, name, expires_in_s)
        raise UsageError("no such kind of token", kind)

    def renew_invitation(self, token: str, expires_in_s: float) -> bool:
        """Make a join token good for so long from now. False when it opens nothing any more."""
        return self.book.renew("join", token, expires_in_s)

    def revoke_token(self, id: str) -> None:
        """It opens nothing from now on. Raises UsageError."""
        self.book.revoke(id)


def _worker(worker: WorkerStatus, local: str) -> WorkerView:
    machine = worker.machine
    running = tuple(f"{s.stage} {s.name}".strip() for s in worker.running)
    return WorkerView(
        worker.name,
        worker.state,
        machine.hostname,
        worker.slots.cpus,
        machine.memory_mb,
        machine.free_memory_mb,
        machine.gpu,
        running,
        worker.steps_done,
        worker.name == local,
    )


@dataclass(frozen=True)
class UiNodes:
    """The UI's `Nodes`: the desk at which `passel node` sits, too."""

    desk: desk.NodeDesk

    def lines(self) -> Sequence[NodeView]:
        """All nodes, by name."""
        return [_node(line) for line in self.desk.lines()]

    def info(self, node: str) -> NodeInfo:
        """All that is known of a node."""
        found = self.desk.info(node)
        return NodeInfo(_node(found.line), tuple(NodeTask(t.job, t.photos, t.began_s, t.outcome) for t in found.tasks))

    def best(self, photos: int) -> BestNode:
        """The node that a task of so many photos would get now."""
        found = self.desk.best(photos)
        return BestNode(found.name, found.why)

    async def add(self, new: NewNode) -> None:
        """Add a node and ask it how it is."""
        wanted = desk.NewNode(new.url, new.token, new.name, pin=new.pin, max_upload_mb_s=new.max_upload_mb_s)
        await self.desk.add(wanted)

    def delete(self, node: str) -> None:
        """Take a node out."""
        self.desk.delete(node)

    def lock(self, node: str, on: bool) -> None:
        """No new tasks for the node, or again some."""
        self.desk.lock(node, on)

    async def update(self) -> None:
        """Ask all nodes now how they are."""
        await self.desk.update()


def _node(line: desk.NodeLine) -> NodeView:
    return NodeView(**{f.name: getattr(line, f.name) for f in fields(NodeView)})


@dataclass
class _Look:
    """A survey that runs or has ended. key: what was asked for."""

    key: tuple[object, ...]
    process: asyncio.subprocess.Process | None = None
    words: list[str] = field(default_factory=list)
    failed: str = ""
    done: bool = False


class UiSurveyor:
    """Runs `passel run … --end-with split` as a child, in the job's own output folder: what it reads is not read again later.

    output_of: the output folder of a job. cpus: of all machines. past: output folders of maps made here, for the forecast.
    """

    def __init__(
        self, output_of: Callable[[str], Path], cpus: Callable[[], int], past: Callable[[], Iterable[Path]]
    ) -> None:
        self._output_of, self._cpus, self._past = output_of, cpus, past
        self._looks: dict[str, _Look] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def survey(self, uuid: str, photos: Path, words: Sequence[str]) -> Survey:
        """Begins at the first call for these photos and options, then says how far it is."""
        names = await asyncio.to_thread(_names, photos)
        key = (tuple(words), names)
        look = self._looks.get(uuid)
        if look is None or look.key != key:
            self.stop(uuid)
            look = self._looks[uuid] = _Look(key)
            task = asyncio.create_task(self._run(uuid, photos, words, look))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if not look.done:
            return Survey("running", tuple(look.words))
        if look.failed:
            return Survey("failed", (look.failed, *look.words))
        plan, forecast_s = await asyncio.to_thread(self._result, uuid, len(names))
        return Survey("done", tuple(look.words), plan, forecast_s)

    def stop(self, uuid: str) -> None:
        """Ends the look at a job's photos: it is about to be mapped, or gone. What it has read is kept."""
        look = self._looks.pop(uuid, None)
        if look is not None and look.process is not None and look.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(look.process.pid, signal.SIGKILL)

    async def close(self) -> None:
        """Ends all looks."""
        for uuid in list(self._looks):
            self.stop(uuid)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, uuid: str, photos: Path, words: Sequence[str], look: _Look) -> None:
        command = [sys.executable, "-P", "-m", "passel", "run", str(photos), "--output", str(self._output_of(uuid))]
        look.process = await asyncio.create_subprocess_exec(
            *command,
            *words,
            "--end-with=split",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        assert look.process.stdout is not None
        async for raw in look.process.stdout:
            line = raw.decode(errors="replace").strip()
            if line.startswith("passel: error: "):
                look.failed = line.removeprefix("passel: error: ")
            elif line and not _PROGRESS_LINE.match(line) and not line.startswith(("passel ", "Ended after")):
                look.words = [*look.words, line][:_MOST_WORDS]
        code = await look.process.wait()
        if code != 0 and not look.failed:
            look.failed = f"the photos could not be looked at (exit code {code})"
        look.done = True

    def _result(self, uuid: str, photos: int) -> tuple[str, float]:
        from passel.serving.preview import with_footprints  # the engine's survey, which most servers never look at

        output = self._output_of(uuid)
        try:
            plan = with_footprints((output / _PLAN).read_text("utf-8"), output / _SURVEY)
        except OSError:
            plan = ""  # photos without GPS have no plan on a map
        known = [c for c in map(_cpu_s_a_photo, self._past()) if c > 0]
        return plan, photos * (statistics.median(known) if known else CPU_S_A_PHOTO) / max(1, self._cpus())


def _names(photos: Path) -> tuple[str, ...]:
    return tuple(sorted(p.name for p in photos.iterdir())) if photos.is_dir() else ()


def _cpu_s_a_photo(output: Path) -> float:
    """Of a map that was made here; 0 when unknown."""
    try:
        record = json.loads((output / "log.json").read_text("utf-8"))
        photos = sum(1 for s in record["steps"] if s["stage"] == "features")
        whole = all(s["reused"] == 0 for s in record["stages"] if s["stage"] != "survey")
        return float(sum(s["cpu_seconds"] for s in record["stages"])) / photos if photos and whole else 0.0
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0
