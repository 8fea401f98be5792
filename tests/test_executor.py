"""Executors on graphs of real processes: same results, failures that stay local, resume, interrupts."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from io import StringIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest

import step_functions
from passel.cluster import local
from passel.cluster.local import LocalDaskExecutor
from passel.errors import Interrupted, StorageError
from passel.pipeline.events import Artifact, Event, StepDone, StepFailed, StepFailure, StepsPlanned, StepStarted
from passel.pipeline.executor import Executor, SerialExecutor, Workplace, ignore_events
from passel.pipeline.manifest import Cost, Manifest
from passel.pipeline.progress import Progress, duration
from passel.pipeline.run_log import RunLog
from passel.pipeline.schedule import Schedule
from passel.pipeline.step import Step
from passel.pipeline.step_host import HostOptions
from passel.pipeline.store import Store
from passel.pipeline.tally import Tally
from step_functions import step

MakeExecutor = Callable[[str, Path], Executor]


def workplace(root: Path) -> Workplace:
    return Workplace(
        Store(root / "store"), root / "logs", HostOptions(python_path=(Path(step_functions.__file__).parent,))
    )


@pytest.fixture
def make() -> Iterator[MakeExecutor]:
    made: list[Executor] = []

    def build(kind: str, root: Path) -> Executor:
        if kind in ("serial", "inline"):
            made.append(SerialExecutor(workplace(root), inline=kind == "inline"))
        else:
            made.append(LocalDaskExecutor(workplace(root), workers=int(kind), memory_mb=2000))
        return made[-1]

    yield build
    for executor in made:
        executor.close()


def diamond() -> list[Step]:
    """12 leaves, 4 sums of three, one sum of all."""
    leaves = [step("add", f"leaf{i}", value=i, stage="leaves") for i in range(12)]
    sums = [step("add", f"sum{i}", tuple(leaves[i::4]), stage="sums", value=1) for i in range(4)]
    return [*leaves, *sums, step("add", "all", tuple(sums), stage="all", value=100)]


def test_how_dask_ends_is_no_news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    executor = LocalDaskExecutor(workplace(tmp_path), workers=1, memory_mb=2000)
    executor.run([step("add", "one", value=1)], ignore_events)
    loop = executor._cluster.loop.asyncio_loop
    forgotten = asyncio.Future(loop=loop)
    forgotten.set_exception(TimeoutError("of a comm that nobody asks any more"))
    monkeypatch.setattr(local, "_CLOSING_S", 1e-6)  # the machine is that busy
    executor.close()
    del forgotten
    gc.collect()
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    monkeypatch.undo()
    executor.close()


def test_nobody_else_can_reach_a_run_on_this_machine(tmp_path: Path, make: MakeExecutor) -> None:
    before = set(psutil.Process().net_connections())
    make("1", tmp_path)
    new = set(psutil.Process().net_connections()) - before
    assert {c.laddr.ip for c in new if c.status == psutil.CONN_LISTEN} <= {"127.0.0.1"}


@pytest.mark.parametrize("kind", ["serial", "inline", "1", "2", "4"])
def test_same_artifacts_from_every_executor(kind: str, tmp_path: Path, make: MakeExecutor) -> None:
    steps = diamond()
    outcomes = make(kind, tmp_path).run(steps, ignore_events)
    assert len(outcomes) == len(steps)
    last = outcomes[steps[-1].digest]
    assert isinstance(last, Artifact)
    assert last.manifest.fact("total") == sum(range(12)) + 4 + 100
    hashes = {f.name: f.sha256 for f in last.manifest.files}
    values = np.arange(170, dtype=np.int32).tobytes()
    assert hashes == {
        "sub/bytes.bin": hashlib.sha256(values).hexdigest(),
        "total.txt": hashlib.sha256(b"170").hexdigest(),
    }
    store = Store(tmp_path / "store")
    assert all(store.verify(s.digest) == [] for s in steps)


@pytest.mark.parametrize("kind", ["serial", "2"])
def test_a_failure_takes_only_what_needs_it(kind: str, tmp_path: Path, make: MakeExecutor) -> None:
    good, bad = step("add", "good", value=1), step("segfault", "bad", marker=str(tmp_path / "runs"))
    after_bad, after_all = step("add", "after_bad", (bad,)), step("add", "last", (good, bad))
    chained = step("add", "chained", (after_bad,))
    events: list[Event] = []
    outcomes = make(kind, tmp_path).run([bad, good, after_bad, after_all, chained], events.append)
    assert isinstance(outcomes[good.digest], Artifact)
    lost = outcomes[bad.digest]
    assert isinstance(lost, StepFailure)
    assert (lost.kind, lost.attempts) == ("died", 3)
    assert "SIGSEGV" in lost.message
    assert len((tmp_path / "runs").read_text().split()) == 3
    for skipped in (after_bad, after_all, chained):
        outcome = outcomes[skipped.digest]
        assert isinstance(outcome, StepFailure)
        assert outcome.kind == "skipped"
        assert "bad" in outcome.message
    assert list((tmp_path / "store" / "tmp").iterdir()) == []


def test_what_exists_is_reused(tmp_path: Path, make: MakeExecutor) -> None:
    steps = diamond()
    make("serial", tmp_path).run(steps[:5], ignore_events)
    events: list[Event] = []
    make("2", tmp_path).run(steps, events.append)
    done = [e for e in events if isinstance(e, StepDone)]
    assert sum(e.reused for e in done) == 5
    assert len(done) == len(steps)


def test_a_step_that_dies_once_is_tried_again(tmp_path: Path, make: MakeExecutor) -> None:
    what = step("abort_once", value=7, marker=str(tmp_path / "runs"))
    events: list[Event] = []
    outcome = make("serial", tmp_path).run([what], events.append)[what.digest]
    assert isinstance(outcome, Artifact)
    assert outcome.manifest.attempt == 2
    assert [e.attempt for e in events if isinstance(e, StepStarted)] == [1, 2]


@pytest.mark.parametrize("function", ["known_error", "bug"])
def test_an_error_is_not_tried_again(function: str, tmp_path: Path, make: MakeExecutor) -> None:
    what = step(function, marker=str(tmp_path / "runs"))
    outcome = make("serial", tmp_path).run([what], ignore_events)[what.digest]
    assert isinstance(outcome, StepFailure)
    assert outcome.attempts == 1
    assert len((tmp_path / "runs").read_text().split()) == 1


@pytest.mark.parametrize("kind", ["serial", "1"])
def test_earlier_stages_and_long_chains_go_first(kind: str, tmp_path: Path, make: MakeExecutor) -> None:
    # long enough that the executor has handed over the tail before the last of them begins, however busy the machine is
    late = [step("add", f"late{i}", stage="late", value=i, seconds=0.3) for i in range(2)]
    early = [step("add", f"early{i}", stage="early", value=i, seconds=0.3) for i in range(2)]
    head = step("add", "head", stage="early", value=9)
    tail = step("add", "tail", (head,), stage="early")
    events: list[Event] = []
    make(kind, tmp_path).run([early[0], *late, early[1], head, tail], events.append)
    names = [e.step.name for e in events if isinstance(e, StepStarted)]
    assert names[0] == "head"
    assert set(names[:2]) <= {"head", "tail", "early0"}
    assert names[-1] == "late1"


def test_declared_memory_limits_what_runs_at_once(tmp_path: Path, make: MakeExecutor) -> None:
    steps = [step("add", f"s{i}", value=i, seconds=0.1, memory_mb=1500) for i in range(4)]
    steps.append(step("add", "huge", value=9, memory_mb=50_000))
    outcomes = make("4", tmp_path).run(steps, ignore_events)
    assert all(isinstance(o, Artifact) for o in outcomes.values())
    spans = sorted(
        (datetime.fromisoformat(o.manifest.started).timestamp(), o.manifest.seconds)
        for o in outcomes.values()
        if isinstance(o, Artifact)
    )
    assert all(start + seconds <= following + 0.002 for (start, seconds), (following, _) in pairwise(spans))


def test_a_missing_input_is_said(tmp_path: Path, make: MakeExecutor) -> None:
    orphan = step("add", "orphan", (step("add", "nobody makes me"),))
    outcome = make("serial", tmp_path).run([orphan], ignore_events)[orphan.digest]
    assert isinstance(outcome, StepFailure)
    assert "neither stored nor planned" in outcome.message


def test_a_damaged_artifact_is_made_again(tmp_path: Path, make: MakeExecutor) -> None:
    steps = diamond()
    first = make("serial", tmp_path).run(steps, ignore_events)[steps[-1].digest]
    store = Store(tmp_path / "store")
    os.truncate(store.path(steps[-1].digest) / "total.txt", 0)
    events: list[Event] = []
    again = make("2", tmp_path).run(steps, events.append)[steps[-1].digest]
    assert isinstance(first, Artifact)
    assert isinstance(again, Artifact)
    assert again.manifest.files == first.manifest.files
    assert [e.step.name for e in events if isinstance(e, StepDone) and not e.reused] == ["all"]


@pytest.mark.parametrize(
    ("kind", "function"),
    [("2", "fill_disk")] + [("serial", f"fill_disk{how}") for how in ("", "_at_once", "_and_die", "_and_blame")],
)
def test_a_full_disk_ends_the_run_and_keeps_what_exists(
    kind: str, function: str, tmp_path: Path, make: MakeExecutor
) -> None:
    """Also where a library hides the reason."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        small, big = step("add", "small", value=5), step(function, "big", value=14)
        executor = make(kind, disk)
        executor.run([small], ignore_events)
        with pytest.raises(StorageError, match="disk is full"):
            executor.run([small, big], ignore_events)
        executor.close()
        store = Store(disk / "store")
        assert store.verify(small.digest) == []
        assert [p for p in (disk / "store" / "tmp").iterdir() if p.is_dir()] == []
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("kind", ["serial", "2"])
def test_stop_from_another_thread_ends_a_run(kind: str, tmp_path: Path, make: MakeExecutor) -> None:
    executor, store, marker = make(kind, tmp_path), Store(tmp_path / "store"), tmp_path / "marker"
    done, hanging = step("add", "done", value=1), step("hang", "hanging", marker=str(marker))
    begun_s: list[float] = []

    def stop_while_it_hangs() -> None:
        while not (marker.exists() and store.has(done.digest)):
            time.sleep(0.02)
        begun_s.append(time.monotonic())
        executor.stop()

    stopper = threading.Thread(target=stop_while_it_hangs, daemon=True)
    stopper.start()
    with pytest.raises(Interrupted):
        executor.run([done, hanging], ignore_events)
    executor.close()
    stopper.join()
    assert time.monotonic() - begun_s[0] < 50.0, "it waited for the step, which hangs for 100 s"


