"""What nodes say that no client expects, and a book whose disk is full."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from free_ports import free_port
from passel.errors import StorageError
from passel.gateway.book import Book
from passel.gateway.client import MOST_PARALLEL, NodeLies, NodeSilent, RemoteTask, TaskUnknown, opened
from passel.gateway.desk import NewNode, NodeDesk, NodeLine
from passel.gateway.downloading import download
from passel.gateway.fetching import fetch
from passel.gateway.node import node_at
from passel.server.folders import JobFolder
from passel.server.outgoing import Gate
from passel.server.settings import Limits

UUID = "0b0c0d0e-0000-4000-8000-000000000001"


@contextlib.asynccontextmanager
async def saying(body: bytes, kind: str = "application/json") -> AsyncIterator[str]:
    """A node that answers everything with this; its address."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind)

    async with serving(answer) as url:
        yield url


@contextlib.asynccontextmanager
async def serving(answer: Callable[[web.Request], Awaitable[web.Response]]) -> AsyncIterator[str]:
    """A node with one answer to everything; its address."""
    app = web.Application()
    app.router.add_route("*", "/{any:.*}", answer)
    runner, port = web.AppRunner(app), free_port()
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def task_of(body: str) -> RemoteTask:
    async def asked() -> RemoteTask:
        async with saying(body.encode()) as url, opened(node_at(url)) as client:
            return await client.task(UUID, 0)

    return asyncio.run(asked())


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1" + "0" * 400, '"3"', "null"])
def test_numbers_that_are_none_do_not_count(number):
    task = task_of(f'{{"status": {{"code": 20}}, "progress": {number}, "processingTime": {number}}}')
    assert (task.progress, task.processing_ms) == (0.0, -1)


@pytest.mark.parametrize(
    ("told", "taken"),
    [("0", 1), ("3", 3), ("99999999999", MOST_PARALLEL), ("1e9", MOST_PARALLEL), ("-1", 0), ('"x"', 0), ("1e400", 0)],
)
def test_a_node_that_says_it_runs_a_billion_tasks_gets_some(tmp_path, told, taken):
    """ClusterODM says it. What is no number of tasks isolates the node."""
    book = Book(tmp_path / "book")
    body = f'{{"version": "2.2.4", "taskQueueCount": 0, "maxParallelTasks": {told}}}'

    async def added() -> NodeLine:
        async with saying(body.encode()) as url:
            return await NodeDesk(book).add(NewNode(url))

    line = asyncio.run(added())
    assert (line.max_parallel, line.state) == (taken, "online" if taken else "isolated")
    assert ("maxParallelTasks is no number" in line.trouble) == (not taken)
    book.close()


@pytest.mark.parametrize(
    "words",
    [
        f"{UUID} not found",
        "Invalid uuid (not found)",
        f"Invalid route for taskId {UUID}:info, no task table entry.",
        "Invalid taskId: the task no longer exists.",
    ],
)
def test_how_nodes_say_that_they_have_no_such_task(words):
    """ClusterODM has words of its own; taken for a refusal, the gateway asked it to remove the task for three days."""
    with pytest.raises(TaskUnknown):
        task_of(json.dumps({"error": words}))


def test_half_characters_and_control_codes_stay_on_the_node(tmp_path):
    task = task_of(r'{"status": {"code": 30, "errorMessage": "\ud800 \u001b[2J"}, "output": ["\udfff \u001b[1mbold"]}')
    assert (task.error, task.lines) == ("?  [2J", ("? \x1b[1mbold",))
    book = Book(tmp_path / "book")

    async def added(body: bytes) -> str:
        async with saying(body) as url:
            return (await NodeDesk(book).add(NewNode(url))).engine_version

    version = rb'{"version": "2", "taskQueueCount": 0, "engineVersion": "3\u001b]0;\ud800"}'
    assert asyncio.run(added(version)) == "3 ]0;?"
    book.close()


def test_another_tasks_state_is_a_lie():
    with pytest.raises(NodeLies, match="another task"):
        task_of('{"uuid": "somebody-elses", "status": {"code": 40}}')
    assert task_of(f'{{"uuid": "{UUID}", "status": {{"code": 40}}}}').code == 40


