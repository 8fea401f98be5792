"""What the gateway needs from the rest of Passel; `serving/` fills these in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from passel.server.jobs import Job


class Jobs(Protocol):
    """The server's jobs. Called in the event loop; must answer at once."""

    def job(self, uuid: str) -> Job | None:
        """The task, whoever owns it, or None when it is gone."""
        ...


class Door(Protocol):
    """How a node can send us tasks of its own: OpenDroneMap's split-merge does."""

    def url_for(self, owner: str, job: str) -> str:
        """The address of our public port as nodes reach it, with a token of this owner, such as `http://host:3000/?token=t`.
        Nodes keep it as long as the task runs. '' = they cannot reach us, and process split tasks alone.
        """
        ...

    def shut(self, url: str) -> None:
        """The token in this address opens nothing any more. From any thread; may be called again."""
        ...


class Workers(Protocol):
    """Passel's own engine. Called in the event loop; must answer at once."""

    def idle(self) -> bool:
        """Workers are connected, and none of them has work."""
        ...


@dataclass(frozen=True)
class OpenDoor:
    """An address that a `Door` gave out for the parts of a job."""

    job: str
    url: str
