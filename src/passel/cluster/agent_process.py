"""A worker agent as a process: `python -m passel.cluster.agent_process --url … --identity DIR --cache DIR`.

SIGINT or SIGTERM: finish what runs, take no more, leave; the second one: stop now. Users start it by `passel join`, through
`supervisor`, which starts it again when it dies.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from passel.cluster.agent import Agent, AgentSettings
from passel.cluster.cache import Cache
from passel.cluster.hosts import Hosts
from passel.cluster.identity import Identity
from passel.cluster.machine import free_memory_mb, usable_cpus
from passel.cluster.transfer import Link, LinkSettings
from passel.cluster.wire import Slots
from passel.cluster.workplace import LocalWorkplace, RemoteWorkplace, Workplace
from passel.errors import Interrupted, PasselError
from passel.pipeline.store import storage_errors

GIVE_UP = 3
"""Exit code for what starting again would not mend: refused by the coordinator, cache in use."""
_SHARE_OF_DISK = 0.5
_SHARE_OF_MEMORY = 0.9
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
    wait_s: float = AgentSettings.wait_s
    stall_s: float = LinkSettings.stall_s

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
        parser = argparse.ArgumentParser("passel.cluster.agent_process", allow_abbrev=False)
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


def run_agent(options: AgentOptions) -> int:
    """Works until drained or stopped; returns the exit code."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # photos come a third faster over its TLS
            runner.run(_work(options))
    except Interrupted as error:
        _log.warning("%s", error)
        return error.exit_code
    except PasselError as error:
        _log.error("%s", error)
        return GIVE_UP
    return 0


async def _work(options: AgentOptions) -> None:
    slots = Slots(
        options.workers or usable_cpus(),
        options.memory_mb or max(1, int(_SHARE_OF_MEMORY * free_memory_mb())),
    )
    link = Link(options.url, Identity(options.identity).client_context(), LinkSettings(stall_s=options.stall_s))
    hosts = Hosts(most_idle=slots.cpus)
    cache = None
    try:
        place: Workplace
        if options.local:
            place = LocalWorkplace(hosts, options.cache, link)
        else:
            cache = _open_cache(options)
            place = RemoteWorkplace(hosts, cache, link, _fresh_logs(options.cache))
        agent = Agent(link, place, hosts, AgentSettings(slots, options.local, options.wait_s))
        _listen_to_signals(agent)
        _log.warning("%s threads, %s MB for steps of %s", slots.cpus, slots.memory_mb, link.url)
        await agent.run()
    finally:
        hosts.close()
        await link.close()
        if cache is not None:
            cache.close()


def _open_cache(options: AgentOptions) -> Cache:
    most_bytes = int((options.cache_gb or 0) * 1e9)
    cache = Cache(options.cache, most_bytes or sys.maxsize)
    cache.open()
    if not most_bytes:
        cache.most_bytes = int(_SHARE_OF_DISK * (shutil.disk_usage(options.cache).free + cache.size_bytes))
    return cache


def _fresh_logs(cache: Path) -> Path:
    """The folder for what steps print; only those that run have a file there."""
    logs = cache / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    with storage_errors(logs):
        logs.mkdir(parents=True)
    return logs


def _listen_to_signals(agent: Agent) -> None:
    asked = 0

    def heard() -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            agent.drain()
        else:
            agent.stop()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, heard)


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


def main() -> None:
    """Runs one agent."""
    options = AgentOptions.parse(sys.argv[1:])
    tell_on_stderr()
    die_with(options.lifeline)
    sys.exit(run_agent(options))


if __name__ == "__main__":
    main()
