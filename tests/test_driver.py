"""Drivers with a real coordinator and real workers: the executor's contract, the lines that tell of a run, and its ends."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest

from passel.cluster.driver.driver_events import EventLines, percent
from passel.cluster.driver.passel_executor import CoordinatorLostError, JobLink, PasselExecutor
from passel.cluster.wire.drivers import Capacity, Ended, Hello, Started, from_line, to_line
from passel.cluster.wire.workers import Failure, WireError
from passel.demo.truth import DemoTruth
from passel.errors import Interrupted
from passel.pipeline.events import Artifact, Event, StepDone, StepFailed, StepFailure, StepsPlanned, StepStarted
from passel.pipeline.executor import Workplace, ignore_events
from passel.pipeline.manifest import Cost, Manifest
from passel.pipeline.run_log import RunLog
from passel.pipeline.step import FileInput, Step
from passel.pipeline.steps.survey import InspectParams, load_batch
from passel.pipeline.store import Store
from passel.pipeline.tally import StageTally
from passel_world import Passel
from step_functions import Params, step

JSON = dict[str, object]


@pytest.fixture(scope="module")
def passel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Passel]:
    """A coordinator with a remote and a local worker."""
    place = Passel(tmp_path_factory.mktemp("p"))
    try:
        place.coordinator()
        place.worker("far", "--workers", "2")
        place.worker("near", "--workers", "2", "--local")
        yield place
    finally:
        place.close()


def executor(place: Passel, root: Path, job: str) -> PasselExecutor:
    return PasselExecutor(Workplace(Store(root / "store"), root / "logs"), JobLink(place.socket, job), lambda _: None)


def diamond() -> list[Step]:
    leaves = [step("add", f"leaf{i}", value=i, stage="leaves", seconds=0.2) for i in range(8)]
    sums = [step("add", f"sum{i}", tuple(leaves[i::4]), stage="sums", value=1) for i in range(4)]
    return [*leaves, *sums, step("add", "all", tuple(sums), stage="all", value=100)]


def test_artifacts_of_both_workers_arrive_and_the_log_knows_who_made_them(passel: Passel, tmp_path: Path) -> None:
    steps = diamond()
    log = RunLog(tmp_path / "log.json", {}, "test")
    with executor(passel, tmp_path, "diamond") as run:
        outcomes = run.run(steps, log)
        last = outcomes[steps[-1].digest]
        assert isinstance(last, Artifact)
        assert last.manifest.fact("total") == sum(range(8)) + 4 + 100
        assert last.delivery is not None
        again: list[Event] = []
        run.run(steps, again.append)
        assert all(e.reused for e in again if isinstance(e, StepDone))
    log.close("done")
    told = json.loads((tmp_path / "log.json").read_text())
    assert {s["machine"] for s in told["steps"]} <= {"far", "near"}
    machines = {m["machine"]: m for m in told["machines"]}
    assert sum(m["steps"] for m in machines.values()) == len(steps)
    assert machines.get("near", {"bytes_out": 0})["bytes_out"] == 0, "the local worker sent bytes"
    if "far" in machines:
        assert machines["far"]["bytes_out"] > 0
    store = Store(tmp_path / "store")
    assert all(store.verify(s.digest) == [] for s in steps)


def test_a_photo_travels_and_keeps_its_suffix(passel: Passel, tmp_path: Path) -> None:
    photo = tmp_path / "IMG 1.JPG"
    photo.write_bytes(b"\xff\xd8" + b"x" * 1000)
    reader = Step("s", "n", "step_functions:add", 1, Params(5), (("photo", FileInput(str(photo), "ab" * 32)),))
    content = hashlib.sha256(photo.read_bytes()).hexdigest()
    again, changed, gone = (
        Step("s", f"n{i}", "step_functions:add", 1, Params(i), (("photo", FileInput(str(photo), content)),))
        for i in range(3)
    )
    with executor(passel, tmp_path, "photo") as run:
        assert isinstance(run.run([reader], ignore_events)[reader.digest], Artifact)
        os.utime(photo)  # nothing in it has changed
        assert isinstance(run.run([again], ignore_events)[again.digest], Artifact)
        photo.write_bytes(b"something else")
        failure = run.run([changed], ignore_events)[changed.digest]
        assert isinstance(failure, StepFailure)
        assert ("changed" in failure.message, failure.where) == (True, str(photo))
        photo.unlink()
        failure = run.run([gone], ignore_events)[gone.digest]
        assert isinstance(failure, StepFailure)
        assert ("gone" in failure.message, failure.where) == (True, str(photo))


def test_a_photo_that_cannot_be_read_is_left_out_by_name(passel: Passel, tmp_path: Path) -> None:
    (tmp_path / "dead.JPG").symlink_to(tmp_path / "nowhere")
    paths = [tmp_path / "dead.JPG", tmp_path / "empty.JPG"]
    paths[1].touch()
    given = tuple(("photo", FileInput(str(p), f"{i:064x}")) for i, p in enumerate(paths))
    params = InspectParams(tuple(p.name for p in paths))
    batch = Step("survey", "photos", "passel.pipeline.steps.survey:inspect_batch", 1, params, given)
    with executor(passel, tmp_path, "unreadable") as run:
        done = run.run([batch], ignore_events)[batch.digest]
    assert isinstance(done, Artifact), done
    _, refused = load_batch(done.path)
    assert [r.name for r in refused] == ["dead.JPG", "empty.JPG"]


def test_failures_are_told_as_on_one_machine(passel: Passel, tmp_path: Path) -> None:
    good, known, bug = step("add", "good", value=1), step("known_error", "known"), step("bug", "bug")
    dies, after = step("segfault", "dies", marker=str(tmp_path / "runs")), step("add", "after", (bug,))
    events: list[Event] = []
    with executor(passel, tmp_path, "failures") as run:
        outcomes = run.run([good, known, bug, dies, after], events.append)
    assert isinstance(outcomes[good.digest], Artifact)
    kinds = {s.name: o.kind for s in (known, bug, dies, after) if isinstance(o := outcomes[s.digest], StepFailure)}
    assert kinds == {"known": "error", "bug": "crash", "dies": "died", "after": "skipped"}
    crash = outcomes[bug.digest]
    assert isinstance(crash, StepFailure)
    log = Workplace(Store(tmp_path / "store"), tmp_path / "logs").log(bug)
    assert "about to fail" in log.read_text()
    assert str(log) in crash.todo, "the message names a log that is not on this machine"
    assert len((tmp_path / "runs").read_text().split()) == 3
    assert max(e.attempt for e in events if isinstance(e, StepStarted) and e.step is dies) == 3
    assert {e.worker for e in events if isinstance(e, StepStarted)} <= {"far", "near"}


def test_a_job_uses_no_more_cores_than_it_may(passel: Passel, tmp_path: Path) -> None:
    steps = [step("add", f"s{i}", value=i, seconds=0.1) for i in range(4)]
    running, most = set[str](), 0

    def count(event: Event) -> None:
        nonlocal most
        if isinstance(event, StepStarted):
            running.add(event.step.name)
        elif isinstance(event, StepDone):
            running.discard(event.step.name)
        most = max(most, len(running))

    link = JobLink(passel.socket, "modest", most_cores=1)
    with PasselExecutor(Workplace(Store(tmp_path / "store"), tmp_path / "logs"), link, lambda _: None) as run:
        run.run(steps, count)
    assert most == 1


def test_stop_ends_the_run_and_the_steps(passel: Passel, tmp_path: Path) -> None:
    marker = tmp_path / "m"
    hanging = step("hang", marker=str(marker))
    with executor(passel, tmp_path, "stopped") as run:
        timer = threading.Thread(target=lambda: (_until(Path(f"{marker}.child").exists), run.stop()))
        timer.start()
        with pytest.raises(Interrupted):
            run.run([hanging], ignore_events)
        timer.join()
    child = int(Path(f"{marker}.child").read_text())
    _until(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text())


def test_no_coordinator_or_one_that_ends_is_said(tmp_path: Path) -> None:
    with pytest.raises(CoordinatorLostError, match="passel serve"):
        executor(Passel(tmp_path), tmp_path, "j")
    place = Passel(tmp_path)
    try:
        coordinator = place.coordinator()
        with executor(place, tmp_path, "j") as run:
            killer = threading.Timer(0.5, coordinator.kill)
            killer.start()
            with pytest.raises(CoordinatorLostError):
                run.run([step("add")], ignore_events)
            killer.join()
    finally:
        place.close()


def test_a_driver_maps_a_survey_as_one_machine_does(
    passel: Passel, tiny_survey: tuple[Path, DemoTruth], tmp_path: Path
) -> None:
    photos, output = tiny_survey[0], tmp_path / "map"
    driver = passel.driver(photos, output, "--end-with", "split", "--split", "9", job="tiny")
    lines = _lines(driver)
    assert driver.wait() == 0
    assert lines[-1] == {
        "event": "end",
        "code": 0,
        "message": lines[-1]["message"],
        "todo": "",
        "where": "",
        "holes": [],
    }
    steps = [line for line in lines if line["event"] == "step"]
    assert [(s["stage"], s["state"]) for s in steps] == [("survey", "done")]
    assert steps[0]["machine"] in ("far", "near")
    (stages,) = [line for line in lines if line["event"] == "stages"][-1:]
    assert stages["stages"] == [{"stage": "survey", "done": 1, "total": 1, "failed": 0, "rest_s": 0.0}]
    assert any("16 photos" in str(line.get("text")) for line in lines)
    assert not list((output / ".passel").glob("begun*"))
    again = _lines(passel.driver(photos, output, "--end-with", "split", "--split", "9", job="tiny"))
    assert [line["state"] for line in again if line["event"] == "step"] == ["reused"]


def test_a_driver_says_what_is_wrong(passel: Passel, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (end,) = [e for e in _lines(passel.driver(tmp_path / "photos", tmp_path / "o")) if e["event"] == "end"]
    assert end["code"] == 1
    assert "photos" in str(end["where"])
    (end,) = [e for e in _lines(passel.driver(tmp_path, tmp_path / "o", "--splitt", "3")) if e["event"] == "end"]
    assert end["code"] == 2


def test_a_driver_ends_at_once_and_goes_on_later(tiny_survey: tuple[Path, DemoTruth], tmp_path: Path) -> None:
    """No worker: the job waits for one, so it is surely in the middle."""
    place, output = Passel(tmp_path), tmp_path / "map"
    words = ("--end-with", "survey", "--rerun-all")
    try:
        place.coordinator()
        read, write = os.pipe()
        driver = place.driver(tiny_survey[0], output, *words, lifeline=read)
        os.close(read)
        _until_it_waits(driver, output)
        os.close(write)
        assert driver.wait(60) == 1, "it outlived its parent"
        driver = place.driver(tiny_survey[0], output, *words)
        _until_it_waits(driver, output)
        driver.send_signal(signal.SIGTERM)
        assert driver.wait(60) == 130
        assert driver.stdout is not None
        assert json.loads(driver.stdout.read().splitlines()[-1])["code"] == 130
        (output / ".passel" / "store" / "aa" / ("aa" * 32)).mkdir(parents=True)  # as if it had made this
        place.worker("w", "--workers", "1")
        assert _lines(place.driver(tiny_survey[0], output, *words))[-1]["code"] == 0
        assert (output / ".passel" / "store" / "aa").exists(), "a driver that was started again forgot its own work"
    finally:
        place.close()


def _until_it_waits(driver: subprocess.Popen[str], output: Path) -> None:
    assert driver.stdout is not None
    while "waiting" not in driver.stdout.readline():
        assert driver.poll() is None
    _until((output / ".passel" / "begun.json").exists)


def test_event_lines_are_few_and_complete(tmp_path: Path) -> None:
    stream, begun = StringIO(), []
    lines = EventLines(stream, lambda: begun.append(1))
    steps = [step("add", f"n{i}", value=i, stage="features") for i in range(200)]
    with lines:
        lines.set_capacity(Capacity(0, 0, 0))
        lines.set_capacity(Capacity(0, 0, 0, draining=1))
        lines.set_capacity(Capacity(1, 4, 4000))
        lines(StepsPlanned(tuple(steps)))
        for s in steps[:-1]:
            cost = Cost("here", "", 1.0, 1.0, 1.0, 1)
            lines(StepDone(s, Manifest(s.digest, "features", s.name, "f", 1, (), (), cost), reused=False))
        lines(StepFailed(StepFailure(steps[-1], "no", "crash", 1)))
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert begun == [1]
    assert len([t for t in told if t["event"] == "step"]) == 200
    stages = [t for t in told if t["event"] == "stages"]
    assert len(stages) <= 4
    assert stages[-1]["stages"] == [{"stage": "features", "done": 200, "total": 200, "failed": 1, "rest_s": 0.0}]
    assert [t["text"] for t in told if t["event"] == "say"] == [
        "No worker is connected: waiting for one", "Every worker is draining: no new steps begin until one takes steps again",
        "It goes on", "features n199 failed: no",
    ]  # fmt: skip


def test_no_time_left_is_told_while_nobody_takes_steps() -> None:
    stream = StringIO()
    steps = [step("add", f"n{i}", value=i, stage="features") for i in range(10)]

    def last() -> dict[str, object]:
        lines._tell_stages()
        return next(t for t in map(json.loads, reversed(stream.getvalue().splitlines())) if t["event"] == "stages")

    with EventLines(stream, lambda: None) as lines:
        lines(StepsPlanned(tuple(steps)))
        for s in steps[:9]:
            cost = Cost("here", "", 1.0, 1.0, 1.0, 1)
            lines(StepDone(s, Manifest(s.digest, "features", s.name, "f", 1, (), (), cost), reused=False))
        lines.set_capacity(Capacity(1, 4, 4000))
        known = last()
        lines.set_capacity(Capacity(0, 0, 0, draining=1))
        unknown = last()
        lines.set_capacity(Capacity(1, 4, 4000))
        assert last() == known
    assert known["rest_s"] is not None
    assert known["stages"][0]["rest_s"] == pytest.approx(1.0)
    assert (unknown["rest_s"], unknown["stages"][0]["rest_s"]) == (None, None)


def test_progress_grows_with_the_stages() -> None:
    def stage(name: str, done: int, total: int) -> StageTally:
        return StageTally(name, total=total, made=done)

    seen = [
        percent([]),
        percent([stage("survey", 1, 1)]),
        percent([stage("survey", 1, 1), stage("features", 1, 2)]),
        percent([stage("survey", 1, 1), stage("features", 2, 2), stage("tiles", 1, 4)]),
        percent([stage("survey", 1, 1), stage("features", 2, 2), stage("tiles", 4, 4), stage("report", 1, 1)]),
    ]
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0.0, 100.0)


def test_driver_lines_are_strict() -> None:
    for record in (
        Hello("j", "/s"),
        Started("d", 1, "w"),
        Ended("d", 2, "w", Failure("died", "line\nfeed")),
        Capacity(1, 2, 3),
    ):
        line = to_line(record)
        assert line.count(b"\n") == 1
        assert from_line(line) == record
    for garbage in (b"", b"\n", b"Hello\n", b'Hello {"job": 1, "store": ""}\n', b"Run {}\n", b"\xff\xfe {}\n"):
        with pytest.raises(WireError):
            from_line(garbage)


def _lines(driver: subprocess.Popen[str]) -> list[JSON]:
    assert driver.stdout is not None
    return [json.loads(line) for line in driver.stdout]


def _until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.05)
