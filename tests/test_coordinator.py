"""The coordinator over real HTTPS: who may speak, held polls, files out with ranges, artifacts in with resume."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import aiohttp
import pytest

import passel
from coordinator_world import JOB, Served, made, photo_step, poll, request, served
from passel.cluster.coordinator.coordinator import Coordinator, Listen
from passel.cluster.wire.versions import VERSION_HEADER, WIRE_HEADER, WIRE_VERSION
from passel.cluster.wire.workers import (
    MANIFEST_BYTES_HEADER,
    POLL_PATH,
    START_HEADER,
    CacheNews,
    Running,
    WireProblem,
    artifact_path,
    decode,
    file_path,
)
from passel.errors import StorageError
from passel.pipeline.manifest import manifest_to_json
from step_functions import step

STEP = step("add", "made_elsewhere", value=3)


def with_coordinator(tmp_path: Path, test: Callable[[Served], Awaitable[None]]) -> None:
    async def run() -> None:
        async with served(tmp_path) as place:
            await asyncio.wait_for(test(place), 60)

    asyncio.run(run())


async def refusal(response: aiohttp.ClientResponse) -> str:
    return decode(WireProblem, await response.read()).what


def test_who_may_speak(tmp_path: Path) -> None:
    async def test(place: Served) -> None:
        ours = passel.__version__
        for header, other, named in (
            (VERSION_HEADER, "0.0.1", "Passel 0.0.1 ("),
            (WIRE_HEADER, "1", f"{ours} (wire 1)"),
        ):
            async with place.client(**{header: other}) as old, old.post(POLL_PATH, data=b"{}") as response:
                assert response.status == 426
                theirs, _, said = (await refusal(response)).partition(", the coordinator runs ")
            assert named in theirs
            assert said == f"Passel {ours} (wire {WIRE_VERSION})"
        async with place.client("revoked") as out, out.post(POLL_PATH, data=b"{}") as response:
            assert response.status == 403
        async with place.client() as worker:
            for garbage in (b"", b"{}", b"[]", b"\xff", b'{"session": 1}'):
                async with worker.post(POLL_PATH, data=garbage) as response:
                    assert response.status == 400
                    assert "PollRequest" in await refusal(response)
        nobody = aiohttp.TCPConnector(ssl=False)
        url = f"https://127.0.0.1:{place.port}{POLL_PATH}"
        async with aiohttp.ClientSession(connector=nobody) as session, session.post(url, data=b"{}") as response:
            assert response.status == 401

    with_coordinator(tmp_path, test)


def test_a_certificate_of_another_authority_is_refused(tmp_path: Path) -> None:
    async def test(place: Served) -> None:
        from passel.cluster.trust.authority import Authority

        foreign = Authority.open(tmp_path / "other_ca").issue(tmp_path / "foreign", "w1").client_context()
        foreign.check_hostname = False
        foreign.load_verify_locations(place.authority.ca)
        connector = aiohttp.TCPConnector(ssl=foreign)
        async with aiohttp.ClientSession(f"https://127.0.0.1:{place.port}", connector=connector) as session:
            with pytest.raises(aiohttp.ClientError):
                await session.post(POLL_PATH, data=b"{}")

    with_coordinator(tmp_path, test)


def test_a_poll_is_held_until_there_is_news_or_a_later_one(tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    photo.write_bytes(b"photo")

    async def test(place: Served) -> None:
        async with place.client() as worker:
            assert (await poll(worker, request(1))).want_cache
            held = asyncio.create_task(poll(worker, request(2)))
            await asyncio.sleep(0.3)
            assert not held.done()
            later = asyncio.create_task(poll(worker, request(3)))
            assert (await held).run == ()
            place.submit(photo_step(photo, "k1"))
            (told,) = (await later).run
            assert (told.job, told.name, told.attempt, told.store, told.log) == (JOB, "p", 1, "", "")
            assert (told.inputs[0].key, told.inputs[0].name, told.inputs[0].path) == ("k1", "a.jpg", "")
            running = Running(told.ticket, JOB, told.digest, "running", 1, told.memory_mb, told.threads)
            held = asyncio.create_task(poll(worker, request(4, running)))
            await asyncio.sleep(0.1)
            place.coordinator.end_job(JOB)
            assert (await held).cancel == (told.ticket,)

    with_coordinator(tmp_path, test)


def test_the_coordinator_shows_its_workers_and_drains_them(tmp_path: Path) -> None:
    async def test(place: Served) -> None:
        async with place.client() as worker:
            await poll(worker, request(1))
            (seen,) = place.coordinator.status().workers
            assert (seen.name, seen.state, seen.machine.hostname) == ("w1", "idle", "host")
            held = asyncio.create_task(poll(worker, request(2)))
            await asyncio.sleep(0.1)
            assert place.coordinator.drain("w1")
            assert (await held).drain
            assert place.coordinator.status().workers[0].state == "draining"
            held = asyncio.create_task(poll(worker, request(3)))
            await asyncio.sleep(0.1)
            place.coordinator.cut("w1")
            with pytest.raises(AssertionError, match="shut out"):
                await held

    with_coordinator(tmp_path, test)


def test_a_photo_comes_whole_in_part_and_by_digest(tmp_path: Path) -> None:
    photo, content = tmp_path / "DJI 1.JPG", os.urandom(700_000)
    photo.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()

    async def test(place: Served) -> None:
        path = file_path(JOB, "k1")
        async with place.client() as worker:
            async with worker.get(path) as response:
                assert response.status == 503  # no step has named it yet
                assert int(response.headers["Retry-After"]) > 0
            place.submit(photo_step(photo, "k1"))
            async with worker.get(path) as response:
                assert (response.status, response.headers["ETag"]) == (200, f'"{sha256}"')
                assert await response.read() == content
            async with worker.head(path) as response:
                assert (response.status, response.content_length) == (200, len(content))
            ranges = {"bytes=300000-": slice(300_000, None), "bytes=5-9": slice(5, 10), "bytes=-7": slice(-7, None)}
            for asked, part in ranges.items():
                async with worker.get(path, headers={"Range": asked}) as response:
                    assert (response.status, await response.read()) == (206, content[part])
            async with worker.get(path, headers={"Range": f"bytes={len(content)}-"}) as response:
                assert response.status == 416
            photo.unlink()
            async with worker.get(path) as response:
                assert response.status == 404
            async with worker.get(file_path("another-job", "k1")) as response:
                assert response.status == 503

    with_coordinator(tmp_path, test)


BIG = os.urandom(2_500_000)
FILES = {"a/empty": b"", "big.bin": BIG, "sub/last": b"last", "tiny": b"t"}
HOME = artifact_path(JOB, STEP.digest)


async def sent(
    worker: aiohttp.ClientSession, files: dict[str, bytes], start: int = 0, says: dict[str, bytes] = FILES
) -> int:
    """Sends these files as the artifact whose manifest `says` what is in it; returns the status."""
    text = manifest_to_json(made(STEP, says)).encode()
    content = b"".join(files[name] for name in sorted(files))
    headers = {MANIFEST_BYTES_HEADER: str(len(text)), START_HEADER: str(start)}
    async with worker.put(HOME, data=BytesIO(text + content[start:]), headers=headers) as response:
        return response.status


async def here(worker: aiohttp.ClientSession) -> int:
    """How much of its content has come; -1 for nothing, -2 when it is complete."""
    async with worker.head(HOME) as response:
        return {404: -1, 409: -2}.get(response.status) or int(response.headers["Content-Length"])


def test_an_artifact_comes_in_pieces_is_checked_and_goes_out_again(tmp_path: Path) -> None:
    async def test(place: Served) -> None:
        async with place.client() as worker:
            assert await here(worker) == -1
            await broken_off(place)
            there = await here(worker)
            assert 1_000_000 <= there <= 1_500_000
            assert await sent(worker, FILES, start=there + 1) == 416
            damaged = {**FILES, "sub/last": b"lost"}
            assert await sent(worker, damaged, start=there) == 422
            assert await here(worker) == len(BIG)  # from the wrong file on it must come again
            assert not place.store.has(STEP.digest)
            assert await sent(worker, FILES, start=len(BIG)) == 204
            assert place.store.verify(STEP.digest) == []
            assert list((place.store.root / "tmp").iterdir()) == []
            async with worker.get(HOME) as response:
                assert STEP.digest in await response.text()
            async with worker.get(f"{HOME}/big.bin", headers={"Range": "bytes=2400000-"}) as response:
                assert await response.read() == BIG[2_400_000:]
        async with place.client("w2") as second:  # a copy that ran elsewhere
            assert await sent(second, FILES) == 409
            assert await here(second) == -2

    with_coordinator(tmp_path, test)


async def broken_off(place: Served) -> None:
    """Half of the artifact on a connection that breaks."""
    text = manifest_to_json(made(STEP, FILES)).encode()

    async def breaking_off() -> AsyncIterator[bytes]:
        yield text + BIG[:1_500_000]
        await asyncio.sleep(0.5)
        raise OSError("cut")

    size = str(len(text) + sum(map(len, FILES.values())))
    headers = {MANIFEST_BYTES_HEADER: str(len(text)), START_HEADER: "0", "Content-Length": size}
    async with place.client() as cut:
        with pytest.raises((OSError, aiohttp.ClientError)):
            await cut.put(HOME, data=breaking_off(), headers=headers)


def test_an_artifact_that_was_made_again_comes_anew(tmp_path: Path) -> None:
    again = {"big.bin": BIG[::-1], "other": b"o"}

    async def test(place: Served) -> None:
        async with place.client() as worker:
            await broken_off(place)
            there = await here(worker)
            assert await sent(worker, again, start=there, says=again) == 416
            assert await here(worker) == 0
            assert await sent(worker, again, says=again) == 204
        assert place.store.verify(STEP.digest) == []
        assert sorted(p.name for p in place.store.path(STEP.digest).rglob("*")) == ["big.bin", "other"]

    with_coordinator(tmp_path, test)


def test_garbage_uploads_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    good = manifest_to_json(made(STEP, {"f": b"x"})).encode()

    async def put(
        worker: aiohttp.ClientSession, body: bytes, manifest_bytes: object = None, start: object = 0, home: str = HOME
    ) -> int:
        length = len(body) if manifest_bytes is None else manifest_bytes
        headers = {MANIFEST_BYTES_HEADER: str(length), START_HEADER: str(start)}
        async with worker.put(home, data=body, headers=headers) as response:
            return response.status

    def named(*names: str) -> bytes:
        manifest = made(STEP, {"f": b"x"})
        return manifest_to_json(
            replace(manifest, files=tuple(replace(manifest.files[0], name=n) for n in names))
        ).encode()

    async def test(place: Served) -> None:
        async with place.client() as worker:
            for body in (b"", b"[]", b"null", b"{}", b"\xff", good.replace(b'"version": 1', b'"version": 2')):
                assert await put(worker, body) == 400, body
            for digest in ("e" * 64, "E" * 64):
                assert await put(worker, good + b"x", len(good), home=artifact_path(JOB, digest)) == 400
            for name in ("../../evil", "/etc/evil", "a\0b", "a\\b", "x" * 300, "a//b", "./x", ""):
                text = named(name)
                assert await put(worker, text + b"x", len(text)) == 422, name
            twice = named("f", "f")
            assert await put(worker, twice + b"xx", len(twice)) == 400
            for manifest_bytes in ("", "x", -1, len(good) + 1, len(good) + 2, 10**30):
                assert await put(worker, good + b"x", manifest_bytes) == 400, manifest_bytes
            assert await put(worker, good + b"x", 10**10) == 413
            for start in ("", "-1", 2, 10**17):
                assert await put(worker, good + b"x", len(good), start) == 400, start
            assert await put(worker, good, start=1) == 416
            async with worker.put(HOME, data=good + b"x") as response:
                assert response.status == 400
            for length in (b"", b"xx"):
                assert await put(worker, good + length, len(good)) == 400
        place.coordinator.end_job(JOB)
        assert list((place.store.root / "tmp").iterdir()) == []
        assert [p for p in tmp_path.rglob("*evil*")] == []

    with_coordinator(tmp_path, test)


def test_a_port_in_use_leaves_nothing_behind(tmp_path: Path) -> None:
    async def test(place: Served) -> None:
        second = Coordinator(lambda name: True)
        with pytest.raises(OSError, match="in use"):
            await second.start(Listen("127.0.0.1", place.port, None, tmp_path / "second.sock"))
        assert not (tmp_path / "second.sock").exists()
        long_name = tmp_path / ("x" * 120)
        with pytest.raises(StorageError, match="too long"):
            await second.start(Listen("127.0.0.1", 0, None, long_name))

    with_coordinator(tmp_path, test)


@pytest.mark.parametrize("parting", [False, True])
def test_drivers_that_end_because_we_do_leave_the_workers_their_steps(tmp_path: Path, parting: bool) -> None:
    async def test(place: Served) -> None:
        held = Running("t1", JOB, STEP.digest, "running", 1, 100, 1)
        async with place.client() as worker:
            await poll(worker, replace(request(1, wait_s=0.1), running=(held,)))
            if parting:
                place.coordinator.part()
            place.coordinator.driver_left(JOB, withdrawn=True)
            answer = await poll(worker, replace(request(2, wait_s=0.1), running=(held,)))
            assert answer.cancel == (() if parting else ("t1",))

    with_coordinator(tmp_path, test)


def test_a_worker_tells_its_cache_when_asked(tmp_path: Path) -> None:
    async def test(place: Served) -> None:
        async with place.client() as worker:
            assert (await poll(worker, request(1))).want_cache
            told = replace(request(2, wait_s=0.1), cache=CacheNews(True, ("k1", "k2")))
            assert not (await poll(worker, told)).want_cache

    with_coordinator(tmp_path, test)
