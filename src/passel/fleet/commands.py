"""`passel fleet …`: what a person asks of a fleet. `cli.py` passes the words on; nothing here prints by itself."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from passel.errors import PasselError, UsageError
from passel.fleet.boot import Newcomer, boot_script
from passel.fleet.census import fleet_of, machine_name
from passel.fleet.config import FleetConfig, Kind, Size
from passel.fleet.fleet_file import read_fleet_file
from passel.fleet.ledger import Ledger, Machine, State
from passel.fleet.loop import Fleet, Surroundings
from passel.fleet.machine import Provider, ProviderError
from passel.fleet.ports import Demand, JobDemand, WorkerSeen
from passel.fleet.prices import PriceBook, published
from passel.fleet.providers.choose import open_provider
from passel.fleet.purse import Purse
from passel.fleet.sizing import machines_for, size_for
from passel.fleet.start import ledger_path

Say = Callable[[str], None]
_PATIENCE_S = 600.0
_PAUSE_S = 2.0
_HOUR_S = 3600.0


def fleet_command(words: Sequence[str], data: Path, say: Say, sleep: Callable[[float], None] = time.sleep) -> int:
    """Runs one command; `data` is the coordinator's data folder unless the words name one. Raises PasselError."""
    given = _parser().parse_args(list(words))
    folder: Path = given.data or data
    if given.command == "check":
        return check(given.file, given.photos, given.offline, say)
    if given.command == "list":
        return list_machines(given.file, folder, say)
    if given.command == "drain":
        return drain_machines(given.names, folder, say)
    if given.command == "destroy-all":
        if given.fleet:
            return destroy_by_tag(given.file, given.fleet, given.yes, say, sleep)
        return destroy_all(given.file, folder, given.yes, say, sleep)
    if given.command == "open":
        return open_again(folder, say)
    return spend(given.file, folder, say)


def check(file: Path, photos: int, offline: bool, say: Say) -> int:
    """Reads the file, asks the account for its machines and prices, and shows what a job would get. Makes nothing."""
    config = read_fleet_file(file)
    provider = open_provider(config, Path("unused"))
    for remark in config.remarks:
        say(f"note: {remark}")
    say(
        f"{config.provider}, machines become {'nodes' if config.kind is Kind.NODE else 'workers'}, {config.budget_text}"
    )
    code = 0 if offline else _ask_account(config, provider, say)
    job = JobDemand("example", photos, 0)
    size, count = size_for(job, config), machines_for(job, config)
    limit = config.limits.machines
    if size is None or count == 0:
        say(f"A job of {photos} photos gets no machine: {'too few photos' if count == 0 else 'no size takes so many'}")
        return code
    allowed = count if limit is None else min(count, limit)
    say(f"A job of {photos} photos gets {allowed} x {size.slug}, tried in {', '.join(config.regions)}")
    if allowed < count:
        say(f"  ({count} are wanted; the limit is {limit})")
    _say_price(config, provider, size, allowed, offline, say)
    say("Boot script of each, with a token of its own:")
    say(boot_script(Newcomer("passel-example-1", "example", "THE-TOKEN"), config))
    say("Nothing was made.")
    return code


def list_machines(file: Path | None, data: Path, say: Say) -> int:
    """The book's living machines and, with the fleet file, what the account itself lists for every fleet."""
    ledger = _existing_ledger(data)
    book = [] if ledger is None else [m for m in ledger.machines() if m.alive]
    now_s = time.time()
    for machine in book:
        say(_line(machine, now_s))
    if not book:
        say("The book knows of no machine.")
    if ledger is not None and ledger.closed:
        say(f"The fleet is closed: no machines are made ({ledger.typed('open')}).")
    if file is None:
        say("Give the fleet file to see what the account itself lists.")
        return 0
    config = read_fleet_file(file)
    listing = open_provider(config, ledger_path(data).parent).list("", config.regions)
    known = {m.provider_id for m in book}
    for seen in listing.machines:
        mark = "in the book" if seen.id in known else "NOT IN THE BOOK"
        say(f"account: {seen.name} {seen.size} {seen.region} {seen.power.value}, {mark}")
    say(f"The account lists {len(listing.machines)} machines of Passel.")
    for region in sorted(listing.silent_regions):
        say(f"No answer from {region}: what runs there is not known.")
    return 1 if listing.silent_regions else 0


