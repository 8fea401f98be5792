"""Where a download goes: a file that is hashed and written in a thread while the next block comes in."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from passel.cluster.worker.answers import Unready
from passel.pipeline.damage import file_sha256
from passel.pipeline.store import storage_errors

_BLOCK_BYTES = 2 * 2**20


class Sink:
    """A file that is hashed and written in a thread while the next block comes in; one block is on its way at most."""

    def __init__(self, part: Path, resumes: bool) -> None:
        self._part = part
        self._file = part.open("r+b" if resumes else "wb")
        self._hash = hashlib.sha256()
        self._busy: asyncio.Future[None] | None = None

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def hash_what_is_there(self) -> None:
        while block := self._file.read(_BLOCK_BYTES):
            self._hash.update(block)

    async def take(self, pieces: Sequence[bytes]) -> None:
        await self.drain()
        self._busy = asyncio.get_running_loop().run_in_executor(None, self._put, pieces)

    async def drain(self) -> None:
        """Waits for the last block. Raises StorageError."""
        if self._busy is not None:
            await asyncio.shield(self._busy)
            self._busy = None

    def close(self) -> None:
        if self._busy is not None and not self._busy.done():  # cancelled: the thread must not meet a closed file
            self._busy.add_done_callback(lambda done: (done.exception(), self._file.close()))
        else:
            with storage_errors(self._part.parent):
                self._file.close()

    def _put(self, pieces: Sequence[bytes]) -> None:
        with storage_errors(self._part.parent):
            for piece in pieces:
                self._hash.update(piece)
            self._file.writelines(pieces)
            self._file.flush()


@dataclass
class Meter:
    """Bytes moved over all tries."""

    moved_bytes: int = 0


async def receive(response: aiohttp.ClientResponse, part: Path, moved: Meter) -> str:
    """Writes the body of a 200 or 206 into the file; returns the sha256 of all that is in it then. Raises StorageError."""
    resumes = response.status == 206
    with storage_errors(part.parent):
        sink = Sink(part, resumes)
    try:
        if resumes:
            await asyncio.to_thread(sink.hash_what_is_there)
        async for pieces in blocks(response.content):
            moved.moved_bytes += sum(map(len, pieces))
            await sink.take(pieces)
        await sink.drain()
    finally:
        sink.close()
    return sink.sha256


async def blocks(stream: aiohttp.StreamReader) -> AsyncIterator[list[bytes]]:
    """What comes in, in blocks worth a thread's time. Each is a list of pieces: to join them would touch every byte once more."""
    pieces: list[bytes] = []
    size_bytes = 0
    broken: Exception | None = None
    try:
        async for piece, _ in stream.iter_chunks():
            pieces.append(piece)
            size_bytes += len(piece)
            if size_bytes >= _BLOCK_BYTES:
                yield pieces
                pieces, size_bytes = [], 0
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
        broken = error  # what came before counts: a link that breaks all the time must come to an end, too
    if pieces:
        yield pieces
    if broken is not None:
        raise broken


def complete(part: Path, sha256: str) -> str:
    """For an answer that there is nothing beyond what we have: is it all?"""
    with storage_errors(part.parent):
        found = file_sha256(part)
        if sha256 and found == sha256:
            return found
        part.unlink()
    raise Unready(f"{part.name} is longer here than there")
