"""Hosts: what a step does to its process stays there, is reported in words and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

import step_functions
from passel.pipeline.messages import Done, Failed, Request
from passel.pipeline.step import Step
from passel.pipeline.step_host import HostOptions, StepHost
from passel.pipeline.store import Store
from step_functions import step

HERE = Path(step_functions.__file__).parent


@pytest.fixture
def host() -> Iterator[StepHost]:
    made = StepHost(HostOptions(python_path=(HERE,), most_steps=4))
    yield made
    made.close()


def request(tmp_path: Path, what: Step, attempt: int = 1) -> Request:
    store = Store(tmp_path / "store")
    store.create()
    return Request(what, (), store.root, tmp_path / "logs" / f"{what.name}.log", attempt)


LONGEST_S = 50.0  # steps that hang do so for 100 s: nobody has waited for their end, however busy the machine is


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_for(path: Path) -> str:
    end_s = time.monotonic() + LONGEST_S
    while time.monotonic() < end_s:
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.01)
    raise TimeoutError(path)


def gone(pid: int) -> bool:
    """Whether it ends well before it would by itself."""
    end_s = time.monotonic() + LONGEST_S
    while alive(pid):
        if time.monotonic() > end_s:
            return False
        time.sleep(0.01)
    return True


def test_a_warm_host_serves_steps_and_is_replaced_after_some(tmp_path: Path, host: StepHost) -> None:
    pids = []
    for n in range(6):
        assert isinstance(host.run(request(tmp_path, step("add", f"s{n}", value=n))), Done)
        pids.append(host.pid)
    assert len(set(pids[:4])) == 1
    assert pids[4] == pids[5] != pids[0]
    assert not (tmp_path / "logs" / "s0.log").exists()


def test_a_known_error_keeps_its_fields(tmp_path: Path, host: StepHost) -> None:
    answer = host.run(request(tmp_path, step("known_error")))
    assert isinstance(answer, Failed)
    assert (answer.kind, answer.what, answer.where) == ("error", "Photo is blurred", "DJI_1.JPG")
    assert answer.todo == "leave it out"


def test_a_bug_is_reported_with_its_traceback_in_the_log(
    tmp_path: Path, host: StepHost, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = host.run(request(tmp_path, step("bug")))
    assert isinstance(answer, Failed)
    assert (answer.kind, answer.what) == ("crash", "IndexError: 7 of 5")
    log = (tmp_path / "logs" / "a.log").read_text()
    assert "about to fail" in log
    assert "Traceback" in log
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("function", "word"), [("segfault", "SIGSEGV"), ("abort_once", "SIGABRT"), ("kill_self", "SIGKILL")]
)
def test_a_death_is_named_and_the_next_step_runs(function: str, word: str, tmp_path: Path, host: StepHost) -> None:
    answer = host.run(request(tmp_path, step(function, marker=str(tmp_path / "marker"))))
    assert isinstance(answer, Failed)
    assert answer.kind == "died"
    assert f"died with {word}" in answer.what
    if function == "segfault":
        assert "Segmentation fault" in (tmp_path / "logs" / "a.log").read_text()
    assert isinstance(host.run(request(tmp_path, step("add", "next"))), Done)


def test_a_hanging_step_is_killed_with_its_children(tmp_path: Path, host: StepHost) -> None:
    marker = tmp_path / "marker"
    start_s = time.monotonic()
    answer = host.run(request(tmp_path, step("hang", marker=str(marker), limit_s=3.0)))
    assert isinstance(answer, Failed)
    assert answer.kind == "timeout"
    assert "limit of 3 s" in answer.what
    assert time.monotonic() - start_s < LONGEST_S
    assert gone(int(wait_for(tmp_path / "marker.child")))


def test_kill_from_another_thread_ends_a_step_at_once(tmp_path: Path, host: StepHost) -> None:
    marker = tmp_path / "marker"

    def kill() -> None:
        wait_for(tmp_path / "marker.child")
        host.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    answer = host.run(request(tmp_path, step("hang", marker=str(marker))))
    killer.join()
    assert isinstance(answer, Failed)
    assert answer.kind == "stopped"
    assert host.pid is None
    assert gone(int(wait_for(tmp_path / "marker.child")))
    again = host.run(request(tmp_path, step("add")))
    assert isinstance(again, Failed)
    assert again.kind == "stopped"


def test_a_host_killed_in_the_middle_takes_its_children_along(tmp_path: Path, host: StepHost) -> None:
    marker = tmp_path / "marker"

    def kill() -> None:
        wait_for(tmp_path / "marker.child")
        os.kill(int(wait_for(marker)), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    answer = host.run(request(tmp_path, step("hang", marker=str(marker))))
    killer.join()
    assert isinstance(answer, Failed)
    assert "SIGKILL" in answer.what
    assert gone(int(wait_for(tmp_path / "marker.child")))


PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_host
from step_functions import step
root = Path(sys.argv[1])
host = test_host.StepHost(test_host.HostOptions(python_path=(test_host.HERE,)))
host.run(test_host.request(root, step("hang", marker=str(root / "marker"))))
"""