RUN = """
import sys
from pathlib import Path
root, kind, here = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
sys.path.insert(0, here)
import test_executor as t
from passel.errors import Interrupted
executor = t.SerialExecutor(t.workplace(root)) if kind == "serial" else t.LocalDaskExecutor(t.workplace(root), 2, 2000)
try:
    outcomes = executor.run(t.slow_steps(), lambda event: print(type(event).__name__, flush=True))
    print("finished")
except Interrupted:
    executor.close()
    sys.exit(130)
executor.close()
"""


def slow_steps() -> list[Step]:
    leaves = [step("add", f"leaf{i}", value=i, seconds=0.15) for i in range(8)]
    return [*leaves, step("add", "all", tuple(leaves), value=1)]


@pytest.mark.parametrize("kind", ["serial", "2"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_leaves_nobody_and_goes_on_where_it_was(
    kind: str, number: signal.Signals, tmp_path: Path, make: MakeExecutor
) -> None:
    here = str(Path(__file__).parent)
    parent = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path), kind, here], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    done = 0
    while done < 3:
        line = parent.stdout.readline()
        assert line, "the run ended early"
        done += line == "StepDone\n"
    family = psutil.Process(parent.pid).children(recursive=True)
    assert family
    parent.send_signal(number)
    sent_s = time.monotonic()
    rest, _ = parent.communicate(timeout=60)
    assert parent.returncode == (-9 if number == signal.SIGKILL else 130)
    assert "finished" not in rest
    while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family if psutil.pid_exists(p.pid)):
        assert time.monotonic() - sent_s < 60.0, "processes are left"
        time.sleep(0.02)
    events: list[Event] = []
    steps = slow_steps()
    outcomes = make(kind, tmp_path).run(steps, events.append)
    reused = sum(isinstance(e, StepDone) and e.reused for e in events)
    assert 3 <= reused < len(steps)
    last = outcomes[steps[-1].digest]
    assert isinstance(last, Artifact)
    assert last.manifest.fact("total") == 29
    assert [p for p in (tmp_path / "store" / "tmp").iterdir() if p.is_dir()] == []


