"""Load on one server process: polls of task/info beside a Node.js baseline, uploads beside a bare copy, memory, a long list.

    python bench/server_load.py [--only polls|uploads] [--results DIR] [--scratch DIR]

With --only, what was measured before of the rest stays in the results. Rates are told by the wall clock and by the server's
own CPU seconds: the second holds on a machine that others use, too. Run it with `nice -n -15` there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from passel.server.job_notes import Note
from passel.server.job_store import JobStore
from passel.server.jobs import GivenOption, Job, Order, State
from results import Check, SurveyResult

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from server_world import running

NAME = "server_load"
RUNS = ("polls", "list", "upload")
CONNECTIONS, REQUESTS = 32, 40_000
ROUNDS = 3
JOBS = 10_000
UPLOAD_MB, PHOTO_MB = 300, 10
UPLOAD_ROUNDS, CLIENT_CONNECTIONS = 5, 5
LARGE_MB, UPLOADERS = 1000, 10
MB = 1_000_000
BOUNDARY = "9b6f3f0c7a1e4d0fb7e2c1a4d5e6f708"  # as long as clients' are; a short one is slower to look for


@dataclass(frozen=True)
class Rate:
    """Answers a second by the wall clock, and for each CPU second of the server (user and system)."""

    wall: float
    cpu: float


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int, key: str) -> float:
    """VmRSS or VmHWM of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024 / MB
    raise ValueError(key)


class _Poller(asyncio.Protocol):
    """Sends the next request when the answer to the last has arrived; knows only what it needs of HTTP."""

    def __init__(self, request: bytes, count: int, done: asyncio.Future[None]) -> None:
        self._request, self._left, self._done = request, count, done
        self._seen = b""
        self.failed = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head, gap, body = self._seen.partition(b"\r\n\r\n")
        if not gap or len(body) < int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]):
            return
        self.failed += not head.startswith(b"HTTP/1.1 200") or b'"progress":100' not in body
        self._seen = b""
        self._left -= 1
        if self._left:
            self._transport.write(self._request)
        else:
            self._transport.close()
            self._done.set_result(None)


