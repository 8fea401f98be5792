"""What failures and distribution cost: seconds until work goes on, and CPU that two workers take beyond one process.

    python bench/cluster_cost.py [--parts recovery overhead]

recovery: from a fault until work goes on. overhead: CPU of a job on brighton_beach with two workers, coordinator and driver against one
process. A part that is not run keeps its last rows in the results.
"""

from __future__ import annotations

import argparse
import compileall
import json
import math
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # the processes of a passel, as the tests start them

from machines import Drive, Job, Machines, until  # noqa: E402
from passel.cluster.worker.agent_options import STALL_S, WAIT_S  # noqa: E402
from passel.pipeline.events import StepStarted  # noqa: E402
from results import Check, SurveyResult  # noqa: E402
from runs import digests, passel  # noqa: E402
from step_functions import step  # noqa: E402

NAME = "cluster_cost"
PATIENCE_S = 3600.0
ROUNDS = 3


def recovery_rows(folder: Path, rounds: int = 5) -> list[Check]:
    lost = [_seconds_after_loss(folder / f"loss{i}") for i in range(rounds)]
    restarted = [_seconds_after_restart(folder / f"restart{i}") for i in range(rounds)]
    note = f"the longest of {rounds}; load average of the machine {os.getloadavg()[0]:.1f}"
    return [
        Check("recovery", "after the loss of a worker", max(lost), "s", "≤", 5.0, note),
        Check("recovery", "median", statistics.median(lost), "s"),
        Check("recovery", "after a restart of the coordinator", max(restarted), "s", "≤", 15.0, note),
        Check("recovery", "median", statistics.median(restarted), "s"),
    ]


def _seconds_after_loss(root: Path) -> float:
    """From the kill of a worker until its step begins on the other one."""
    root.mkdir()
    machines = Machines(root)
    try:
        machines.start_coordinator()
        workers = {n: machines.worker(n, workers=1) for n in ("one", "two")}
        long = step("add", "long", seconds=20.0, marker=str(root / "long"))
        drive = Drive(machines, [long])
        until(lambda: _starts(drive))
        time.sleep(1.0)  # the other one is there, too
        workers[_starts(drive)[0].worker].kill()
        killed_s = time.monotonic()
        until(lambda: len((root / "long").read_text().split()) > 1)
        found_s = time.monotonic() - killed_s
        drive.abandon()
        return found_s
    finally:
        machines.close()


def _seconds_after_restart(root: Path) -> float:
    """From the kill of the coordinator, started again at once, until the next step begins."""
    root.mkdir()
    machines = Machines(root)
    try:
        machines.start_coordinator()
        machines.worker("one", workers=1)
        steps = [step("add", f"a{i}", value=i, seconds=0.2, marker=str(root / "runs")) for i in range(200)]
        drive = Drive(machines, steps)
        until(lambda: len(_starts(drive)) > 5)
        machines.kill_coordinator()
        killed_s = time.monotonic()
        time.sleep(0.5)  # what ran then has ended
        before = len((root / "runs").read_text().split())
        machines.start_coordinator()
        until(lambda: len((root / "runs").read_text().split()) > before)
        found_s = time.monotonic() - killed_s
        drive.abandon()
        return found_s
    finally:
        machines.close()


def _starts(drive: Drive) -> list[StepStarted]:
    return [e for e in drive.events if isinstance(e, StepStarted)]


@dataclass(frozen=True)
class Cost:
    """CPU seconds of a map. start_s: of coordinator and workers until they were there. job_s: from then to their end. steps_s: of
    these in the steps, as they have noted it."""

    start_s: float
    job_s: float
    steps_s: float
    sha256s: dict[str, str]


def overhead_rows(folder: Path) -> list[Check]:
    import passel
    from passel.demo.flight import DemoSettings  # with all of the engine
    from passel.demo.write import write_demo
    from surveys import dataset_folder

    dataset = dataset_folder("brighton_beach")
    if dataset is None:
        return [Check("brighton_beach", "CPU of 2 workers over serial", math.nan, note="dataset not present")]
    photos = dataset / "images"
    compileall.compile_dir(Path(passel.__file__).parent, quiet=1)  # as an installer does: else every process compiles
    write_demo(folder / "demo", DemoSettings.tiny())
    _serial(folder / "demo" / "images", folder / "demo-map")  # in a fresh clone numba compiles, for all that follow
    kinds = {"2 workers, one of them the coordinator's": True, "2 joined workers": False}
    serial: list[Cost] = []
    at_once_s: list[float] = []
    passels: dict[str, list[Cost]] = {kind: [] for kind in kinds}
    for turn in range(ROUNDS):  # in turns, for the machine is shared: what is in one's way is in the others'
        serial.append(_serial(photos, folder / f"serial{turn}"))
        for kind, local in kinds.items():
            passels[kind].append(_passel_of_two(photos, folder / f"two{turn}{local}", local))
        at_once_s.append(_two_serials_at_once(photos, folder / f"twice{turn}"))
    busy_s = statistics.median(at_once_s)
    return [row for kind in kinds for row in _rows_of(kind, passels[kind], serial, busy_s)]


