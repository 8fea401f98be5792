"""The worker's line: what is broken off goes on, what comes damaged is fetched again, what is away is waited for."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp import web

from passel.cluster.trust.authority import Authority
from passel.cluster.worker.answers import DamagedError, NotThereError, RefusedError
from passel.cluster.worker.follow import follow
from passel.cluster.worker.transfer import Link
from passel.errors import StorageError
from transfer_world import CONTENT, SHA256, fetched, linked, ranged, serving


@pytest.mark.parametrize("how", ["closed", "silent"])
def test_a_download_that_breaks_again_and_again_comes_to_its_end(tmp_path, how):
    async def flaky(request: web.Request) -> web.StreamResponse:
        response, rest = ranged(CONTENT, request)
        await response.prepare(request)
        await response.write(rest[:700_000])
        if len(rest) > 700_000 and how == "silent":
            await asyncio.sleep(20)
        if len(rest) > 700_000:
            request.transport.close()
        return response

    got = fetched(flaky, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert got.sha256 == SHA256
    assert got.moved_bytes == len(CONTENT)


def test_a_download_goes_on_after_what_an_earlier_process_left(tmp_path):
    async def whole(request: web.Request) -> web.StreamResponse:
        response, rest = ranged(CONTENT, request)
        await response.prepare(request)
        await response.write(rest)
        return response

    (tmp_path / "part").write_bytes(CONTENT[:2_000_000])
    got = fetched(whole, tmp_path / "part")
    assert (got.sha256, got.moved_bytes) == (SHA256, 1_000_000)


@pytest.mark.parametrize("left", [CONTENT, CONTENT + b"more"])
def test_nothing_left_to_fetch_or_too_much_of_it(tmp_path, left):
    async def serve(request: web.Request) -> web.StreamResponse:
        if (request.http_range.start or 0) >= len(CONTENT):
            return web.Response(status=416, headers={"ETag": f'"{SHA256}"'})
        response, rest = ranged(CONTENT, request)
        await response.prepare(request)
        await response.write(rest)
        return response

    (tmp_path / "part").write_bytes(left)
    got = fetched(serve, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert got.moved_bytes == (0 if left == CONTENT else len(CONTENT))


def test_what_comes_damaged_or_was_changed_meanwhile_is_fetched_again(tmp_path):
    tries = []

    async def serve(request: web.Request) -> web.StreamResponse:
        tries.append(request)
        response, rest = ranged(
            bytes([CONTENT[0] ^ 1]) + CONTENT[1:] if len(tries) == 1 else CONTENT, request, etag=SHA256
        )
        await response.prepare(request)
        await response.write(rest)
        return response

    assert fetched(serve, tmp_path / "part").sha256 == SHA256
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert len(tries) == 2


def test_content_that_is_known_does_not_come(tmp_path):
    async def serve(request: web.Request) -> web.StreamResponse:
        response, rest = ranged(CONTENT, request)
        await response.prepare(request)
        await response.write(rest[:1000])
        await asyncio.sleep(20)
        return response

    got = fetched(serve, tmp_path / "part", lambda sha256: sha256 == SHA256)
    assert (got.sha256, got.moved_bytes) == (SHA256, 0)


@pytest.mark.parametrize(
    ("status", "error"), [(404, NotThereError), (403, RefusedError), (426, RefusedError), (422, DamagedError)]
)
def test_a_refusal_is_said(tmp_path, status, error):
    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=b'{"what":"No","where":"there","todo":"do"}')

    with pytest.raises(error, match="No"):
        fetched(refuse, tmp_path / "part")


def test_a_coordinator_that_is_not_ready_is_waited_for_and_real_trouble_is_told(tmp_path):
    answers = [503, 503, 500, 429, 200]

    async def serve(request: web.Request) -> web.StreamResponse:
        return web.Response(status=answers.pop(0), body=b"good", headers={"Retry-After": "0"})

    assert fetched(serve, tmp_path / "part").moved_bytes == 4

    async def broken(request: web.Request) -> web.StreamResponse:
        return web.Response(status=500, body=b'{"what":"The file may not be read"}', headers={"Retry-After": "0"})

    with pytest.raises(NotThereError, match="may not be read"):
        fetched(broken, tmp_path / "other")


def test_a_coordinator_that_comes_late_is_found(tmp_path):
    async def serve(request: web.Request) -> web.StreamResponse:
        return web.Response(body=CONTENT)

    async def go():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        async with linked(f"http://127.0.0.1:{port}") as link:
            download = asyncio.create_task(link.fetch("/file", tmp_path / "part"))
            await asyncio.sleep(0.3)
            async with serving(web.get("/file", serve), port=port):
                return await download

    assert asyncio.run(go()).sha256 == SHA256


def test_a_coordinator_that_moved_is_found_again(tmp_path):
    """By a download that is under way; addresses where nobody is are gone past."""

    async def serve(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"here")

    async def go() -> bytes:
        async with serving(web.get("/f", serve)) as url, linked("http://127.0.0.1:9") as link:
            following = asyncio.create_task(follow(link, lambda: ["http://127.0.0.1:10", url], look_every_s=0.2))
            await link.fetch("/f", tmp_path / "part")
            following.cancel()
            assert link.url == url
        return (tmp_path / "part").read_bytes()

    assert asyncio.run(go()) == b"here"


def test_a_full_disk_here_is_a_storage_error(tmp_path):
    async def serve(request: web.Request) -> web.StreamResponse:
        return web.Response(body=CONTENT)

    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    with pytest.raises(StorageError, match="disk is full"):
        fetched(serve, full)


def test_both_ends_prove_who_they_are(tmp_path):
    authority = Authority.open(tmp_path / "ca")
    foreign = Authority.open(tmp_path / "foreign")
    here = authority.issue(tmp_path / "worker", "w").client_context()
    stranger = foreign.issue(tmp_path / "stranger", "w").client_context()

    async def serve(request: web.Request) -> web.StreamResponse:
        subject = request.transport.get_extra_info("peercert")["subject"]
        return web.Response(body=str(subject).encode())

    async def go():
        async with serving(web.get("/file", serve), tls=authority.server_context(["127.0.0.1"])) as url:
            async with linked(url, here) as link:
                await link.fetch("/file", tmp_path / "part")
            assert b"'w'" in (tmp_path / "part").read_bytes()
            async with linked(url, stranger) as link:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(link.fetch("/file", tmp_path / "none"), 0.5)

    asyncio.run(go())
    assert not (tmp_path / "none").exists()


async def _late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """Passes on what comes, each piece so much later."""
    loop = asyncio.get_running_loop()
    try:
        while piece := await reader.read(2**16):
            loop.call_later(delay_s, writer.write, piece)
        await asyncio.sleep(delay_s)
    finally:
        writer.close()


def test_a_link_that_needs_seconds_for_a_round_is_used(tmp_path):
    """A satellite, or a full queue before a slow uplink: there and back takes 4 s."""
    authority = Authority.open(tmp_path / "ca")
    here = authority.issue(tmp_path / "worker", "w").client_context()

    async def serve(request: web.Request) -> web.StreamResponse:
        return web.Response(body=CONTENT)

    async def go() -> None:
        async with serving(web.get("/file", serve), tls=authority.server_context(["127.0.0.1"])) as url:

            async def far(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                there, back = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
                both = asyncio.gather(_late(reader, back, 2.0), _late(there, writer, 2.0), return_exceptions=True)
                passing.append(both)
                await both

            async with await asyncio.start_server(far, "127.0.0.1") as proxy:
                link = Link(f"https://127.0.0.1:{proxy.sockets[0].getsockname()[1]}", here)
                try:
                    await asyncio.wait_for(link.fetch("/file", tmp_path / "part"), 60)
                finally:
                    await link.close()
                    for both in passing:
                        both.cancel()
                    await asyncio.gather(*passing, return_exceptions=True)

    passing: list[asyncio.Future[list[None]]] = []
    asyncio.run(go())
    assert (tmp_path / "part").read_bytes() == CONTENT
