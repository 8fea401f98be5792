"""A worker agent as a process: `python -m passel.cluster.worker.agent_process --url … --identity DIR --cache DIR`.

SIGINT or SIGTERM: finish what runs, take no more, leave; the second one: stop now. Users start it by `passel join`, through
`supervisor`, which starts it again when it dies.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import uvloop

from passel.cluster.trust.identity import Identity
from passel.cluster.trust.join import remember_url
from passel.cluster.wire.workers import Slots
from passel.cluster.worker.agent import Agent, AgentSettings
from passel.cluster.worker.agent_options import GIVE_UP, AgentOptions, die_with, tell_on_stderr
from passel.cluster.worker.cache import Cache
from passel.cluster.worker.follow import announced_urls, follow
from passel.cluster.worker.hosts import Hosts
from passel.cluster.worker.machine import memory_for_steps_mb, usable_cpus
from passel.cluster.worker.transfer import Link, LinkSettings
from passel.cluster.worker.workplace import LocalWorkplace, RemoteWorkplace, Workplace
from passel.collector import look_seldom
from passel.errors import Interrupted, PasselError, StorageError
from passel.pipeline.store import storage_errors
from passel.pipeline.task_limit import too_few_tasks

_SHARE_OF_DISK = 0.5
_TASKS, _TASKS_A_CPU = 12, 8
"""Processes and threads of an agent, and of the steps that run on one processor."""
_log = logging.getLogger("passel.worker")


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
        options.memory_mb or memory_for_steps_mb(),
    )
    identity = Identity(options.identity)
    link = Link(options.url, identity.client_context(), LinkSettings(stall_s=options.stall_s))
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
        if few := too_few_tasks(_TASKS + _TASKS_A_CPU * slots.cpus):
            _log.warning("steps may fail: %s", few)
        following = asyncio.create_task(follow(link, partial(announced_urls, identity)))
        try:
            await agent.run()
        finally:
            following.cancel()
        if link.url != options.url.rstrip("/"):
            remember_url(identity, link.url)
    finally:
        hosts.close()
        await link.close()
        if cache is not None:
            cache.close()


def _open_cache(options: AgentOptions) -> Cache:
    most_bytes = int((options.cache_gb or 0) * 1e9)
    cache = Cache(options.cache, most_bytes or sys.maxsize)
    try:
        cache.open()
    except StorageError as error:
        if error.__cause__ is None or isinstance(error.__cause__, BlockingIOError):
            raise
        raise StorageError(
            error.what, error.where, "make room and make it writable, or choose another --cache"
        ) from error
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


def main() -> None:
    """Runs one agent."""
    look_seldom()
    options = AgentOptions.parse(sys.argv[1:])
    tell_on_stderr()
    die_with(options.lifeline)
    sys.exit(run_agent(options))


if __name__ == "__main__":
    main()
