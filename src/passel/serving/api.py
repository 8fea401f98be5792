"""What `serving/` gives the NodeODM API: tokens, the machines that do the work, and how a job's driver is started."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from passel.cluster.coordinator.coordinator import Coordinator
from passel.cluster.trust.tokens import OWN_NAME, TokenRefused, Tokens
from passel.gateway.gateway import Gateway
from passel.server.ports import Machine, Task


@dataclass(frozen=True)
class ApiTokens:
    """The server's TokenChecker. Tokens of one name share their jobs; those without a name share the loopback's."""

    tokens: Tokens

    def owner_of(self, token: str) -> str | None:
        """Under which name tasks of this token are kept; None if it opens nothing."""
        try:
            name = self.tokens.check("api", token).name
        except TokenRefused:
            return None
        return "" if name == OWN_NAME else name


@dataclass(frozen=True)
class AllMachines:
    """The server's Capacity: all workers that are connected, and the NodeODM nodes behind the gateway."""

    coordinator: Coordinator
    gateway: Gateway | None

    def machine(self) -> Machine:
        """All of them together."""
        seen = [w for w in self.coordinator.status().workers if w.state != "lost"]
        total_mb = sum(w.machine.memory_mb for w in seen)
        free_mb = sum(w.machine.free_memory_mb for w in seen)
        nodes = self.gateway.machine() if self.gateway is not None else Machine(0, 0, 0)
        return Machine(
            total_mb * 10**6 + nodes.total_memory_bytes,
            free_mb * 10**6 + nodes.available_memory_bytes,
            sum(w.slots.cpus for w in seen) + nodes.cpus,
            nodes.passels,
        )

    def more_tasks(self) -> int:
        """What the nodes run at once: those tasks take none of our own machines."""
        return self.gateway.slots() if self.gateway is not None else 0


def driver_command(socket: Path, task: Task, lifeline_fd: int) -> tuple[str, ...]:
    """The child process that runs a job: it hands its steps to the coordinator at `socket`, and ends with the lifeline."""
    words = {
        "socket": socket,
        "job": task.uuid,
        "photos": task.photos,
        "output": task.output,
        "options": task.options,
        "run": task.started_ms,
    }
    named = (str(w) for name, value in {**words, "lifeline": lifeline_fd}.items() for w in (f"--{name}", value))
    return (sys.executable, "-P", "-m", "passel.cluster.driver.driver", *named)
