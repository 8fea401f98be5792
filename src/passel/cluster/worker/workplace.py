"""Where a worker's step happens: beside the coordinator, in the job's own folders, or far away, with a cache and a line."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from passel.cluster.full_disk import FullDisk
from passel.cluster.wire.packed_step import packed_step
from passel.cluster.wire.workers import Assignment, CacheNews, Failure, Finished, InputRef, Phase
from passel.cluster.worker.answers import DamagedError, GoneError, NotThereError, RefusedError
from passel.cluster.worker.cache import Cache
from passel.cluster.worker.fetch import Fetcher
from passel.cluster.worker.hosts import Hosts
from passel.cluster.worker.together import in_thread, together
from passel.cluster.worker.transfer import Link
from passel.errors import PasselError, StorageError
from passel.pipeline.damage import file_sha256, says_gone
from passel.pipeline.manifest import Manifest
from passel.pipeline.messages import RETRIED_KINDS, Answer, Failed, Request
from passel.pipeline.store import Store, is_full_disk

OnPhase = Callable[[Phase], None]
_TAIL_BYTES = 4000
_MOST_SENDS = 10
_MOST_MENDS = 5
_MOST_HINTS = 256
_MOST_CHECKED = 200_000
_log = logging.getLogger("passel.worker")


class Workplace(Protocol):
    """Does what an assignment says."""

    async def work(self, assignment: Assignment, on_phase: OnPhase) -> Finished:
        """Brings the inputs, runs the step, delivers its artifact. Cancelled, it leaves nothing running.

        Every failure of the step comes back as `Finished.failure`; RefusedError is raised.
        """

    def everything(self) -> CacheNews:
        """All keys that are cached here."""

    def take_news(self) -> CacheNews:
        """Keys that came and went since the last call."""

    def prefetch(self, job: str, inputs: Sequence[InputRef]) -> None:
        """May bring inputs before they are needed."""

    @property
    def disk(self) -> Path:
        """A folder on the disk that the work needs."""

    @property
    def full(self) -> bool:
        """Whether the disk takes no more."""


class LocalWorkplace:
    """On the coordinator's machine: reads photos and writes artifacts where they belong; only what is in the bucket has to come."""

    def __init__(self, hosts: Hosts, disk: Path, link: Link) -> None:
        self._hosts = hosts
        self._disk = disk
        self._link = link
        self._full: dict[Path, FullDisk] = {}
        self._checked: dict[Path, int] = {}

    async def work(self, assignment: Assignment, on_phase: OnPhase) -> Finished:
        log = Path(assignment.log)
        try:
            await together(self._link.bring(assignment.job, i.key) for i in assignment.inputs if i.away)
            store = Store(Path(assignment.store))
            paths = tuple((i.role, Path(i.path) if i.path else store.path(i.key)) for i in assignment.inputs)
            well = await asyncio.to_thread(_are_well, assignment.inputs, paths, self._checked)
            if not well and (lost := await self._lost(assignment)):
                raise lost
            request = Request(packed_step(assignment), paths, store.root, log, assignment.attempt)
        except RefusedError:
            raise
        except PasselError as error:
            return _finished(assignment, _failure_of(error))
        on_phase("running")
        answer = await self._hosts.run(assignment.ticket, request)
        if isinstance(answer, Failed):
            answer = await asyncio.to_thread(_with_disk_seen, answer, store)
            if answer.kind == "storage":
                self._full.setdefault(store.root, FullDisk(store.root)).note()
            elif answer.kind not in ("broken", "timeout", "stopped") and (lost := await self._lost(assignment)):
                return _finished(assignment, _failure_of(lost))
            return _finished(assignment, await asyncio.to_thread(_failure, answer, log))
        return _finished(assignment, _wrong_artifact(assignment, answer.manifest), answer.manifest)

    async def _lost(self, assignment: Assignment) -> GoneError | None:
        """Perhaps not the step is bad, but one of its inputs is damaged on this disk. It is said to be gone, then: it is made again."""
        for given in assignment.inputs:
            try:
                if given.kind == "artifact":
                    await self._link.doubt(assignment.job, given.key)
            except GoneError as gone:
                return gone
            except NotThereError as error:
                _log.warning("%s", error)
        return None

    def everything(self) -> CacheNews:
        return CacheNews(whole=True)

    def take_news(self) -> CacheNews:
        return CacheNews()

    def prefetch(self, job: str, inputs: Sequence[InputRef]) -> None:
        """Everything is here already."""

    @property
    def disk(self) -> Path:
        return self._disk

    @property
    def full(self) -> bool:
        self._full = {root: disk for root, disk in self._full.items() if disk.is_full}
        return bool(self._full)