def drain_machines(names: Sequence[str], data: Path, say: Say) -> int:
    """Asks the running coordinator to let machines finish and destroy them."""
    ledger = _existing_ledger(data)
    alive = {m.name for m in ledger.machines() if m.alive} if ledger else set()
    unknown = [name for name in names if name not in alive]
    if unknown or ledger is None:
        raise UsageError(
            f"No such machine: {', '.join(unknown)}",
            str(data),
            "passel fleet list, with the same --data, shows their names",
        )
    for name in names:
        ledger.wish_drain(name)
        say(f"{name} finishes what it does and is destroyed then.")
    say("passel serve must be running for that.")
    return 0


def destroy_all(file: Path, data: Path, yes: bool, say: Say, sleep: Callable[[float], None]) -> int:
    """Closes the fleet and destroys its machines, whether a coordinator runs or not, until the account lists none."""
    config = read_fleet_file(file)
    provider = open_provider(config, ledger_path(data).parent)
    ledger = Ledger(ledger_path(data))
    if not yes:
        alive = [m for m in ledger.machines() if m.alive]
        say(
            f"This ends {len(alive)} machines of the book and what they work on, and closes the fleet. Add --yes to do it."
        )
        return 2
    ledger.close_fleet(True)
    fleet = Fleet(
        ledger, Surroundings(config, provider, _Nobody(), None if config.kind is Kind.WORKER else _NoNodes(), say)
    )
    waited_s = 0.0
    while True:
        fleet.turn()
        alive = [m for m in ledger.machines() if m.alive]
        if not alive:
            say(f"The account lists no machine of this fleet. The fleet is closed until: {ledger.typed('open')}")
            return _tell_others(provider, config, ledger.fleet, say)
        if waited_s > _PATIENCE_S:
            raise PasselError(
                f"{len(alive)} machines are still there: {', '.join(m.name for m in alive)}",
                config.provider,
                "look into the provider's console, and run this again",
            )
        sleep(_PAUSE_S)
        waited_s += _PAUSE_S


def destroy_by_tag(file: Path, fleet: str, yes: bool, say: Say, sleep: Callable[[float], None]) -> int:
    """Destroys a fleet's machines when its book is lost: all that bear its tag and its name, until the account lists none.
    Its coordinator must not run any more: it would make others.
    """
    config = read_fleet_file(file)
    provider = open_provider(config, Path("unused"))
    waited_s = 0.0
    while True:
        listing = provider.list(fleet, config.regions)
        ours = [m for m in listing.machines if m.name.startswith(machine_name(fleet, ""))]
        if not yes:
            say(f"This ends {len(ours)} machines and what they work on: {', '.join(m.name for m in ours) or '-'}.")
            say("Add --yes to do it.")
            return 2
        if not ours and not listing.silent_regions:
            say(f"The account lists no machine of the fleet {fleet} in {', '.join(config.regions)}.")
            return _tell_others(provider, config, fleet, say)
        if waited_s > _PATIENCE_S:
            left = ", ".join(
                [*(m.name for m in ours), *(f"whatever is in {r}" for r in sorted(listing.silent_regions))]
            )
            raise PasselError(f"These are still there: {left}", config.provider, "look into the provider's console")
        for machine in ours:
            try:
                provider.destroy(machine.id, machine.region)
            except ProviderError as error:
                say(f"{machine.name} could not be destroyed, trying again: {error}")
        sleep(_PAUSE_S)
        waited_s += _PAUSE_S


def _tell_others(provider: Provider, config: FleetConfig, fleet: str, say: Say) -> int:
    """What the account lists of other fleets, perhaps of this one before its data folder was lost. 0 when there is nothing."""
    others: dict[str, int] = {}
    for machine in provider.list("", config.regions).machines:
        owner = fleet_of(machine.name)
        if owner != fleet:
            others[owner] = others.get(owner, 0) + 1
    for owner, count in sorted(others.items()):
        say(f"{count} machines of another fleet run in this account: {owner or 'with names that are not ours'}")
    if any(others):
        say("If such a fleet is yours and its data folder is lost: passel fleet destroy-all FILE --fleet ID")
    return 0


def open_again(data: Path, say: Say) -> int:
    """Allows machines again after `destroy-all`."""
    ledger = _existing_ledger(data)
    if ledger is not None:
        ledger.close_fleet(False)
    say("The fleet is open: passel serve makes machines when there is work.")
    return 0


