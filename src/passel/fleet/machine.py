"""The one interface to clouds: create, list, destroy; and the ways in which they refuse.

A provider does one call and says what came of it. It keeps no state, tries nothing twice and waits for nothing: the
reconcile loop sees in the next listing what is true and asks again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from passel.errors import PasselError

FLEET_TAG = "passel"
"""Every machine of every fleet carries this tag."""


class Power(Enum):
    """What the provider says about a machine."""

    STARTING = "starting"
    ON = "on"
    OFF = "off"
    """Switched off or broken; still billed by most clouds."""
    LEAVING = "leaving"
    """Being destroyed."""


@dataclass(frozen=True)
class Order:
    """A machine to be made."""

    name: str
    """Unique for ever: the key that makes a repeated create harmless."""
    fleet: str
    """The fleet's id; becomes a tag."""
    size: str
    """The provider's word for a kind of machine."""
    region: str
    boot_script: str
    """Runs once, as root, when the machine starts."""
    storage_gb: int | None = None
    """Disk, where the provider lets one choose."""
    spot_price: float | None = None
    """The most to pay an hour; None pays the market's price."""


@dataclass(frozen=True)
class MachineSeen:
    """A machine of our fleet as the provider lists it."""

    id: str
    name: str
    size: str
    region: str
    power: Power
    created_s: float
    """When the provider made it, seconds since 1970."""
    address: str = ""
    """Where it can be reached; empty while it has none."""
    evicted: bool = False
    """True when the provider has said that it takes the machine back soon."""


@dataclass(frozen=True)
class Listing:
    """All machines of a fleet, and the regions that did not answer: nothing is known about machines there."""

    machines: tuple[MachineSeen, ...]
    silent_regions: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Price:
    """What a machine costs."""

    per_hour: float
    currency: str
    source: str
    """Where the number is from, for people."""
    certain: bool = True
    """False for a published price that may have changed since: good for a guess, not for a budget."""


class Provider(Protocol):
    """A cloud. Every method may raise `ProviderError`; what it means for `create` is in the subclasses."""

    name: str

    def create(self, order: Order) -> str:
        """Asks for a machine and returns the provider's id for it.

        The same order again makes no second machine where the provider can tell.
        """

    def list(self, fleet: str, regions: Sequence[str]) -> Listing:
        """Machines with the fleet's tag in these regions. `fleet` empty: the machines of every fleet."""

    def destroy(self, machine_id: str, region: str) -> None:
        """Asks for the end of a machine and of its disks. A machine that does not exist is fine."""

    def price(self, size: str, region: str) -> Price | None:
        """What the provider says it costs now; None when it does not say. Costs nothing."""


class ProviderError(PasselError):
    """A cloud did not do what was asked; nothing was made."""


class NoCapacityError(ProviderError):
    """The region has no such machine at present: another region may."""


class RefusedError(ProviderError):
    """The cloud refuses for a reason that waiting does not mend: a wrong key, an unknown size, a quota."""


class BusyError(ProviderError):
    """Too many requests; `wait_s` is what the cloud asks for."""

    def __init__(self, what: str, where: str = "", todo: str = "", wait_s: float = 0.0) -> None:
        super().__init__(what, where, todo)
        self.wait_s = wait_s


class UncertainError(ProviderError):
    """No clear answer: the machine may exist or not. Only a listing can tell."""


def fleet_tag(fleet: str) -> str:
    """The tag of one fleet's machines."""
    return f"{FLEET_TAG}-{fleet}"
