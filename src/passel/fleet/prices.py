"""What sizes cost: from the fleet file, else from the cloud, asked once a day, else from a list of published prices.

The list (`list_prices.json`, each with its source and date) is for guesses only: a budget counts with what the file or the cloud says.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from importlib.resources import files

from passel.fleet.config import FleetConfig, Size
from passel.fleet.machine import Price, Provider, ProviderError

_DAY_S = 86_400.0
_AGAIN_S = 300.0


class PriceBook:
    """Prices an hour, remembered."""

    def __init__(self, config: FleetConfig, provider: Provider, clock: Callable[[], float]) -> None:
        self._config, self._provider, self._clock = config, provider, clock
        self._known: dict[tuple[str, str], tuple[float, Price | None]] = {}

    def price(self, size: Size, region: str) -> Price | None:
        """The price of a size, None when nobody knows it."""
        if size.price_hour is not None:
            return Price(size.price_hour, self._config.currency, "the fleet file")
        return self._asked(size.slug, region) or published(self._config, size.slug, region)

    def per_hour(self, size: Size, region: str) -> float | None:
        """The number to count with. To a budget, a price in another currency or one that may have changed is worth nothing."""
        price = self.price(size, region)
        if price is None:
            return None
        if self._config.budget and not (price.certain and price.currency in {"", self._config.currency}):
            return None
        return price.per_hour

    def of_slug(self, slug: str, region: str) -> float | None:
        """The price of a machine that exists."""
        size = next((s for s in self._config.sizes if s.slug == slug), Size(slug, 0))
        return self.per_hour(size, region)

    def _asked(self, slug: str, region: str) -> Price | None:
        known = self._known.get((slug, region))
        if known is not None and self._clock() < known[0]:
            return known[1]
        try:
            price = self._provider.price(slug, region)
        except ProviderError:
            price = None  # a price is no reason to fail; without one a budget allows nothing
        self._known[slug, region] = self._clock() + (_AGAIN_S if price is None else _DAY_S), price
        return price


def published(config: FleetConfig, slug: str, region: str) -> Price | None:
    """A published price on demand; None when the list has none."""
    if config.spot:
        return None
    return _published().get((config.provider, slug, region)) or _published().get((config.provider, slug, ""))


@cache
def _published() -> dict[tuple[str, str, str], Price]:
    """By provider, size and region; '' = in every region."""
    rows = json.loads(files("passel.fleet").joinpath("list_prices.json").read_text("utf-8"))
    return {
        (row["provider"], slug, region): Price(
            per_hour, row["currency"], f"{row['source']}, {row['date']}", certain=False
        )
        for row in rows
        for slug, per_hour in row["per_hour"].items()
        for region in row["regions"] or [""]
    }
