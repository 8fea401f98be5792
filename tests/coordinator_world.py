"""A coordinator over real TLS in the test's own event loop, and a worker's bare hands: an HTTP client with a certificate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from passel.cluster.coordinator.coordinator import Coordinator, Listen
from passel.cluster.trust.authority import Authority
from passel.cluster.wire.drivers import Hello, ReadyStep
from passel.cluster.wire.versions import version_headers
from passel.cluster.wire.workers import (
    POLL_PATH,
    Finished,
    InputRef,
    MachineInfo,
    PollReply,
    PollRequest,
    Running,
    Slots,
    decode,
    encode,
)
from passel.pipeline.manifest import ArtifactFile, Cost, Manifest
from passel.pipeline.step import Step
from passel.pipeline.store import Store

JOB = "8a6b0e8e-3d0f-4c51-9c3f-1f0c5b8f7c11"


@dataclass
class Served:
    """A running coordinator with one job, whose driver is the test itself."""

    coordinator: Coordinator
    authority: Authority
    port: int
    folder: Path
    store: Store

    @asynccontextmanager
    async def client(self, name: str = "w1", **headers: str) -> AsyncIterator[aiohttp.ClientSession]:
        tls = self.authority.issue(self.folder / name, name).client_context()
        connector = aiohttp.TCPConnector(ssl=tls)
        async with aiohttp.ClientSession(
            f"https://127.0.0.1:{self.port}", connector=connector, headers=version_headers() | headers
        ) as session:
            yield session

    def submit(self, *steps: ReadyStep) -> None:
        for step in steps:
            self.coordinator.step_ready(JOB, step)


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[Served]:
    store = Store(folder / "store")
    store.create()
    authority = Authority.open(folder / "ca")
    coordinator = Coordinator(lambda name: name != "revoked")
    listen = Listen("127.0.0.1", 0, authority.server_context(["localhost"]), folder / "driver.sock")
    port = await coordinator.start(listen)
    try:
        coordinator.driver_came(Hello(JOB, str(store.root)))
        yield Served(coordinator, authority, port, folder, store)
    finally:
        await coordinator.close()


def request(seq: int, *running: Running, finished: tuple[Finished, ...] = (), wait_s: float = 10.0) -> PollRequest:
    machine = MachineInfo("host", 2, 2000, 2000, 10_000)
    return PollRequest("session", seq, wait_s, machine, Slots(2, 2000), running, finished)


async def poll(session: aiohttp.ClientSession, said: PollRequest) -> PollReply:
    async with session.post(POLL_PATH, data=encode(said)) as response:
        assert response.status == 200, await response.text()
        return decode(PollReply, await response.read())


def photo_step(path: Path, key: str) -> ReadyStep:
    """A ready step that reads one photo."""
    inputs = (InputRef("photo", "file", key, path.name, path.stat().st_size, path=str(path)),)
    return ReadyStep("d" * 64, "survey", "p", 0, 100, 1, "", inputs, "/log")


def made(step: Step, files: dict[str, bytes]) -> Manifest:
    """The manifest that a worker would make of these files."""
    import hashlib

    listed = tuple(ArtifactFile(n, len(b), hashlib.sha256(b).hexdigest()) for n, b in sorted(files.items()))
    cost = Cost("elsewhere", "2026-11-22T12:00:00+00:00", 1.0, 1.0, 50.0, 1)
    return Manifest(step.digest, step.stage, step.name, step.function, step.version, listed, (), cost)
