"""Opens a fleet for `passel serve` and for the commands: file, book, provider, and the thread it turns in."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from passel.errors import StorageError, UsageError
from passel.fleet.config import Kind
from passel.fleet.fleet_file import read_fleet_file
from passel.fleet.ledger import Ledger
from passel.fleet.loop import Fleet, Surroundings
from passel.fleet.ports import Coordinator, Nodes
from passel.fleet.providers.choose import open_provider

_STOP_S = 5.0


@dataclass(frozen=True)
class RunningFleet:
    """A fleet that turns in a thread of its own."""

    fleet: Fleet
    ledger: Ledger
    thread: threading.Thread
    stopping: threading.Event

    def stop(self) -> str:
        """Ends the turning within seconds. Returns what the operator should know: machines run on without us."""
        self.stopping.set()
        self.thread.join(_STOP_S)
        alive = [m for m in self.ledger.machines() if m.alive]
        if not alive:
            return ""
        return (
            f"{len(alive)} machines of the fleet run on and cost money: {', '.join(m.name for m in alive)}. "
            f"Start passel serve again to use them, or end them: {self.ledger.typed('destroy-all FILE')}"
        )


def ledger_path(data: Path) -> Path:
    """Where the fleet's book is in a coordinator's data folder."""
    return data / "fleet" / "fleet.db"


def open_fleet(
    file: Path, data: Path, coordinator: Coordinator, nodes: Nodes | None, say: Callable[[str], None]
) -> tuple[Fleet, Ledger]:
    """Reads the fleet file and opens everything it needs; asks no cloud. Raises UsageError or StorageError."""
    config = read_fleet_file(file)
    for remark in config.remarks:
        say(remark)
    if config.kind is Kind.NODE and nodes is None:
        todo = 'write "machines": "worker", or start a Passel that has a gateway'
        raise UsageError("Machines of this fleet file become nodes, and there is no gateway for them", str(file), todo)
    path = ledger_path(data)
    provider = open_provider(config, path.parent)
    ledger = Ledger(path)
    around = Surroundings(config, provider, coordinator, nodes, say)
    return Fleet(ledger, around, node_key(path.parent)), ledger


def start_fleet(
    file: Path, data: Path, coordinator: Coordinator, nodes: Nodes | None, say: Callable[[str], None]
) -> RunningFleet:
    """Opens a fleet and lets it turn. The thread is a daemon: a call to a cloud that hangs does not keep Passel alive."""
    fleet, ledger = open_fleet(file, data, coordinator, nodes, say)
    stopping = threading.Event()
    thread = threading.Thread(target=fleet.run, args=(stopping,), name="fleet", daemon=True)
    thread.start()
    return RunningFleet(fleet, ledger, thread, stopping)


def node_key(folder: Path) -> bytes:
    """The key that nodes' tokens are made from, kept in a file that only this user can read. Raises StorageError."""
    path = folder / "node.key"
    try:
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            aside = path.with_suffix(".new")
            aside.unlink(missing_ok=True)
            aside.touch(mode=0o600)
            aside.write_text(secrets.token_hex(32), "ascii")
            aside.replace(path)
        return path.read_bytes()
    except OSError as error:
        todo = "check the disk and who may write there"
        raise StorageError("The nodes' key cannot be read or made", str(path), todo) from error
