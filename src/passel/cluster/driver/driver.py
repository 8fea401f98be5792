"""The driver: the child process of `passel serve` that runs one job on the workers of the passel.

    python -m passel.cluster.driver.driver --socket S --job UUID --photos DIR --output DIR --options FILE.json --run N --lifeline FD

FILE.json holds the words of a command line as a list. Events are lines of JSON on standard output (`driver_events.py`). It
ends with its parent (the lifeline is a pipe that ends then), on SIGTERM, and when the coordinator's socket ends; what is
finished is kept, and a driver that is started again for the same job goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from passel.cluster.driver.driver_events import EventLines
from passel.cluster.driver.passel_executor import CoordinatorLostError, JobLink, PasselExecutor
from passel.cluster.full_disk import FullDisk
from passel.collector import look_seldom
from passel.errors import Interrupted, PasselError, StorageError, UsageError
from passel.options import Options, parse_options
from passel.pipeline.job import Project
from passel.pipeline.run import RunRequest, RunResult, run_job
from passel.pipeline.side_files import with_side_files
from passel.pipeline.store import Store, is_full_disk, storage_error

_PREDECESSOR_S = 10.0
"""A driver of the same job that is being killed may hold the store's lock so long."""
_NO_ROOM_S = 3600.0
"""A full disk is waited for so long, as the coordinator does with steps that one refuses."""
_LOOK_S = 1.0


@dataclass(frozen=True)
class DriverTask:
    """What a driver is started for. words: of a command line, without folders. lifeline: file descriptor, -1 for none.

    run: a number that drivers of one run have in common, and those of another run of the same job do not.
    """

    link: JobLink
    photos: Path
    output: Path
    words: tuple[str, ...]
    lifeline: int
    run: int = 0

    def note_begin(self) -> None:
        """Written once the run has begun: what --rerun-all wanted gone is gone now, and what is there is new."""
        self._marker.parent.mkdir(parents=True, exist_ok=True)
        self._marker.write_text(self._this_run, "utf-8")

    def has_begun(self) -> bool:
        """True when this very run was begun by an earlier driver that was stopped or died."""
        return self._marker.is_file() and self._marker.read_text("utf-8") == self._this_run

    def note_end(self) -> None:
        """The run is over: the next one with the same words is a new one."""
        with suppress(OSError):  # a broken disk has been told of already
            self._marker.unlink(missing_ok=True)

    @property
    def _this_run(self) -> str:
        return json.dumps([self.run, *self.words])

    @property
    def _marker(self) -> Path:
        return Project(self.output).work / "begun.json"


def drive(task: DriverTask, lines: EventLines) -> int:
    """Runs the job and says how it ended; the exit code."""
    try:
        parsed = parse_options(task.words)
        for notice in parsed.notices:
            lines.say(notice)
        options = with_side_files(parsed.options, task.photos, task.output)
        cores = options.max_concurrency if "max-concurrency" in parsed.values else 0
        result = _run(replace(task, link=replace(task.link, most_cores=cores)), options, lines)
    except KeyboardInterrupt:
        lines.end(Interrupted.exit_code, "The run was stopped")
        return Interrupted.exit_code
    except CoordinatorLostError as error:  # not the job's end, so none is told: the coordinator starts it again
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except Interrupted as error:
        lines.end(error.exit_code, error.what, error.todo, error.where)
        return error.exit_code
    except PasselError as error:
        task.note_end()
        lines.end(error.exit_code, error.what, error.todo, error.where)
        return error.exit_code
    except OSError as error:
        task.note_end()
        trouble = storage_error(error, task.output)
        lines.end(trouble.exit_code, trouble.what, trouble.todo, trouble.where)
        return trouble.exit_code
    task.note_end()
    lines.end(0, result.exit_message, holes=result.holes)
    return 0


def _run(task: DriverTask, options: Options, lines: EventLines) -> RunResult:
    """The run. When it finds the disk full, it waits for room and begins again: what is finished is not made again."""
    disk = FullDisk(task.output)
    while True:
        request = RunRequest(task.photos, task.output, _of_this_start(options, task), task.words)
        try:
            _wait_for_predecessor(Store(Project(task.output).store))
            return run_job(request, lambda place: PasselExecutor(place, task.link, lines.set_capacity), lines)
        except (StorageError, OSError) as error:
            if not is_full_disk(error):
                raise
            lines.say(f"The disk is full [{task.output}]: waiting until there is room on it")
            disk.note()
            _wait_for_room(disk, error)
            lines.say("There is room again: it goes on")


def _wait_for_room(disk: FullDisk, error: Exception) -> None:
    """Raises the error when nobody makes any for long."""
    deadline_s = time.monotonic() + _NO_ROOM_S
    while disk.is_full:
        if time.monotonic() > deadline_s:
            raise error
        time.sleep(_LOOK_S)


def _of_this_start(options: Options, task: DriverTask) -> Options:
    """Started again, a job does not throw away what it has made itself."""
    return replace(options, rerun_all=False, rerun_from="") if task.has_begun() else options


def _wait_for_predecessor(store: Store) -> None:
    deadline_s = time.monotonic() + _PREDECESSOR_S
    while True:
        try:
            with store.run_lock():
                return
        except StorageError as error:
            if not isinstance(error.__cause__, BlockingIOError) or time.monotonic() > deadline_s:
                raise
            time.sleep(0.1)


def _die_with_parent(lifeline: int) -> None:
    """A thread that waits for the end of the lifeline. At any moment: the store is never left half-written."""

    def watch() -> None:
        with suppress(OSError):
            while os.read(lifeline, 1):
                pass
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def _stop_like_ctrl_c(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _task_of(words: Sequence[str]) -> DriverTask:
    """Raises UsageError."""
    parser = argparse.ArgumentParser(prog="python -m passel.cluster.driver.driver", description=__doc__)
    for name, kind in (("socket", Path), ("job", str), ("photos", Path), ("output", Path), ("options", Path)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--run", type=int, default=0)
    parser.add_argument("--lifeline", type=int, default=-1)
    given = parser.parse_args(words)
    try:
        listed = json.loads(given.options.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"the options cannot be read: {error}", str(given.options)) from error
    if not isinstance(listed, list) or not all(isinstance(w, str) for w in listed):
        raise UsageError("the options are no list of words", str(given.options))
    link = JobLink(given.socket, given.job, given.share)
    return DriverTask(link, given.photos.absolute(), given.output.absolute(), tuple(listed), given.lifeline, given.run)


def main(words: Sequence[str] | None = None) -> int:
    """The process."""
    look_seldom()
    signal.signal(signal.SIGTERM, _stop_like_ctrl_c)
    try:
        task = _task_of(sys.argv[1:] if words is None else words)
    except PasselError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    if task.lifeline >= 0:
        os.set_inheritable(task.lifeline, False)
        _die_with_parent(task.lifeline)
    return drive(task, EventLines(sys.stdout, task.note_begin))


if __name__ == "__main__":
    sys.exit(main())
