"""A container that may have few processes and threads: what is too few is said, instead of dying again and again without a word."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from machines import Machines, until

PIDS = Path("/sys/fs/cgroup/pids")  # of the first generation; the second's files have the same names
WORDS = "more processes and threads may be started here (of {}), about"


@pytest.fixture
def limited() -> Iterator[Callable[[int], list[str]]]:
    """Words before a command that hold it, and all that it starts, to so many processes and threads."""
    parent = PIDS if PIDS.is_dir() else PIDS.parent
    group = parent / f"passel-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "pids.max").write_text("max")
    except OSError:
        with suppress(OSError):
            group.rmdir()
        pytest.skip("control groups may not be made here")

    def words(most: int) -> list[str]:
        (group / "pids.max").write_text(str(most))
        return ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "-"]

    yield words
    until(lambda: not (group / "cgroup.procs").read_text().split())
    group.rmdir()


def test_the_limit_is_read_from_the_control_group(limited: Callable[[int], list[str]]) -> None:
    ask = "from passel.pipeline.task_limit import too_few_tasks as few; print([few(5), few(40)])"
    done = subprocess.run([*limited(16), sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    said = eval(done.stdout)
    assert said[0] == ""
    assert said[1].startswith(f"only 15 {WORDS.format(16)} 40 are needed: raise the limit")


def test_without_control_groups_the_users_own_limit_is_read() -> None:
    """As after `ulimit -u`, of a user that is not root, for root is not held to it."""
    ask = (
        "import os, resource\n"
        "from passel.pipeline import task_limit\n"
        "task_limit.own_files = lambda *_: ()\n"
        "resource.setrlimit(resource.RLIMIT_NPROC, (5000, 5000))\n"
        "os.getuid() or os.setuid(54321)\n"
        "print([task_limit.too_few_tasks(5), task_limit.too_few_tasks(6000)])"
    )
    said = eval(subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout)
    assert said[0] == ""
    assert WORDS.format(5000) in said[1]
    assert "ulimit -u" in said[1]


def test_serve_says_that_it_cannot(limited: Callable[[int], list[str]], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "passel", "serve", "--data", str(tmp_path / "data"), "--port", "0"]
    done = subprocess.run([*limited(12), *command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("passel: error: this computer cannot serve: only ")
    assert WORDS.format(12) in line


def test_a_worker_waits_for_room_and_says_so(limited: Callable[[int], list[str]], tmp_path: Path) -> None:
    machines = Machines(tmp_path)
    machines.start_coordinator()
    try:
        worker = machines.worker("small", prefix=limited(8))
        until(lambda: "starts again in 1.0 s" in worker.log.read_text())
        assert all(
            "cannot start (only" in line and WORDS.format(8) in line for line in worker.log.read_text().splitlines()
        )
        limited(200)
        until(lambda: "threads, 4000 MB for steps of" in worker.log.read_text())
    finally:
        machines.close()
