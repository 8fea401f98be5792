"""A real `passel serve` and real `passel join`s as processes, for tests."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from free_ports import free_port
from runs import command

LONGEST_S = 300.0


class Running:
    """A process whose output goes to a file. inside: words before the command, such as `ip netns exec X`."""

    def __init__(self, words: Sequence[str], log: Path, inside: Sequence[str] = (), **environment: str) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*inside, *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "XDG_DATA_HOME": str(log.parent / "xdg"), **environment},
            )

    @property
    def said(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first match in what it says; fails when it ends before."""
        deadline = time.monotonic() + LONGEST_S
        while (match := re.search(pattern, self.said)) is None:
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.said}"
            assert time.monotonic() < deadline, self.said
            time.sleep(0.05)
        return match

    def family(self) -> list[psutil.Process]:
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def signal(self, number: signal.Signals) -> int:
        """Send a signal and wait for the end."""
        self.process.send_signal(number)
        return self.process.wait(timeout=LONGEST_S)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=LONGEST_S)


@contextmanager
def running(words: Sequence[str], log: Path, inside: Sequence[str] = (), **environment: str) -> Iterator[Running]:
    process = Running(words, log, inside, **environment)
    try:
        yield process
    finally:
        process.kill()


def serve_words(data: Path, *more: str, listen: str = "127.0.0.1") -> tuple[list[str], int, int]:
    """A command line with free ports: (words, public port, workers' port)."""
    port, workers_port = free_port(), free_port()
    ports = ["--listen", listen, "--port", str(port), "--workers-port", str(workers_port)]
    return [*command(["serve", "--data", str(data), *ports, *more])], port, workers_port


def ask(*words: str) -> Any:
    """The answer of a command with --json."""
    done = subprocess.run(command([*words, "--json"]), capture_output=True, text=True, timeout=LONGEST_S, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def said(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(words),
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
        env={**os.environ, **environment},
    )


def until(condition: Callable[[], object], what: str, longest_s: float = LONGEST_S) -> None:
    deadline = time.monotonic() + longest_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)  # asking costs the machine something, too


def all_gone(processes: Sequence[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes if psutil.pid_exists(p.pid))


PYTHON = sys.executable