def test_ten_thousand_steps_are_scheduled_in_order(tmp_path: Path) -> None:
    chain = [step("add", "c0", stage="chain")]
    for i in range(2000):
        chain.append(step("add", f"c{i + 1}", (chain[-1],), stage="chain"))
    wide = [step("add", f"w{i}", (chain[0],), stage="wide", value=i + 1) for i in range(8000)]
    store = Store(tmp_path / "store")
    store.create()
    failures: list[Event] = []
    schedule = Schedule([*chain, *wide], store, failures.append)
    first = schedule.next_ready()
    assert first == chain[0]
    assert schedule.next_ready() is None
    schedule.settle(first, StepFailure(first, "no", "error", 1))
    assert sum(isinstance(e, StepFailed) for e in failures) == 10_001
    assert schedule.finished


def test_the_run_log_and_plain_lines_tell_what_happened(tmp_path: Path, make: MakeExecutor) -> None:
    good, bad = step("add", "good", value=1, stage="one"), step("known_error", "bad", stage="two")
    after = step("add", "after", (good, bad), stage="three")
    out = StringIO()
    log = RunLog(tmp_path / "out" / "log.json", {"split": 400}, "0.0")
    with Progress(tmp_path, workers=1, stream=out) as progress:

        def tell(event: Event) -> None:
            log(event)
            progress(event)

        make("serial", tmp_path).run([good], ignore_events)
        make("serial", tmp_path).run([good, bad, after], tell)
    log.close("failed: Photo is blurred")
    value = json.loads((tmp_path / "out" / "log.json").read_text())
    assert value["state"] == "failed: Photo is blurred"
    assert value["options"] == {"split": 400}
    assert [(s["stage"], s["steps"], s["made"], s["reused"], s["failed"]) for s in value["stages"]] == [
        ("one", 1, 0, 1, 0),
        ("two", 1, 0, 0, 1),
        ("three", 1, 0, 0, 1),
    ]
    assert [(s["name"], s["state"]) for s in value["steps"]] == [
        ("good", "reused"),
        ("bad", "error"),
        ("after", "skipped"),
    ]
    lines = out.getvalue().splitlines()
    assert "one 1/1 done in 0:00 (1 reused)" in lines
    assert "two bad failed: Photo is blurred" in lines
    assert lines[-1] == "three 1/1 done in 0:00, 1 failed"


