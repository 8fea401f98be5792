"""What failures and distribution cost: seconds until work goes on, and CPU that two workers take beyond one process.

    python bench/cluster_cost.py [--parts recovery overhead]

recovery: from a fault until work goes on. overhead: CPU of brighton_beach on two workers against one process, with coordinator and
driver. A part that is not run keeps its last rows in the results.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # the processes of a passel, as the tests start them

from machines import Drive, Job, Machines, until  # noqa: E402
from passel.pipeline.events import StepStarted  # noqa: E402
from results import Check, SurveyResult  # noqa: E402
from runs import digests, passel  # noqa: E402
from step_functions import step  # noqa: E402

NAME = "cluster_cost"
PATIENCE_S = 3600.0


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


def overhead_rows(folder: Path) -> list[Check]:
    from surveys import dataset_folder  # with all of the engine

    dataset = dataset_folder("brighton_beach")
    if dataset is None:
        return [Check("brighton_beach", "CPU of 2 workers over serial", math.nan, note="dataset not present")]
    photos = dataset / "images"

    def serial() -> None:
        done = passel(["run", str(photos), "--output", str(folder / "serial_map")], serial=True)
        assert done.returncode == 0, done.stderr

    def passel_of_two() -> None:
        machines = Machines(folder)
        try:
            machines.start_coordinator()
            for name in ("one", "two"):
                machines.worker(name, workers=1)
            end = json.loads(Job(machines, photos, folder / "cluster_map").done(PATIENCE_S))
            assert end["code"] == 0, end
            for worker in machines.workers:
                assert worker.stop() == 0
        finally:
            machines.close()

    one_s, two_s = (_cpu_of(work) for work in (serial, passel_of_two))
    same = digests(folder / "serial_map") == digests(folder / "cluster_map")
    note = f"serial {one_s:.1f} s, 2 workers with coordinator and driver {two_s:.1f} s of CPU"
    steps_one_s, steps_two_s = (_cpu_of_steps(folder / name) for name in ("serial_map", "cluster_map"))
    steps = f"serial {steps_one_s:.1f} s, 2 workers {steps_two_s:.1f} s: the same work, on a machine that is shared"
    return [
        Check("brighton_beach", "CPU of 2 workers over serial", two_s / one_s - 1.0, "", "≤", 0.05, note),
        Check("brighton_beach", "of this in the steps themselves", (steps_two_s - steps_one_s) / one_s, "", note=steps),
        Check("brighton_beach", "products identical", float(same), "", "=", 1.0),
    ]


def _cpu_of(work: Callable[[], None]) -> float:
    """CPU seconds of all processes that the work starts and waits for, and of theirs."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _cpu_of_steps(output: Path) -> float:
    """CPU seconds that the steps of a map have noted for themselves."""
    manifests = (output / ".passel" / "store").glob("??/*/manifest.json")
    return sum(json.loads(m.read_text("utf-8"))["cost"]["cpu_seconds"] for m in manifests)


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
