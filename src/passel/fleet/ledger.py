"""The fleet's book: every machine that was ever wanted, in SQLite. An intent is written before the cloud is asked.

The book is the fleet's memory, the cloud's listing is the truth about what exists; `census.py` brings them together.
No secret is ever written here.
"""

from __future__ import annotations

import secrets
import shlex
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from enum import Enum
from pathlib import Path

from passel.databases import database_error, opened_database
from passel.errors import StorageError


class State(Enum):
    """Where a machine is in its life."""

    WANTED = "wanted"
    """Written down; the cloud has been asked or is about to be."""
    BOOTING = "booting"
    """The cloud has it; it has not joined."""
    UP = "up"
    DRAINING = "draining"
    """Finishes what it does."""
    LEAVING = "leaving"
    """Is being destroyed, until the listing shows that it is."""
    GONE = "gone"


@dataclass(frozen=True)
class Machine:
    """A line of the book. Times are seconds since 1970."""

    name: str
    size: str
    region: str
    state: State
    wanted_s: float
    provider_id: str = ""
    spot: bool = False
    per_hour: float | None = None
    started_s: float | None = None
    """Paid from here; None while nobody has seen the machine."""
    joined_s: float | None = None
    heard_s: float | None = None
    """When it was last seen among the workers."""
    idle_s: float | None = None
    """Without work since then; None while it has some."""
    worked: bool = False
    """True when it ever had work."""
    drain_s: float | None = None
    gone_s: float | None = None
    missed: int = 0
    """In so many full listings in a row the cloud did not show it."""
    reason: str = ""
    """Why it is being got rid of; the first reason stays."""
    address: str = ""

    @property
    def alive(self) -> bool:
        """True while it may exist and cost money."""
        return self.state is not State.GONE


@dataclass(frozen=True)
class Event:
    """Something that happened to a machine."""

    time_s: float
    machine: str
    text: str


_IF_DAMAGED = (
    "without it this is another fleet, and machines rented now run on until `passel fleet destroy-all FILE --fleet ID` ends them; "
    "`passel fleet list FILE` shows them"
)
_COLUMNS = [f.name for f in fields(Machine)]
_SCHEMA = f"""
create table if not exists machine ({", ".join(_COLUMNS)}, primary key (name));
create table if not exists event (time_s real not null, machine text not null, text text not null);
create table if not exists fact (key text primary key, value text not null);
"""
_SAVE = f"insert or replace into machine ({', '.join(_COLUMNS)}) values ({', '.join('?' * len(_COLUMNS))})"


class Ledger:
    """The book in one file. Several processes may have it open: the loop, and a person's command."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._told():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = opened_database(path, _SCHEMA, patience_s=30.0)
            self._db.execute("insert or ignore into fact values ('fleet', ?)", (secrets.token_hex(4),))
        self.fleet = self._fact("fleet")

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def machines(self) -> tuple[Machine, ...]:
        """Every machine, the oldest first."""
        with self._told():
            rows = self._db.execute(f"select {', '.join(_COLUMNS)} from machine order by wanted_s, name").fetchall()
            return tuple(_machine(row) for row in rows)

    def save(self, changed: Iterable[tuple[Machine, str]], now_s: float) -> None:
        """Writes machines and, where the text is not empty, what happened to them; all or nothing, on disk when it returns."""
        with self._told(), self._transaction():
            for machine, text in changed:
                self._db.execute(_SAVE, _row(machine))
                if text:
                    self._db.execute("insert into event values (?, ?, ?)", (now_s, machine.name, text))

    def intend(self, machine: Machine, now_s: float) -> bool:
        """Writes the intent to make a machine; False when the fleet has been closed meanwhile."""
        with self._told(), self._transaction():
            if self._db.execute("select 1 from fact where key = 'closed'").fetchone():
                return False
            self._db.execute(_SAVE, _row(machine))
            self._db.execute("insert into event values (?, ?, ?)", (now_s, machine.name, f"wanted: {machine.size}"))
        return True

    def events(self, limit: int = 200) -> tuple[Event, ...]:
        """The last things that happened, the latest last."""
        with self._told():
            rows = self._db.execute(
                "select time_s, machine, text from event order by rowid desc limit ?", (limit,)
            ).fetchall()
        return tuple(Event(*row) for row in reversed(rows))

    @property
    def closed(self) -> bool:
        """True after `close_fleet`: nothing may be made."""
        return bool(self._fact("closed"))

    def close_fleet(self, closed: bool) -> None:
        """Forbids or allows new machines, for every process that has the book open."""
        with self._told():
            if closed:
                self._db.execute("insert or replace into fact values ('closed', 'yes')")
            else:
                self._db.execute("delete from fact where key = 'closed'")

    def wish_drain(self, name: str) -> None:
        """A person wants this machine gone; the loop sees to it. A wish of its own, for the loop rewrites its lines."""
        with self._told():
            self._db.execute("insert or replace into fact values (?, 'yes')", (f"drain {name}",))

    def wished_drains(self) -> frozenset[str]:
        """Names that were given to `wish_drain`."""
        with self._told():
            rows = self._db.execute("select substr(key, 7) from fact where key like 'drain %'").fetchall()
        return frozenset(str(row[0]) for row in rows)

    def _fact(self, key: str) -> str:
        with self._told():
            row = self._db.execute("select value from fact where key = ?", (key,)).fetchone()
        return str(row[0]) if row else ""

    def typed(self, words: str) -> str:
        """What to type so that it is this fleet that is meant, wherever its data folder is."""
        return f"passel fleet {words} --data {shlex.quote(str(self.path.parent.parent.resolve()))}"

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._db:  # commits, or rolls back when the block fails
            self._db.execute("begin immediate")
            yield

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise database_error("The fleet's book cannot be used", error, self.path, _IF_DAMAGED) from error
        except ValueError as error:
            what = f"The fleet's book cannot be used: a line of it is none ({error})"
            raise StorageError(what, str(self.path), _IF_DAMAGED) from error


def _row(machine: Machine) -> tuple[object, ...]:
    return tuple(v.value if isinstance(v, State) else v for v in astuple(machine))


def _machine(row: tuple[object, ...]) -> Machine:
    values = dict(zip(_COLUMNS, row, strict=True))
    values |= {"state": State(values["state"]), "spot": bool(values["spot"]), "worked": bool(values["worked"])}
    return Machine(**values)  # type: ignore[arg-type]
