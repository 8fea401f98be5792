"""Photos and artifacts over the workers' HTTPS: files with Range and digests out, artifacts in.

Nothing here blocks the event loop: disks are read, written and hashed in threads, a block at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from passel.cluster.coordinator.away import Away, NoBucketError
from passel.cluster.coordinator.bodies import (
    RefusalError,
    number_in,
    read_body,
    read_first,
    receive,
    refuse,
    send_file,
)
from passel.cluster.coordinator.bucket import ArtifactBucket, BucketError, LostError
from passel.cluster.coordinator.incoming import (
    DIGEST,
    Incoming,
    MismatchError,
    OvertakenError,
    Sender,
    manifest_of,
)
from passel.cluster.full_disk import FullDisk
from passel.cluster.wire.bucket import BucketCommit
from passel.cluster.wire.drivers import ReadyStep
from passel.cluster.wire.workers import (
    MANIFEST_BYTES_HEADER,
    RETRY_AFTER_S,
    START_HEADER,
    WireError,
    WireProblem,
    decode,
    encode,
)
from passel.errors import PasselError, StorageError
from passel.pipeline.damage import file_sha256
from passel.pipeline.manifest import Manifest
from passel.pipeline.store import Store, is_full_disk

MOST_MANIFEST_BYTES = 32 * 2**20
WORKER = web.RequestKey("worker", str)
"""The name of the worker that asks, as its certificate says."""
_MANIFESTS_KEPT = 2000
_MOST_LOSSES = 3
_log = logging.getLogger("passel.coordinator")
_STATUSES: tuple[tuple[type[PasselError], int], ...] = (
    (OvertakenError, 503),
    (MismatchError, 422),
    (WireError, 400),
    (NoBucketError, 404),
    (LostError, 410),
    (BucketError, 503),
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def problem(status: int, error: PasselError) -> web.Response:
    """A PasselError as an answer."""
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}
    body = encode(WireProblem(error.what, error.where, error.todo))
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


@dataclass
class _JobFiles:
    """Where a job's things are. paths: of its user's files, by key. losses: how often this disk lost an artifact. looking:
    held while one is looked at closely, by digest: many ask at once, and it is lost once."""

    name: str
    store: Store
    paths: dict[str, Path] = field(default_factory=dict)
    manifests: OrderedDict[str, Manifest] = field(default_factory=OrderedDict)
    losses: Counter[str] = field(default_factory=Counter)
    looking: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
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

    def is_here(self, digest: str) -> bool:
        """Whether the disk has it now: what was served may have been removed since."""
        if self.store.find(digest) is None:
            self.manifests.pop(digest, None)
            return False
        return True

    def look(self, digest: str) -> tuple[Manifest | None, str]:
        """The manifest, and where the files are kept, '' when they are here."""
        return self.manifest(digest), self.store.away_at(digest)


class DataPlane:
    """Serves the files of the jobs that were attached.

    bucket: where artifacts may be kept instead of here. on_lost(job): one of the job's artifacts has to be made again.
    on_delivered(job, digest, worker): one has come.
    """

    def __init__(
        self,
        bucket: ArtifactBucket | None = None,
        on_lost: Callable[[str], None] = lambda job: None,
        on_delivered: Callable[[str, str, str], None] = lambda job, digest, worker: None,
    ) -> None:
        self._jobs: dict[str, _JobFiles] = {}
        self.away = Away(bucket, self._lost)
        self._on_lost, self._on_delivered = on_lost, on_delivered
        self._incoming = Incoming()
        self._hashes: dict[tuple[Path, int, int], str] = {}

    def routes(self) -> list[web.RouteDef]:
        """For an application that sets request[WORKER]."""
        artifact = "/v1/jobs/{job}/artifacts/{digest}"
        return [
            web.get("/v1/jobs/{job}/files/{key}", _answered(self._get_file)),
            web.get(artifact, _answered(self._get_manifest), allow_head=False),
            web.head(artifact, _answered(self._head)),
            web.put(artifact, _answered(self._put)),
            web.post(artifact + "/bucket", _answered(self._plan)),
            web.post(artifact + "/kept", _answered(self._take)),
            web.post(artifact + "/here", _answered(self._bring)),
            web.post(artifact + "/doubt", _answered(self._doubt)),
            web.get(artifact + "/{name:.+}", _answered(self._get_artifact_file), allow_head=False),
        ]

    def attach(self, job: str, store_root: Path) -> None:
        """A job's driver has come; it may come again."""
        if job not in self._jobs or self._jobs[job].store.root != store_root:
            self._jobs[job] = _JobFiles(job, Store(store_root, self._no_bring))
        self._jobs[job].manifests.clear()  # it may have come again because the disk has lost one

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

    async def _look_closely(self, job: _JobFiles, digest: str) -> None:
        """Raises LostError when an artifact here is not what its manifest says: it is forgotten, and made again. After a few times
        that is of no use: StorageError, as when the system does not let it be read.
        """
        async with job.looking[digest]:
            if await asyncio.to_thread(job.store.is_well, digest):
                return
            if job.losses[digest] >= _MOST_LOSSES:
                what = "What is written to the coordinator's disk is damaged there, again and again"
                raise StorageError(what, str(job.store.root), "check this disk")
            dropped = await asyncio.to_thread(job.store.drop, digest)
            if dropped or digest in job.manifests:  # else another request was quicker
                job.losses[digest] += 1
                _log.warning("job %s: an artifact is damaged or gone here, and is made again: %s", job.name, digest)
                self._lost(job.name, digest)
        raise LostError("The coordinator's artifact is damaged or gone", digest, "it is made again")

    def _lost(self, job: str, digest: str) -> None:
        if (files := self._jobs.get(job)) is not None:
            files.manifests.pop(digest, None)
        self._on_lost(job)

    # ---- out --------------------------------------------------------------------------------------------------------

    async def _get_file(self, request: web.Request) -> web.StreamResponse:
        job, key = self._job(request), request.match_info["key"]
        path = job.paths.get(key)
        if path is None:
            raise RefusalError(503, "The coordinator does not know this file yet", key[:80], "ask again")
        return await send_file(request, path, await asyncio.to_thread(self._sha256, path))

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
        path = job.store.path(digest) / name
        if await asyncio.to_thread(_size_of, path) != file.size_bytes:
            await self._look_closely(job, digest)
        return await send_file(request, path, file.sha256)

    async def _get_manifest(self, request: web.Request) -> web.StreamResponse:
        job, digest = self._job(request), _digest(request)
        if await asyncio.to_thread(job.manifest, digest) is None:
            raise self._missing(job, digest[:12])
        try:
            text = await asyncio.to_thread((job.store.path(digest).parent / "manifest.json").read_text, "utf-8")
        except FileNotFoundError:
            await self._look_closely(job, digest)
            raise
        return web.Response(text=text, content_type="application/json")

    def _missing(self, job: _JobFiles, what: str) -> RefusalError:
        """410 when it may have been lost, and so is being made again."""
        lost = self.away.has_lost(job.name) or bool(job.losses)
        return RefusalError(410 if lost else 404, "There is no such artifact or file of it", what)

    def _sha256(self, path: Path) -> str:
        """Of a user's file, read once."""
        stat = path.stat()
        key = (path, stat.st_size, stat.st_mtime_ns)
        if key not in self._hashes:
            self._hashes[key] = file_sha256(path)
        return self._hashes[key]

    # ---- in ---------------------------------------------------------------------------------------------------------

    async def _head(self, request: web.Request) -> web.StreamResponse:
        """How much of an artifact's content this sender has sent already."""
        job, sender = self._job(request), self._sender(request)
        await self._refuse_known(job, sender)
        job.disk.refuse()
        try:
            received_bytes = await asyncio.to_thread(self._incoming.received_bytes, sender)
        except StorageError:
            await asyncio.to_thread(self._incoming.discard, sender)
            raise
        if received_bytes is None:
            raise RefusalError(404, "Nothing of this artifact is here", sender.digest[:12])
        return web.Response(headers={"Content-Length": str(received_bytes)})

    async def _put(self, request: web.Request) -> web.StreamResponse:
        """An artifact: its manifest, then the content of its files, from where an earlier request ended."""
        job, sender, mine = self._job(request), self._sender(request), object()
        unwritten: list[bytes] = []
        await self._refuse_known(job, sender)
        start, manifest_bytes = number_in(request, START_HEADER), number_in(request, MANIFEST_BYTES_HEADER)
        manifest = manifest_of(await read_first(request, manifest_bytes, MOST_MANIFEST_BYTES), sender.digest)
        if request.content_length != manifest_bytes + manifest.size_bytes - start:
            refuse("The Content-Length is not that of the manifest and what is left of the files")
        with job.disk.watched(manifest.size_bytes):
            try:
                package = await asyncio.to_thread(self._incoming.package, sender, job.store)
                if not await asyncio.to_thread(package.begin, mine, manifest, start, unwritten):
                    received_bytes = await asyncio.to_thread(lambda: package.received_bytes)
                    raise RefusalError(416, f"{received_bytes} bytes of this artifact are here", sender.digest)
                await receive(request, package, mine, unwritten)
                await asyncio.to_thread(self._incoming.commit, sender, package, mine)
            except StorageError:
                await asyncio.to_thread(self._incoming.discard, sender)  # or it would fill the disk until the job's end
                raise
        self._on_delivered(sender.job, sender.digest, sender.worker)
        return web.Response(status=204)

    async def _plan(self, request: web.Request) -> web.StreamResponse:
        job, manifest = self._job(request), manifest_of(await read_body(request, MOST_MANIFEST_BYTES), _digest(request))
        await self._refuse_known(job, self._sender(request))
        return web.Response(body=encode(await self.away.plan(job.name, manifest)), content_type="application/json")

    async def _take(self, request: web.Request) -> web.StreamResponse:
        job, commit = self._job(request), decode(BucketCommit, await read_body(request, MOST_MANIFEST_BYTES))
        manifest = manifest_of(commit.manifest.encode("utf-8", "surrogatepass"), _digest(request))
        await self._refuse_known(job, self._sender(request))
        try:
            await self.away.take(job.name, job.store, manifest, commit)
        except LostError as error:
            raise MismatchError(error.what, error.where, error.todo) from error
        self._on_delivered(job.name, manifest.digest, request[WORKER])
        return web.Response(status=204)

    async def _bring(self, request: web.Request) -> web.StreamResponse:
        job, digest = self._job(request), _digest(request)
        await self.away.bring(job.name, job.store, job.disk, digest)
        return web.Response(status=204)

    async def _doubt(self, request: web.Request) -> web.StreamResponse:
        """Somebody who has read the artifact found it damaged, or failed with it."""
        await self._look_closely(self._job(request), _digest(request))
        return web.Response(status=204)

    async def _refuse_known(self, job: _JobFiles, sender: Sender) -> None:
        if await asyncio.to_thread(job.is_here, sender.digest):
            await asyncio.to_thread(self._incoming.discard, sender)  # another was quicker
            raise RefusalError(409, "The artifact is here already", sender.digest[:12])

    def _job(self, request: web.Request) -> _JobFiles:
        job = self._jobs.get(request.match_info["job"])
        if job is None:
            raise RefusalError(
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


def _size_of(path: Path) -> int:
    """-1: there is none, or the disk cannot tell."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _status_of(error: PasselError) -> int:
    if isinstance(error, RefusalError):
        return error.status
    found = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
    return 507 if found == 500 and is_full_disk(error) else found


def _digest(request: web.Request) -> str:
    digest = request.match_info["digest"]
    if not DIGEST.fullmatch(digest):
        refuse("This is no digest")
    return digest
