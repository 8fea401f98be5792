"""The reconcile loop: once a turn, what is wanted and what exists are compared, and one step is made towards agreement.

Every turn begins from nothing but the book, the cloud's listing, the demand and the connected workers. What a turn
decides is written before it is done, and what is done may be done again: so a kill at any point, a lost answer or a
turn that fails are all repaired by the next turn.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from passel.errors import PasselError, UsageError
from passel.fleet.boot import NODE_PORT, Newcomer, boot_script
from passel.fleet.census import Change, drain, foreign, leave, machine_name, take_census
from passel.fleet.config import FleetConfig, Kind, Size
from passel.fleet.ledger import Ledger, Machine, State
from passel.fleet.life import attend, muster
from passel.fleet.machine import (
    BusyError,
    Listing,
    NoCapacityError,
    Order,
    Provider,
    ProviderError,
    RefusedError,
    UncertainError,
)
from passel.fleet.ports import Coordinator, Nodes, WorkerSeen
from passel.fleet.prices import PriceBook
from passel.fleet.purse import Purse
from passel.fleet.rest import Rest
from passel.fleet.sizing import Plan, plan

_log = logging.getLogger("passel.fleet")
_MOST_CREATES = 8
"""In one turn; the rest waits for the next."""
_TOKEN_MARGIN_S = 300.0


Book = tuple[Machine, ...]


@dataclass(frozen=True)
class Surroundings:
    """What a fleet works with."""

    config: FleetConfig
    provider: Provider
    coordinator: Coordinator
    nodes: Nodes | None
    """The gateway, when machines are nodes."""
    say: Callable[[str], None]
    """Tells the operator something, once for each time it becomes true."""
    clock: Callable[[], float] = time.time


class Fleet:
    """Machines for a coordinator. One process at a time may run it on a ledger; `passel serve` holds its data folder's lock."""

    def __init__(self, ledger: Ledger, around: Surroundings, node_key: bytes = b"") -> None:
        self._ledger = ledger
        self._around = around
        self._config = around.config
        self._node_key = node_key
        self._prices = PriceBook(around.config, around.provider, around.clock)
        self._rest = Rest(around.config.regions)
        self._told: set[str] = set()
        self._telling: set[str] = set()

    def run(self, stop: threading.Event) -> None:
        """Turns until `stop` is set. A turn that fails is told and tried again."""
        while not stop.is_set():
            try:
                self.turn()
            except PasselError as error:
                self._tell(str(error))
                self._end_what_must_end()
            except TimeoutError:
                self._tell("The coordinator is too busy to answer the fleet; it is asked again")
                self._end_what_must_end()
            except Exception as error:
                _log.exception("a turn of the fleet failed")
                self._tell(f"A turn of the fleet failed, machines may run on: {error!r}; see the log and report it")
                self._end_what_must_end()
            self._end_of_telling()
            stop.wait(self._config.limits.turn_s)

    def turn(self) -> None:
        """One step towards agreement. Raises PasselError when the book, the queue or the gateway cannot be used."""
        now_s = self._around.clock()
        book = self._ledger.machines()
        listing = self._list(book)
        grace_s = self._config.limits.grace_s
        book = self._apply(book, take_census(book, listing, self._ledger.fleet, grace_s, now_s), now_s)
        self._tell_foreign(listing)
        crew = self._crew()
        book = self._apply(book, muster(book, crew, self._config.limits, now_s), now_s)
        wants = self._wants(book, now_s)
        book = self._apply(book, attend(book, crew, wants.needed, self._config.limits, now_s), now_s)
        book = self._apply(book, self._surplus(book, now_s), now_s)
        held = Purse(self._config, now_s).hold(book)
        if held:
            self._tell(f"The budget of {self._config.budget_text} is used up: machines are drained, none are made")
        book = self._apply(book, held, now_s)
        book = self._apply(book, Purse(self._config, now_s).unpriced(book), now_s)
        self._attach(book, crew)
        self._pass_on_drains(book, crew)
        self._destroy(book)
        if set(self._config.regions) - listing.silent_regions:  # never make machines blindly
            self._create(wants.missing, now_s)

    def _end_what_must_end(self) -> None:
        """After a turn that failed, perhaps since the disk is full: without writing, end what the book says must end.

        When the money is used up that is everything: nothing can be drained in order now.
        """
        try:
            book = self._ledger.machines()
            broke = bool(Purse(self._config, self._around.clock()).hold(book))
            self._destroy(tuple(replace(m, state=State.LEAVING) for m in book if m.alive) if broke else book)
        except PasselError as error:
            self._tell(f"Machines may run on unattended: {error}")

    def spent(self) -> float:
        """The money spent in the budget's period until now."""
        return Purse(self._config, self._around.clock()).spent(self._ledger.machines())

    # --- what is there

    def _list(self, book: Book) -> Listing:
        regions = sorted(set(self._config.regions) | {m.region for m in book if m.alive})
        try:
            listing = self._around.provider.list(self._ledger.fleet, regions)
        except ProviderError as error:
            self._tell(f"The list of machines cannot be read: {error}")
            self._rest.after(error, "", self._around.clock())
            return Listing((), frozenset(regions))
        if listing.silent_regions:
            self._tell(f"No answer from: {', '.join(sorted(listing.silent_regions))}")
        return listing

    def _apply(self, book: Book, changes: list[Change], now_s: float) -> Book:
        """Writes changes, tells their texts, and returns the changed book."""
        if not changes:
            return book
        priced = [_with_price(change, self._prices) for change in changes]
        for change in priced:
            if change.machine.state is State.GONE:
                self._forget(change.machine)  # first: after a kill in between it is done again
        self._ledger.save([(c.machine, c.text) for c in priced], now_s)
        for change in priced:
            if change.text:
                self._around.say(f"{change.machine.name} ({change.machine.size}): {change.text}")
        lines = {m.name: m for m in book} | {c.machine.name: c.machine for c in priced}
        return tuple(lines.values())

    def _tell_foreign(self, listing: Listing) -> None:
        strangers = foreign(listing, self._ledger.fleet)
        if strangers:
            self._tell(f"Machines with this fleet's tag but not its name are left alone: {', '.join(strangers)}")

    def _crew(self) -> Mapping[str, WorkerSeen]:
        seen = self._nodes.nodes() if self._is_node else self._around.coordinator.workers()
        return {worker.name: worker for worker in seen}

    # --- what is wanted

    def _wants(self, book: Book, now_s: float) -> Plan:
        if self._ledger.closed:
            self._tell(f"The fleet is closed: no machines are made ({self._ledger.typed('open')})")
            return Plan(frozenset(), ())
        wants = plan(self._around.coordinator.demand(), book, self._config, now_s)
        for remark in wants.remarks:
            self._tell(remark)
        return wants

    def _surplus(self, book: Book, now_s: float) -> list[Change]:
        """A closed fleet goes, and what a person wants gone; a limit that was lowered is kept."""
        if self._ledger.closed:
            return _dismissed(book, "the fleet is closed", now_s)
        wished = self._ledger.wished_drains()
        if any(m.name in wished and m.state in {State.BOOTING, State.UP} for m in book):
            return _dismissed([m for m in book if m.name in wished], "asked for", now_s)
        alive = [m for m in book if m.alive]
        most = self._config.limits.machines
        extra = (
            0 if most is None else len(alive) - most - sum(m.state in {State.DRAINING, State.LEAVING} for m in alive)
        )
        movable = [m for m in reversed(alive) if m.state in {State.BOOTING, State.UP}]
        return [drain(m, "more machines than the limit", now_s) for m in movable[: max(0, extra)]]

    # --- what is done

    def _attach(self, book: Book, crew: Mapping[str, WorkerSeen]) -> None:
        for machine in book if self._is_node else ():
            if machine.state in {State.BOOTING, State.UP} and machine.address and machine.name not in crew:
                self._nodes.add(machine.name, machine.address, NODE_PORT, self._node_token(machine.name))

    def _pass_on_drains(self, book: Book, crew: Mapping[str, WorkerSeen]) -> None:
        for machine in book:
            worker = crew.get(machine.name)
            leaving = machine.state in {State.DRAINING, State.LEAVING}
            if worker is None or not (leaving or machine.state is State.UP) or leaving == worker.drained:
                continue
            side = self._nodes if self._is_node else self._around.coordinator
            side.drain(machine.name, leaving)

    def _destroy(self, book: Book) -> None:
        for machine in book:
            if machine.state is not State.LEAVING or not machine.provider_id:
                continue
            try:
                self._around.provider.destroy(machine.provider_id, machine.region)
            except ProviderError as error:
                self._tell(f"{machine.name} could not be destroyed, trying again: {error}")

    def _create(self, missing: tuple[Size, ...], now_s: float) -> None:
        for size in missing[:_MOST_CREATES]:
            if not self._create_one(size, now_s):
                return

    def _create_one(self, size: Size, now_s: float) -> bool:
        """Tries regions until one makes a machine. False: no use to try for others in this turn."""
        for region in self._rest.open_regions(size.slug, now_s)[: self._config.limits.create_retries]:
            book = self._ledger.machines()
            most = self._config.limits.machines
            if most is not None and sum(m.alive for m in book) >= most:
                return False
            per_hour = self._prices.per_hour(size, region)
            if not Purse(self._config, now_s).allows(book, per_hour):
                unknown = "whose price is not known (give priceHour)" if per_hour is None else "with what is left of it"
                self._tell(f"The budget of {self._config.budget_text} does not allow a machine {size.slug} {unknown}")
                return False
            machine = Machine(
                name=machine_name(self._ledger.fleet, f"{int(now_s):x}-{secrets.token_hex(4)}"),
                size=size.slug,
                region=region,
                state=State.WANTED,
                wanted_s=now_s,
                spot=self._config.spot,
                per_hour=per_hour,
            )
            order = self._order(machine, size)
            if not self._ledger.intend(machine, now_s):
                return False  # closed meanwhile
            if self._ask_for(machine, order, now_s):
                return True
        return False

    def _order(self, machine: Machine, size: Size) -> Order:
        return Order(
            name=machine.name,
            fleet=self._ledger.fleet,
            size=size.slug,
            region=machine.region,
            boot_script=boot_script(self._newcomer(machine), self._config),
            storage_gb=size.storage_gb,
            spot_price=size.spot_price,
        )

    def _ask_for(self, machine: Machine, order: Order, now_s: float) -> bool:
        """Asks the cloud; True when the machine exists or may exist."""
        try:
            provider_id = self._around.provider.create(order)
        except UncertainError as error:
            self._around.say(f"{machine.name}: it is not clear whether it was made ({error.what})")
            return True
        except (NoCapacityError, RefusedError, BusyError) as error:
            self._rest.after(error, machine.region, now_s, machine.size)
            gone = replace(machine, state=State.GONE, gone_s=now_s, reason=error.what)
            self._apply((), [Change(gone, str(error))], now_s)
            return False
        made = replace(machine, state=State.BOOTING, provider_id=provider_id, started_s=now_s)
        self._rest.went_well(machine.region, machine.size)
        self._apply((), [Change(made, f"made in {machine.region}")], now_s)
        return True

    def _newcomer(self, machine: Machine) -> Newcomer:
        if self._is_node:
            token = self._node_token(machine.name)
        else:
            lifetime_s = self._config.limits.boot_s + _TOKEN_MARGIN_S
            token = self._around.coordinator.mint_join_token(machine.name, lifetime_s)
        return Newcomer(machine.name, self._ledger.fleet, token)

    def _forget(self, machine: Machine) -> None:
        if self._is_node:
            self._nodes.remove(machine.name)
        else:
            self._around.coordinator.forget(machine.name)

    def _node_token(self, name: str) -> str:
        """Known again after a restart without being written down."""
        return hmac.new(self._node_key, name.encode(), hashlib.sha256).hexdigest()

    @property
    def _is_node(self) -> bool:
        return self._config.kind is Kind.NODE

    @property
    def _nodes(self) -> Nodes:
        if self._around.nodes is None:
            raise UsageError("Machines of this fleet become nodes, and there is no gateway for them")
        return self._around.nodes

    # --- telling

    def _tell(self, text: str) -> None:
        """Something that is true now; said again only after it was not true for a turn."""
        self._telling.add(text)
        if text not in self._told:
            self._around.say(text)

    def _end_of_telling(self) -> None:
        self._told, self._telling = self._telling, set()


def _dismissed(machines: Sequence[Machine], reason: str, now_s: float) -> list[Change]:
    """Those that have not joined are destroyed, the others finish what they do."""
    changes = [leave(m, reason) for m in machines if m.state is State.BOOTING]
    return changes + [drain(m, reason, now_s) for m in machines if m.state is State.UP]


def _with_price(change: Change, prices: PriceBook) -> Change:
    """An adopted machine has no price yet."""
    machine = change.machine
    if machine.per_hour is not None or not machine.alive:
        return change
    return replace(change, machine=replace(machine, per_hour=prices.of_slug(machine.size, machine.region)))
