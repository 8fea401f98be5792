"""The wall clock in NodeODM's unit, in one place so that tests can set it; and whether somebody set it."""

from __future__ import annotations

import time

_NO_JUMP_MS = 60_000


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class ClockWatch:
    """Sees when the clock is set: a computer without a battery for it starts with an old time and is told the right one later."""

    def __init__(self) -> None:
        self._ahead_ms = _ahead_ms()

    def forward_ms(self) -> int:
        """By how much the clock was set forward since the last question; 0 if it was not, or by less than a minute."""
        before_ms, self._ahead_ms = self._ahead_ms, _ahead_ms()
        jump_ms = self._ahead_ms - before_ms
        return jump_ms if jump_ms > _NO_JUMP_MS else 0


def _ahead_ms() -> int:
    """Of a clock that nobody sets, and that goes on while the computer sleeps."""
    return now_ms() - time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
