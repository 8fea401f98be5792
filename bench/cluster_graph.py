"""The graph of a 12,000-photo survey on 100 slots, with sleeps for steps: what do queue, wire and placement cost?

    python bench/cluster_graph.py [--photos 12000] [--scale 1.0]

Real: the driver's executor, the coordinator (a process, HTTPS with client certificates on loopback), the worker agents
(processes). Not real: a step sleeps for as long as it took on the benchmark's surveys, and leaves an empty artifact.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil

from passel.cluster.coordinator.coordinator import Coordinator, Listen
from passel.cluster.driver.passel_executor import JobLink, PasselExecutor
from passel.cluster.trust.authority import Authority
from passel.cluster.trust.identity import Identity
from passel.cluster.wire.workers import Assignment, CacheNews, Finished, InputRef, Slots, unpack
from passel.cluster.worker.agent import Agent, AgentSettings
from passel.cluster.worker.hosts import Hosts
from passel.cluster.worker.transfer import Link
from passel.cluster.worker.workplace import OnPhase
from passel.pipeline.events import Artifact
from passel.pipeline.executor import Workplace, ignore_events
from passel.pipeline.manifest import Cost
from passel.pipeline.step import ArtifactInput, FileInput, Step
from passel.pipeline.store import Store
from results import Check, SurveyResult

NAME = "cluster_graph"
WORKERS, SLOTS_EACH = 10, 10
LONGEST_S = 100.0
"""Single long steps are cut to this: waiting for them measures nothing."""
PHOTOS_A_PLATE_STEP = 40  # as in passel.pipeline.plan_ground, which would bring all of the engine along
Item = TypeVar("Item")


@dataclass(frozen=True)
class Phase:
    """Steps that are planned together; the next phase is planned when all of them are done."""

    name: str
    steps: tuple[Step, ...]

    def bound_s(self, slots: int) -> float:
        """No schedule is faster: the longest chain, or all the work over all slots."""
        ends: dict[str, float] = {}
        for step in self.steps:  # inputs come before what needs them
            start = max((ends.get(i.digest, 0.0) for _, i in step.inputs if isinstance(i, ArtifactInput)), default=0.0)
            ends[step.digest] = start + step.params
        return max(*ends.values(), sum(s.params for s in self.steps) / slots)


class Planner:
    """Makes steps that sleep. scale: of the seconds they took; `photo` stands for every photo, under another name each time."""

    def __init__(self, scale: float, photo: Path) -> None:
        self._scale, self._photo = scale, str(photo)

    def step(
        self,
        stage: str,
        number: int,
        seconds: float,
        memory_mb: int,
        photos: Iterable[int] = (),
        before: Sequence[Step] = (),
    ) -> Step:
        """One that reads these photos, by their numbers, and what the steps before have left."""
        files = [("photo", FileInput(self._photo, f"photo{i}".ljust(64, "0"))) for i in photos]
        others = [("in", ArtifactInput(s.digest)) for s in before]
        sleep_s = min(seconds, LONGEST_S) * self._scale
        return Step(stage, f"{stage}{number}", "none:sleep", 1, sleep_s, (*files, *others), memory_mb=memory_mb)


def phases(photos: int, planner: Planner) -> list[Phase]:
    """The plan's shape, with the CPU seconds that the steps took on seneca_half; of steps for the whole survey, by its photos."""
    larger = photos / 167
    step = planner.step
    survey = [step("survey", i, 0.26, 300, numbers) for i, numbers in enumerate(_cut(range(photos), 40))]
    features = [step("features", i, 0.42, 550, [i]) for i in range(photos)]
    matches = [step("matches", i, 8.6, 1000, (), features[14 * i : 14 * i + 28]) for i in range(math.ceil(photos / 14))]
    calibration = step("calibration", 0, 9.5, 1000, (), matches[:6])
    shares = _cut(matches, math.ceil(200 / 14))
    mapping = [step("mapping", i, 100.0, 900, (), [calibration, *share]) for i, share in enumerate(shares)]
    aligned = step("align", 0, 0.1 * larger, 1250, (), mapping)
    adjusted = step("align", 1, 9.9 * larger, 2500, (), [aligned, *features, *matches])
    return [
        Phase("survey", tuple(survey)),
        Phase("features and matches", (*features, *matches, calibration)),
        Phase("mapping", tuple(mapping)),
        Phase("align", (aligned, adjusted)),
        *_ground_phases(photos, larger, step, adjusted),
    ]


