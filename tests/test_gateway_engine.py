"""Who makes the map of a task when the server may choose, and how long a split task's door stays open."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from passel.errors import InputError
from passel.gateway.book import Book
from passel.gateway.doors import CLOSES_AFTER_S, Doors
from passel.gateway.freight import read_freight
from passel.gateway.gateway import Gateway, GatewaySettings
from passel.gateway.node import Node, Seen, node_at
from passel.gateway.routing import Need, choose
from passel.server.jobs import GivenOption, Job, Order, State
from passel.server.ports import Task


@dataclass
class World:
    """The rest of Passel: its jobs, its doors, its own workers."""

    jobs: dict[str, Job] = field(default_factory=dict)
    shut_urls: list[str] = field(default_factory=list)
    opened: int = 0
    is_idle: bool = True

    def job(self, uuid: str) -> Job | None:
        return self.jobs.get(uuid)

    def url_for(self, owner: str, job: str) -> str:
        self.opened += 1
        return f"http://h/?token={job}{self.opened}"

    def shut(self, url: str) -> None:
        self.shut_urls.append(url)

    def idle(self) -> bool:
        return self.is_idle


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def gateway(tmp_path: Path, world: World) -> Iterator[Gateway]:
    made = Gateway(tmp_path / "data", GatewaySettings(), world, world, world)
    made.book.add(node_at("one"))
    yield made
    made.book.close()


def online(gateway: Gateway, max_images: int | None = None, slots: int = 1) -> None:
    seen = Seen(gateway.book.now_s(), "odm", "3.5", "2.2.4", 0, slots, max_images, 8 << 30, 4)
    gateway.book.answered(gateway.book.node("one:3000"), seen)


def chosen(gateway: Gateway, world: World, uuid: str, folder: Path, photos: int = 10, **order: object) -> str:
    """Who gets a task that is started now."""
    job = replace(_job(uuid), images_count=photos)
    job = replace(job, order=replace(job.order, **order))
    world.jobs[uuid] = job
    for name in ("photos", "output"):
        (folder / uuid / name).mkdir(parents=True, exist_ok=True)
    task = Task(uuid, folder / uuid / "photos", folder / uuid / "output", folder / uuid / "options.json")
    return "own" if gateway.command(task, 0) is None else "node"


def _job(uuid: str) -> Job:
    return Job(uuid, "", Order(uuid, 1), State.RUNNING, 1)


def test_a_free_node_then_idle_workers_then_a_busy_node(gateway: Gateway, world: World, tmp_path: Path) -> None:
    assert chosen(gateway, world, "nobody-online", tmp_path) == "own"
    online(gateway)
    assert chosen(gateway, world, "first", tmp_path) == "node"
    assert chosen(gateway, world, "at-the-same-time", tmp_path) == "own"
    gateway.book.claim(Need("first", 1, "", 10))
    assert chosen(gateway, world, "later", tmp_path) == "own"
    assert chosen(gateway, world, "first", tmp_path) == "node"
    world.is_idle = False
    assert chosen(gateway, world, "all-busy", tmp_path) == "node"
    online(gateway, max_images=5)
    assert chosen(gateway, world, "too-large", tmp_path) == "own"


def test_submodels_of_opendronemaps_split_merge_are_made_by_nodes(
    gateway: Gateway, world: World, tmp_path: Path
) -> None:
    """Our own engine would take hours for a map without the files that OpenDroneMap waits for."""
    rounds = (("opensfm/matches", "opensfm/reconstruction.json"), ("odm_orthophoto/odm_orthophoto_cut.tif", "odm_dem"))
    online(gateway)
    gateway.book.claim(Need("first", 1, "", 10))
    assert chosen(gateway, world, "whole", tmp_path) == "own"
    for i, outputs in enumerate(rounds):
        assert chosen(gateway, world, f"part{i}", tmp_path, outputs=outputs) == "node"
    seen = gateway.book.node("one:3000").seen
    passel = Node("other", "http://other:3000", seen=replace(seen, engine="passel", max_images=50))
    part = Need("part", 1, "", 10, is_part=True)
    assert choose((gateway.book.node("one:3000"), passel), (), part, seen.at_s).node.name == "one:3000"
    assert choose((passel,), (), part, seen.at_s).node is passel, "it may have nodes of its own"
    gateway.book.delete("one:3000")
    with pytest.raises(InputError, match="own split-merge"):
        chosen(gateway, world, "alone", tmp_path, outputs=rounds[0])


def test_what_passel_lacks_a_node_may_have(gateway: Gateway, world: World, tmp_path: Path) -> None:
    """The server has told by then what its own engine will not make."""
    online(gateway, slots=2)
    for uuid, option, told in (("cut", "orthophoto-cutline", 1), ("plain", "dsm", 0)):
        options = (GivenOption(option, True),)
        assert chosen(gateway, world, uuid, tmp_path, options=options) == "node"
        freight = read_freight(tmp_path / uuid)
        assert freight.options == options
        assert sum("does not hold there" in line for line in freight.remarks) == told


def test_what_our_own_engine_began_it_goes_on_with(gateway: Gateway, world: World, tmp_path: Path) -> None:
    assert chosen(gateway, world, "job", tmp_path) == "own"
    (tmp_path / "job" / "output" / ".passel").mkdir()
    online(gateway)
    assert chosen(gateway, world, "job", tmp_path) == "own"
    assert chosen(gateway, world, "other", tmp_path) == "node"


def test_doors_are_shut_some_time_after_their_task_also_by_a_successor(tmp_path: Path, world: World) -> None:
    over: set[str] = set()
    book = Book(tmp_path / "book")

    def doors() -> Doors:
        return Doors(book, world, over.__contains__)

    first = doors()
    urls = [first.open("", "a"), first.open("", "a"), first.open("", "b")]
    asyncio.run(first.turn(0.0))
    over.add("a")
    second = doors()  # after a kill -9
    asyncio.run(second.turn(1000.0))
    assert not world.shut_urls
    over.clear()  # restarted by its owner
    asyncio.run(second.turn(1000.0 + CLOSES_AFTER_S))
    over.add("a")
    asyncio.run(second.turn(2000.0))
    asyncio.run(second.turn(2000.0 + CLOSES_AFTER_S))
    assert sorted(world.shut_urls) == sorted(urls[:2])
    assert [d.url for d in book.doors()] == urls[2:]
    book.close()