@dataclass
class _Moved:
    """Bytes that went over the network for a step."""

    bytes_in: int = 0
    bytes_out: int = 0


@dataclass
class RemoteWorkplace:
    """Away from the coordinator: inputs come into the cache, artifacts are made in it and sent."""

    hosts: Hosts
    cache: Cache
    link: Link
    logs: Path
    _unsent: int = 0
    _sent: asyncio.Event = field(default_factory=asyncio.Event)
    _hints: deque[tuple[str, Sequence[InputRef]]] = field(default_factory=lambda: deque(maxlen=_MOST_HINTS))
    _prefetching: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self._fetcher = Fetcher(self.cache, self.link)
        self._full_disk = FullDisk(self.cache.root)

    async def work(self, assignment: Assignment, on_phase: OnPhase) -> Finished:
        moved = _Moved()
        log = self.logs / f"{assignment.digest}-{assignment.ticket}.log"
        failure: Failure | None
        manifest = None
        try:
            for _ in range(_MOST_SENDS):
                made = await self._make(assignment, log, moved, on_phase)
                if isinstance(made, Failed):
                    failure = await asyncio.to_thread(_failure, made, log)
                    break
                self._unsent += 1
                manifest, failure = made, _wrong_artifact(assignment, made)
                try:
                    if failure is not None or await self._deliver(assignment, made, moved, on_phase):
                        break
                finally:
                    self.cache.unpin(made.digest)
                    self._unsent -= 1
                    self._sent.set()
            else:
                failure = Failure(
                    "storage", "The artifact was damaged on its way, again and again", str(self.cache.root)
                )
        except RefusedError:
            raise
        except PasselError as error:
            if is_full_disk(error):
                self._full_disk.note()
            failure = _failure_of(error)
        finally:
            await asyncio.to_thread(log.unlink, missing_ok=True)
        return _finished(assignment, failure, manifest, moved)

    def everything(self) -> CacheNews:
        return self.cache.everything()

    def take_news(self) -> CacheNews:
        return self.cache.take_news()

    def prefetch(self, job: str, inputs: Sequence[InputRef]) -> None:
        """One hint after the other, so that the next step's inputs come first."""
        self._hints.append((job, inputs))
        if self._prefetching is None or self._prefetching.done():
            self._prefetching = asyncio.create_task(self._prefetch())

    async def _prefetch(self) -> None:
        while self._hints and not self.full:
            await self._fetcher.prefetch(*self._hints.popleft())

    @property
    def disk(self) -> Path:
        return self.cache.root

    @property
    def full(self) -> bool:
        return self._full_disk.is_full

    async def _make(self, assignment: Assignment, log: Path, moved: _Moved, on_phase: OnPhase) -> Manifest | Failed:
        """The artifact, in the cache and pinned until it is delivered; made here, now or earlier."""
        existing = self.cache.pin_artifact(assignment.digest)
        if existing is not None:
            return existing
        answer = await self._try(assignment, log, moved, on_phase)
        for _ in range(_MOST_MENDS):
            if not isinstance(answer, Failed) or not await self._was_our_fault(assignment, answer):
                break
            answer = await self._try(assignment, log, moved, on_phase)
        if isinstance(answer, Failed):
            if answer.kind == "storage":
                self._full_disk.note()  # though the cache gave up what it could
            return replace(answer, kind="storage") if answer.kind == "broken" else answer  # others have other disks
        self.cache.made(answer.manifest)
        return answer.manifest

    async def _try(self, assignment: Assignment, log: Path, moved: _Moved, on_phase: OnPhase) -> Answer:
        """Brings what is missing and runs the step once."""
        on_phase("fetching")
        async with self._inputs(assignment, moved) as paths:
            on_phase("running")
            step = packed_step(assignment)
            request = Request(step, paths, self.cache.store.root, log, assignment.attempt, synced=False)  # it is sent
            answer = await self.hosts.run(assignment.ticket, request)
        if isinstance(answer, Failed):
            answer = await asyncio.to_thread(_with_disk_seen, answer, self.cache.store)
        return answer

    async def _was_our_fault(self, assignment: Assignment, failed: Failed) -> bool:
        """After a failure: True when something was wrong here and no longer is, so that the step deserves another try."""
        if failed.kind == "broken":
            return False
        if failed.kind != "storage":
            return bool(await asyncio.to_thread(self.cache.verify, [key for i in assignment.inputs for key in i.keys]))
        while not await asyncio.to_thread(self.cache.free, self.cache.most_bytes):
            if not self._unsent:
                return False
            self._sent.clear()
            await self._sent.wait()  # what waits to be delivered fills the disk, and goes from there
        return True

    @asynccontextmanager
    async def _inputs(self, assignment: Assignment, moved: _Moved) -> AsyncIterator[tuple[tuple[str, Path], ...]]:
        """The inputs' paths as the step should see them, kept until the end of the block."""
        async with self._fetcher.inputs(assignment.job, assignment.inputs) as fetched:
            moved.bytes_in += fetched.moved_bytes
            files = [(p, i.name) for p, i in zip(fetched.paths, assignment.inputs) if i.kind == "file"]
            async with in_thread(self.cache.view(files)) as shown:
                names = iter(shown)
                yield tuple(
                    (i.role, next(names) if i.kind == "file" else p) for p, i in zip(fetched.paths, assignment.inputs)
                )

    async def _deliver(self, assignment: Assignment, manifest: Manifest, moved: _Moved, on_phase: OnPhase) -> bool:
        """Sends the artifact; False when what arrived was not what the manifest says, and ours is to be made again."""
        on_phase("sending")
        try:
            folder = self.cache.store.path(manifest.digest)
            moved.bytes_out += await self.link.send_artifact(assignment.job, manifest, folder)
        except DamagedError:
            await asyncio.to_thread(self.cache.verify, [manifest.digest])
            return False
        return True