def test_nothing_survives_kill_9_of_the_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path), str(HERE)])
    child = int(wait_for(tmp_path / "marker.child"))
    family = [p.pid for p in psutil.Process(parent.pid).children(recursive=True)]
    assert len(family) >= 3  # host, watcher, the step's own child
    assert child in family
    parent.kill()
    parent.wait()
    assert all(gone(pid) for pid in family)
    store = Store(tmp_path / "store")
    assert store.sweep() == 1


def test_memory_and_time_are_of_the_step_alone(tmp_path: Path, host: StepHost) -> None:
    fat = host.run(request(tmp_path, step("fat", "fat", value=300, seconds=0.3)))
    slim = host.run(request(tmp_path, step("fat", "slim", value=1)))
    child = host.run(request(tmp_path, step("fat_child", "child", value=200)))
    assert isinstance(fat, Done)
    assert isinstance(slim, Done)
    assert isinstance(child, Done)
    assert 300 < fat.manifest.peak_rss_mb < 450
    assert 0.3 <= fat.manifest.cpu_seconds < 1.5
    assert slim.manifest.peak_rss_mb < 150
    assert slim.manifest.fact("pid") == fat.manifest.fact("pid")
    assert 200 < child.manifest.peak_rss_mb < 300
    assert child.manifest.cpu_seconds > 0.03
    assert child.recycle  # the peak of its children could not be told from the next step's
    assert host.pid is None


def test_threads_follow_the_step_not_the_machine(tmp_path: Path, host: StepHost) -> None:
    one = host.run(request(tmp_path, step("fat", "one")))
    three = host.run(request(tmp_path, step("fat", "three", value=1, threads=3)))
    assert isinstance(one, Done)
    assert isinstance(three, Done)
    assert (one.manifest.fact("omp"), three.manifest.fact("omp")) == ("1", "3")


def test_facts_become_plain_values(tmp_path: Path, host: StepHost) -> None:
    answer = host.run(request(tmp_path, step("numpy_facts")))
    assert isinstance(answer, Done)
    assert answer.manifest.facts == (("count", 3), ("mean", 0.5), ("ok", True))


def test_a_log_that_cannot_be_written_is_the_machines_fault(tmp_path: Path, host: StepHost) -> None:
    """Not the step's: another machine may make it."""
    asked = request(tmp_path, step("add", value=1))
    asked.log.parent.write_text("no folder")
    found = host.run(asked)
    assert isinstance(found, Failed)
    assert (found.kind, found.where) == ("storage", str(asked.log.parent))
    (tmp_path / "full").symlink_to("/dev/full")  # opens, and takes nothing
    found = host.run(replace(asked, step=step("bug"), log=tmp_path / "full"))
    assert isinstance(found, Failed)
    assert found.kind == "storage"


def test_an_unknown_function_is_a_failure_not_a_death(tmp_path: Path, host: StepHost) -> None:
    answer = host.run(request(tmp_path, step("no_such_function")))
    assert isinstance(answer, Failed)
    assert answer.kind == "crash"
    assert "no_such_function" in answer.what


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="only there an error of a disk is to be had")
def test_a_failing_disk_is_no_bug_of_the_step(tmp_path: Path, host: StepHost) -> None:
    """And no lack of room, for which a run could wait."""
    (tmp_path / "bad").mkdir()
    found = host.run(request(tmp_path / "bad", step("bad_sector")))
    assert isinstance(found, Failed)
    assert (found.kind, found.what, found.where) == (
        "broken",
        "The disk fails: Input/output error",
        str(tmp_path / "bad" / "store"),
    )
