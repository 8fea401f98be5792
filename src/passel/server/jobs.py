"""A job as a record, and everything that may happen to it as pure functions: job in, job out; no clock, no I/O.

UPLOADING ─commit→ COMMITTING ─prepared→ QUEUED ─start→ RUNNING ─end(ok)→ ZIPPING ─packed→ COMPLETED
    (not a task for clients yet)   └──────── fail ────────┴── end(error) ──┴──── fail ────→ FAILED
cancel: from COMMITTING … COMPLETED → CANCELED.   restart: from FAILED, COMPLETED, CANCELED → QUEUED.
remove: from everywhere → REMOVING, which ends with the record's deletion.   After a crash of the server `recovered`
says where each job goes on: RUNNING is QUEUED again (its driver died with the server, finished steps are kept), all
other states redo what they were doing, which is always safe to do twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from passel.errors import PasselError


class JobError(PasselError):
    """A request concerning a job that cannot be done; the text is sent to the client."""


class State(StrEnum):
    """Where a job is. Clients see only its `Code`."""

    UPLOADING = "uploading"
    COMMITTING = "committing"
    QUEUED = "queued"
    RUNNING = "running"
    ZIPPING = "zipping"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"
    REMOVING = "removing"


class Sent(StrEnum):
    """How far a job's results are in the bucket, if there is one. STALE: it holds some of an earlier run."""

    NO = "no"
    STALE = "stale"
    BEGUN = "begun"
    DONE = "done"


CODES = {
    State.COMMITTING: 20,
    State.QUEUED: 10,
    State.RUNNING: 20,
    State.ZIPPING: 20,
    State.COMPLETED: 40,
    State.FAILED: 30,
    State.CANCELED: 50,
}
"""NodeODM's status codes. States that are missing here are no tasks for clients: 'not found'."""

ENDED = frozenset({State.COMPLETED, State.FAILED, State.CANCELED})
CANCELABLE = frozenset({State.COMMITTING, State.QUEUED, State.RUNNING, State.ZIPPING}) | ENDED
PROGRESS_OF_RUN = 0.9
"""What the run is of the whole, as in NodeODM; packing the results is the rest."""
PROGRESS_PACKED = 97.0

OptionValue = bool | int | float | str


@dataclass(frozen=True)
class GivenOption:
    """An option that the client gave, checked. value: typed as in option_table.TABLE."""

    name: str
    value: OptionValue


@dataclass(frozen=True)
class Order:
    """What the client asked for when it made the job; a restart may replace `options`.

    name: title. options: known ones, in the table's order. ignored: names of unknown options, told in the output.
    skip_post_processing: NodeODM's flag. webhook: '' or the URL to call at the end. outputs: paths relative to the
    project that all.zip shall hold instead of the usual ones. zip_url, urls: where photos are fetched at commit.
    priority: higher goes first, within what fair sharing allows. created_ms: date the client wants shown.
    """

    name: str
    created_ms: int
    options: tuple[GivenOption, ...] = ()
    ignored: tuple[str, ...] = ()
    skip_post_processing: bool = False
    webhook: str = ""
    outputs: tuple[str, ...] = ()
    zip_url: str = ""
    urls: tuple[str, ...] = ()
    priority: int = 0


@dataclass(frozen=True)
class Job:
    """A job. Times are ms since the epoch.

    owner: name of the token that made it; '' when the server asks for none. touched_ms: last change of state, for
    retention. started_ms: when the run began, None before; processing_ms: how long it took, None until it ended.
    progress: 0 … 100, never decreases but by restart. error: why it FAILED, for the user. runs: drivers started so far.
    sent: how far its results are in the bucket.
    """

    uuid: str
    owner: str
    order: Order
    state: State
    touched_ms: int
    started_ms: int | None = None
    processing_ms: int | None = None
    images_count: int = 0
    progress: float = 0.0
    error: str = ""
    runs: int = 0
    sent: Sent = Sent.NO

    @property
    def is_task(self) -> bool:
        """Whether clients see it: committed and not being removed."""
        return self.state in CODES

    def processing_time_ms(self, now_ms: int) -> int:
        """NodeODM's processingTime: -1 before the start and after a cancel."""
        if self.processing_ms is not None:
            return self.processing_ms
        return -1 if self.started_ms is None else max(0, now_ms - self.started_ms)


