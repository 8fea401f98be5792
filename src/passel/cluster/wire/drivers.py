"""What a job's driver and the coordinator say to each other over the unix socket: one record a line.

The driver is a child of the coordinator's own machine; the lines are the same strict JSON as on the workers' wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from passel.cluster.wire.workers import Failure, InputRef, WireError, decode, encode

MOST_LINE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Hello:
    """The driver's first line. store: of the job, absolute. share: of a busy passel, against other jobs' shares."""

    job: str
    store: str
    share: float = 1.0


@dataclass(frozen=True)
class ReadyStep:
    """A step that may run now. rank: 0 is the most urgent of its job. step: as in an Assignment. log: where its prints belong.

    function: its name; steps of one function take about as long as each other.
    """

    digest: str
    stage: str
    name: str
    rank: int
    memory_mb: int
    threads: int
    step: str
    inputs: tuple[InputRef, ...]
    log: str
    function: str = ""


@dataclass(frozen=True)
class Withdraw:
    """The driver wants no step any more; what runs for it is stopped."""

    reason: str = ""


@dataclass(frozen=True)
class WantFiles:
    """The driver will read the files of this artifact, which are in the bucket."""

    digest: str


@dataclass(frozen=True)
class Brought:
    """Those files are in the job's store now. failure: the disk refuses them."""

    digest: str
    failure: Failure | None = None


@dataclass(frozen=True)
class Started:
    """A step began to run on a worker."""

    digest: str
    attempt: int
    worker: str


@dataclass(frozen=True)
class Ended:
    """A step's last word. failure: None when a worker brought the artifact. bytes: over the network, of all its attempts."""

    digest: str
    attempts: int
    worker: str
    failure: Failure | None = None
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass(frozen=True)
class Capacity:
    """What all workers have together; told at first and when it changes. full: how many take no steps, since their disk is full.

    takes_artifacts: False while what workers have finished waits there, since the disk of a job's folder is full.
    draining: how many more are there that take no new steps, since somebody drained them or they leave.
    """

    workers: int
    threads: int
    memory_mb: int
    full: int = 0
    takes_artifacts: bool = True
    draining: int = 0


FromDriver = Hello | ReadyStep | WantFiles | Withdraw
ToDriver = Started | Ended | Brought | Capacity
_KINDS: dict[str, Any] = {
    kind.__name__: kind for kind in (Hello, ReadyStep, WantFiles, Withdraw, Started, Ended, Brought, Capacity)
}


def to_line(record: FromDriver | ToDriver) -> bytes:
    """'Kind {…}' with a line feed; JSON has none inside."""
    return type(record).__name__.encode() + b" " + encode(record) + b"\n"


def from_line(line: bytes) -> FromDriver | ToDriver:
    """The record in a line. Raises WireError."""
    kind, _, body = line.partition(b" ")
    found = _KINDS.get(kind.decode("ascii", "replace"))
    if found is None:
        raise WireError(f"A line between driver and coordinator is no known record: {line[:40]!r}")
    record: FromDriver | ToDriver = decode(found, body)
    return record
