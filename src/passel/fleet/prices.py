"""What sizes cost: from the fleet file, else from the cloud, asked once a day."""

from __future__ import annotations

from collections.abc import Callable

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
        return self._asked(size.slug, region)

    def per_hour(self, size: Size, region: str) -> float | None:
        """The number to count with. A price in another currency than the budget's is worth nothing to us."""
        price = self.price(size, region)
        if price is None or (self._config.budget and price.currency not in {"", self._config.currency}):
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
