"""What the server needs from others, as Protocols: `serving/` fills them, tests use small stand-ins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class TokenChecker(Protocol):
    """Knows the API tokens. Called in the event loop: it must answer within microseconds or cache what it knows."""

    def owner_of(self, token: str) -> str | None:
        """The name under which jobs of this token are kept, or None for a wrong, expired or revoked one. The text given
        may be empty: a server that asks for no token answers ''.
        """
        ...


@dataclass(frozen=True)
class Machine:
    """What /info tells of the machine, or of all machines together. passels: identities of the Passels that a task given to this
    one may come to.
    """

    total_memory_bytes: int
    available_memory_bytes: int
    cpus: int
    passels: tuple[str, ...] = ()


class Capacity(Protocol):
    """Knows the machines that do the work."""

    def machine(self) -> Machine:
        """All machines together; asked at most once a second."""
        ...

    def more_tasks(self) -> int:
        """Tasks that others (NodeODM nodes) run beside `ServerSettings.parallel_jobs`; asked whenever one could start."""
        ...


@dataclass(frozen=True)
class Task:
    """A job as its driver needs it.

    photos: folder of the photos. output: folder for the map. options: file with the words of a command line (JSON list).
    started_ms: of the run, which a driver that is started again goes on with; a restart asked for is another run.
    """

    uuid: str
    photos: Path
    output: Path
    options: Path
    started_ms: int = 0


class DriverCommand(Protocol):
    """Says how a driver is started."""

    def __call__(self, task: Task, lifeline_fd: int) -> tuple[str, ...]:
        """The command. It ends when the other end of the pipe `lifeline_fd` closes, and writes events as lines of JSON to
        its standard output; see `server/drivers.py`.
        """
        ...


class Results(Protocol):
    """A bucket that keeps the results of jobs. Called in threads; everything may be called again after any failure, and
    raises PasselError when the bucket does not answer or refuses.
    """

    def check(self) -> None:
        """Can it be written?"""
        ...

    def upload(self, job: str, files: Mapping[str, Path], on_bytes: Callable[[int], None], /) -> object:
        """Bring files (asset name → file) there; what is there already is not sent. What `on_bytes`, called after each
        part, raises, ends it.
        """
        ...

    def has(self, job: str, asset: str) -> bool:
        """Whether the asset is there in full."""
        ...

    def address(self, job: str, asset: str) -> str:
        """Where a client may fetch it, for a while at least."""
        ...

    def remove(self, job: str) -> None:
        """Remove all assets of the job; no error when there are none."""
        ...


class OpenToAll:
    """The TokenChecker of a server that asks for no token (loopback, or a field network that is trusted)."""

    def owner_of(self, token: str) -> str | None:
        """Everybody is the same owner."""
        return ""
