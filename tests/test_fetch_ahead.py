"""What a worker fetches before it is needed: counted where it is used, never in a step's way, never beyond the cache."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from passel.cluster.wire.workers import InputRef
from passel.cluster.worker.cache import Cache
from passel.cluster.worker.fetch import Fetcher
from transfer_world import linked, serving

CONTENTS = {name: os.urandom(100_000) for name in ("a", "b", "c")}


class Coordinator:
    """Serves the contents as photos; `gate` holds answers back."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.gate = asyncio.Event()

    async def answer(self, request: web.Request) -> web.Response:
        name = next(n for n in CONTENTS if ref(n).key == request.match_info["key"])
        self.asked.append(name)
        await self.gate.wait()
        return web.Response(body=CONTENTS[name])


def ref(name: str) -> InputRef:
    return InputRef("photo", "file", hashlib.sha256(CONTENTS[name]).hexdigest(), f"{name}.JPG", 100_000)


@asynccontextmanager
async def fetching(root: Path, most_bytes: int = 10**6) -> AsyncIterator[tuple[Fetcher, Cache, Coordinator]]:
    coordinator = Coordinator()
    cache = Cache(root, most_bytes)
    cache.open()
    async with serving(web.get("/v1/jobs/j/files/{key}", coordinator.answer)) as url, linked(url) as link:
        yield Fetcher(cache, link), cache, coordinator
    cache.close()


def test_what_came_ahead_counts_for_the_step_that_uses_it_first(tmp_path):
    async def go() -> list[int]:
        async with fetching(tmp_path) as (fetcher, cache, coordinator):
            coordinator.gate.set()
            await fetcher.prefetch("j", [ref("a"), ref("b")])
            moved = []
            for names in ("ac", "ab", "b"):
                async with fetcher.inputs("j", [ref(n) for n in names]) as fetched:
                    assert [p.read_bytes() for p in fetched.paths] == [CONTENTS[n] for n in names]
                    moved.append(fetched.moved_bytes)
            assert sorted(coordinator.asked) == ["a", "b", "c"]
            assert cache.free(10**9) == 300_000, "nothing is held"
            return moved

    assert asyncio.run(go()) == [200_000, 100_000, 0]


def test_nothing_is_begun_ahead_while_a_step_waits(tmp_path):
    async def go() -> None:
        async with fetching(tmp_path) as (fetcher, _, coordinator):
            step = asyncio.create_task(_used(fetcher, "a"))
            while not coordinator.asked:
                await asyncio.sleep(0.01)
            ahead = asyncio.create_task(fetcher.prefetch("j", [ref("b")]))
            await asyncio.sleep(0.2)
            assert coordinator.asked == ["a"]
            coordinator.gate.set()
            await asyncio.gather(step, ahead)
            assert coordinator.asked == ["a", "b"]

    asyncio.run(go())


@pytest.mark.parametrize(("most_bytes", "expected"), [(250_000, ["a", "b"]), (50_000, [])])
def test_the_cache_gives_up_nothing_for_a_guess(tmp_path, most_bytes, expected):
    async def go() -> list[str]:
        async with fetching(tmp_path, most_bytes) as (fetcher, _, coordinator):
            coordinator.gate.set()
            await fetcher.prefetch("j", [ref(n) for n in CONTENTS])
            return coordinator.asked

    assert asyncio.run(go()) == expected


async def _used(fetcher: Fetcher, name: str) -> None:
    async with fetcher.inputs("j", [ref(name)]):
        pass
