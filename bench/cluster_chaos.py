"""Runs of the demo that are disturbed at random: whatever dies, the map must be the undisturbed one, byte by byte.

    python bench/cluster_chaos.py [--runs 50] [--minutes 60] [--fresh]

Each run has three faults at random moments: a worker loses its power, an agent or the driver or the coordinator is killed, a
cable is pulled for some seconds (where network namespaces are allowed). The seed decides them. Each finished run is written to
results/cluster_chaos_runs.jsonl at once; a further invocation goes on with the next seed until so many `--runs` are there, so
they may be made over days, of several commits, and a kill loses none. To be short, workers count as lost after 6 s instead of 15.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # the processes of a passel, as the tests start them

from machines import Job, Machines, Network, Worker, network, until  # noqa: E402
from passel.demo.flight import DemoSettings  # noqa: E402
from passel.demo.write import write_demo  # noqa: E402
from results import Check, SurveyResult  # noqa: E402
from runs import digests, passel  # noqa: E402

NAME = "cluster_chaos"
FAULTS_A_RUN = 3
WORDS = ["--split", "9", "--feature-quality", "low"]
PATIENCE_S = 900.0
LEASE_S = 6.0
WORDS_KEPT = ROOT / "build" / NAME


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
        time.sleep(self.dice.choice((1.0, 4.0, LEASE_S + 2.0)))
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


@dataclass(frozen=True)
class ChaosRun:
    """A run that has ended. story: which faults it had, and at how many artifacts. wrong: '' when the map was as it should be."""

    seed: int
    story: tuple[str, ...]
    wrong: str
    seconds: float
    commit: str

    @staticmethod
    def of_line(line: str) -> ChaosRun:
        d = json.loads(line)
        return ChaosRun(d["seed"], tuple(d["story"]), d["wrong"], d["seconds"], d["commit"])


@dataclass(frozen=True)
class Undisturbed:
    """The survey, and what a run on one machine made of it. artifacts: how many it took."""

    photos: Path
    sha256s: dict[str, str]
    artifacts: int

    @staticmethod
    def make(folder: Path) -> Undisturbed:
        write_demo(folder / "demo", DemoSettings.tiny())
        photos, serial = folder / "demo" / "images", folder / "serial"
        done = passel(["run", str(photos), "--output", str(serial), *WORDS], serial=True)
        if done.returncode:
            raise SystemExit(f"the undisturbed run failed: {done.stderr}")
        return Undisturbed(
            photos, digests(serial), sum(1 for _ in (serial / ".passel/store").glob("??/*/manifest.json"))
        )


def chaos(survey: Undisturbed, root: Path, seed: int, commit: str) -> ChaosRun:
    """One run. When something was wrong, what everybody said is kept."""
    started_s = time.monotonic()
    root.mkdir()
    with attacked(survey.photos, root, seed) as found:
        wrong = _disturb(found, survey)
    if wrong:
        WORDS_KEPT.mkdir(parents=True, exist_ok=True)
        (WORDS_KEPT / f"seed{seed}.log").write_text(found.machines.story(), "utf-8")
    shutil.rmtree(root)
    return ChaosRun(seed, tuple(found.story), wrong, round(time.monotonic() - started_s, 1), commit)


def _disturb(found: Passel, survey: Undisturbed) -> str:
    """The faults, then the end; what was wrong with it."""
    try:
        for moment in sorted(found.dice.sample(range(1, survey.artifacts - 1), FAULTS_A_RUN)):
            until(lambda at=moment: found.job.made() >= at or not found.job.running, PATIENCE_S)
            fault = found.dice.choice(found.faults)
            found.story.append(f"{fault.__name__} at {found.job.made()}")
            fault()
        end = json.loads(found.job.done(PATIENCE_S))
    except (AssertionError, ValueError) as error:
        return str(error)[:200]
    if end["code"] != 0:
        return f"exit code {end['code']}: {end['message']}"
    differing = [name for name, sha256 in digests(found.job.output).items() if survey.sha256s[name] != sha256]
    return f"differs: {', '.join(differing)}" if differing else ""


def rows(runs: list[ChaosRun]) -> list[Check]:
    """What the runs so far show."""
    commits = Counter(run.commit for run in runs)
    made_of = ", ".join(f"{count} of {commit}" for commit, count in commits.items())
    faults = Counter(event.split()[0] for run in runs for event in run.story)
    told = ", ".join(f"{count} x {name}" for name, count in sorted(faults.items()))
    bad = [run for run in runs if run.wrong]
    note = "; ".join(f"seed {run.seed} ({', '.join(run.story)}): {run.wrong}" for run in bad) or f"faults: {told}"
    return [
        Check("chaos", "runs", len(runs), "", "≥", 50, made_of),
        Check("chaos", "complete, products identical", 1.0 - len(bad) / len(runs), "of all", "=", 1.0, note),
        Check("chaos", "a run, median", statistics.median(run.seconds for run in runs), "s"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50, help="how many are to be reached in all")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run after so long")
    parser.add_argument("--fresh", action="store_true", help="forget the runs so far")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    given = parser.parse_args()
    from run import about  # with all of the engine, parts of which take signals for themselves

    signal.signal(signal.SIGTERM, _end)
    os.environ["LEASE_S"] = str(LEASE_S)
    log = given.results / f"{NAME}_runs.jsonl"
    if given.fresh:
        log.unlink(missing_ok=True)
    runs = [ChaosRun.of_line(line) for line in log.read_text("utf-8").splitlines()] if log.exists() else []
    commit = dict(about())["commit"]
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="passel-chaos-") as name:
        survey = Undisturbed.make(Path(name)) if len(runs) < given.runs else None
        while survey and len(runs) < given.runs and time.monotonic() - started_s < 60.0 * given.minutes:
            seed = max((run.seed for run in runs), default=0) + 1
            runs.append(chaos(survey, Path(name) / f"run{seed}", seed, commit))
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(runs[-1])) + "\n")
            SurveyResult(NAME, about(), "", tuple(rows(runs)), ()).save(given.results)
            last = runs[-1]
            print(
                f"seed {seed}: {', '.join(last.story)}: {last.wrong or 'as it should be'}, {last.seconds} s", flush=True
            )
    for row in rows(runs) if runs else ():
        print(f"{row.what}: {row.reached:.4g} {row.unit} {row.verdict} {row.note}")
    return int(any(run.wrong for run in runs))


def _end(number: int, frame: FrameType | None) -> None:
    """So that the processes and networks of a run go with it."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
