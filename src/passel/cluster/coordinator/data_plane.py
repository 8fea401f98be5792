"""Photos and artifacts over the workers' HTTPS: files with Range and digests out, artifacts file by file in.

Nothing here blocks the event loop: disks are read, written and hashed in threads, a block at a time.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from aiohttp import web

from passel.cluster.coordinator.away import Away, NoBucketError
from passel.cluster.coordinator.bucket import ArtifactBucket, BucketError, LostError
from passel.cluster.coordinator.incoming import (
    DIGEST,
    Incoming,
    MismatchError,
    OvertakenError,
    Part,
    Sender,
    manifest_of,
)
from passel.cluster.full_disk import FullDisk
from passel.cluster.wire.bucket import BucketCommit
from passel.cluster.wire.drivers import ReadyStep
from passel.cluster.wire.workers import RETRY_AFTER_S, WireError, WireProblem, decode, encode
from passel.errors import PasselError, StorageError
from passel.pipeline.manifest import Manifest
from passel.pipeline.store import Store, file_sha256, is_full_disk

BLOCK_BYTES = 256 * 2**10
WRITTEN_AT_ONCE_BYTES = 2**20
MOST_MANIFEST_BYTES = 32 * 2**20
WORKER = web.RequestKey("worker", str)
"""The name of the worker that asks, as its certificate says."""
_MANIFESTS_KEPT = 2000
_STATUSES: tuple[tuple[type[PasselError], int], ...] = (
    (OvertakenError, 503),
    (MismatchError, 422),
    (WireError, 400),
    (NoBucketError, 404),
    (LostError, 410),
    (BucketError, 503),
)
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _RefusalError(PasselError):
    """An answer that is not 2xx."""

    def __init__(self, status: int, what: str, where: str = "", todo: str = "") -> None:
        super().__init__(what, where, todo)
        self.status = status


def problem(status: int, error: PasselError) -> web.Response:
    """A PasselError as an answer."""
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}
    body = encode(WireProblem(error.what, error.where, error.todo))
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


@dataclass
class _JobFiles:
    """Where a job's things are. paths: of its user's files, by key."""

    name: str
    store: Store
    paths: dict[str, Path] = field(default_factory=dict)
    manifests: OrderedDict[str, Manifest] = field(default_factory=OrderedDict)
    disk: FullDisk = field(init=False)

    def __post_init__(self) -> None:
        self.disk = FullDisk(self.store.root)

    def manifest(self, digest: str) -> Manifest | None:
        """Reads the disk at the first time."""
        found = self.manifests.get(digest) or self.store.find(digest)
        if found:
            self.manifests[digest] = found
            self.manifests.move_to_end(digest)
            if len(self.manifests) > _MANIFESTS_KEPT:
                self.manifests.popitem(last=False)
        return found

    def look(self, digest: str) -> tuple[Manifest | None, str]:
        """The manifest, and where the files are kept, '' when they are here."""
        return self.manifest(digest), self.store.away_at(digest)


class DataPlane:
    """Serves the files of the jobs that were attached.

    bucket: where artifacts may be kept instead of here. on_lost(job): one of the job's artifacts has to be made again.
    """

    def __init__(self, bucket: ArtifactBucket | None = None, on_lost: Callable[[str], None] = lambda job: None) -> None:
        self._jobs: dict[str, _JobFiles] = {}
        self.away = Away(bucket, self._lost)
        self._on_lost = on_lost
        self._incoming = Incoming()
        self._hashes: dict[tuple[Path, int, int], str] = {}

    def routes(self) -> list[web.RouteDef]:
        """For an application that sets request[WORKER]."""
        artifact = "/v1/jobs/{job}/artifacts/{digest}"
        return [
            web.get("/v1/jobs/{job}/files/{key}", _answered(self._get_file)),
            web.get(artifact, _answered(self._get_manifest), allow_head=False),
            web.post(artifact, _answered(self._commit)),
            web.post(artifact + "/bucket", _answered(self._plan)),
            web.post(artifact + "/kept", _answered(self._take)),
            web.post(artifact + "/here", _answered(self._bring)),
            web.head(artifact + "/{name:.+}", _answered(self._head)),
            web.get(artifact + "/{name:.+}", _answered(self._get_artifact_file), allow_head=False),
            web.put(artifact + "/{name:.+}", _answered(self._put)),
        ]

    def attach(self, job: str, store_root: Path) -> None:
        """A job's driver has come; it may come again."""
        if job not in self._jobs or self._jobs[job].store.root != store_root:
            self._jobs[job] = _JobFiles(job, Store(store_root, self._no_bring))

    def add_files(self, job: str, step: ReadyStep) -> None:
        """The user's files that this step reads may be fetched."""
        self._jobs[job].paths.update({i.key: Path(i.path) for i in step.inputs if i.kind == "file"})

    def forget(self, job: str) -> None:
        """The job is over: nothing of it is served or taken any more."""
        self._jobs.pop(job, None)
        self._incoming.forget(job)

    def sweep(self) -> None:
        """Now and then: removes uploads that nobody goes on with."""
        self._incoming.sweep()

    def close(self) -> None:
        self.away.close()
        self._incoming.close()

    @property
    def full(self) -> dict[str, FullDisk]:
        """The disks, by job, that have refused an artifact and have had no more room since."""
        return {name: files.disk for name, files in self._jobs.items() if files.disk.is_full}

    async def bring(self, job: str, digest: str) -> None:
        """Has the artifact's files on this disk. Raises LostError (it is made again), BucketError, StorageError."""
        if (files := self._jobs.get(job)) is not None:
            await self.away.bring(job, files.store, files.disk, digest)

    @staticmethod
    def _no_bring(digest: str) -> None:
        """What reads files here has called `Away.bring` before; its manifests count in any case."""

    def _lost(self, job: str, digest: str) -> None:
        if (files := self._jobs.get(job)) is not None:
            files.manifests.pop(digest, None)
        self._on_lost(job)

    # ---- out --------------------------------------------------------------------------------------------------------

    async def _get_file(self, request: web.Request) -> web.StreamResponse:
        job, key = self._job(request), request.match_info["key"]
        path = job.paths.get(key)
        if path is None:
            raise _RefusalError(503, "The coordinator does not know this file yet", key[:80], "ask again")
        return await _send(request, path, await asyncio.to_thread(self._sha256, path))

    async def _get_artifact_file(self, request: web.Request) -> web.StreamResponse:
        job, digest, name = self._job(request), _digest(request), request.match_info["name"]
        manifest, kept_at = await asyncio.to_thread(job.look, digest)
        file = next((f for f in manifest.files if f.name == name), None) if manifest else None
        if file is None:
            raise self._missing(job, f"{digest[:12]} {name[:200]}")
        if kept_at:
            url = "" if "here" in request.query else await self.away.address(job.name, digest, file, kept_at)
            if url:
                return web.Response(status=307, headers={"Location": url, "ETag": f'"{file.sha256}"'})
            await self.away.bring(job.name, job.store, job.disk, digest)
        return await _send(request, job.store.path(digest) / name, file.sha256)

    async def _get_manifest(self, request: web.Request) -> web.StreamResponse:
        job, digest = self._job(request), _digest(request)
        if await asyncio.to_thread(job.manifest, digest) is None:
            raise self._missing(job, digest[:12])
        text = await asyncio.to_thread((job.store.path(digest).parent / "manifest.json").read_text, "utf-8")
        return web.Response(text=text, content_type="application/json")

    def _missing(self, job: _JobFiles, what: str) -> _RefusalError:
        """410 when it may have been lost, and so is being made again."""
        return _RefusalError(
            410 if self.away.has_lost(job.name) else 404, "There is no such artifact or file of it", what
        )

    def _sha256(self, path: Path) -> str:
        """Of a user's file, read once."""
        stat = path.stat()
        key = (path, stat.st_size, stat.st_mtime_ns)
        if key not in self._hashes:
            self._hashes[key] = file_sha256(path)
        return self._hashes[key]

    # ---- in ---------------------------------------------------------------------------------------------------------

    async def _head(self, request: web.Request) -> web.StreamResponse:
        job, sender, name = self._job(request), self._sender(request), request.match_info["name"]
        manifest = await asyncio.to_thread(job.manifest, sender.digest)
        size = next((f.size_bytes for f in manifest.files if f.name == name), None) if manifest else None
        if size is None:
            job.disk.refuse()
            size = self._incoming.received_bytes(sender, name)
        if size is None:
            raise _RefusalError(404, "Nothing of this file is here", name[:200])
        return web.Response(headers={"Content-Length": str(size)})

    async def _put(self, request: web.Request) -> web.StreamResponse:
        job, sender, name = self._job(request), self._sender(request), request.match_info["name"]
        start, total = _range_of_body(request)
        await self._refuse_known(job, sender.digest)
        with job.disk.watched(total):
            try:
                part = await asyncio.to_thread(self._incoming.part, sender, job.store, name)
                await _receive(request, part, start, total)
            except StorageError:
                await asyncio.to_thread(self._incoming.discard, sender)  # or it would fill the disk until the job's end
                raise
        return web.Response(status=204)

    async def _commit(self, request: web.Request) -> web.StreamResponse:
        job, sender = self._job(request), self._sender(request)
        manifest = manifest_of(await _body(request, MOST_MANIFEST_BYTES), sender.digest)
        if await asyncio.to_thread(job.manifest, sender.digest):
            await asyncio.to_thread(self._incoming.discard, sender)
            raise _RefusalError(409, "The artifact is here already", sender.digest[:12])
        with job.disk.watched(manifest.size_bytes):
            await asyncio.to_thread(self._incoming.commit, sender, job.store, manifest)
        return web.Response(status=204)

    async def _plan(self, request: web.Request) -> web.StreamResponse:
        job, manifest = self._job(request), manifest_of(await _body(request, MOST_MANIFEST_BYTES), _digest(request))
        await self._refuse_known(job, manifest.digest)
        return web.Response(body=encode(await self.away.plan(job.name, manifest)), content_type="application/json")

    async def _take(self, request: web.Request) -> web.StreamResponse:
        job, commit = self._job(request), decode(BucketCommit, await _body(request, MOST_MANIFEST_BYTES))
        manifest = manifest_of(commit.manifest.encode("utf-8", "surrogatepass"), _digest(request))
        await self._refuse_known(job, manifest.digest)
        try:
            await self.away.take(job.name, job.store, manifest, commit)
        except LostError as error:
            raise MismatchError(error.what, error.where, error.todo) from error
        return web.Response(status=204)

    async def _bring(self, request: web.Request) -> web.StreamResponse:
        job, digest = self._job(request), _digest(request)
        await self.away.bring(job.name, job.store, job.disk, digest)
        return web.Response(status=204)

    async def _refuse_known(self, job: _JobFiles, digest: str) -> None:
        if await asyncio.to_thread(job.manifest, digest):
            raise _RefusalError(409, "The artifact is here already", digest[:12])

    def _job(self, request: web.Request) -> _JobFiles:
        job = self._jobs.get(request.match_info["job"])
        if job is None:
            raise _RefusalError(
                503, "The coordinator does not know this job (yet)", request.match_info["job"], "ask again"
            )
        return job

    def _sender(self, request: web.Request) -> Sender:
        return Sender(request.match_info["job"], _digest(request), request[WORKER])


