"""Artifacts on their way from a worker: sent once, gone on with where they broke off, waited for while there is no room."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from aiohttp import web

from passel.cluster.coordinator.data_plane import WORKER, DataPlane
from passel.cluster.coordinator.incoming import Package
from passel.cluster.wire.workers import START_HEADER
from passel.cluster.worker.answers import DamagedError
from passel.pipeline.host import run_step
from passel.pipeline.messages import Request
from passel.pipeline.store import Store
from step_functions import step
from transfer_world import Handler, data_plane, linked, no_fault, serving


def delivered(tmp_path: Path, fault, times: int = 1) -> tuple[int, bool]:
    """Sends an artifact; returns the bytes moved and whether it arrived whole."""
    made = run_step(Request(step("large_file", value=12), (), tmp_path / "here", tmp_path / "log")).manifest

    async def go() -> int:
        async with data_plane(tmp_path / "there", fault) as (link, _):
            folder = Store(tmp_path / "here").path(made.digest)
            return sum([await link.send_artifact("j", made, folder) for _ in range(times)])

    moved = asyncio.run(go())
    there = Store(tmp_path / "there")
    return moved, there.manifest(made.digest) == made and there.verify(made.digest) == []


def test_an_artifact_is_sent_once(tmp_path):
    moved, whole = delivered(tmp_path, no_fault, times=2)
    assert whole
    assert moved < 12_000_010


def test_an_upload_that_breaks_goes_on_where_it_was(tmp_path, monkeypatch):
    puts, written = [], []
    write = Package.write

    def break_off(package: Package, owner: object, blocks: list[bytes]) -> None:
        written.append(sum(map(len, blocks)))
        write(package, owner, blocks)  # takes them out of the list
        if len(written) in (3, 6):
            raise ConnectionResetError

    async def note(request: web.Request) -> None:
        if request.method == "PUT":
            puts.append(int(request.headers[START_HEADER]))

    monkeypatch.setattr(Package, "write", break_off)
    moved, whole = delivered(tmp_path, note)
    assert whole
    assert len(puts) == 3
    assert puts == [0, sum(written[:3]), sum(written[:6])]
    assert sum(written) == 12_000_002
    assert moved < 24_000_000


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: os.truncate(path, 11_000_000)], ids=["gone", "short"])
def test_an_artifact_that_is_damaged_here_is_not_sent_for_ever(tmp_path, harm):
    made = run_step(Request(step("large_file", value=12), (), tmp_path / "here", tmp_path / "log")).manifest
    folder = Store(tmp_path / "here").path(made.digest)
    harm(folder / "large.bin")

    async def go() -> None:
        async with data_plane(tmp_path / "there", no_fault) as (link, _):
            with pytest.raises(DamagedError, match="file of the artifact is"):
                await asyncio.wait_for(link.send_artifact("j", made, folder), 20)

    asyncio.run(go())
    assert not Store(tmp_path / "there").has(made.digest)


def test_the_answer_to_an_upload_may_be_lost(tmp_path):
    puts = []

    async def go() -> list[str]:
        made = run_step(Request(step("large_file", value=2), (), tmp_path / "here", tmp_path / "log")).manifest

        @web.middleware
        async def lose(request: web.Request, handler: Handler) -> web.StreamResponse:
            request[WORKER] = "w"
            response = await handler(request)
            if request.method == "PUT":
                puts.append(response.status)
                request.transport.close()
            return response

        Store(tmp_path / "there").create()
        plane = DataPlane()
        plane.attach("j", tmp_path / "there")
        async with serving(*plane.routes(), middlewares=(lose,)) as url, linked(url) as link:
            await link.send_artifact("j", made, Store(tmp_path / "here").path(made.digest))
        plane.close()
        return Store(tmp_path / "there").verify(made.digest)

    assert asyncio.run(go()) == []
    assert puts == [204]


def test_a_full_disk_over_there_is_waited_for(tmp_path):
    refusals = [507, 507, 503]

    async def fault(request: web.Request) -> web.StreamResponse | None:
        if request.method == "PUT" and refusals:
            return web.Response(status=refusals.pop(), headers={"Retry-After": "0"})
        return None

    assert delivered(tmp_path, fault)[1]


def test_an_answer_that_never_comes_does_not_hold_an_upload(tmp_path):
    asked = []

    async def fault(request: web.Request) -> None:
        asked.append(request.method)
        if asked.count(request.method) == 1:
            await asyncio.sleep(20)

    # The commit may take long, since it syncs a disk: it is not part of this.
    async def put_only(request: web.Request) -> None:
        if request.method in ("HEAD",):
            await fault(request)

    assert delivered(tmp_path, put_only)[1]
