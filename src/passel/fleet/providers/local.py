"""Worker processes on this machine. A machine is all processes whose environment bears its name.

Nothing is remembered: the listing looks at the processes themselves, so neither a crash of the coordinator between
two lines nor a child that made its own session can leave one behind.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from passel.fleet.machine import Listing, MachineSeen, Order, Power, Price, UncertainError

_KILL_S = 5.0


class LocalProvider:
    """The region is always 'here'; sizes mean nothing but a line of the mapping."""

    name = "local"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self, order: Order) -> str:
        """Starts the boot script in a session of its own. The same order again finds the machine running."""
        if any(self._processes(order.name)):
            return order.name
        home = self._home(order.name)
        try:
            home.mkdir(parents=True, exist_ok=True, mode=0o700)
            script = home / "boot.sh"
            script.touch(mode=0o600)
            script.write_text(order.boot_script, "utf-8")
            environment = os.environ | {
                "PASSEL_MACHINE": order.name,
                "PASSEL_FLEET": order.fleet,
                "PASSEL_SIZE": order.size,
                "PASSEL_MACHINE_HOME": str(home),
            }
            with (home / "log.txt").open("ab") as log:
                child = subprocess.Popen(
                    ["/bin/sh", str(script)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    cwd=home,
                    start_new_session=True,
                )
        except OSError as error:
            raise UncertainError(
                f"A worker process could not be started: {error}", str(home), "check disk and memory"
            ) from error
        _children.append(child)
        return order.name

    def list(self, fleet: str, regions: Sequence[str]) -> Listing:
        """Looks at the environment of every process of this user."""
        _bury()
        found: dict[str, MachineSeen] = {}
        for process, environment in _ours(fleet):
            name = environment["PASSEL_MACHINE"]
            try:
                created_s = process.create_time()
            except psutil.Error:
                continue
            earlier = found.get(name)
            if earlier is None or created_s < earlier.created_s:
                size = environment.get("PASSEL_SIZE", "host")
                found[name] = MachineSeen(name, name, size, "here", Power.ON, created_s, "127.0.0.1")
        return Listing(tuple(found.values()))

    def destroy(self, machine_id: str, region: str) -> None:
        """Kills all processes of the machine and removes its files."""
        for _ in range(3):  # a process may start another while we look
            processes = list(self._processes(machine_id))
            if not processes:
                break
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(processes, timeout=_KILL_S)
        _bury()
        shutil.rmtree(self._home(machine_id), ignore_errors=True)

    def price(self, size: str, region: str) -> Price | None:
        """Own machines cost nothing that we know of."""
        return Price(0.0, "", "own machine")

    def _home(self, name: str) -> Path:
        return self._folder / Path(name).name

    def _processes(self, name: str) -> Iterator[psutil.Process]:
        return (process for process, environment in _ours("") if environment["PASSEL_MACHINE"] == name)


_children: list[subprocess.Popen[bytes]] = []
"""Machines this process started: their exit must be collected, or they stay as zombies."""


def _bury() -> None:
    _children[:] = [child for child in _children if child.poll() is None]


def _ours(fleet: str) -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    """Processes that belong to a machine of this fleet (of any fleet when empty), never this process itself."""
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except (psutil.Error, OSError):
            continue  # ended, or another user's
        if not environment.get("PASSEL_MACHINE") or process.pid == os.getpid():
            continue
        if not fleet or environment.get("PASSEL_FLEET") == fleet:
            yield process, environment