def poll(port: int, uuid: str, pid: int) -> Rate:
    """REQUESTS polls over CONNECTIONS kept connections."""
    request = f"GET /task/{uuid}/info HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()

    async def run() -> int:
        loop = asyncio.get_running_loop()
        waits, protocols = [], []
        for _ in range(CONNECTIONS):
            done = loop.create_future()
            poller = _Poller(request, REQUESTS // CONNECTIONS, done)
            await loop.create_connection(lambda p=poller: p, "127.0.0.1", port)  # type: ignore[misc]
            waits.append(done)
            protocols.append(poller)
        await asyncio.gather(*waits)
        return sum(p.failed for p in protocols)

    import uvloop

    begun_s, begun_cpu_s = time.monotonic(), cpu_s(pid)
    failed = uvloop.run(run())
    assert failed == 0, f"{failed} answers were wrong"
    return Rate(REQUESTS / (time.monotonic() - begun_s), REQUESTS / (cpu_s(pid) - begun_cpu_s))


@contextmanager
def node_baseline() -> Iterator[tuple[int, int]]:
    """(port, pid) of the Node.js server."""
    script = Path(__file__).with_name("nodeodm_baseline.mjs")
    with subprocess.Popen(["node", str(script), str(JOBS)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline()), process.pid
        finally:
            process.kill()


def fill(data: Path) -> str:
    """A store with JOBS finished jobs; the uuid of the last."""
    data.mkdir(parents=True)
    JobStore(data / "jobs.sqlite").close()
    options = tuple(GivenOption(n, True) for n in ("dsm", "pc-ept", "cog", "gltf"))
    uuids = [f"00000000-0000-4000-8000-{i:012d}" for i in range(JOBS)]
    now_ms = time.time_ns() // 1_000_000
    done = [Job(u, "", Order("Task", 5, options), State.COMPLETED, now_ms, 1, 1000, 2, 100.0, "", 1) for u in uuids]
    with closing(sqlite3.connect(data / "jobs.sqlite")) as base:
        rows = [(j.uuid, j.state.value, Note(j, 0).text()) for j in done]
        base.executemany("INSERT INTO jobs (uuid, state, body) VALUES (?, ?, ?)", rows)
        base.commit()
    return uuids[-1]


def measure_polls(scratch: Path) -> list[Check]:
    """Polls and the list, with JOBS jobs in the store; rounds alternate between the servers."""
    uuid = fill(scratch / "polls" / "data")
    ours: list[Rate] = []
    theirs: list[Rate] = []
    with running(scratch / "polls") as world, node_baseline() as (port, pid):
        assert world.process is not None
        for _ in range(ROUNDS):
            ours.append(poll(world.port, uuid, world.process.pid))
            theirs.append(poll(port, uuid, pid))
        before_s = cpu_s(world.process.pid)
        times_ms = []
        for _ in range(21):
            begun = time.perf_counter()
            assert len(world.get("/task/list")) == JOBS
            times_ms.append(1000 * (time.perf_counter() - begun))
        list_cpu_ms = 1000 * (cpu_s(world.process.pid) - before_s) / 21
        idle_mb = resident_mb(world.process.pid, "VmRSS")
    wall, cpu = max(r.wall for r in ours), max(r.cpu for r in ours)
    node_wall, node_cpu = max(r.wall for r in theirs), max(r.cpu for r in theirs)
    note = f"{CONNECTIONS} connections, {JOBS} jobs, best of {ROUNDS} rounds, on a machine with load {os.getloadavg()[0]:.0f}"
    return [
        Check("polls", "task/info by the wall clock", wall, "requests/s", "≥", 5000.0, note),
        Check("polls", "task/info for each CPU second of the server", cpu, "requests/s", note=note),
        Check("polls", "Node.js baseline by the wall clock", node_wall, "requests/s", note="the same rounds"),
        Check("polls", "Node.js baseline for each CPU second", node_cpu, "requests/s", note="the same rounds"),
        Check("polls", "CPU rate against the Node.js baseline", cpu / node_cpu, "times"),
        Check(
            "list",
            f"task/list with {JOBS} jobs",
            statistics.median(times_ms),
            "ms",
            "≤",
            50.0,
            "median, client included",
        ),
        Check("list", "task/list, the server's CPU", list_cpu_ms, "ms"),
        Check("list", f"memory with {JOBS} jobs", idle_mb, "MB"),
    ]


def upload(port: int, uuid: str, photos: list[str], content: bytes) -> None:
    """One POST a photo, as PyODM does, from memory and without a client library's own cost."""
    with socket.create_connection(("127.0.0.1", port)) as line, line.makefile("rb") as answers:
        for name in photos:
            head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="{name}"\r\n\r\n'.encode()
            tail = f"\r\n--{BOUNDARY}--\r\n".encode()
            size = len(head) + len(content) + len(tail)
            request = f"POST /task/new/upload/{uuid} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {size}\r\n"
            request += f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
            line.sendall(request.encode() + head)
            line.sendall(content)
            line.sendall(tail)
            _read_answer(answers)


def at_once(port: int, uuid: str, parts: list[list[str]], content: bytes) -> None:
    """A connection for each part, all at once, as clients do."""
    threads = [threading.Thread(target=upload, args=(port, uuid, names, content)) for names in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _read_answer(answers: object) -> None:
    status = answers.readline()  # type: ignore[attr-defined]
    length = 0
    while line := answers.readline().strip():  # type: ignore[attr-defined]
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    body = json.loads(answers.read(length))  # type: ignore[attr-defined]
    assert b"200" in status, status
    assert body.get("success"), body


def bare_copy(folder: Path, photos: list[str], content: bytes) -> None:
    """The same files written and flushed one after another."""
    folder.mkdir()
    for name in photos:
        with open(folder / name, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())


def timed(work: Callable[[], None]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def measure_uploads(scratch: Path) -> list[Check]:
    """Paired rounds of upload and bare copy; then the memory of a large upload over many connections."""
    content = os.urandom(PHOTO_MB * MB)
    photos = [f"p{i}.jpg" for i in range(UPLOAD_MB // PHOTO_MB)]
    shares, rates = [], []
    with running(scratch / "uploads", limits={"disk_floor_bytes": 0}) as world:
        assert world.process is not None
        for i in range(UPLOAD_ROUNDS):
            task = world.init()
            copy_s = timed(lambda i=i: bare_copy(scratch / f"copy{i}", photos, content))  # type: ignore[misc]
            parts = [photos[k::CLIENT_CONNECTIONS] for k in range(CLIENT_CONNECTIONS)]
            upload_s = timed(lambda t=task, p=parts: at_once(world.port, t, p, content))  # type: ignore[misc]
            shares.append(copy_s / upload_s)
            rates.append(UPLOAD_MB / upload_s)
            shutil.rmtree(scratch / f"copy{i}")
            world.act("remove", task)
        task = world.init()
        each = LARGE_MB // UPLOADERS // PHOTO_MB
        names = [[f"p{i}_{j}.jpg" for j in range(each)] for i in range(UPLOADERS)]
        begun_cpu_s = cpu_s(world.process.pid)
        at_once(world.port, task, names, content)
        spent_s = cpu_s(world.process.pid) - begun_cpu_s
        assert len(list((world.job_folder(task) / "photos").iterdir())) == UPLOADERS * each
        peak_mb = resident_mb(world.process.pid, "VmHWM")
    note = f"{UPLOAD_MB} MB in photos of {PHOTO_MB} MB, each flushed, over {CLIENT_CONNECTIONS} connections as CloudODM does;"
    note += f" median of {UPLOAD_ROUNDS} paired rounds, on a machine with load {os.getloadavg()[0]:.0f}"
    large = f"{LARGE_MB} MB by {UPLOADERS} connections at once"
    return [
        Check("upload", "speed against a bare copy with fsync", 100 * statistics.median(shares), "%", "≥", 60.0, note),
        Check("upload", "speed", statistics.median(rates), "MB/s", note=note),
        Check("upload", "largest memory of the server", peak_mb, "MB", "≤", 200.0, large),
        Check("upload", "CPU of the server for 1 GB", spent_s, "s", note=large),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--only", choices=("polls", "uploads"), default=None)
    parser.add_argument("--scratch", type=Path, default=None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        checks = measure_polls(Path(scratch)) if given.only != "uploads" else []
        checks += measure_uploads(Path(scratch)) if given.only != "polls" else []
    from run import about  # with all of the engine, which would only take memory before

    for check in checks:
        print(
            f"{check.run:7} {check.what:46} {check.reached:10.1f} {check.unit:10} {check.sign}{check.wanted or ''} {check.verdict}"
        )
    earlier = SurveyResult.load(file).checks if (file := given.results / f"{NAME}.json").exists() else ()
    measured = {check.run for check in checks}
    kept = tuple(c for c in earlier if c.run not in measured)
    in_order = sorted((*kept, *checks), key=lambda c: RUNS.index(c.run))
    SurveyResult(NAME, about(), "", tuple(in_order), ()).save(given.results)


if __name__ == "__main__":
    main()