@dataclass(frozen=True)
class RunEnd:
    """How a driver ended. code: 0 = the map is made, else ODM's exit codes. message, todo, where: for the user."""

    code: int
    message: str = ""
    todo: str = ""
    where: str = ""

    @property
    def text(self) -> str:
        """The failure in one line."""
        known = {137: "Not enough memory", 134: "Cannot process dataset", 139: "Cannot process dataset"}
        what = self.message or known.get(self.code, f"Processing failed ({self.code})")
        return what + (f" [{self.where}]" if self.where else "") + (f" → {self.todo}" if self.todo else "")


def new_job(uuid: str, owner: str, order: Order, now_ms: int) -> Job:
    """A job that waits for its photos."""
    return Job(uuid, owner, order, State.UPLOADING, now_ms)


def committed(job: Job, images_count: int, now_ms: int) -> Job:
    """All files are here; from now on it is a task."""
    _only_from(job, "commit", State.UPLOADING)
    return replace(job, state=State.COMMITTING, images_count=images_count, touched_ms=now_ms)


def prepared(job: Job, images_count: int, now_ms: int) -> Job:
    """Files are sorted into their places, URLs fetched."""
    _only_from(job, "prepare", State.COMMITTING)
    return replace(job, state=State.QUEUED, images_count=images_count, touched_ms=now_ms)


def started(job: Job, now_ms: int) -> Job:
    """A driver works on it. The clock of an earlier run that the server's death cut off runs on."""
    _only_from(job, "start", State.QUEUED)
    begun = now_ms if job.started_ms is None else job.started_ms
    return replace(job, state=State.RUNNING, started_ms=begun, runs=job.runs + 1, touched_ms=now_ms)


def progressed(job: Job, percent_of_run: float) -> Job:
    """The run says how far it is; what it cannot know (NaN, negative, back-steps) changes nothing."""
    if job.state is not State.RUNNING:
        return job
    shown = PROGRESS_OF_RUN * min(percent_of_run, 100.0)
    return replace(job, progress=shown) if shown > job.progress else job


def driver_ended(job: Job, end: RunEnd, now_ms: int) -> Job:
    """The run is over: results are packed, or the job has failed."""
    _only_from(job, "end", State.RUNNING)
    if end.code != 0:
        return failed(job, end.text, now_ms)
    return replace(job, state=State.ZIPPING, progress=max(job.progress, 90.0), touched_ms=now_ms)


def packed(job: Job, now_ms: int) -> Job:
    """all.zip can be downloaded."""
    _only_from(job, "pack", State.ZIPPING)
    spent = job.processing_time_ms(now_ms)
    return replace(job, state=State.COMPLETED, progress=100.0, processing_ms=max(spent, 0), touched_ms=now_ms)


def failed(job: Job, error: str, now_ms: int) -> Job:
    """It cannot go on; `error` says why."""
    _only_from(job, "fail", State.COMMITTING, State.RUNNING, State.ZIPPING)
    spent = job.processing_time_ms(now_ms)
    return replace(job, state=State.FAILED, error=error, processing_ms=max(spent, 0), touched_ms=now_ms)


def canceled(job: Job, now_ms: int) -> Job:
    """The client wants it no more; what is made is kept until removal. Canceling twice is fine, as in NodeODM."""
    _only_from(job, "cancel", *CANCELABLE)
    return replace(job, state=State.CANCELED, started_ms=None, processing_ms=None, touched_ms=now_ms)


def restarted(job: Job, order: Order, now_ms: int) -> Job:
    """From the beginning, with other options perhaps; steps that still hold are not run again. A job that was canceled
    or failed before its files were sorted is prepared first.
    """
    if job.state not in ENDED:
        raise JobError("Task cannot be restarted")
    order = replace(order, created_ms=now_ms)
    state = State.QUEUED if job.runs else State.COMMITTING
    sent = Sent.NO if job.sent is Sent.NO else Sent.STALE
    return Job(job.uuid, job.owner, order, state, now_ms, images_count=job.images_count, runs=job.runs, sent=sent)


def removing(job: Job, now_ms: int) -> Job:
    """Its folder is about to be deleted; for clients it is gone already."""
    return replace(job, state=State.REMOVING, touched_ms=now_ms)


def recovered(job: Job, now_ms: int) -> Job:
    """The job after the server died and came back: drivers died with it, all other work is simply done again."""
    return replace(job, state=State.QUEUED, touched_ms=now_ms) if job.state is State.RUNNING else job


def _only_from(job: Job, event: str, *states: State) -> None:
    if job.state not in states:
        raise JobError(f"Cannot {event} a task that is {job.state.value}", job.uuid)