def _answered(handler: Handler) -> Handler:
    """The handler with errors as answers."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except FileNotFoundError as error:
            return problem(404, StorageError("The file is gone", str(error.filename)))
        except PermissionError as error:
            return problem(500, StorageError("The file may not be read", str(error.filename)))
        except PasselError as error:
            return problem(_status_of(error), error)

    return answer


def _status_of(error: PasselError) -> int:
    if isinstance(error, _RefusalError):
        return error.status
    found = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
    return 507 if found == 500 and is_full_disk(error) else found


async def _send(request: web.Request, path: Path, sha256: str) -> web.StreamResponse:
    """A file, or the part of it that was asked for."""
    handle = os.open(path, os.O_RDONLY)  # not in a thread: a request cut off just then would never close it
    try:
        size = os.fstat(handle).st_size
        headers = {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        start, stop, status = _asked_range(request, size)
        if status == 416:
            return web.Response(status=416, headers={**headers, "Content-Range": f"bytes */{size}"})
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = stop - start
        await response.prepare(request)
        while start < stop and request.method != "HEAD":
            block = await asyncio.to_thread(os.pread, handle, min(BLOCK_BYTES, stop - start), start)
            if not block:  # the file was cut short meanwhile: the other end sees that bytes are missing
                request.protocol.force_close()
                break
            start += len(block)
            await response.write(block)
        return response
    finally:
        os.close(handle)


def _asked_range(request: web.Request, size: int) -> tuple[int, int, int]:
    """(first byte, byte after the last, status)."""
    try:
        asked = request.http_range
    except ValueError:
        return 0, size, 200  # a range that cannot be understood is ignored, as the standard wants
    if asked.start is None:
        return 0, size, 200
    start = max(0, size + asked.start) if asked.start < 0 else asked.start
    stop = size if asked.stop is None else min(size, asked.stop)
    return (start, stop, 206) if start < stop else (0, 0, 416)


async def _receive(request: web.Request, part: Part, start: int, total: int) -> None:
    """Writes the body after byte `start`. A request that is overtaken by another one for the same file writes no more."""
    mine = object()
    if not await asyncio.to_thread(part.begin, mine, start):
        raise _RefusalError(416, f"{part.received_bytes} bytes of this file are here", part.path.name, "go on there")
    blocks: list[bytes] = []
    pending_bytes = 0
    while block := await request.content.readany():
        blocks.append(block)
        pending_bytes += len(block)
        if part.received_bytes + pending_bytes > total:
            raise _RefusalError(400, "More bytes came than were announced")
        if pending_bytes >= WRITTEN_AT_ONCE_BYTES:
            await asyncio.to_thread(part.write, mine, blocks)
            blocks, pending_bytes = [], 0
    await asyncio.to_thread(part.write, mine, blocks)
    if part.received_bytes != total:
        raise _RefusalError(400, f"Only {part.received_bytes} of {total} bytes came")


def _range_of_body(request: web.Request) -> tuple[int, int]:
    """(first byte, size of the whole file) of a PUT."""
    length = request.content_length
    if length is None:
        _refuse("A file must come with its Content-Length")
    text = request.headers.get("Content-Range")
    if text is None:
        return 0, length
    found = _CONTENT_RANGE.fullmatch(text)
    if found is None:
        _refuse(f"This Content-Range cannot be understood: {text[:80]}")
    start, last, total = (int(g) for g in found.groups())
    if last + 1 - start != length or last >= total:
        _refuse(f"This Content-Range does not match the body: {text[:80]}")
    return start, total


def _refuse(what: str) -> NoReturn:
    raise _RefusalError(400, what)


async def _body(request: web.Request, most_bytes: int) -> bytes:
    body = bytearray()
    while block := await request.content.readany():
        body += block
        if len(body) > most_bytes:
            raise _RefusalError(413, f"More than {most_bytes} bytes")
    return bytes(body)


def _digest(request: web.Request) -> str:
    digest = request.match_info["digest"]
    if not DIGEST.fullmatch(digest):
        _refuse("This is no digest")
    return digest
