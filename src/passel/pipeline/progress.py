"""What a person sees while it runs: a live table on a terminal, else plain lines every few seconds."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO, cast

import psutil
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from passel.pipeline.events import Event, StepFailed
from passel.pipeline.tally import StageTally, Tally

_LINES_EVERY_S = 5.0
_MEMORY_EVERY_S = 2.0


class Progress:
    """A context manager to be given as `on_event`; may be called from any thread.

    disk: a folder on the disk whose free space is shown. workers: steps that run at a time, for the time left.
    guess_s: seconds a step of a stage may take, by stage, until some are measured.
    """

    def __init__(
        self,
        disk: Path,
        workers: int,
        stream: TextIO | None = None,
        lines_every_s: float = _LINES_EVERY_S,
        guess_s: Mapping[str, float] | None = None,
    ) -> None:
        self._stream = _Lasting(stream or sys.stderr)
        self._tally = Tally(workers, guess_s)
        self._disk, self._lines_every_s = disk, lines_every_s
        self._guard = threading.Lock()
        self._start_s = self._last_line_s = time.monotonic()
        self._said: dict[str, int] = {}
        self._memory = _TreeMemory()
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        if self._stream.isatty():
            console = Console(file=cast(TextIO, self._stream))
            self._live = Live(get_renderable=self._table, console=console, refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        else:
            with self._guard:
                self._say_changed()

    def __call__(self, event: Event) -> None:
        """Takes an event; a failure that is a cause (not a skip) is said at once."""
        with self._guard:
            self._tally.add(event, time.monotonic())
        if isinstance(event, StepFailed) and event.failure.kind not in ("skipped", "stopped"):
            self.say(f"{event.failure.step.stage} {event.failure.step.name} failed: {event.failure.message}")
        if self._live is None:
            with self._guard:
                self._say_lines()

    def say(self, text: str) -> None:
        """Prints a line above the display."""
        if self._live:
            self._live.console.print(Text(text))
        else:
            self._stream.write(f"{text}\n")
            self._stream.flush()

    def _say_lines(self) -> None:
        """Plain lines: the stages that changed, every few seconds, and each stage when it is complete."""
        now_s, stages = time.monotonic(), self._tally.stages.values()
        if not any(s.rest for s in stages):
            return  # the plan is about to grow: perhaps by more steps of the stage that seems complete
        complete = any(s.rest == 0 and self._said.get(s.stage) != s.settled for s in stages)
        if complete or now_s - self._last_line_s >= self._lines_every_s:
            self._say_changed()
            self._last_line_s = now_s

    def _say_changed(self) -> None:
        for stage in self._tally.stages.values():
            if self._said.get(stage.stage, 0) != stage.settled:
                self._said[stage.stage] = stage.settled
                self._stream.write(f"{plain_line(stage, self._tally.stage_rest_s(stage))}\n")
                self._stream.flush()

    def _table(self) -> RenderableType:
        with self._guard:
            table = Table.grid(padding=(0, 2))
            for stage in self._tally.stages.values():
                bar = ProgressBar(total=max(1, stage.total), completed=stage.settled, width=30)
                rest_s = self._tally.stage_rest_s(stage)
                left = _ended(stage) if stage.rest == 0 else f"{duration(rest_s)} left"
                failed = Text(f"{stage.failed} failed", style="red") if stage.failed else Text("")
                table.add_row(stage.stage, bar, f"{stage.settled}/{stage.total}", left, failed)
            total_s, more = self._tally.rest_s(), "" if self._tally.rest_is_whole else "more than "
        elapsed_s = time.monotonic() - self._start_s
        foot = (
            f"{duration(elapsed_s)} gone, {more}{duration(total_s)} left, memory {self._memory.read_mb() / 1000:.1f} GB"
        )
        return Group(table, Text(f"{foot}, disk {_free_gb(self._disk)} free", style="dim"))


def plain_line(stage: StageTally, rest_s: float | None) -> str:
    """'features 12/400 3:20 left', or with what it took when it is complete."""
    tail = _ended(stage) if stage.rest == 0 else f"{duration(rest_s)} left"
    failed = f", {stage.failed} failed" if stage.failed else ""
    return f"{stage.stage} {stage.settled}/{stage.total} {tail}{failed}"


def duration(seconds: float | None) -> str:
    """'0:07', '3:20', '2:05:00'; '?' when unknown."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _ended(stage: StageTally) -> str:
    reused = f" ({stage.reused} reused)" if stage.reused else ""
    return f"done in {duration(stage.wall_seconds)}{reused}"


def _free_gb(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 1e9:.0f} GB"
    except OSError:
        return "?"


class _Lasting:
    """A stream whose reader may go away (a closed terminal, `| head`): the run goes on unseen, log.json tells of it.

    The system's refusal would otherwise pass for trouble with the output folder, and end the run.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding = stream.encoding

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


class _TreeMemory:
    """Resident memory of this process and its children; read at most every few seconds, for it costs."""

    def __init__(self) -> None:
        self._read_s, self._value_mb = 0.0, 0.0

    def read_mb(self) -> float:
        now_s = time.monotonic()
        if now_s - self._read_s >= _MEMORY_EVERY_S:
            self._read_s, self._value_mb = now_s, _tree_mb()
        return self._value_mb


def _tree_mb() -> float:
    here = psutil.Process()
    total = 0
    for process in [here, *here.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.Error:  # ended meanwhile
            continue
    return total / 1e6
