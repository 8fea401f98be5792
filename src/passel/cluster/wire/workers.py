"""What workers and coordinator say to each other: one poll, again and again (decision 4). Frozen records and strict JSON.

A poll says all that a worker holds, its answer all that it should do beyond that, so any of them may be lost or repeated.
Rules for both ends:
* `seq` rises with every poll of a session. A worker may poll again while an earlier poll is held (news will not wait): the
  coordinator answers the earlier one at once, and the worker ignores every answer but that to its latest poll.
* A step that the worker was told to run and does not mention in its next poll never arrived: it is told again.
* `finished` is repeated in every poll until its ticket was in `acknowledged`; then it is forgotten by the worker.
* `cancel` is repeated in every answer until the ticket is gone from `running`; a cancelled step is not reported as finished.
* After a new session, or when asked by `want_cache`, the worker sends the keys of its whole cache (`whole` true).
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from passel.errors import PasselError
from passel.pipeline.manifest import ArtifactFile

MANIFEST_BYTES_HEADER = "X-Passel-Manifest-Bytes"
START_HEADER = "X-Passel-Start"
"""Of an artifact's PUT: how long the manifest is with which the body begins, and after how many bytes of content it goes on."""
POLL_PATH = "/v1/poll"
MOST_POLL_BYTES = 64 * 2**20
LEASE_S = 15.0
"""A worker not heard of for so long is lost; its steps go to others."""
LONGEST_WAIT_S = 10.0
"""A poll is held at most so long."""
RETRY_AFTER_S = 2
"""Of 503: the coordinator does not know this job or file yet (its driver is being started again). Wait and ask again."""


def file_path(job: str, key: str) -> str:
    """GET, HEAD: a file of the job's user (a photo) by its InputRef's key. ETag is its content's sha256 (quoted)."""
    return f"/v1/jobs/{job}/files/{key}"


def artifact_path(job: str, digest: str, name: str = "") -> str:
    """Without name: GET the manifest; PUT the whole artifact, manifest first; HEAD how much of it has come. With name: GET a file."""
    return f"/v1/jobs/{job}/artifacts/{digest}" + (f"/{name}" if name else "")


def doubt_path(job: str, digest: str) -> str:
    """POST: is it damaged on the coordinator's disk? 204: no; 410: yes, it is made again."""
    return artifact_path(job, digest, "doubt")


class WireError(PasselError):
    """The other end said something that is not of this protocol."""


Phase = Literal["fetching", "running", "sending"]
"""fetching: inputs come. running: in its process. sending: ended, the artifact goes out; takes no memory or thread any more."""


@dataclass(frozen=True)
class MachineInfo:
    """For people and forecasts. cpus: that the process may use. memory_mb: physical, or the container's limit."""

    hostname: str
    cpus: int
    memory_mb: int
    free_memory_mb: int
    disk_free_mb: int
    gpu: str = ""


@dataclass(frozen=True)
class Slots:
    """What steps may take on this worker in all: threads and memory. A worker may change its mind in any poll."""

    cpus: int
    memory_mb: int


@dataclass(frozen=True)
class Running:
    """A step that the worker holds. All but ticket and phase as in its Assignment: a coordinator that was restarted adopts it."""

    ticket: str
    job: str
    digest: str
    phase: Phase
    attempt: int
    memory_mb: int
    threads: int


@dataclass(frozen=True)
class Failure:
    """Why a step has no artifact; kind as in `pipeline.messages.Kind`, what/where/todo for the user.

    log: the log file on the worker that the words may name. log_tail: its end; the coordinator keeps it under a path of its own.
    """

    kind: str
    what: str
    where: str = ""
    todo: str = ""
    log: str = ""
    log_tail: str = ""


@dataclass(frozen=True)
class Finished:
    """A step that ended. failure: None when the artifact is committed in the coordinator's store.

    seconds, cpu_seconds, peak_rss_mb: of the step itself, 0 when unknown. bytes_in, bytes_out: that went over the network for it.
    """

    ticket: str
    job: str
    digest: str
    attempt: int
    failure: Failure | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_rss_mb: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass(frozen=True)
class CacheNews:
    """Keys (artifact digests, InputRef keys of files) that came and went. whole: `added` is all there is."""

    whole: bool = False
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True)
class PollRequest:
    """All that a worker has to say. session: random, new at each start of the agent. local: it sees the coordinator's disk.

    full: its disk takes no more inputs. draining: it wants no more steps.
    """

    session: str
    seq: int
    wait_s: float
    machine: MachineInfo
    slots: Slots
    running: tuple[Running, ...] = ()
    finished: tuple[Finished, ...] = ()
    cache: CacheNews = CacheNews()
    draining: bool = False
    full: bool = False
    local: bool = False