def test_troubles_are_sentences():
    async def ask(url: str) -> str:
        async with opened(node_at(url)) as client:
            with pytest.raises(NodeSilent) as told:
                await client.info()
        return told.value.what

    nobody = asyncio.run(ask(f"http://127.0.0.1:{free_port()}"))
    assert nobody == "It cannot be reached: nobody listens at this address and port"
    assert asyncio.run(ask("http://no-such-name.invalid:3000")) == "It cannot be reached: its name leads to no address"

    async def plain_http() -> str:
        async with saying(b"{}") as url:
            return await ask(url.replace("http", "https"))

    async def elsewhere() -> str:
        async def moved(_: web.Request) -> web.Response:
            raise web.HTTPMovedPermanently("https://other.example/info")

        async with serving(moved) as url:
            return await ask(url)

    assert asyncio.run(elsewhere()).startswith("It sends us on to https://other.example/info")
    assert asyncio.run(plain_http()) == "It does not speak TLS on this port"


def test_an_empty_archive_is_no_result(tmp_path, monkeypatch):
    folder = JobFolder(tmp_path / "job")
    (tmp_path / "job" / "output").mkdir(parents=True)
    monkeypatch.setattr("passel.gateway.fetching.Limits", lambda: Limits(disk_floor_bytes=0))

    async def fetched() -> None:
        empty = b"PK\x05\x06" + bytes(18)
        async with saying(empty, "application/zip") as url, opened(node_at(url)) as client:
            await fetch(client, UUID, folder, 1.0, Gate(False))

    with pytest.raises(NodeLies, match="empty"):
        asyncio.run(fetched())


def test_a_node_sends_us_only_where_we_may_go_for_its_results():
    """ClusterODM answers with 301 to a bucket. A liar could send us into our own network."""
    asked: list[tuple[str, str]] = []

    async def bucket(request: web.Request) -> web.Response:
        asked.append((request.path, request.query_string))
        return web.Response(body=b"PK", content_type="application/zip")

    async def got(location: str, gate: Gate) -> bytes:
        async def node(request: web.Request) -> web.Response:
            asked.append((request.path, request.query_string))
            if request.path == "/results":
                return web.Response(body=b"own", content_type="application/zip")
            return web.Response(status=301, headers={"Location": location or request.path})

        async with (
            serving(node) as url,
            opened(node_at(url, "secret")) as client,
            download(client, UUID, 0, "", gate) as response,
        ):
            return await response.read()

    async def tried(path: str, gate: Gate) -> bytes:
        async with serving(bucket) as url:
            return await got(url.replace("127.0.0.1", path), gate)

    assert asyncio.run(tried("127.0.0.1", Gate(True))) == b"PK"
    assert asked[-1] == ("/", ""), "a node's token is for the node"
    assert asyncio.run(tried("localhost", Gate(True))) == b"PK"
    assert asyncio.run(got("/results", Gate(False))) == b"own"
    assert asked[-1] == ("/results", "token=secret")
    for location in ("http://127.0.0.1:1/x", "http://169.254.169.254/latest", "file:///etc/passwd", "http://[::1/"):
        with pytest.raises(NodeLies, match="It sends us to"):
            asyncio.run(got(location, Gate(False)))
    with pytest.raises(NodeSilent, match="allow-private-urls"):
        asyncio.run(tried("localhost", Gate(False)))
    with pytest.raises(NodeLies, match="on and on"):
        asyncio.run(got("", Gate(True)))


def test_a_full_disk_locks_nobody_out_of_the_book(tmp_path):
    """The writer meets a limit on the size of its files, as it would meet the end of the disk, and is then let go on."""
    script = Path(tmp_path / "writer.py")
    script.write_text(
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from passel.errors import StorageError\n"
        "from passel.gateway.book import Book\n"
        "from passel.gateway.node import node_at\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "book = Book(Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))\n"
        "failed = 0\n"
        "for i in range(40):\n"
        "    try:\n"
        "        book.add(node_at(f'host{i}', 't' * 3000))\n"
        "    except StorageError:\n"
        "        failed += 1\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "assert failed, 'never full'\n"
        "before = len(book.nodes())\n"
        "assert before + failed == 40, (before, failed)\n"
        "book.add(node_at('late'))\n"
        "other = Book(Path(sys.argv[1]))\n"
        "assert len(other.nodes()) == before + 1\n"
        "other.add(node_at('later'))\n"
    )
    ended = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "book")], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_a_line_of_the_book_that_cannot_be_read_is_told(tmp_path):
    book = Book(tmp_path / "book")
    book.add(node_at("host"))
    book._db.execute("update node set body = '{\"name\": 1}'")
    with pytest.raises(StorageError, match="cannot be read"):
        book.nodes()
    book.close()
