"""The bucket as a worker reaches it: by addresses that the coordinator has signed. Needs no credentials and no SDK.

Nothing depends on it: what the bucket refuses, or has lost, goes by the coordinator.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from passel.cluster.wire.bucket import Upload, Uploaded
from passel.cluster.worker.answers import Unready
from passel.cluster.worker.sink import Meter, complete, receive
from passel.cluster.worker.slow_link import DOWNLOAD_PATIENCE, UPLOAD_PATIENCE, Outgoing, pieces, socket_factory
from passel.cluster.worker.together import together
from passel.errors import PasselError
from passel.pipeline.damage import file_sha256
from passel.pipeline.manifest import ArtifactFile
from passel.pipeline.store import storage_errors

_BLOCK_BYTES = 256 * 2**10
_MOST_TRIES = 4
_REST_S = 60.0
_ANSWER_S = 180.0
"""After the last piece has left: what buffers still hold of it goes over the link, and the bucket may take its time to answer."""
_MANY = 100
_log = logging.getLogger("passel.worker")
_BROKEN = (aiohttp.ClientError, TimeoutError, ConnectionError, Unready)


class BucketTrouble(PasselError):  # noqa: N818 - the coordinator takes over
    """The bucket did not do its part. unwell: nor will it for others."""

    def __init__(self, what: str, where: str, unwell: bool = True) -> None:
        super().__init__(what, where)
        self.unwell = unwell


@dataclass(frozen=True)
class _Part:
    """A piece of a file: number, where it begins, its size and address."""

    number: int
    start: int
    size_bytes: int
    url: str


class BucketLine:
    """For one event loop; `close` it there. stall_s: a connection without a sign of life for so long is given up."""

    def __init__(self, stall_s: float, connect_s: float, uploads: asyncio.Semaphore) -> None:
        self._stall_s, self._connect_s, self._uploads = stall_s, connect_s, uploads
        self._session: aiohttp.ClientSession | None = None
        self._rests_until_s = 0.0

    @property
    def is_well(self) -> bool:
        """False for a while after trouble: then the coordinator is asked at once."""
        return time.monotonic() >= self._rests_until_s

    def note(self, trouble: BucketTrouble) -> None:
        """It did not work: others need not try for a while."""
        if trouble.unwell:
            if self.is_well:
                _log.warning("%s: the coordinator is used instead", trouble)
            self._rests_until_s = time.monotonic() + _REST_S

    async def close(self) -> None:
        """Ends all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def fetch_once(self, url: str, part: Path, sha256: str, moved: Meter) -> str:
        """Downloads into `part`, after what is in it already. Raises BucketTrouble, StorageError; Unready: try again."""
        have = part.stat().st_size if part.exists() else 0
        headers = {"Range": f"bytes={have}-"} if have else {}
        try:
            async with self._http.get(URL(url, encoded=True), headers=headers) as response:
                if response.status == 416:  # all of it is there, or too much
                    return await asyncio.to_thread(complete, part, sha256)
                _raise_for(response)
                found = await receive(response, part, moved)
        except (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError) as error:
            raise BucketTrouble(f"The bucket cannot be reached: {type(error).__name__}", _host(url)) from error
        except _BROKEN as error:
            raise Unready(f"the bucket: {str(error) or type(error).__name__}") from error
        if found != sha256:
            part.unlink(missing_ok=True)
            raise BucketTrouble("What comes from the bucket is damaged", part.name, unwell=False)
        return found

    async def put_all(self, uploads: list[tuple[Upload, ArtifactFile]], folder: Path, moved: Meter) -> list[Uploaded]:
        """Sends files where their plans say. Raises BucketTrouble, StorageError."""
        return await together(self._put_file(upload, file, folder, moved) for upload, file in uploads)

    async def _put_file(self, upload: Upload, file: ArtifactFile, folder: Path, moved: Meter) -> Uploaded:
        if await asyncio.to_thread(_sha256, folder / file.name) != file.sha256:
            raise BucketTrouble("The artifact is damaged here", file.name, unwell=False)  # the coordinator says so, too
        starts = range(0, max(1, file.size_bytes), upload.part_bytes)
        parts = [
            _Part(n, start, min(upload.part_bytes, file.size_bytes - start), url)
            for n, (start, url) in enumerate(zip(starts, upload.urls, strict=True), 1)
        ]
        etags = await together(self._put(part, folder / file.name, moved) for part in parts)
        return Uploaded(upload.name, upload.upload_id, tuple(etags) if upload.upload_id else ())

    async def _put(self, part: _Part, path: Path, moved: Meter) -> str:
        """One PUT, tried until the bucket has it; returns the ETag."""
        md5 = base64.b64encode(await asyncio.to_thread(_md5, part, path)).decode()
        for tried in range(1, _MOST_TRIES + 1):
            try:
                async with self._uploads:
                    return await self._put_once(part, path, md5, moved)
            except _BROKEN as error:
                if tried == _MOST_TRIES:
                    what = f"The bucket does not take it: {str(error) or type(error).__name__}"
                    raise BucketTrouble(what, _host(part.url)) from error
                after_s = error.after_s if isinstance(error, Unready) else 0.0
                await asyncio.sleep(max(after_s, 0.2 * 2**tried))
        raise AssertionError("unreachable")

    async def _put_once(self, part: _Part, path: Path, md5: str, moved: Meter) -> str:
        headers = {
            "Content-Length": str(part.size_bytes),
            "Content-Type": "application/octet-stream",
            "Content-MD5": md5,
        }
        patience_s = UPLOAD_PATIENCE * self._stall_s
        async with asyncio.timeout(patience_s) as deadline:

            def go_on(within_s: float) -> None:
                deadline.reschedule(asyncio.get_running_loop().time() + within_s)

            async def body() -> AsyncIterator[bytes]:
                with storage_errors(path.parent):
                    source = path.open("rb")
                with source:
                    source.seek(part.start)
                    left = part.size_bytes
                    while left and (block := await asyncio.to_thread(source.read, min(left, _BLOCK_BYTES))):
                        left -= len(block)
                        for piece in pieces(block):
                            yield piece
                            moved.moved_bytes += len(piece)
                            go_on(patience_s)
                go_on(max(_ANSWER_S, patience_s))

            timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._connect_s, sock_read=_ANSWER_S)
            url = URL(part.url, encoded=True)
            async with self._http.put(url, data=Outgoing(body()), headers=headers, timeout=timeout) as response:
                _raise_for(response)
                return response.headers.get("ETag", "")

    @property
    def _http(self) -> aiohttp.ClientSession:
        """Made at first use, since it belongs to the running loop. No certificate of ours: the bucket is a stranger."""
        if self._session is None:
            stall_s = DOWNLOAD_PATIENCE * self._stall_s
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._connect_s, sock_read=stall_s)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_MANY, socket_factory=socket_factory(self._stall_s)),
                headers={"Accept-Encoding": "identity"},
                timeout=timeout,
                read_bufsize=2**20,
            )
        return self._session


def _raise_for(response: aiohttp.ClientResponse) -> None:
    """Nothing for 2xx. Its words are not repeated: they may name keys."""
    status, where = response.status, str(response.url.host)
    if status < 300:
        return
    if status == 429 or status >= 500:
        after_s = response.headers.get("Retry-After", "")
        raise Unready(f"it answers {status}", min(float(after_s), 10.0) if after_s.isdecimal() else 1.0)
    if status == 404:
        raise BucketTrouble("The bucket has no such object", where, unwell=False)
    raise BucketTrouble(f"The bucket refuses ({status})", where)


def _md5(part: _Part, path: Path) -> bytes:
    """So that the bucket refuses what was damaged on its way."""
    found = hashlib.md5(usedforsecurity=False)
    with storage_errors(path.parent), path.open("rb") as source:
        source.seek(part.start)
        left = part.size_bytes
        while left and (block := source.read(min(left, 4 * _BLOCK_BYTES))):
            found.update(block)
            left -= len(block)
    return found.digest()


def _sha256(path: Path) -> str:
    with storage_errors(path.parent):
        return file_sha256(path)


def _host(url: str) -> str:
    """Of an address, without its signature."""
    return urlsplit(url).netloc