@dataclass(frozen=True)
class InputRef:
    """One input of a step, in the step's order. key: a photo's FileInput.sha256, or the digest of an artifact.

    name: the file's own name with its suffix ('' for an artifact). files: of an artifact, those that the step reads; part: these are
    not all that it has. path: on the coordinator's machine,
    only for local workers, else ''. size_bytes: in all; 0 when unknown. away: an artifact whose files are in the bucket.
    sha256: of a photo's content as the survey found it, '' while nobody has read it.
    """

    role: str
    kind: Literal["file", "artifact"]
    key: str
    name: str = ""
    size_bytes: int = 0
    files: tuple[ArtifactFile, ...] = ()
    path: str = ""
    away: bool = False
    sha256: str = ""
    part: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """Under which a worker may have it in its cache: whole, or file by file."""
        return (self.key, *(f.sha256 for f in self.files)) if self.part else (self.key,)

    def missing_bytes(self, cached: Container[str]) -> int:
        """What of it would have to travel to a worker with these keys in its cache."""
        if self.key in cached:
            return 0
        return sum(f.size_bytes for f in self.files if f.sha256 not in cached) if self.part else self.size_bytes


@dataclass(frozen=True)
class Assignment:
    """A step to run. step: base64 of the pickled `Step` (see `pack`). store, log: only for local workers, else ''."""

    ticket: str
    job: str
    digest: str
    stage: str
    name: str
    attempt: int
    memory_mb: int
    threads: int
    step: str
    inputs: tuple[InputRef, ...] = ()
    store: str = ""
    log: str = ""


@dataclass(frozen=True)
class Prefetch:
    """Inputs that a coming step will probably need here. A hint: may be ignored."""

    job: str
    inputs: tuple[InputRef, ...]


@dataclass(frozen=True)
class PollReply:
    """All that the worker should do. interval_s: the least time until its next poll, if it has no news.

    bucket: large artifacts may go into a bucket (`wire.bucket`).
    """

    seq: int
    run: tuple[Assignment, ...] = ()
    cancel: tuple[str, ...] = ()
    acknowledged: tuple[str, ...] = ()
    prefetch: tuple[Prefetch, ...] = ()
    drain: bool = False
    want_cache: bool = False
    interval_s: float = 0.0
    bucket: bool = False


@dataclass(frozen=True)
class WireProblem:
    """The body of every answer that is not 2xx: a PasselError's parts."""

    what: str
    where: str = ""
    todo: str = ""


def pack(blob: bytes) -> str:
    """Bytes as text for JSON."""
    return base64.b64encode(blob).decode("ascii")


def unpack(text: str) -> bytes:
    """The bytes of `pack`. Raises WireError."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise WireError("A step that came over the network is damaged", todo="this is a bug: report it") from error


Record = TypeVar("Record")


def encode(record: Any) -> bytes:
    """JSON of one of the records above. Fields that have their default value are left out."""
    return json.dumps(_plain(record), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def decode(kind: type[Record], data: bytes) -> Record:
    """The record of this kind in JSON `data`. Raises WireError: no JSON, wrong types, unknown or missing fields, bad numbers."""
    try:
        value = json.loads(data.decode("utf-8", "surrogatepass"))
        reader: _Reader = _reader(typing.cast(typing.Hashable, kind))
        record: Record = reader(value)
    except (ValueError, RecursionError) as error:
        raise WireError(
            f"A message is not a {kind.__name__}: {error}", todo="run the same Passel everywhere"
        ) from error
    return record


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((f, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {f.name: _plain(v) for f, v in fields if v != f.default}
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value


_Reader = Callable[[Any], Any]


@functools.cache
def _reader(kind: Any) -> _Reader:
    """A function that turns a JSON value into a `kind` or raises ValueError."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _record_reader(kind)
    if origin is tuple:
        return functools.partial(_read_list, _reader(arguments[0]))
    if origin is Literal:
        return functools.partial(_read_choice, arguments)
    if origin is types.UnionType:  # only `X | None` occurs
        reader = _reader(arguments[0])
        return lambda value: None if value is None else reader(value)
    return {str: _read_text, int: _read_count, float: _read_number, bool: _read_flag}[kind]


def _record_reader(kind: Any) -> _Reader:
    hints = typing.get_type_hints(kind)
    readers = {f.name: _reader(hints[f.name]) for f in dataclasses.fields(kind)}
    required = {f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING}

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError(f"{kind.__name__} is no object")
        if not required <= value.keys() <= readers.keys():
            odd = sorted((required - value.keys()) | (value.keys() - readers.keys()))
            raise ValueError(f"{kind.__name__} lacks or does not know {', '.join(odd)[:200]}")
        return kind(**{name: readers[name](item) for name, item in value.items()})

    return read


def _read_list(reader: _Reader, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ValueError("a list is missing")
    return tuple(reader(v) for v in value)


def _read_choice(choices: tuple[Any, ...], value: Any) -> Any:
    if value not in choices:
        raise ValueError(f"none of {choices}")
    return value


def _read_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("text is missing")
    return value


def _read_count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("a whole number, 0 or more, is missing")
    return value


def _read_number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise ValueError("a number, 0 or more, is missing")
    return float(value)


def _read_flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false is missing")
    return value
