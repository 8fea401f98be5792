"""Inputs of steps, brought into the cache: each once, however many steps ask for it at a time."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote
from weakref import WeakValueDictionary

from passel.cluster.user_files import changed
from passel.cluster.wire.workers import InputRef, artifact_path, file_path
from passel.cluster.worker.answers import DamagedError, NotThereError
from passel.cluster.worker.cache import Cache
from passel.cluster.worker.together import in_thread, together
from passel.cluster.worker.transfer import Link
from passel.errors import PasselError, StorageError
from passel.pipeline.manifest import ArtifactFile, manifest_from_json
from passel.pipeline.store import is_full_disk

_MOST_TRIES = 3
_LEAST_FREED_BYTES = 64_000_000
_MISSING = "missing"
"""A folder that does not exist: a photo that the coordinator cannot read has a path there, and steps find it unreadable, too."""
_log = logging.getLogger("passel.worker")


@dataclass(frozen=True)
class FetchedInputs:
    """Local paths in the order asked, and the bytes that went over the network for them, now or ahead."""

    paths: tuple[Path, ...]
    moved_bytes: int


@dataclass(frozen=True)
class _Got:
    """pins: what to unpin. files: (path, name) of those that are to be shown together instead of `path`."""

    path: Path
    pins: tuple[str, ...]
    moved_bytes: int
    files: tuple[tuple[Path, str], ...] = ()


class Fetcher:
    """Brings inputs from the coordinator into the cache and keeps them there while steps need them."""

    def __init__(self, cache: Cache, link: Link) -> None:
        self._cache, self._link = cache, link
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._waiting_steps = 0
        self._nobody_waits = asyncio.Event()
        self._nobody_waits.set()
        self._ahead_bytes: dict[str, int] = {}

    @asynccontextmanager
    async def inputs(self, job: str, refs: Sequence[InputRef]) -> AsyncIterator[FetchedInputs]:
        """All of these, pinned until the end of the block. Waits for a link that is down.

        Raises StorageError when the disk is full, NotThereError when the coordinator has no such thing, ChangedError for a photo.
        """
        async with AsyncExitStack() as pins:
            tasks = [asyncio.create_task(self._get(job, ref)) for ref in refs]
            pins.push_async_callback(self._unpin, tasks)
            with self._waiting():
                got = await asyncio.gather(*tasks)
            ahead_bytes = sum(self._ahead_bytes.pop(ref.key, 0) for ref in refs)
            paths = [
                await pins.enter_async_context(in_thread(self._cache.gathered(g.files))) if g.files else g.path
                for g in got
            ]
            yield FetchedInputs(tuple(paths), sum(g.moved_bytes for g in got) + ahead_bytes)

    async def prefetch(self, job: str, refs: Sequence[InputRef]) -> None:
        """Brings what is missing while no step waits and the cache has room without giving up anything. Trouble is ignored: a hint.

        What it moves counts for the first step that asks for it.
        """
        for ref in refs:
            await self._nobody_waits.wait()
            if self._cache.size_bytes + ref.size_bytes <= self._cache.most_bytes:
                with suppress(PasselError):
                    got = await self._get(job, ref)
                    self._drop_pins(got)
                    if got.moved_bytes:
                        self._ahead_bytes[ref.key] = self._ahead_bytes.get(ref.key, 0) + got.moved_bytes

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """A step waits for its inputs: they have the link for themselves."""
        self._waiting_steps += 1
        self._nobody_waits.clear()
        try:
            yield
        finally:
            self._waiting_steps -= 1
            if not self._waiting_steps:
                self._nobody_waits.set()

    async def _unpin(self, tasks: Sequence[asyncio.Task[_Got]]) -> None:
        for task in tasks:
            task.cancel()
        for got in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(got, _Got):
                self._drop_pins(got)

    def _drop_pins(self, got: _Got) -> None:
        for pin in got.pins:
            self._cache.unpin(pin)

    async def _get(self, job: str, ref: InputRef) -> _Got:
        """One input, pinned."""
        async with self._locks.setdefault(ref.key, asyncio.Lock()):
            while True:
                try:
                    return await (self._artifact(job, ref) if ref.kind == "artifact" else self._file(job, ref))
                except StorageError as error:
                    wanted_bytes = max(ref.size_bytes, _LEAST_FREED_BYTES)
                    if not is_full_disk(error) or not self._cache.free(wanted_bytes):
                        raise

    async def _file(self, job: str, ref: InputRef) -> _Got:
        cache, moved_bytes = self._cache, 0
        while (path := cache.pin_file(ref.key, ref.size_bytes)) is None:
            with cache.download(ref.key, ref.size_bytes) as part:
                try:
                    fetched = await self._link.fetch(file_path(job, ref.key), part, cache.has_file)
                except NotThereError as error:
                    _log.warning("%s cannot be had: %s", ref.name, error)
                    return _Got(cache.root / _MISSING / ref.name, (), moved_bytes)  # the step says what that means
                except DamagedError as error:
                    raise changed(ref.name) from error
                moved_bytes += fetched.moved_bytes
                if ref.sha256 and fetched.sha256 != ref.sha256:
                    part.unlink(missing_ok=True)
                    raise changed(ref.name)
                if not cache.has_file(fetched.sha256):
                    path = cache.add_file(part, fetched.sha256, ref.key)
                    break
                cache.add_alias(ref.key, fetched.sha256)
        return _Got(path, (path.name,), moved_bytes)

    async def _artifact(self, job: str, ref: InputRef) -> _Got:
        cache, folder = self._cache, self._cache.store.path(ref.key)
        if cache.pin_artifact(ref.key) is not None:
            return _Got(folder, (ref.key,), 0)
        if ref.part:
            return await self._some_files(job, ref)
        text = await self._link.manifest_text(job, ref.key)
        try:
            files = manifest_from_json(text).files
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(ref.key) from error
        with ExitStack() as downloads:
            parts = [downloads.enter_context(cache.download(_part_key(ref.key, f), f.size_bytes)) for f in files]
            moved = await together(self._part(job, ref.key, f, part) for f, part in zip(files, parts, strict=True))
            cache.add_artifact(text, parts)
        return _Got(folder, (ref.key,), sum(moved))

    async def _some_files(self, job: str, ref: InputRef) -> _Got:
        """Files of an artifact, each cached for itself by its content."""
        tasks = [asyncio.create_task(self._one_of(job, ref.key, file)) for file in ref.files]
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._unpin, tasks)
            got = await asyncio.gather(*tasks)
            undo.pop_all()
        files = tuple(shown for g in got for shown in g.files)
        return _Got(
            self._cache.root / _MISSING, tuple(p for g in got for p in g.pins), sum(g.moved_bytes for g in got), files
        )

    async def _one_of(self, job: str, digest: str, file: ArtifactFile) -> _Got:
        cache, moved_bytes = self._cache, 0
        path = cache.pin_file(file.sha256, file.size_bytes)
        if path is None:
            with cache.download(_part_key(digest, file), file.size_bytes) as part:
                moved_bytes = await self._part(job, digest, file, part)
                path = cache.add_file(part, file.sha256, file.sha256)
        return _Got(path, (file.sha256,), moved_bytes, ((path, file.name),))

    async def _part(self, job: str, digest: str, file: ArtifactFile, part: Path) -> int:
        """One file of an artifact; returns the bytes moved."""
        moved_bytes = 0
        for _ in range(_MOST_TRIES):
            try:
                fetched = await self._link.fetch(artifact_path(job, digest, quote(file.name)), part)
            except DamagedError:
                await self._link.doubt(job, digest)
                continue
            moved_bytes += fetched.moved_bytes
            if fetched.sha256 == file.sha256:
                return moved_bytes
            part.unlink(missing_ok=True)
        raise _damaged(digest)


def _part_key(digest: str, file: ArtifactFile) -> str:
    return hashlib.sha256(f"{digest}/{file.name}".encode("utf-8", "surrogateescape")).hexdigest()


def _damaged(digest: str) -> StorageError:
    return StorageError("The coordinator's artifact is damaged", digest, "check its disk and start the job again")
