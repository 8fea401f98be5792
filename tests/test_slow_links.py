"""Links that are cut again and again: each try keeps what it moved, and the transfer comes to its end.

A relay lets so many bytes pass on each connection and then closes the worker's side, of which the other end learns nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from coordinator_world import made
from passel.cluster.coordinator.data_plane import WORKER, DataPlane
from passel.cluster.trust.authority import Authority
from passel.cluster.wire.workers import START_HEADER
from passel.cluster.worker.slow_link import pieces, socket_factory
from passel.cluster.worker.transfer import Link, LinkSettings
from passel.pipeline.store import Store
from step_functions import step
from transfer_world import Handler, ranged, serving

SETTINGS = LinkSettings(longest_pause_s=0.05)
PASSED_BYTES = 100_000
CONTENT = os.urandom(1_000_000)
MOST_TRIES = 20  # twice what would do, if TLS, headers, manifest and the record that is cut in two took nothing


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left_bytes: int) -> None:
    while left_bytes and (piece := await reader.read(min(2**14, left_bytes))):
        left_bytes -= len(piece)
        writer.write(piece)
        await writer.drain()


@asynccontextmanager
async def short_lived(url: str, up_bytes: int, down_bytes: int) -> AsyncIterator[str]:
    """The same server over a link that is cut after so many bytes in one of the directions; yields its URL there."""
    connections: list[asyncio.Task[None]] = []
    forgotten: list[asyncio.StreamWriter] = []

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        forgotten.append(back)
        ways = [asyncio.ensure_future(way) for way in (_pass(reader, back, up_bytes), _pass(there, writer, down_bytes))]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        await asyncio.sleep(0.05)  # on a slow link, too, the last bytes are read before the end is known
        writer.close()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(asyncio.ensure_future(cut(reader, writer)))

    async with await asyncio.start_server(begin, "127.0.0.1") as relay:
        try:
            yield f"{url.partition('//')[0]}//127.0.0.1:{relay.sockets[0].getsockname()[1]}"
        finally:
            for writer in forgotten:
                writer.close()
            await asyncio.gather(*connections, return_exceptions=True)


async def over(url: str, tls, up_bytes: int, down_bytes: int, use: Callable[[Link], object]) -> None:
    async with short_lived(url, up_bytes, down_bytes) as cut_url:
        link = Link(cut_url, tls, SETTINGS)
        try:
            await asyncio.wait_for(use(link), 60)
        finally:
            await link.close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path / "ca")


def test_an_upload_keeps_what_each_try_has_moved(tmp_path, authority):
    starts: list[int] = []
    manifest = made(step("add", "made_elsewhere", value=3), {"a": CONTENT[:300_000], "b": CONTENT[300_000:]})
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "a").write_bytes(CONTENT[:300_000])
    (folder / "b").write_bytes(CONTENT[300_000:])
    store = Store(tmp_path / "there")
    store.create()
    plane = DataPlane()
    plane.attach("j", store.root)

    @web.middleware
    async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[WORKER] = "w"
        if request.method == "PUT":
            starts.append(int(request.headers[START_HEADER]))
        return await handler(request)

    async def go() -> None:
        here = authority.issue(tmp_path / "worker", "w").client_context()
        there = authority.server_context(["127.0.0.1"])
        async with serving(*plane.routes(), tls=there, middlewares=(note,)) as url:
            await over(url, here, PASSED_BYTES, 2**30, lambda link: link.send_artifact("j", manifest, folder))

    try:
        asyncio.run(go())
    finally:
        plane.close()
    assert store.verify(manifest.digest) == []
    assert len(starts) <= MOST_TRIES
    assert starts == sorted(starts)


def test_a_download_keeps_what_each_try_has_moved(tmp_path, authority):
    starts: list[int] = []

    async def serve(request: web.Request) -> web.StreamResponse:
        starts.append(request.http_range.start or 0)
        response, rest = ranged(CONTENT, request)
        await response.prepare(request)
        await response.write(rest)
        return response

    async def go() -> None:
        here = authority.issue(tmp_path / "worker", "w").client_context()
        async with serving(web.get("/file", serve), tls=authority.server_context(["127.0.0.1"])) as url:
            await over(url, here, 2**30, PASSED_BYTES, lambda link: link.fetch("/file", tmp_path / "part"))

    asyncio.run(go())
    assert hashlib.sha256((tmp_path / "part").read_bytes()).digest() == hashlib.sha256(CONTENT).digest()
    assert len(starts) <= MOST_TRIES
    assert starts == sorted(starts)


def test_pieces_are_all_of_a_block():
    assert list(pieces(b"")) == []
    assert b"".join(pieces(CONTENT)) == CONTENT
    assert max(map(len, pieces(CONTENT))) < 100_000


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux")
def test_the_kernel_watches_for_silence():
    with socket_factory(10.0)((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1))) as found:
        assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
        assert found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) < 5
