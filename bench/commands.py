"""Running Passel's command line and writing down what it cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Command:
    """One finished command. exit_code: 0 when it ended well. wall_s: from start to end.

    cpu_s: user and system time of the command and of every process it started and waited for, as the kernel counts them
    (wait4). largest_mb: peak resident memory of the largest of these processes, from the same call.
    """

    words: tuple[str, ...]
    exit_code: int
    wall_s: float
    cpu_s: float
    largest_mb: float


def run(words: tuple[str, ...], output: Path) -> Command:
    """`python -m passel WORDS` in its own process; what it says goes to OUTPUT.log, what it cost to OUTPUT.cost.json."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.with_name(output.name + ".log").open("wb") as log:
        start = time.monotonic()
        child = subprocess.Popen(
            [sys.executable, "-m", "passel", *words], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except KeyboardInterrupt:
            child.wait()  # the terminal has interrupted it too: it leaves a project that can go on
            raise
        child.returncode = os.waitstatus_to_exitcode(status)
    largest_mb = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    wall_s = time.monotonic() - start
    command = Command(words, child.returncode, wall_s, usage.ru_utime + usage.ru_stime, largest_mb)
    _cost_file(output).write_text(json.dumps(asdict(command), indent=1), encoding="utf-8")
    return command


def remembered(output: Path) -> Command | None:
    """The command that made an output folder earlier; None if it was not measured."""
    path = _cost_file(output)
    if not path.is_file():
        return None
    d = json.loads(path.read_text(encoding="utf-8"))
    return Command(**{**d, "words": tuple(d["words"])})


def _cost_file(output: Path) -> Path:
    return output.with_name(output.name + ".cost.json")
