"""What machines cost and have cost. Pure. Every doubt is counted against us: the ledger is never below the bill."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True)
class Billing:
    """How a cloud counts time."""

    quantum_s: float
    """A part of this is billed as a whole one."""
    minimum_s: float = 0.0
    minimum: float = 0.0
    """The least that a machine costs, in the cloud's currency."""


BILLING = {
    "aws": Billing(1.0, 60.0),
    "digitalocean": Billing(1.0, 60.0, 0.01),
    "hetzner": Billing(3600.0),
    "scaleway": Billing(3600.0),
    "local": Billing(1.0),
    "ssh": Billing(1.0),
}


@dataclass(frozen=True)
class Span:
    """A stretch of time that is paid for."""

    start_s: float
    end_s: float
    per_hour: float


def cost(span: Span, billing: Billing, since_s: float = -math.inf) -> float:
    """The money for a span, or for the part of it that is billed after `since_s`."""
    if since_s <= span.start_s:
        return _billed(span.end_s - span.start_s, span.per_hour, billing)
    before = _billed(since_s - span.start_s, span.per_hour, billing)
    return max(0.0, _billed(span.end_s - span.start_s, span.per_hour, billing) - before)


def _billed(seconds: float, per_hour: float, billing: Billing) -> float:
    seconds = max(seconds, billing.minimum_s, 0.0)
    whole_s = math.ceil(seconds / billing.quantum_s - 1e-9) * billing.quantum_s
    return max(whole_s * per_hour / 3600.0, billing.minimum)


def month_start_s(now_s: float) -> float:
    """The first second of the month (UTC)."""
    now = datetime.fromtimestamp(now_s, UTC)
    return datetime(now.year, now.month, 1, tzinfo=UTC).timestamp()
