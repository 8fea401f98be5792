"""Which regions to leave alone for a while after they said no."""

from __future__ import annotations

from passel.fleet.machine import BusyError, NoCapacityError, ProviderError, RefusedError

_FIRST_S = 30.0
_LONGEST_S = 1800.0
_REFUSED_S = 300.0
_EVERYWHERE = ""


class Rest:
    """Kept in memory only: after a restart everything may be tried once."""

    def __init__(self, regions: tuple[str, ...]) -> None:
        self._regions = regions
        self._until_s: dict[tuple[str, str], float] = {}
        self._refusals: dict[tuple[str, str], int] = {}

    def open_regions(self, slug: str, now_s: float) -> list[str]:
        """Regions where a machine of this size may be asked for now, in the order of the fleet file."""
        if self._resting(_EVERYWHERE, _EVERYWHERE, now_s):
            return []
        return [r for r in self._regions if not self._resting(r, slug, now_s)]

    def after(self, error: ProviderError, region: str, now_s: float, slug: str = "") -> None:
        """Remembers a refusal: no capacity closes a size in a region, ever longer; the rest closes everything."""
        if isinstance(error, NoCapacityError):
            count = self._refusals.get((region, slug), 0)
            self._refusals[region, slug] = count + 1
            self._until_s[region, slug] = now_s + min(_LONGEST_S, _FIRST_S * 2**count)
        elif isinstance(error, BusyError):
            self._until_s[_EVERYWHERE, _EVERYWHERE] = now_s + max(error.wait_s, 1.0)
        elif isinstance(error, RefusedError):
            self._until_s[_EVERYWHERE, _EVERYWHERE] = now_s + _REFUSED_S

    def went_well(self, region: str, slug: str) -> None:
        """A machine was made."""
        self._refusals.pop((region, slug), None)

    def _resting(self, region: str, slug: str, now_s: float) -> bool:
        return self._until_s.get((region, slug), 0.0) > now_s
