"""Bodies of requests and answers of the data plane: files with ranges out, artifacts in.

Nothing here blocks the event loop: disks are read and written in threads, a block at a time.
"""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import NoReturn

from aiohttp import web

from passel.cluster.coordinator.incoming import Package
from passel.errors import PasselError

BLOCK_BYTES = 2**20
WRITTEN_AT_ONCE_BYTES = 2**20
_NUMBER = re.compile(r"[0-9]{1,18}")


class RefusalError(PasselError):
    """An answer that is not 2xx."""

    def __init__(self, status: int, what: str, where: str = "", todo: str = "") -> None:
        super().__init__(what, where, todo)
        self.status = status


async def send_file(request: web.Request, path: Path, sha256: str) -> web.StreamResponse:
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


async def receive(request: web.Request, package: Package, owner: object, unwritten: list[bytes]) -> None:
    """Writes the rest of the body. A request that is overtaken by another one of the same sender writes no more.

    unwritten: what has come and is not written yet. When the request breaks off, it stays there for the one that goes on.
    Raises StorageError, OvertakenError.
    """
    unwritten_bytes = 0
    async for block, _ in request.content.iter_chunks():  # as they came: to join them would touch every byte again
        unwritten.append(block)
        unwritten_bytes += len(block)
        if unwritten_bytes >= WRITTEN_AT_ONCE_BYTES:
            await asyncio.to_thread(package.write, owner, unwritten)
            unwritten_bytes = 0
    if unwritten:
        await asyncio.to_thread(package.write, owner, unwritten)


def number_in(request: web.Request, header: str) -> int:
    """A whole number of bytes that a header tells. Raises RefusalError."""
    text = request.headers.get(header, "")
    if not _NUMBER.fullmatch(text):
        refuse(f"{header} must be a number: {text[:80]!r}")
    return int(text)


def refuse(what: str) -> NoReturn:
    """Raises RefusalError: the request makes no sense."""
    raise RefusalError(400, what)


async def read_first(request: web.Request, size_bytes: int, most_bytes: int) -> bytes:
    """The body's first bytes. Raises RefusalError (413) beyond `most_bytes`."""
    if size_bytes > most_bytes:
        raise RefusalError(413, f"More than {most_bytes} bytes")
    try:
        return await request.content.readexactly(size_bytes)
    except asyncio.IncompleteReadError:
        refuse(f"The body has less than {size_bytes} bytes")


async def read_body(request: web.Request, most_bytes: int) -> bytes:
    """All of it. Raises RefusalError (413) beyond `most_bytes`."""
    body = bytearray()
    while block := await request.content.readany():
        body += block
        if len(body) > most_bytes:
            raise RefusalError(413, f"More than {most_bytes} bytes")
    return bytes(body)