def _two_serials_at_once(photos: Path, folder: Path) -> float:
    """CPU seconds of each of two serial runs at once. Cores share caches, memory and, as two threads of one, themselves: the same work
    costs more seconds beside another's, whoever distributes it."""
    before_s = _ended_cpu_s()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: _serial(photos, folder / name), ("one", "other")))
    return (_ended_cpu_s() - before_s) / 2


def _rows_of(kind: str, two: list[Cost], serial: list[Cost], busy_s: float) -> list[Check]:
    job_s, alone_s = (statistics.median(c.job_s for c in costs) for costs in (two, serial))
    beside_s, beside_alone_s = (statistics.median(c.job_s - c.steps_s for c in costs) for costs in (two, serial))
    each = ", ".join(f"{c.job_s:.1f} to {s.job_s:.1f}" for c, s in zip(two, serial, strict=True))
    note = (
        f"CPU with driver, coordinator and workers {job_s:.1f} s, serial {alone_s:.1f} s; medians of {ROUNDS}: {each}"
    )
    beside = (
        f"{beside_s:.1f} s, serial {beside_alone_s:.1f} s: the steps are the same work, on a machine that is shared"
    )
    same = all(c.sha256s == serial[0].sha256s for c in (*two, *serial))
    return [
        Check("brighton_beach", f"{kind}: CPU over serial", job_s / alone_s - 1.0, "", "≤", 0.05, note),
        Check(
            "brighton_beach",
            f"{kind}: CPU over serial on a machine as busy",
            job_s / busy_s - 1.0,
            note=f"two serial runs at once take {busy_s:.1f} s each: what two cores at work cost each other",
        ),
        Check(
            "brighton_beach", f"{kind}: the same without the steps", (beside_s - beside_alone_s) / alone_s, note=beside
        ),
        Check("brighton_beach", f"{kind}: to start them, once", statistics.median(c.start_s for c in two), "s"),
        Check("brighton_beach", f"{kind}: products identical", float(same), "", "=", 1.0),
    ]


def _serial(photos: Path, output: Path) -> Cost:
    before_s = _ended_cpu_s()
    done = passel(["run", str(photos), "--output", str(output)], serial=True)
    assert done.returncode == 0, done.stderr
    return Cost(0.0, _ended_cpu_s() - before_s, _cpu_of_steps(output), digests(output))


def _passel_of_two(photos: Path, root: Path, local: bool) -> Cost:
    """With a worker that reads and writes beside the coordinator, or two that are elsewhere."""
    root.mkdir()
    before_s = _ended_cpu_s()
    machines = Machines(root)
    try:
        machines.start_coordinator()
        workers = [  # that poll as often as shipped ones do: tests are in a greater hurry
            machines.worker(name, local=local and name == "one", workers=1, wait_s=WAIT_S, stall_s=STALL_S)
            for name in ("one", "two")
        ]
        until(lambda: all("threads" in w.log.read_text() for w in workers))
        start_s = sum(_cpu_s(p) for p in psutil.Process().children(recursive=True))
        output = root / "map"
        end = json.loads(Job(machines, photos, output).done(PATIENCE_S))
        assert end["code"] == 0, end
        assert all(worker.stop() == 0 for worker in workers)
    finally:
        machines.close()
    return Cost(start_s, _ended_cpu_s() - before_s - start_s, _cpu_of_steps(output), digests(output))


def _cpu_s(process: psutil.Process) -> float:
    """Of a process that runs, without its children's."""
    with suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def _ended_cpu_s() -> float:
    """Of all processes that this one has started and waited for, and of theirs."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime


def _cpu_of_steps(output: Path) -> float:
    """CPU seconds that the steps of a map have noted for themselves."""
    manifests = (output / ".passel" / "store").glob("??/*/manifest.json")
    return math.fsum(json.loads(m.read_text("utf-8"))["cost"]["cpu_seconds"] for m in manifests)


PARTS: dict[str, tuple[str, Callable[[Path], list[Check]]]] = {
    "recovery": ("recovery", recovery_rows),
    "overhead": ("brighton_beach", overhead_rows),
}
"""What may be asked for, and under which name its rows stand."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=list(PARTS))
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    given = parser.parse_args()
    from run import about

    for part in given.parts:
        label, measure = PARTS[part]
        with tempfile.TemporaryDirectory(prefix="passel-cost-") as name:
            rows = measure(Path(name))
        path = given.results / f"{NAME}.json"
        kept = [c for c in SurveyResult.load(path).checks if c.run != label] if path.exists() else []
        SurveyResult(NAME, about(), "", (*kept, *rows), ()).save(given.results)
        for row in rows:
            print(f"{row.run}: {row.what} {row.reached:.4g} {row.unit} {row.verdict} {row.note}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