def spend(file: Path, data: Path, say: Say) -> int:
    """What the fleet has cost, as the book counts it."""
    config = read_fleet_file(file)
    ledger = _existing_ledger(data)
    book = () if ledger is None else ledger.machines()
    purse = Purse(config, time.time())
    hours = sum(((m.gone_s or time.time()) - m.started_s) / _HOUR_S for m in book if m.started_s is not None)
    say(f"{len(book)} machines, {hours:.1f} machine hours")
    period = "this month" if config.budget is None or config.budget.monthly else "in all"
    say(f"spent {period}: {purse.spent(book):.2f} {config.currency} of {config.budget_text}")
    if any(m.alive for m in book):
        say(f"if everything were drained now, at most {purse.promised(book):.2f} {config.currency}")
    unpriced = sorted({m.size for m in book if m.per_hour is None})
    if unpriced:
        say(f"without a known price, counted as nothing: {', '.join(unpriced)} (give priceHour)")
    return 0


def _say_price(config: FleetConfig, provider: Provider, size: Size, count: int, offline: bool, say: Say) -> None:
    region = config.regions[0]
    if offline and size.price_hour is None:
        price = published(config, size.slug, region)
    else:
        price = PriceBook(config, provider, time.time).price(size, region)
    if price is None:
        say("  price: not known")
    else:
        each, together = f"{price.per_hour:g} {price.currency} an hour each", f"{price.per_hour * count:g} together"
        say(f"  price: {'' if price.certain else 'about '}{each}, {together} ({price.source})")
    if config.budget and not offline and (price is None or not price.certain):
        say(
            f"  with a budget NOTHING WOULD BE MADE: write what an hour of {size.slug} costs you as priceHour beside its slug"
        )


class _Nobody:
    """A coordinator without work and workers: every machine is to go."""

    def demand(self) -> Demand:
        return Demand()

    def workers(self) -> tuple[WorkerSeen, ...]:
        return ()

    def drain(self, worker: str, on: bool) -> None:
        pass

    def mint_join_token(self, machine: str, lifetime_s: float) -> str:
        raise UsageError("The fleet is closed", machine, "passel fleet open")

    def forget(self, worker: str) -> None:
        pass


class _NoNodes:
    """A gateway without nodes."""

    def nodes(self) -> tuple[WorkerSeen, ...]:
        return ()

    def add(self, name: str, host: str, port: int, token: str) -> None:
        pass

    def drain(self, name: str, on: bool) -> None:
        pass

    def remove(self, name: str) -> None:
        pass


def _ask_account(config: FleetConfig, provider: Provider, say: Say) -> int:
    try:
        listing = provider.list("", config.regions)
    except ProviderError as error:
        say(f"The account does not answer: {error}")
        return 1
    say(f"The account answers; it lists {len(listing.machines)} machines of Passel.")
    for region in sorted(listing.silent_regions):
        say(f"No answer from {region}.")
    return 1 if listing.silent_regions else 0


def _existing_ledger(data: Path) -> Ledger | None:
    path = ledger_path(data)
    return Ledger(path) if path.exists() else None


def _line(machine: Machine, now_s: float) -> str:
    started = datetime.fromtimestamp(machine.started_s or machine.wanted_s, UTC)
    hours = (now_s - started.timestamp()) / _HOUR_S
    price = "price unknown" if machine.per_hour is None else f"{hours * machine.per_hour:.2f} so far"
    state = "idle" if machine.state is State.UP and machine.idle_s is not None else machine.state.value
    reason = f" ({machine.reason})" if machine.reason else ""
    return f"{machine.name} {machine.size} {machine.region} {state}{reason}, {hours:.1f} h, {price}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="passel fleet", description="Machines that come and go with the work.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, about: str, file: bool | None) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about, description=about)
        added.add_argument("--data", type=Path, help="the coordinator's data folder")
        if file is not None:
            added.add_argument("file", type=Path, nargs=None if file else "?", help="the fleet file")
        return added

    checking = command("check", "Check a fleet file and show what a job would get. Makes nothing.", True)
    checking.add_argument("--photos", type=int, default=1000, help="photos of the example job (1000)")
    checking.add_argument("--offline", action="store_true", help="do not ask the account")
    command("list", "Machines of the book and, with the fleet file, of the account.", False)
    command("drain", "Let machines finish what they do, then destroy them.", None).add_argument("names", nargs="+")
    destroying = command("destroy-all", "Destroy every machine of the fleet and close it.", True)
    destroying.add_argument(
        "--fleet", default="", metavar="ID", help="another fleet, by its tag alone: its data folder is lost"
    )
    destroying.add_argument("--yes", action="store_true", help="do it")
    command("open", "Allow machines again after destroy-all.", None)
    command("spend", "What the fleet has cost.", True)
    return parser