def _finished(
    assignment: Assignment, failure: Failure | None, manifest: Manifest | None = None, moved: _Moved | None = None
) -> Finished:
    moved = moved or _Moved()
    a, cost = assignment, manifest.cost if manifest else None
    return Finished(
        a.ticket,
        a.job,
        a.digest,
        a.attempt,
        failure,
        cost.seconds if cost else 0.0,
        cost.cpu_seconds if cost else 0.0,
        cost.peak_rss_mb if cost else 0.0,
        moved.bytes_in,
        moved.bytes_out,
    )


def _wrong_artifact(assignment: Assignment, manifest: Manifest) -> Failure | None:
    """Two machines that do not agree on a step's digest run different programs."""
    if manifest.digest == assignment.digest:
        return None
    place = f"{assignment.stage} {assignment.name}"
    return Failure("crash", "The step came out under another digest", place, "install the same Passel everywhere")


def _are_well(refs: Sequence[InputRef], paths: Sequence[tuple[str, Path]], checked: dict[Path, int]) -> bool:
    """Whether the files of these artifacts are what they should be. checked: when each was changed last as it was read here, for
    their content is too much to read each time."""
    if len(checked) > _MOST_CHECKED:
        checked.clear()
    try:
        for path, file in [(path / f.name, f) for ref, (_, path) in zip(refs, paths) for f in ref.files]:
            found = path.stat()
            if found.st_size != file.size_bytes:
                return False
            if checked.get(path) != found.st_mtime_ns:
                if file_sha256(path) != file.sha256:
                    return False
                checked[path] = found.st_mtime_ns
    except OSError as error:  # what cannot be read for another reason is not lost: the step says what it is
        return not says_gone(error)
    return True


def _with_disk_seen(failed: Failed, store: Store) -> Failed:
    """A process that died could not say that the disk was full, nor clear up."""
    if failed.kind not in RETRIED_KINDS:
        return failed
    try:
        full = store.full_disk()  # while what it has written lies there
        store.sweep()
    except StorageError:  # the store is gone: the job was removed
        return failed
    return Failed("storage", full.what, full.where, full.todo) if full else failed


def _failure_of(error: PasselError) -> Failure:
    """GoneError counts as ours, not the step's: it is tried again when its input has been made again."""
    kind = "storage" if isinstance(error, StorageError) else "stopped" if isinstance(error, GoneError) else "error"
    return Failure(kind, error.what, error.where, error.todo)


def _failure(failed: Failed, log: Path) -> Failure:
    """The failure with the end of the step's log."""
    tail = b""
    if log.is_file():
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            tail = file.read()
    return Failure(failed.kind, failed.what, failed.where, failed.todo, str(log), tail.decode("utf-8", "replace"))