def _ground_phases(photos: int, larger: float, step: Callable[..., Step], adjusted: Step) -> list[Phase]:
    """Of `passel.pipeline.plan_ground`. A tile is the ground of 7.6 photos and reads 20; a coarse tile has the area of 16 tiles."""
    ground = step("ground", 0, 0.5 * larger, 2000, (), [adjusted])
    plates = [
        step("plates", i, 0.34 * len(numbers) / 40, 400, numbers)
        for i, numbers in enumerate(_cut(range(photos), PHOTOS_A_PLATE_STEP))
    ]
    tiles = math.ceil(photos / 7.6)

    def seen(first: float, count: int) -> tuple[range, list[Step]]:
        numbers = range(int(first), min(int(first) + count, photos))
        return numbers, plates[numbers.start // PHOTOS_A_PLATE_STEP : (numbers.stop - 1) // PHOTOS_A_PLATE_STEP + 1]

    coarse_tiles = [
        step("coarse_tiles", i, 0.22 * 16, 1500, (), [ground, *seen(7.6 * 16 * i, 180)[1]])
        for i in range(math.ceil(tiles / 16))
    ]
    mosaic = step("mosaic", 0, 0.02 * larger, 1000, (), coarse_tiles)
    gains = step("gains", 0, 0.34 * larger, 2200, (), [ground, mosaic, *plates])
    quick = step("quick", 0, 0.12 * larger, 800, (), [ground, mosaic, gains, *plates])
    made = []
    for i in range(tiles):
        numbers, own = seen(7.6 * i, 20)
        made.append(step("tiles", i, 4.8, 2200, numbers, [ground, mosaic, gains, *own]))
    products = [step("merge", i, s * larger, 800, (), made) for i, s in enumerate((7.3, 1.3, 3.9))]
    products.append(step("merge", 3, 0.11 * larger, 2000, (), [adjusted]))
    return [
        Phase("ground", (ground,)),
        Phase("coarse surface", (*plates, *coarse_tiles, mosaic, gains, quick)),
        Phase("tiles", tuple(made)),
        Phase("products", tuple(products)),
    ]


def _cut(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


class Sleeper:
    """A workplace whose steps sleep and leave an artifact without files in the job's store."""

    def __init__(self, disk: Path) -> None:
        self.disk = disk
        self.full = False

    async def work(self, assignment: Assignment, on_phase: OnPhase) -> Finished:
        step: Step = pickle.loads(unpack(assignment.step))
        on_phase("running")
        await asyncio.sleep(step.params)
        store = Store(Path(assignment.store))
        with store.aside(assignment.digest) as aside:
            store.commit(aside, step, {}, Cost("bench", "", step.params, 0.0, 0.0, assignment.attempt))
        return Finished(assignment.ticket, assignment.job, assignment.digest, assignment.attempt, None, step.params)

    def everything(self) -> CacheNews:
        return CacheNews(whole=True)

    def take_news(self) -> CacheNews:
        return CacheNews()

    def prefetch(self, job: str, inputs: Sequence[InputRef]) -> None:
        """Nothing to fetch."""


async def run_coordinator(folder: Path) -> None:
    tls = Authority.open(folder / "ca").server_context(["localhost"])
    coordinator = Coordinator(lambda name: True)
    print(await coordinator.start(Listen("127.0.0.1", 0, tls, folder / "driver.sock")), flush=True)
    await asyncio.Event().wait()


async def run_worker(folder: Path, port: int, name: str) -> None:
    link = Link(f"https://127.0.0.1:{port}", Identity(folder / name).client_context())
    settings = AgentSettings(Slots(SLOTS_EACH, 100_000), local=True)
    await Agent(link, Sleeper(folder), Hosts(most_idle=0), settings).run()


@dataclass(frozen=True)
class Measured:
    """Of one run. cpu: of the processes, while the graph ran."""

    steps: int
    wall_s: float
    bound_s: float
    coordinator_cpu_s: float
    coordinator_peak_mb: float
    driver_cpu_s: float
    workers_cpu_s: float
    load: float


def measure(photos: int, scale: float, folder: Path) -> Measured:
    """Runs the graph; raises AssertionError when a step is missing."""
    photo = folder / "photo.jpg"
    photo.write_bytes(b"photo")
    plan = phases(photos, Planner(scale, photo))
    coordinator = _start(folder, "--coordinator")
    assert coordinator.stdout is not None
    port = int(coordinator.stdout.readline())
    authority = Authority.open(folder / "ca")
    workers = []
    try:
        for name in (f"w{i}" for i in range(WORKERS)):
            authority.issue(folder / name, name)
            workers.append(_start(folder, "--worker", name, "--port", str(port)))
        place = Workplace(Store(folder / "store"), folder / "logs")
        capacity = [0]
        with PasselExecutor(
            place, JobLink(folder / "driver.sock", "job"), lambda c: capacity.append(c.threads)
        ) as executor:
            while capacity[-1] < WORKERS * SLOTS_EACH:
                time.sleep(0.1)
            return _run(executor, plan, coordinator.pid, [w.pid for w in workers])
    finally:
        for process in (*workers, coordinator):
            process.kill()
            process.wait()


def _run(executor: PasselExecutor, plan: Sequence[Phase], coordinator: int, workers: Sequence[int]) -> Measured:
    before, before_workers, before_own = _cpu_s([coordinator]), _cpu_s(workers), time.process_time()
    started_s = time.monotonic()
    for phase in plan:
        phase_s = time.monotonic()
        outcomes = executor.run(phase.steps, ignore_events)
        assert all(isinstance(o, Artifact) for o in outcomes.values())
        took_s, bound_s = time.monotonic() - phase_s, phase.bound_s(WORKERS * SLOTS_EACH)
        print(f"  {phase.name}: {len(phase.steps)} steps, {took_s:.1f} s of at least {bound_s:.1f} s", flush=True)
    wall_s = time.monotonic() - started_s
    return Measured(
        sum(len(p.steps) for p in plan),
        wall_s,
        sum(p.bound_s(WORKERS * SLOTS_EACH) for p in plan),
        _cpu_s([coordinator]) - before,
        _peak_mb(coordinator),
        time.process_time() - before_own,
        _cpu_s(workers) - before_workers,
        os.getloadavg()[1],
    )


def _start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--folder", str(folder), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _cpu_s(pids: Sequence[int]) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(t.user + t.system for t in times)


def _peak_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM"))


def result_of(m: Measured) -> SurveyResult:
    """As a table row a number."""
    from run import about  # with all of the engine, which a coordinator does not load

    shared = f"load average of the machine {m.load:.1f}, niceness {os.nice(0)}"
    note = f"{m.steps} steps on {WORKERS} workers of {SLOTS_EACH} slots; {shared}"
    run = "12,000 photos"
    checks = (
        Check(run, "coordinator CPU a step", 1000 * m.coordinator_cpu_s / m.steps, "ms", "≤", 2.0, note),
        Check(run, "driver CPU a step", 1000 * m.driver_cpu_s / m.steps, "ms"),
        Check(run, "worker CPU a step", 1000 * m.workers_cpu_s / m.steps, "ms"),
        Check(run, "efficiency: bound over wall clock", m.bound_s / m.wall_s, "", "≥", 0.9, f"{m.bound_s:.0f} s of {m.wall_s:.0f} s"),
        Check(run, "coordinator peak memory", m.coordinator_peak_mb, "MB", "≤", 1000.0),
    )  # fmt: skip
    return SurveyResult(NAME, about(), "", checks, ())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=12_000)
    parser.add_argument("--scale", type=float, default=1.0, help="of the sleeps")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    for hidden in ("--folder", "--worker", "--port"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--coordinator", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.coordinator:
        asyncio.run(run_coordinator(Path(given.folder)))
    elif given.worker:
        asyncio.run(run_worker(Path(given.folder), int(given.port), given.worker))
    else:
        shared_memory = Path("/dev/shm")  # so that the disk's fsync is not what is measured
        with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as folder:
            measured = measure(given.photos, given.scale, Path(folder))
        result = result_of(measured)
        for check in result.checks:
            print(f"  {check.what}: {check.reached:.4g} {check.unit} {check.verdict}")
        if given.photos == 12_000:
            result.save(given.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
