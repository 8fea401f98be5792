"""A driver is the child process that runs one job. It is started by a command, speaks lines of JSON on its standard output

    {"event": "say", "text"}   {"event": "step", "stage", "name", "state", "machine"}
    {"event": "stages", "stages": [{"stage", "done", "total", "failed", "rest_s"}], "rest_s", "progress": 0 … 100}
    {"event": "end", "code", "message", "todo", "where", "holes": […]}

and ends when its lifeline (a pipe) closes, so it never outlives the server. What it says otherwise is shown as output.
A driver that dies without `end` died: it is started again, for finished steps are kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from passel.server.jobs import RunEnd

GRACE_S = 1.0
"""Between the polite signal and the last one: a cancel takes less than two seconds."""
LONGEST_LINE_BYTES = 4_000_000


@dataclass(frozen=True)
class Say:
    """A line for the task's output."""

    text: str


@dataclass(frozen=True)
class StageState:
    """How far a stage is. rest_s: forecast, None = unknown."""

    stage: str
    done: int
    total: int
    failed: int
    rest_s: float | None


@dataclass(frozen=True)
class Stages:
    """How far the run is. progress: percent of the run."""

    stages: tuple[StageState, ...] = ()
    rest_s: float | None = None
    progress: float = 0.0


@dataclass(frozen=True)
class StepSeen:
    """A step that finished. state: 'done', 'reused' or 'failed'. machine: who ran it."""

    stage: str
    name: str
    state: str
    machine: str


@dataclass(frozen=True)
class End:
    """The run is over. holes: what the map lacks, in words."""

    end: RunEnd
    holes: tuple[str, ...] = ()


Event = Say | Stages | StepSeen | End


def read_event(line: bytes) -> Event:
    """The event in a line; what is none is something to say."""
    text = line.decode(errors="replace").rstrip()
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return Say(text)
    known = {"say": _say, "stages": _stages, "step": _step, "end": _end}
    reader = known.get(str(fields.get("event"))) if isinstance(fields, dict) else None
    try:
        return Say(text) if reader is None else reader(fields)
    except (TypeError, ValueError, AttributeError, OverflowError):
        return Say(text)


def _say(fields: dict[str, Any]) -> Event:
    return Say(str(fields.get("text", "")))


def _stages(fields: dict[str, Any]) -> Event:
    stages = tuple(
        StageState(
            str(s.get("stage", "")),
            int(s.get("done", 0)),
            int(s.get("total", 0)),
            int(s.get("failed", 0)),
            _finite(s.get("rest_s")),
        )
        for s in fields.get("stages", [])
    )
    return Stages(stages, _finite(fields.get("rest_s")), _finite(fields.get("progress")) or 0.0)


def _step(fields: dict[str, Any]) -> Event:
    return StepSeen(*(str(fields.get(k, "")) for k in ("stage", "name", "state", "machine")))


def _end(fields: dict[str, Any]) -> Event:
    words = [str(fields.get(k) or "") for k in ("message", "todo", "where")]
    return End(RunEnd(int(fields.get("code", 1)), *words), tuple(map(str, fields.get("holes") or ())))


def _finite(value: object) -> float | None:
    number = float(value) if isinstance(value, int | float) else math.nan
    return number if math.isfinite(number) else None


class Driver:
    """A running driver. `run` it once; `stop` it from another task."""

    def __init__(self, command: Callable[[int], Sequence[str]], log: Path) -> None:
        """command: given the file descriptor of the lifeline. log: file for its standard error."""
        self._command, self._log = command, log
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False

    async def run(self, tell: Callable[[Event], None]) -> End | None:
        """Start it and tell its events until it ended. None: it died, or was stopped, without saying how it ended."""
        if self._stopping:
            return None
        lifeline, mine = os.pipe()
        try:
            process = self._process = await self._start(lifeline)
            exited = _ExitWatch(process.pid, lambda: self._signal(signal.SIGKILL))
            try:
                if self._asked_to_stop():  # while it was being started
                    self._signal(signal.SIGKILL)
                return await self._listen(process, tell)
            finally:
                self._signal(signal.SIGKILL)  # itself, if this task is canceled
                await process.wait()
                exited.close()
        finally:
            os.close(mine)

    async def _start(self, lifeline: int) -> asyncio.subprocess.Process:
        try:
            with open(self._log, "wb") as log:
                return await asyncio.create_subprocess_exec(
                    *self._command(lifeline),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=log,
                    pass_fds=(lifeline,),
                    start_new_session=True,
                    limit=LONGEST_LINE_BYTES,
                )
        finally:
            os.close(lifeline)

    async def _listen(self, process: asyncio.subprocess.Process, tell: Callable[[Event], None]) -> End | None:
        assert process.stdout is not None
        end: End | None = None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # a line longer than the limit: it is dropped, the next one is read
                continue
            if not line:
                break
            event = read_event(line)
            if isinstance(event, End):
                end = event
                continue  # it is over when the process is
            tell(event)
        await process.wait()
        return end

    @property
    def code(self) -> int:
        """Exit code as a shell tells it: 128 + signal when it was killed; 0 before it ended."""
        code = self._process.returncode if self._process is not None else 0
        return 128 - code if code is not None and code < 0 else code or 0

    def _asked_to_stop(self) -> bool:
        return self._stopping

    async def stop(self) -> None:
        """End it and all that it started, within two seconds. Returns when it is gone."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), GRACE_S)
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await process.wait()

    def _signal(self, number: signal.Signals) -> None:
        """To the whole group, which is there as long as the leader has not been waited for or members live."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


class _ExitWatch:
    """Calls back when a process has exited, even while its children hold its standard output open: they are what the
    callback must end, or reading would never end.
    """

    def __init__(self, pid: int, call: Callable[[], None]) -> None:
        self._loop, self._call = asyncio.get_running_loop(), call
        try:
            self._fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._fd = -1
            call()
        else:
            self._loop.add_reader(self._fd, self._exited)

    def _exited(self) -> None:
        self.close()
        self._call()

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
