"""How many processes and threads may still be started. Where it is too few, libraries die in odd words, or without any."""

from __future__ import annotations

import os
import resource
from contextlib import suppress

import psutil

from passel.pipeline.control_groups import own_files


def too_few_tasks(wanted: int) -> str:
    """'' when `wanted` more processes and threads may be started; else words about it."""
    left, most = min(_limits(), default=(wanted, 0))
    if left >= wanted:
        return ""
    return (
        f"only {max(0, left)} more processes and threads may be started here (of {most}), about {wanted} are needed: "
        "raise the limit (docker: --pids-limit, systemd: TasksMax, shell: ulimit -u)"
    )


def _limits() -> list[tuple[int, int]]:
    """(how many more, how many in all) of each limit."""
    found = []
    for file in (*own_files("pids.max"), *own_files("pids.max", "pids")):
        with suppress(OSError, ValueError):  # 'max' is no number: no limit
            most = int(file.read_text())
            found.append((most - int(file.with_name("pids.current").read_text()), most))
    most, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if most != resource.RLIM_INFINITY and os.getuid() != 0:  # root is not held to it
        found.append((most - _threads_of(os.getuid()), most))
    return found


def _threads_of(user: int) -> int:
    count = 0
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.uids().real == user:
                count += process.num_threads()
    return count
