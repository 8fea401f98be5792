"""What a worker's processes are started with, and how they behave as processes. Light: the supervisor imports nothing more."""

from __future__ import annotations

import argparse
import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WAIT_S = 5.0
"""A worker asks to have its polls held so long."""
STALL_S = 10.0
"""A worker gives up a connection without a byte after so long."""
GIVE_UP = 3
"""Exit code for what starting again would not mend: refused by the coordinator, cache in use."""
_log = logging.getLogger("passel.worker")


@dataclass(frozen=True)
class AgentOptions:
    """What a worker is started with. url: the coordinator's port for workers. identity: folder that `passel join` has filled.

    cache: folder for photos, artifacts and logs. cache_gb: its size at most; None: half of what is free. workers: steps at a time, by
    threads; None: all processors. memory_mb: what steps may take; None: what is free now. local: same machine as the
    coordinator. lifeline: handle of a pipe that ends when the parent dies, -1 for none. wait_s, stall_s: see AgentSettings, LinkSettings.
    """

    url: str
    identity: Path
    cache: Path
    cache_gb: float | None = None
    workers: int | None = None
    memory_mb: int | None = None
    local: bool = False
    lifeline: int = -1
    wait_s: float = WAIT_S
    stall_s: float = STALL_S

    def words(self) -> list[str]:
        """The command line that `parse` reads, without the lifeline, which is one process's own."""
        words = ["--url", self.url, "--identity", str(self.identity), "--cache", str(self.cache)]
        for name, value in (("cache-gb", self.cache_gb), ("workers", self.workers), ("memory", self.memory_mb)):
            words += [f"--{name}", str(value)] if value is not None else []
        words += ["--local"] if self.local else []
        return [*words, "--wait-s", str(self.wait_s), "--stall-s", str(self.stall_s)]

    @staticmethod
    def parse(words: Sequence[str]) -> AgentOptions:
        """Options from a command line; exits with 2 when it is wrong."""
        parser = argparse.ArgumentParser("passel.cluster.worker.agent_process", allow_abbrev=False)
        parser.add_argument("--url", required=True)
        parser.add_argument("--identity", required=True, type=Path)
        parser.add_argument("--cache", required=True, type=Path)
        parser.add_argument("--cache-gb", type=float)
        parser.add_argument("--workers", type=int)
        parser.add_argument("--memory", type=int, dest="memory_mb", metavar="MB")
        parser.add_argument("--local", action="store_true")
        parser.add_argument("--lifeline", type=int, default=-1, metavar="HANDLE")
        parser.add_argument("--wait-s", type=float, default=AgentOptions.wait_s)
        parser.add_argument("--stall-s", type=float, default=AgentOptions.stall_s)
        return AgentOptions(**vars(parser.parse_args(words)))


def die_with(lifeline: int) -> None:
    """Ends this process at once when the other end of the pipe is closed: its parent is gone. Steps' processes follow."""

    def wait() -> None:
        os.read(lifeline, 1)
        os._exit(1)

    if lifeline >= 0:
        os.set_inheritable(lifeline, False)
        threading.Thread(target=wait, name="lifeline", daemon=True).start()


def tell_on_stderr() -> None:
    """What a worker has to say goes to the terminal or the service's log."""
    logging.basicConfig(format="passel worker: %(message)s", level=logging.WARNING, force=True)
    _log.setLevel(logging.INFO)
