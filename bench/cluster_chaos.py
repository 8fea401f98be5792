"""Runs of the demo that are disturbed at random, and what failures and distribution cost.

    python bench/cluster_chaos.py [--runs 50] [--seed 1] [--parts chaos recovery overhead]

chaos: each run has three random faults: a worker loses its power, an agent or the driver or the coordinator is killed, a cable is
pulled for some seconds (where network namespaces are allowed). The products must be those of an undisturbed run, byte by byte.
recovery: seconds from a fault until work goes on. overhead: CPU of brighton_beach on two workers against one process.
Parts that are not run keep their last rows in the results.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # the processes of a passel, as the tests start them

from machines import Drive, Job, Machines, Network, Worker, network, until  # noqa: E402
from passel.demo.flight import DemoSettings  # noqa: E402
from passel.demo.write import write_demo  # noqa: E402
from passel.pipeline.events import StepStarted  # noqa: E402
from results import Check, SurveyResult  # noqa: E402
from runs import digests, passel  # noqa: E402
from step_functions import step  # noqa: E402

NAME = "cluster_chaos"
FAULTS_A_RUN = 3
WORDS = ["--split", "9"]
PATIENCE_S = 3600.0
LEASE_S = 15.0


@dataclass
class Passel:
    """A passel under attack: two workers, and the names of their hosts in the network if they have any."""

    machines: Machines
    job: Job
    net: Network | None
    dice: random.Random
    workers: dict[str, Worker] = field(default_factory=dict)
    story: list[str] = field(default_factory=list)

    def start_worker(self, name: str) -> None:
        namespace = self.net.names[1 + ["one", "two"].index(name)] if self.net else ""
        self.workers[name] = self.machines.worker(name, namespace=namespace, workers=1)

    def power(self) -> None:
        """A worker goes without a word and is started again some seconds later, with what is in its cache."""
        name = self.dice.choice(list(self.workers))
        self.workers[name].kill()
        time.sleep(self.dice.uniform(0.0, 5.0))
        self.start_worker(name)

    def agent(self) -> None:
        """An agent dies; its supervisor starts another one."""
        self.workers[self.dice.choice(list(self.workers))].agent.kill()

    def driver(self) -> None:
        """The driver dies; it is started again."""
        if self.job.process is not None:
            self.job.process.kill()

    def coordinator(self) -> None:
        """The coordinator dies and is started again."""
        self.machines.kill_coordinator()
        time.sleep(self.dice.uniform(0.0, 3.0))
        self.machines.start_coordinator(self.net.names[0] if self.net else "")

    def cable(self) -> None:
        """A worker's link is cut, for shorter or longer than its lease."""
        assert self.net is not None
        host = self.dice.choice(self.net.names[1:])
        self.net.cut(host)
        time.sleep(self.dice.choice((2.0, 5.0, LEASE_S + 5.0)))
        self.net.cut(host, down=False)

    @property
    def faults(self) -> list[Callable[[], None]]:
        return [self.power, self.agent, self.driver, self.coordinator, *([self.cable] if self.net else [])]


@contextmanager
def hosts() -> Iterator[Network | None]:
    """Three hosts on a network, None where that is not allowed."""
    if Network.possible():
        yield from network(("hub", "one", "two"))
    else:
        yield None


@contextmanager
def attacked(photos: Path, root: Path, seed: int) -> Iterator[Passel]:
    with hosts() as net:
        machines = Machines(root, host="10.77.0.1" if net else "127.0.0.1")
        try:
            machines.start_coordinator(net.names[0] if net else "")
            found = Passel(machines, Job(machines, photos, root / "map", WORDS), net, random.Random(seed))
            for name in ("one", "two"):
                found.start_worker(name)
            yield found
            found.job.give_up()
        finally:
            machines.close()


def chaos(photos: Path, expected: dict[str, str], artifacts: int, root: Path, seed: int) -> str:
    """One run; '' when it was completed with the right products, else what was wrong."""
    root.mkdir()
    with attacked(photos, root, seed) as found:
        moments = sorted(found.dice.sample(range(1, artifacts - 1), FAULTS_A_RUN))
        for moment in moments:
            until(lambda at=moment: found.job.made() >= at or not found.job.running, PATIENCE_S)
            fault = found.dice.choice(found.faults)
            found.story.append(f"{fault.__name__} at {found.job.made()}")
            fault()
        try:
            end = json.loads(found.job.done(PATIENCE_S))
        except (AssertionError, ValueError) as error:
            return f"seed {seed} ({', '.join(found.story)}): {str(error)[:200]}"
        print(f"  seed {seed}: {', '.join(found.story)}: exit code {end['code']}", flush=True)
        if end["code"] != 0:
            return f"seed {seed} ({', '.join(found.story)}): {end['message']}"
        wrong = [name for name, sha256 in digests(found.job.output).items() if expected[name] != sha256]
        return f"seed {seed} ({', '.join(found.story)}): differs: {wrong}" if wrong else ""


def chaos_rows(wanted: int, minutes: float, first_seed: int, folder: Path) -> list[Check]:
    """At most `wanted` runs; none is begun after so many minutes."""
    started_s = time.monotonic()
    write_demo(folder / "demo", DemoSettings.tiny())
    photos, serial = folder / "demo" / "images", folder / "serial"
    done = passel(["run", str(photos), "--output", str(serial), *WORDS], serial=True)
    if done.returncode:
        raise SystemExit(f"the undisturbed run failed: {done.stderr}")
    expected, artifacts = digests(serial), sum(1 for _ in (serial / ".passel" / "store").glob("??/*/manifest.json"))
    wrong: list[str] = []
    runs = 0
    while runs < wanted and time.monotonic() - started_s < 60.0 * minutes:
        seed = first_seed + runs
        runs += 1
        fault = chaos(photos, expected, artifacts, folder / f"run{seed}", seed)
        wrong += [fault] if fault else []
        if not fault:
            shutil.rmtree(folder / f"run{seed}")
    note = "; ".join(wrong) or f"{FAULTS_A_RUN} faults each, seeds {first_seed} to {first_seed + runs - 1}"
    return [
        Check("chaos", "runs", runs, "", "≥", 50, "as many as time allowed" if runs < 50 else ""),
        Check("chaos", "complete, products identical", (runs - len(wrong)) / runs, "of all", "=", 1.0, note),
    ]


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no chaos run after so long")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--parts", nargs="+", choices=("chaos", "recovery", "overhead"), default=["chaos", "recovery", "overhead"]
    )
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    given = parser.parse_args()
    from run import about

    labels = {"chaos": "chaos", "recovery": "recovery", "overhead": "brighton_beach"}
    path = given.results / f"{NAME}.json"
    kept = (
        [c for c in SurveyResult.load(path).checks if c.run not in {labels[p] for p in given.parts}]
        if path.exists()
        else []
    )
    rows: list[Check] = []
    for part in given.parts:
        with tempfile.TemporaryDirectory(prefix="passel-chaos-") as name:
            folder = Path(name)
            if part == "chaos":
                rows += chaos_rows(given.runs, given.minutes, given.seed, folder)
            else:
                rows += recovery_rows(folder) if part == "recovery" else overhead_rows(folder)
    SurveyResult(NAME, about(), "", (*kept, *rows), ()).save(given.results)
    for row in rows:
        print(f"{row.run}: {row.what} {row.reached:.4g} {row.unit} {row.verdict} {row.note}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
