"""The worker's line to its coordinator: polls, downloads and uploads over HTTPS, for which a link that is down is no error.

`Link.poll` tries once. Everything else is tried until it is done: a broken transfer goes on where it was, a silent connection is
given up and made anew (when: `slow_link`), and a coordinator that is away, or whose disk is full, is waited for. Only refusals are raised.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiohttp

from passel.cluster.wire.bucket import WORTH_BYTES, BucketCommit, BucketPlan, here_path, kept_path, plan_path
from passel.cluster.wire.versions import version_headers
from passel.cluster.wire.workers import (
    MANIFEST_BYTES_HEADER,
    POLL_PATH,
    START_HEADER,
    PollReply,
    PollRequest,
    WireError,
    artifact_path,
    decode,
    doubt_path,
    encode,
)
from passel.cluster.worker.agent_options import STALL_S
from passel.cluster.worker.answers import (
    AlreadyThere,
    Astray,
    DamagedError,
    NotThereError,
    Trouble,
    Unready,
    named_sha256,
    raise_for,
)
from passel.cluster.worker.bucket_line import BucketLine, BucketTrouble
from passel.cluster.worker.sink import Meter, complete, receive
from passel.cluster.worker.slow_link import DOWNLOAD_PATIENCE, UPLOAD_PATIENCE, Outgoing, pieces, socket_factory
from passel.cluster.worker.source import content
from passel.errors import PasselError, network_reason
from passel.pipeline.manifest import Manifest, manifest_to_json

_WORTH_ASKING_BYTES = 8 * 2**20
"""From this size on an upload asks first how much an earlier one has left."""
_SYNCING_S = 180.0
"""After the last piece has left: what buffers still hold of it goes over the link, and the coordinator writes all of the artifact
through to its disk before it answers."""
_MANY = 100
_MOST_TROUBLES = 6
_MOST_ASTRAY = 3
_MOST_BUCKET_TRIES = 4
_ELSEWHERE = 307
_WORTH_TELLING_S = 1.0
_LONG = aiohttp.ClientTimeout(total=600.0)
"""For what makes the coordinator read or write whole artifacts."""
_log = logging.getLogger("passel.worker")
Result = TypeVar("Result")


_TRANSIENT = (aiohttp.ClientError, TimeoutError, ConnectionError, Unready, WireError)


@dataclass(frozen=True)
class LinkSettings:
    """stall_s: a connection without a sign of life for so long is given up. connect_s: the same for making one, which takes two rounds.

    longest_pause_s: between two tries. downloads: files at a time. uploads: artifacts at a time, files of those into a bucket.
    """

    stall_s: float = STALL_S
    connect_s: float = 10.0
    longest_pause_s: float = 2.0
    downloads: int = 4
    uploads: int = 4


@dataclass(frozen=True)
class Fetched:
    """A finished download. sha256: of the whole content, hashed here. moved_bytes: what went over the network."""

    sha256: str
    moved_bytes: int


class Link:
    """The coordinator at `url`, as the TLS context's identity sees it. For one event loop; `close` it there."""

    def __init__(self, url: str, tls: ssl.SSLContext | None, settings: LinkSettings | None = None) -> None:
        self.url = url.rstrip("/")
        self._settings = settings or LinkSettings()
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None
        self._downloads = asyncio.Semaphore(self._settings.downloads)
        self._uploads = asyncio.Semaphore(self._settings.uploads)
        self._bucket = BucketLine(self._settings.stall_s, self._settings.connect_s, self._uploads)
        self._bucket_offered = False
        self._down_since_s: float | None = None
        self._told_down = False
        self._waited_for = ""

    async def close(self) -> None:
        """Ends all connections."""
        await self._bucket.close()
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def down_s(self) -> float:
        """For how long the coordinator has not answered; 0 when it does."""
        return 0.0 if self._down_since_s is None else time.monotonic() - self._down_since_s

    async def move(self, url: str) -> None:
        """The coordinator is at another address from now on. What is under way goes on there."""
        self.url = url.rstrip("/")
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def poll(self, request: PollRequest) -> PollReply:
        """One poll, one try. Raises RefusedError, and TimeoutError or OSError when the coordinator was not reached."""
        timeout = self._timeout(request.wait_s)
        try:
            async with self._http.post(POLL_PATH, data=encode(request), timeout=timeout) as response:
                await raise_for(response)
                reply = decode(PollReply, await response.read())
        except _TRANSIENT as error:
            self._missed(error)
            raise ConnectionError(str(error)) from error
        self._reached()
        self._bucket_offered = reply.bucket
        return reply

    async def manifest_text(self, job: str, digest: str) -> str:
        """The manifest of an artifact as the coordinator has it."""

        async def attempt() -> str:
            async with self._http.get(artifact_path(job, digest)) as response:
                await raise_for(response)
                return await response.text("utf-8")

        return await self._until_done(attempt)

    async def fetch(self, path: str, part: Path, known: Callable[[str], bool] | None = None) -> Fetched:
        """Downloads into `part`, after what is in it already; from the bucket when the coordinator says so and that works.

        known: told the content's sha256 as the coordinator names it; True ends the download at once, with nothing moved.
        Raises NotThereError, GoneError, RefusedError, StorageError, DamagedError.
        """
        moved, bucket_tries, astray = Meter(), 0, 0

        async def attempt() -> str:
            nonlocal bucket_tries, astray
            async with self._downloads:
                try:
                    by_bucket = self._bucket.is_well and bucket_tries < _MOST_BUCKET_TRIES
                    found = await self._fetch_once(path if by_bucket else f"{path}?here", part, known, moved)
                    if not isinstance(found, _Elsewhere):
                        return found
                    bucket_tries += 1
                    return await self._bucket.fetch_once(found.url, part, found.sha256, moved)
                except BucketTrouble as trouble:
                    self._bucket.note(trouble)
                    bucket_tries += not trouble.unwell  # this object is no better at the next try
                    raise Unready(str(trouble)) from trouble
                except Astray as error:
                    astray += 1
                    if astray < _MOST_ASTRAY:
                        raise
                    raise DamagedError("What the coordinator sends is damaged, again and again", path) from error

        return Fetched(await self._until_done(attempt), moved.moved_bytes)

    async def bring(self, job: str, digest: str) -> None:
        """Has the coordinator fetch an artifact from the bucket. Raises NotThereError, GoneError, RefusedError."""
        await self._post(here_path(job, digest), b"")

    async def doubt(self, job: str, digest: str) -> None:
        """Has the coordinator look whether an artifact is damaged on its disk. Raises GoneError when it is, NotThereError, RefusedError."""
        await self._post(doubt_path(job, digest), b"")

    async def send_artifact(self, job: str, manifest: Manifest, folder: Path) -> int:
        """Uploads the artifact in `folder` and has it committed; returns the bytes moved.

        Raises NotThereError, RefusedError, DamagedError.
        """
        moved = Meter()
        try:
            if self._bucket_offered and self._bucket.is_well and manifest.size_bytes >= WORTH_BYTES:
                try:
                    return await self._send_by_bucket(job, manifest, folder, moved)
                except BucketTrouble as trouble:
                    self._bucket.note(trouble)
            await self._send_here(job, manifest, folder, moved)
        except AlreadyThere:
            pass
        return moved.moved_bytes

    async def _send_by_bucket(self, job: str, manifest: Manifest, folder: Path, moved: Meter) -> int:
        """Raises BucketTrouble, AlreadyThere, and what `send_artifact` raises."""
        text = manifest_to_json(manifest)
        try:
            plan = decode(BucketPlan, await self._post(plan_path(job, manifest.digest), text.encode()))
            if [u.name for u in plan.uploads] != [f.name for f in manifest.files]:
                raise WireError("The coordinator's plan is not for this artifact")
            uploads = list(zip(plan.uploads, manifest.files, strict=True))
            uploaded = await self._bucket.put_all(uploads, folder, moved)
            await self._post(kept_path(job, manifest.digest), encode(BucketCommit(text, tuple(uploaded))))
            return moved.moved_bytes
        except NotThereError as error:  # the coordinator has trouble with the bucket
            raise BucketTrouble(error.what, error.where) from error
        except DamagedError as error:
            raise BucketTrouble(error.what, error.where, unwell=False) from error

    async def _post(self, path: str, body: bytes) -> bytes:
        """Until it is answered. Raises AlreadyThere, NotThereError, DamagedError, RefusedError."""

        async def attempt() -> bytes:
            async with self._http.post(path, data=body, timeout=_LONG) as response:
                await raise_for(response)
                return await response.read()

        return await self._until_done(attempt)

    @property
    def _http(self) -> aiohttp.ClientSession:
        """Made at first use, since it belongs to the running loop."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                self.url,
                connector=aiohttp.TCPConnector(
                    ssl=self._tls or True,
                    limit=_MANY,
                    keepalive_timeout=60,
                    socket_factory=socket_factory(self._settings.stall_s),
                ),
                headers=version_headers() | {"Accept-Encoding": "identity"},
                timeout=self._timeout(0.0),
                read_bufsize=2**20,
            )
        return self._session

    def _timeout(self, wait_s: float) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(
            total=None, sock_connect=self._settings.connect_s, sock_read=self._settings.stall_s + wait_s
        )

    async def _until_done(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """Tries for as long as it takes, with growing pauses; a withdrawn step ends it by cancelling the task."""
        pause_s, troubles = 0.1, 0
        while True:
            try:
                result = await attempt()
            except _TRANSIENT as error:
                if isinstance(error, Trouble):
                    troubles += 1
                    if troubles >= _MOST_TROUBLES:
                        raise NotThereError(error.problem.what, error.problem.where, error.problem.todo) from error
                if isinstance(error, Unready):
                    pause_s = max(pause_s, error.after_s)
                    self._wait_for(str(error))
                else:
                    self._missed(error)
                await asyncio.sleep(pause_s * random.uniform(0.7, 1.0))
                pause_s = min(2 * pause_s, max(self._settings.longest_pause_s, pause_s))
            else:
                self._reached()
                return result

    async def _fetch_once(
        self, path: str, part: Path, known: Callable[[str], bool] | None, moved: Meter
    ) -> str | _Elsewhere:
        have = part.stat().st_size if part.exists() else 0
        headers = {"Range": f"bytes={have}-"} if have else {}
        timeout = self._timeout((DOWNLOAD_PATIENCE - 1) * self._settings.stall_s)
        async with self._http.get(path, headers=headers, allow_redirects=False, timeout=timeout) as response:
            if response.status == 416:  # all of it is there, or too much
                return await asyncio.to_thread(complete, part, named_sha256(response))
            if response.status == _ELSEWHERE:
                return _Elsewhere(response.headers.get("Location", ""), named_sha256(response))
            await raise_for(response)
            sha256 = named_sha256(response)
            if known is not None and sha256 and known(sha256):
                response.close()
                return sha256
            found = await receive(response, part, moved)
        if sha256 and found != sha256:
            part.unlink(missing_ok=True)  # the file was changed between two tries, or bytes went astray
            raise Astray(f"{path} came damaged")
        return found

    async def _send_here(self, job: str, manifest: Manifest, folder: Path, moved: Meter) -> None:
        """To the coordinator itself, in one request if all goes well. Raises AlreadyThere, and what `send_artifact` raises."""
        path, tries = artifact_path(job, manifest.digest), 0

        async def attempt() -> None:
            nonlocal tries
            tries += 1
            async with self._uploads:
                start = await self._received(path) if tries > 1 or manifest.size_bytes >= _WORTH_ASKING_BYTES else 0
                await self._put(path, manifest, folder, start if start <= manifest.size_bytes else 0, moved)

        await self._until_done(attempt)

    async def _received(self, path: str) -> int:
        """How much of an artifact's content earlier requests have left."""
        async with self._http.head(path) as response:
            if response.status == 404:
                return 0
            await raise_for(response)
            return int(response.headers.get("Content-Length", 0))

    async def _put(self, path: str, manifest: Manifest, folder: Path, start: int, moved: Meter) -> None:
        text, rest = manifest_to_json(manifest).encode(), content(folder, manifest.files, start)
        headers = {
            MANIFEST_BYTES_HEADER: str(len(text)),
            START_HEADER: str(start),
            "Content-Length": str(len(text) + manifest.size_bytes - start),
        }
        patience_s, trouble = UPLOAD_PATIENCE * self._settings.stall_s, list[PasselError]()
        async with asyncio.timeout(patience_s) as deadline:

            def go_on(within_s: float) -> None:
                deadline.reschedule(asyncio.get_running_loop().time() + within_s)

            async def body() -> AsyncIterator[bytes]:
                for piece in pieces(text):
                    yield piece
                    go_on(patience_s)
                try:
                    while block := await asyncio.to_thread(next, rest, b""):
                        for piece in pieces(block):
                            yield piece
                            moved.moved_bytes += len(piece)
                            go_on(patience_s)
                except PasselError as error:
                    trouble.append(error)
                    raise
                go_on(max(_SYNCING_S, patience_s))

            try:
                timeout = self._timeout(_SYNCING_S)
                async with self._http.put(path, data=Outgoing(body()), headers=headers, timeout=timeout) as response:
                    await raise_for(response)
            except aiohttp.ClientError as error:
                if trouble:  # it has ended the request as if the link were broken
                    raise trouble[0] from error
                raise

    def _wait_for(self, reason: str) -> None:
        """Says once what is waited for, not at every try."""
        if reason != self._waited_for:
            self._waited_for = reason
            _log.info("waiting: %s", reason)

    def _missed(self, error: Exception) -> None:
        now_s = time.monotonic()
        if self._down_since_s is None:
            self._down_since_s = now_s
        if not self._told_down and now_s - self._down_since_s > _WORTH_TELLING_S:
            self._told_down = True
            reason = network_reason(error)
            _log.warning("%s does not answer (%s): what runs goes on, and this worker tries again", self.url, reason)

    def _reached(self) -> None:
        if self._told_down and self._down_since_s is not None:
            _log.warning("%s answers again after %.0f s", self.url, time.monotonic() - self._down_since_s)
        self._down_since_s, self._told_down = None, False


@dataclass(frozen=True)
class _Elsewhere:
    """The coordinator's word where the file is to be fetched, and what it is."""

    url: str
    sha256: str
