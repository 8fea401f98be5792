"""The wall clock in NodeODM's unit, in one place so that tests can set it; and whether somebody set it."""

from __future__ import annotations

import time
from dataclasses import dataclass

_NO_JUMP_MS = 60_000


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class Jump:
    """The clock was set. by_ms: negative when it was set back. low_ms: the earlier of what it showed before and after."""

    by_ms: int
    low_ms: int

    def moved(self, time_ms: int) -> int:
        """The moment that was `time_ms`, as the clock counts now; moments that seem to have been told after the jump stay."""
        told_before = (time_ms <= self.low_ms) == (self.by_ms > 0)
        return time_ms + self.by_ms if told_before else time_ms


class ClockWatch:
    """Sees when the clock is set: a computer without a battery for it starts with an old time and is told the right one later."""

    def __init__(self) -> None:
        self._ahead_ms = _ahead_ms()

    def jump(self) -> Jump | None:
        """How the clock was set since the last question; None if it was not, or by less than a minute."""
        before_ms, self._ahead_ms = self._ahead_ms, _ahead_ms()
        by_ms = self._ahead_ms - before_ms
        return Jump(by_ms, now_ms() - max(by_ms, 0)) if abs(by_ms) > _NO_JUMP_MS else None


def _ahead_ms() -> int:
    """Of a clock that nobody sets, and that goes on while the computer sleeps."""
    return now_ms() - time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
