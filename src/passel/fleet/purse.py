"""The budget: what was spent, what will be spent before we can be rid of everything, and what is still allowed. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from passel.fleet.census import Change, drain, leave
from passel.fleet.config import FleetConfig
from passel.fleet.ledger import Machine, State
from passel.fleet.money import BILLING, Span, cost, month_start_s

_MARGIN_S = 120.0
"""From the decision to destroy a machine until the cloud stops counting."""
_USEFUL_S = 600.0
"""A new machine must be able to stay at least so long, or it is not made."""
SPENT_UP = "the budget is used up"
UNPRICED = "nobody knows its price, and there is a budget (give priceHour)"


@dataclass(frozen=True)
class Purse:
    """The money of a fleet at one moment."""

    config: FleetConfig
    now_s: float

    def spent(self, book: Sequence[Machine]) -> float:
        """The money for all machines until now, in the budget's period."""
        return sum(self._cost(m, self.now_s) for m in book)

    def promised(self, book: Sequence[Machine]) -> float:
        """What will have been spent if we drain everything now and every machine uses all the time it has for that."""
        return sum(self._cost(m, self._end_s(m)) for m in book)

    def allows(self, book: Sequence[Machine], per_hour: float | None) -> bool:
        """May a machine at this price be made now? An unknown price is allowed only without a budget."""
        if self.config.budget is None:
            return True
        if per_hour is None:
            return False
        stay_s = self._stay_s + _USEFUL_S
        wanted = cost(Span(self.now_s, self.now_s + stay_s, per_hour), BILLING[self.config.provider])
        return self.promised(book) + wanted <= self.config.budget.amount

    def hold(self, book: Sequence[Machine]) -> list[Change]:
        """Drains everything while there is just enough money to do it in peace."""
        if self.config.budget is None or self.promised(book) <= self.config.budget.amount:
            return []
        booting = [leave(m, SPENT_UP) for m in book if m.state is State.BOOTING]
        return booting + [drain(m, SPENT_UP, self.now_s) for m in book if m.state is State.UP]

    def unpriced(self, book: Sequence[Machine]) -> list[Change]:
        """Drains what no budget can count: adopted machines, or such from before there was a budget."""
        if self.config.budget is None:
            return []
        booting = [leave(m, UNPRICED) for m in book if m.state is State.BOOTING and m.per_hour is None]
        return booting + [drain(m, UNPRICED, self.now_s) for m in book if m.state is State.UP and m.per_hour is None]

    @property
    def _stay_s(self) -> float:
        """How long a machine may stay when draining is decided in the next turn."""
        limits = self.config.limits
        return 3 * limits.turn_s + limits.drain_s + _MARGIN_S

    def _end_s(self, machine: Machine) -> float:
        if machine.state is State.LEAVING:
            return self.now_s + _MARGIN_S
        if machine.state is State.DRAINING and machine.drain_s is not None:
            return max(self.now_s, machine.drain_s + self.config.limits.drain_s) + _MARGIN_S
        return self.now_s + self._stay_s

    def _cost(self, machine: Machine, end_s: float) -> float:
        """A machine that the cloud refused to make costs nothing; one that may exist counts from the intent on."""
        start_s = machine.started_s if machine.started_s is not None else machine.wanted_s
        if machine.gone_s is not None:
            if machine.started_s is None:
                return 0.0
            end_s = min(machine.gone_s, end_s)
        monthly = self.config.budget is not None and self.config.budget.monthly
        since_s = month_start_s(self.now_s) if monthly else -math.inf
        if end_s <= since_s:
            return 0.0
        return cost(Span(start_s, end_s, machine.per_hour or 0.0), BILLING[self.config.provider], since_s)
