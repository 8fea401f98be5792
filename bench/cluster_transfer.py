"""How fast photos reach a worker, against curl on the same link: TLS with certificates of both ends, checked and written to disk.

    python bench/cluster_transfer.py [--files 40] [--rounds 3]

Both fetch the same files from the same server (the coordinator's data plane, a process of its own), in turns, so that what else
the machine does meets both. curl fetches as many files at a time as the worker, keeps its connections, and hashes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import uvloop
from aiohttp import web

from passel.cluster.coordinator.data_plane import DataPlane
from passel.cluster.trust.authority import Authority
from passel.cluster.trust.identity import Identity
from passel.cluster.wire.drivers import ReadyStep
from passel.cluster.wire.workers import InputRef, file_path
from passel.cluster.worker.transfer import Link, LinkSettings
from results import Check, SurveyResult

NAME = "cluster_transfer"
FILE_MB = 10
PORT = 34567
WANTED = 0.70
ME = Path(__file__).resolve()


@dataclass(frozen=True)
class Fetch:
    """One way of fetching all files, once. cpu_s: of the client."""

    mb_per_s: float
    cpu_s: float


def serve(folder: Path) -> None:
    """The data plane with the folder's photos as job 'bench'; its key is each photo's sha256, which is its name."""

    async def forever() -> None:
        plane = DataPlane()
        plane.attach("bench", folder / "store")
        refs = tuple(
            InputRef("photo", "file", p.name, f"{p.name}.JPG", p.stat().st_size, path=str(p))
            for p in sorted((folder / "photos").iterdir())
        )
        plane.add_files("bench", ReadyStep("d" * 64, "bench", "all", 0, 1, 1, "", refs, ""))
        app = web.Application()
        app.add_routes(plane.routes())
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        tls = Authority.open(folder / "ca").server_context(["127.0.0.1"])
        await web.TCPSite(runner, "127.0.0.1", PORT, ssl_context=tls).start()
        print("ready", flush=True)
        await asyncio.Event().wait()

    asyncio.run(forever())


def fetch(folder: Path) -> None:
    """What a worker does, without its cache; prints seconds."""

    async def all_files() -> None:
        link = Link(f"https://127.0.0.1:{PORT}", Identity(folder / "worker").client_context())
        keys = sorted(p.name for p in (folder / "photos").iterdir())
        started = time.monotonic()
        fetched = await asyncio.gather(*(link.fetch(file_path("bench", k), folder / "got" / k) for k in keys))
        print(time.monotonic() - started)
        assert [f.sha256 for f in fetched] == keys
        await link.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as `agent_process` does
        runner.run(all_files())


def with_curl(folder: Path) -> None:
    """The same by curl; prints seconds."""
    identity = Identity(folder / "worker")
    words = ["curl", "--no-progress-meter", "--fail", "--http1.1"]
    words += ["--parallel", "--parallel-max", str(LinkSettings.downloads)]
    words += ["--cacert", str(identity.ca), "--cert", str(identity.certificate), "--key", str(identity.key)]
    for photo in sorted((folder / "photos").iterdir()):
        words += ["-o", str(folder / "got" / photo.name)]
        words += [f"https://127.0.0.1:{PORT}{file_path('bench', photo.name)}"]
    started = time.monotonic()
    subprocess.run(words, check=True)
    print(time.monotonic() - started)


def measured(way: str, folder: Path, inside: list[str]) -> Fetch:
    """Runs one way in a process of its own."""
    got = folder / "got"
    shutil.rmtree(got, ignore_errors=True)
    got.mkdir()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = [*inside, sys.executable, str(ME), "--only", way, "--folder", str(folder)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    size_mb = sum(p.stat().st_size for p in got.iterdir()) / 1e6
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Fetch(size_mb / float(done.stdout), cpu_s)


def pairs(folder: Path, inside: list[str], rounds: int) -> list[tuple[Fetch, Fetch]]:
    """(worker, curl), again and again, with the server inside the same network."""
    words = [*inside, sys.executable, str(ME), "--only", "serve", "--folder", str(folder)]
    server = subprocess.Popen(words, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        measured("curl", folder, inside)  # the server has hashed and the disk has read everything once
        return [(measured("fetch", folder, inside), measured("curl", folder, inside)) for _ in range(rounds)]
    finally:
        server.kill()
        server.wait()


def checks(run: str, found: list[tuple[Fetch, Fetch]], size_mb: float) -> list[Check]:
    ours, curls = ([pair[i] for pair in found] for i in (0, 1))
    ratio = statistics.median(a.mb_per_s / b.mb_per_s for a, b in found)
    note = f"median of {len(found)} pairs; load average of the machine {os.getloadavg()[0]:.1f}"
    return [
        Check(run, "worker / curl", ratio, "", "≥", WANTED, note),
        Check(run, "worker", statistics.median(f.mb_per_s for f in ours), "MB/s"),
        Check(run, "curl", statistics.median(f.mb_per_s for f in curls), "MB/s"),
        Check(run, "worker CPU, with its start", statistics.median(f.cpu_s for f in ours) / size_mb * 1000, "s/GB"),
    ]


def gigabit() -> list[str]:
    """The words that run a command behind a loopback of 1 Gbit/s; [] where that is not allowed."""
    name = f"passel-bench-{os.getpid()}"
    shape = ["tc", "qdisc", "add", "dev", "lo", "root", "tbf", "rate", "1gbit", "burst", "1mb", "latency", "50ms"]
    inside = ["ip", "netns", "exec", name]
    commands = (["ip", "netns", "add", name], ["ip", "-n", name, "link", "set", "lo", "up"], [*inside, *shape])
    for command in commands:
        if shutil.which("ip") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
            return []
    return inside


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=ME.parent / "results")
    parser.add_argument("--only", choices=("serve", "fetch", "curl"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        {"serve": serve, "fetch": fetch, "curl": with_curl}[given.only](given.folder)
        return 0
    from run import about  # with all of the engine, which a transfer does not need

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        (folder / "store").mkdir()
        for _ in range(given.files):
            content = os.urandom(FILE_MB * 10**6)
            (folder / "photos" / hashlib.sha256(content).hexdigest()).write_bytes(content)
        Authority.open(folder / "ca").issue(folder / "worker", "worker")
        size_mb = given.files * FILE_MB
        rows = checks("loopback", pairs(folder, [], given.rounds), size_mb)
        inside = gigabit()
        if inside:
            try:
                rows += checks("1 Gbit/s", pairs(folder, inside, given.rounds), size_mb)
            finally:
                subprocess.run(["ip", "netns", "del", inside[-1]], check=True)
    result = SurveyResult(NAME, about(), "", tuple(rows), ())
    result.save(given.results)
    for row in rows:
        print(f"{row.run}: {row.what} {row.reached:.3g} {row.unit} {row.verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
