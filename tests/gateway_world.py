"""Nodes and a coordinator with a gateway as processes, for tests and the bench."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from free_ports import free_port
from passel.gateway.book import Book
from passel.gateway.gateway import book_path
from passel.gateway.node import node_at
from server_world import PATIENCE_S, World

HERE = Path(__file__).parent


class Process:
    """A process on a port that can be killed and started again."""

    def __init__(self, folder: Path, words: list[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port, self.words = folder, free_port(), words
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        return [sys.executable, *self.words]

    def start(self) -> None:
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log)

    def ready(self) -> None:
        end_s = time.monotonic() + PATIENCE_S
        while True:
            assert self.process is None or self.process.poll() is None, (self.folder / "log.txt").read_text()
            try:
                httpx.get(f"{self.url}/auth/info", timeout=PATIENCE_S, trust_env=False)
            except httpx.TransportError:
                assert time.monotonic() < end_s, (self.folder / "log.txt").read_text()
                time.sleep(0.03)
            else:
                return

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def get(self, path: str, **params: Any) -> Any:
        return httpx.get(self.url + path, params=params, timeout=PATIENCE_S, trust_env=False).json()


class Fake(Process):
    """tests/fake_nodes/node.py: forgets its tasks when it is killed, as NodeODM does."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(folder, [])
        self.settings = settings

    def command(self) -> list[str]:
        script = str(HERE / "fake_nodes" / "node.py")
        return [sys.executable, script, str(self.folder), str(self.port), json.dumps(self.settings)]

    def journal(self, event: str = "") -> list[dict[str, Any]]:
        file = self.folder / "journal.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [r for r in rows if not event or r["event"] == event]


class PasselNode(Process):
    """Passel's own server in test mode as a node: it goes on with its tasks after a kill."""

    def __init__(self, folder: Path, seconds: float = 0.0, **settings: Any) -> None:
        super().__init__(folder, [])
        self.settings = {"test": {"seconds": seconds}, "parallel_jobs": 1, **settings}

    def command(self) -> list[str]:
        script = str(HERE / "server_process.py")
        return [sys.executable, script, str(self.folder / "data"), str(self.port), json.dumps(self.settings)]


class Front(World):
    """The coordinator. Its client is server_world's."""

    def start(self) -> None:
        self.settings.pop("script", None)
        words = [sys.executable, str(HERE / "gateway_process.py"), str(self.data), str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*words, json.dumps(self.settings)], stdout=log, stderr=log)
        self.wait(self._answers)

    @property
    def book(self) -> Book:
        return Book(book_path(self.data))

    def add(self, *nodes: Process, **more: Any) -> None:
        book = self.book
        for node in nodes:
            book.add(node_at(node.url, **more))
        book.close()

    def online(self, *nodes: Process) -> None:
        """Wait until the gateway has heard of them."""
        book = self.book
        urls = {n.url for n in nodes}
        self.wait(lambda: urls <= {n.url for n in book.nodes() if n.is_online(time.time())})
        book.close()

    def attempts(self, task: str) -> list[Any]:
        book = self.book
        rows = [a for a in book.history(1000) if a.job == task]
        book.close()
        return rows[::-1]


@contextmanager
def running(folder: Path, *nodes: Process, **settings: Any) -> Iterator[Front]:
    """The coordinator with these nodes, all started and known to each other."""
    front = Front(folder, **settings)
    try:
        for node in nodes:
            node.start()
        front.add(*nodes)
        front.start()
        for node in nodes:
            node.ready()
        yield front
    finally:
        front.stop()
        front.http.close()
        for node in nodes:
            node.kill()


def photos(seed: str, count: int) -> dict[str, bytes]:
    """Small photos that nobody else has."""
    return {f"{seed}_{i}.jpg": hashlib.sha256(f"{seed}{i}".encode()).digest() * 300 for i in range(count)}


def digests(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def submit(front: World, files: dict[str, bytes], token: str = "", **fields: str) -> str:
    task = front.init(token, **fields)
    assert front.upload(task, *files.items(), token=token)["success"]
    front.commit(task, token)
    return task