def test_time_left_is_measured_seconds_times_what_is_left() -> None:
    steps = [step("add", f"s{i}", value=i) for i in range(10)]
    assert Tally().rest_s() == 0
    guessing = Tally(workers=5, guess_s={"test": 8.0})
    guessing.add(StepsPlanned(tuple(steps)), 0.0)
    assert guessing.rest_s() == pytest.approx(10 * 8.0 / 5)
    tally = Tally(workers=2)
    tally.add(StepsPlanned(tuple(steps)), 0.0)
    assert tally.rest_s() is None
    assert not tally.rest_is_whole
    for n, what in enumerate(steps[:4]):
        cost = Cost("here", "", 3.0, 2.0, 50.0 + n, 1)
        tally.add(StepStarted(what), float(n))
        tally.add(StepDone(what, Manifest(what.digest, "test", what.name, "f", 1, (), (), cost), reused=False), n + 3.0)
    assert tally.rest_s() == pytest.approx(6 * 3.0 / 2)
    stage = tally.stages["test"]
    assert (stage.wall_seconds, stage.cpu_seconds, stage.peak_rss_mb) == (6.0, 8.0, 53.0)
    tally.add(StepsPlanned(tuple(steps[:4])), 9.0)
    assert stage.total == 10
    assert [duration(s) for s in (None, 7.2, 200, 7500)] == ["?", "0:07", "3:20", "2:05:00"]
