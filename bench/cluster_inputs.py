"""What steps wait for, and what goes over which line: prefetch, locality, and the bucket, on hosts whose cables are slow.

    python bench/cluster_inputs.py [--photos 24] [--mbit 100]

A coordinator and two workers on hosts of their own (network namespaces), each worker behind a cable of `--mbit`. Each photo is read
by one step, and what that leaves by steps of neighbouring photos; steps sleep as long as the cable needs for 60 % of their photos, so
that a worker that fetches ahead need not wait. Then the same with a bucket (moto's server, on a host of its own).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # the processes of a passel, as the tests start them

from bucket_world import BUCKET, KEY, SECRET, moto_process  # noqa: E402
from machines import Drive, Machines, Network, network, until  # noqa: E402
from passel.pipeline.events import StepDone  # noqa: E402
from passel.pipeline.step import FileInput, Step  # noqa: E402
from results import Check, SurveyResult  # noqa: E402
from step_functions import Params, step  # noqa: E402

NAME = "cluster_inputs"
PHOTO_MB, ARTIFACT_MB = 6, 2
NEIGHBOURS = 4
SLOTS = 2
BUSY = 0.6


@dataclass(frozen=True)
class Run:
    """One job. span_s: from its first step's start to its last one's end. slept_s: of its steps.

    photos_mb, artifacts_mb: that came to workers, as they count. copies_mb: of photos, in their caches at the end.
    line_mb: that passed the coordinator's cable, both ways.
    """

    span_s: float
    slept_s: float
    photos_mb: float
    artifacts_mb: float
    copies_mb: float
    line_mb: float

    @property
    def waiting(self) -> float:
        """The share of that time in which the workers' slots did nothing: they waited for inputs, or at the end for each other."""
        return 1.0 - self.slept_s / (self.span_s * 2 * SLOTS)


def steps_of(photos: list[Path], seconds: float) -> list[Step]:
    first = []
    for number, photo in enumerate(photos):
        given = (("photo", FileInput(str(photo), hashlib.sha256(photo.read_bytes()).hexdigest())),)
        params = Params(value=ARTIFACT_MB, marker="", seconds=seconds)
        first.append(Step("features", f"{number:03d}", "step_functions:large_file", 1, params, given))
    groups = [first[n : n + NEIGHBOURS] for n in range(0, len(first), NEIGHBOURS // 2)]
    second = [
        step("mix_large", f"{n:03d}", after=tuple(group), stage="matches", seconds=seconds)
        for n, group in enumerate(groups)
    ]
    return [*first, *second]


def measured(machines: Machines, net: Network, photos: list[Path], seconds: float, job: str) -> Run:
    steps = steps_of(photos, seconds)
    before = moved_bytes(net)
    drive = Drive(machines, steps, job)
    drive.done(1200.0)
    events = [e for e in drive.events if isinstance(e, StepDone) and e.delivery]
    assert len(events) == len(steps), machines.story()
    starts_s = [datetime.fromisoformat(e.manifest.started).timestamp() for e in events]
    span_s = max(t + e.manifest.seconds for t, e in zip(starts_s, events)) - min(starts_s)
    came = {s: sum(e.delivery.bytes_in for e in events if e.delivery and e.stage == s) for s in ("features", "matches")}
    line_mb = (moved_bytes(net) - before) / 1e6
    copies = sum(p.stat().st_size for w in machines.workers for p in (w.cache / "files").glob("*/*"))
    return Run(span_s, seconds * len(steps), came["features"] / 1e6, came["matches"] / 1e6, copies / 1e6, line_mb)


def moved_bytes(net: Network) -> int:
    """That the coordinator's host has received and sent; what others say to each other does not count."""
    paths = [f"/sys/class/net/br0/statistics/{way}_bytes" for way in ("rx", "tx")]
    words = ["ip", "netns", "exec", net.names[0], "cat", *paths]
    return sum(map(int, subprocess.run(words, capture_output=True, check=True, text=True).stdout.split()))


@contextmanager
def hosts(mbit: int) -> Iterator[Network]:
    made = network(["coordinator", "one", "two", "bucket"])
    net = next(made)
    try:
        for number in (1, 2):
            for where, device in ((net.names[0], f"p{number}"), (net.names[number], "eth0")):
                shape = f"tc qdisc add dev {device} root tbf rate {mbit}mbit burst 256kb latency 100ms"
                subprocess.run(["ip", "netns", "exec", where, *shape.split()], check=True)
        yield net
    finally:
        made.close()


def run(folder: Path, net: Network, photos: list[Path], seconds: float, bucket: str) -> Run:
    machines = Machines(folder, host="10.77.0.1")
    machines.data.mkdir(parents=True)
    if bucket:
        (machines.data / "bucket").write_text(bucket)
    machines.start_coordinator(net.names[0])
    try:
        workers = [machines.worker(n, namespace=net.names[i], workers=SLOTS) for i, n in ((1, "one"), (2, "two"))]
        until(lambda: all(w.process.poll() is None and "threads" in w.log.read_text() for w in workers))
        time.sleep(3.0)
        return measured(machines, net, photos, seconds, "job")
    finally:
        machines.close()


def rows(name: str, run: Run, photos: int) -> list[Check]:
    note = f"load average of the machine {os.getloadavg()[0]:.1f}"
    return [
        Check(name, "slots without work", 100 * run.waiting, "%", note=note),
        Check(name, "first step to last", run.span_s, "s"),
        Check(name, "photos to workers", run.photos_mb / photos / PHOTO_MB, "times", "≤", 1.01),
        Check(name, "copies of a photo in caches", run.copies_mb / photos / PHOTO_MB, "", "≤", 1.05),
        Check(name, "artifacts to workers", run.artifacts_mb / photos, "MB/photo"),
        Check(name, "by the coordinator's line", run.line_mb / photos, "MB/photo"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=24)
    parser.add_argument("--mbit", type=int, default=100)
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--only", choices=("plain", "bucket"))
    given = parser.parse_args()
    if not Network.possible():
        print("network namespaces are not allowed here")
        return 0
    from run import about  # with all of the engine, which this does not need

    seconds = PHOTO_MB * 8 / given.mbit * SLOTS / BUSY
    found: list[Check] = []
    with tempfile.TemporaryDirectory() as name, hosts(given.mbit) as net:
        photos = [Path(name) / f"{n:03d}.JPG" for n in range(given.photos)]
        for photo in photos:
            photo.write_bytes(os.urandom(PHOTO_MB * 10**6))
        if given.only != "bucket":
            found += rows(f"{given.mbit} Mbit/s", run(Path(name) / "plain", net, photos, seconds, ""), given.photos)
        if given.only != "plain":
            os.environ |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1"}
            with moto_process("10.77.0.4", net.names[3]) as url:
                words = ["ip", "netns", "exec", net.names[3], "curl", "-fsS", "-X", "PUT", f"{url}/{BUCKET}"]
                subprocess.run(words, check=True, capture_output=True)
                kept = run(Path(name) / "bucket", net, photos, seconds, f"s3://{BUCKET}/bench {url}")
            found += rows(f"{given.mbit} Mbit/s, bucket", kept, given.photos)
    for row in found:
        print(f"{row.run}: {row.what} {row.reached:.3g} {row.unit} {row.verdict}")
    if given.only is None:
        SurveyResult(NAME, about(), "", tuple(found), ()).save(given.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
