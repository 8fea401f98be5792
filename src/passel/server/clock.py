"""The wall clock in NodeODM's unit, in one place so that tests can set it."""

from __future__ import annotations

import time


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
