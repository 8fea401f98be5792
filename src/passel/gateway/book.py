"""The gateway's book: nodes and attempts in one SQLite file, which the coordinator, its forwarders and a person's commands
have open at the same time. What it says is on disk, so it holds after a kill -9 of any of them.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from passel.databases import database_error, opened_database
from passel.errors import StorageError, UsageError
from passel.gateway.attempt import DONE, Attempt, Stage
from passel.gateway.node import ISOLATION_S, Node, Seen
from passel.gateway.ports import OpenDoor
from passel.gateway.routing import Choice, Need, choose

_SCHEMA = """
create table if not exists node (name text primary key, body text not null);
create table if not exists attempt (id integer primary key autoincrement, job text not null, round integer not null,
    owner text not null, node text not null, remote_uuid text not null, stage text not null, photos integer not null,
    claimed_s real not null, committed_s real, ended_s real, outcome text not null default '',
    blamed integer not null default 0, lines integer not null default 0, fans_out integer not null default 0,
    cleaned integer not null default 0);
create index if not exists attempt_job on attempt (job, round);
create index if not exists attempt_cleaned on attempt (cleaned);
create table if not exists passel (one integer primary key check (one = 1), identity text not null);
create table if not exists door (url text primary key, job text not null);
create table if not exists sent (attempt integer not null, name text not null, primary key (attempt, name)) without rowid;
"""
_SPEED_MEMORY = 0.7
"""How much of the speed measured before is kept when a task ends."""


class Book:
    """The book. Times are seconds since 1970. StorageError when it cannot be read or written."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path, self._clock, self._lock = path, clock, threading.RLock()
        with self._told():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = opened_database(
                path, _SCHEMA, patience_s=60.0
            )  # for this user alone: it holds the nodes' tokens

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def now_s(self) -> float:
        """The book's time."""
        return self._clock()

    def identity(self) -> str:
        """Of the Passel whose book this is: 16 hex digits, made at the first question."""
        with self._told():
            row = self._db.execute("select identity from passel").fetchone()
        if row is None:
            with self._writing():
                self._db.execute("insert or ignore into passel values (1, ?)", (secrets.token_hex(8),))
            return self.identity()
        return str(row[0])

    # ---- nodes

    def nodes(self) -> tuple[Node, ...]:
        """All nodes, by name."""
        with self._told():
            rows = self._db.execute("select body from node order by name").fetchall()
        return tuple(self._node(body) for (body,) in rows)

    def node(self, name: str) -> Node | None:
        """The node, if there is one of this name or address."""
        return next((n for n in self.nodes() if name in {n.name, n.url}), None)

    def add(self, node: Node) -> None:
        """Add a node; one of the same name gets the new settings and stays locked if it was; what was measured is kept as long
        as the address is the same.
        UsageError when another name has its address: its slots would count twice.
        """
        with self._writing():
            twin = next((n for n in self.nodes() if n.url == node.url and n.name != node.name), None)
            if twin is not None:
                raise UsageError("That node is known already", node.url, f"its name is {twin.name}")
            known = self._read_node(node.name)
            if known is not None:
                node = replace(node, locked=known.locked)
                if known.url == node.url:
                    node = replace(node, seen=known.seen, seconds_a_photo=known.seconds_a_photo)
            self._write_node(node)

    def enroll(self, node: Node) -> None:
        """Add a node of a list; one that is known by name or address only gets the list's address and token."""
        known = self.node(node.name) or self.node(node.url)
        self.add(node if known is None else replace(known, url=node.url, token=node.token))

    def delete(self, name: str) -> bool:
        """Take a node out; what it works on goes to others. Whether it was there."""
        with self._writing():
            return self._db.execute("delete from node where name = ?", (name,)).rowcount > 0

    def change(self, name: str, change: Callable[[Node], Node]) -> bool:
        """Change a node; whether it was there."""
        with self._writing():
            node = self._read_node(name)
            if node is not None:
                self._write_node(change(node))
            return node is not None

    def answered(self, asked: Node, seen: Seen) -> None:
        """The node answers as it should. asked: as it was then; for what it was isolated since, it stays alone."""
        self.change(
            asked.name,
            lambda n: (
                replace(n, seen=seen, trouble="", isolated_until_s=0.0)
                if n.isolated_until_s == asked.isolated_until_s
                else replace(n, seen=seen)
            ),
        )

    def shunned(self, name: str, seen: Seen, words: str) -> None:
        """The node answers, and can be given nothing all the same."""
        self.change(name, lambda n: replace(n, seen=seen, trouble=words))

    def troubled(self, name: str, words: str, lies: bool) -> None:
        """The node does not answer, or (lies) cannot be worked with for a while: it talks nonsense, or takes nothing."""
        until_s = self._clock() + ISOLATION_S
        self.change(name, lambda n: replace(n, trouble=words, isolated_until_s=until_s if lies else n.isolated_until_s))

    # ---- attempts

    def attempts(self, job: str, round_: int) -> tuple[Attempt, ...]:
        """Those of a round, oldest first."""
        return self._attempts("where job = ? and round = ?", job, round_)

    def open_attempts(self) -> tuple[Attempt, ...]:
        """Those that hold a slot."""
        return self._attempts("where stage != 'ended'")

    def unclean_attempts(self) -> tuple[Attempt, ...]:
        """Those of which something may be left on a node."""
        return self._attempts("where cleaned = 0")

    def history(self, limit: int = 50) -> tuple[Attempt, ...]:
        """The latest ones, newest first."""
        return self._attempts("where 1 order by id desc limit ?", limit)

    def claim(self, need: Need) -> tuple[Choice, Attempt | None]:
        """Choose a node and keep a slot for the task, in one act; the first claim of a round has the job's uuid."""
        with self._writing():
            now_s = self._clock()
            choice = choose(self.nodes(), self.open_attempts(), need, now_s)
            if choice.node is None:
                return choice, None
            first = not self._attempts("where job = ?", need.job)
            row = (need.job, need.round, need.owner, choice.node.name, need.job if first else str(uuid.uuid4()))
            cursor = self._db.execute(
                "insert into attempt (job, round, owner, node, remote_uuid, stage, photos, claimed_s, fans_out)"
                " values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*row, Stage.CLAIMED.value, need.photos, now_s, need.fans_out),
            )
            (attempt,) = self._attempts("where id = ?", cursor.lastrowid)
            return choice, attempt

    def again(self, attempt: Attempt) -> Attempt:
        """Send everything anew to the same node, under another uuid: what is there cannot be trusted."""
        with self._writing():
            self._end(attempt, "sent anew", False)
            cursor = self._db.execute(
                "insert into attempt (job, round, owner, node, remote_uuid, stage, photos, claimed_s, fans_out)"
                " select job, round, owner, node, ?, 'claimed', photos, ?, fans_out from attempt where id = ?",
                (str(uuid.uuid4()), self._clock(), attempt.id),
            )
            (fresh,) = self._attempts("where id = ?", cursor.lastrowid)
            return fresh

    def begin_sending(self, attempt: Attempt) -> Attempt:
        """The node is about to hear of it."""
        return self._set(attempt, "stage = 'sending'")

    def commits(self, attempt: Attempt) -> Attempt:
        """The node is about to have the whole task: whatever becomes of it now may be the task's doing."""
        return self._set(attempt, "committed_s = ?", self._clock())

    def committed(self, attempt: Attempt) -> Attempt:
        """The node has the whole task, and its photos were counted."""
        return self._set(attempt, "stage = 'committed', committed_s = ?", self._clock())

    def told_lines(self, attempt: Attempt, lines: int) -> Attempt:
        """So many lines of output were passed on."""
        return self._set(attempt, "lines = ?", lines)

    def end(self, attempt: Attempt, outcome: str, blamed: bool = False) -> None:
        """The attempt is over; its slot is free."""
        with self._writing():
            self._end(attempt, outcome, blamed)

    def done(self, attempt: Attempt, seconds: float) -> None:
        """The results are here. seconds: that the node worked."""
        with self._writing():
            self._end(attempt, DONE, False)
            node = self._read_node(attempt.node)
            if node is not None and seconds > 0 and attempt.photos:
                now, before = seconds / attempt.photos, node.seconds_a_photo
                speed = now if before is None else _SPEED_MEMORY * before + (1 - _SPEED_MEMORY) * now
                self._write_node(replace(node, seconds_a_photo=speed))

    def reopen(self, attempt: Attempt) -> Attempt:
        """Its node is back, with the task; whether that is whole is to be seen."""
        return self._set(attempt, "stage = 'sending', ended_s = null, outcome = '', blamed = 0")

    def cleaned(self, attempt: Attempt, remark: str = "") -> None:
        """Nothing of it is left on the node."""
        self._set(attempt, "cleaned = 1, outcome = outcome || ?", f"; {remark}" if remark else "")
        with self._writing():
            self._db.execute("delete from sent where attempt = ?", (attempt.id,))

    def forget_old(self, before_s: float) -> None:
        """Strike out what was over before then, and left nothing on nodes."""
        with self._writing():
            self._db.execute("delete from attempt where cleaned = 1 and ended_s < ?", (before_s,))

    def sent(self, attempt: Attempt) -> frozenset[str]:
        """Names of files that the node has acknowledged."""
        with self._told():
            rows = self._db.execute("select name from sent where attempt = ?", (attempt.id,)).fetchall()
        return frozenset(name for (name,) in rows)

    def note_sent(self, attempt: Attempt, name: str) -> None:
        """The node has acknowledged a file."""
        with self._writing():
            self._db.execute("insert or ignore into sent values (?, ?)", (attempt.id, name))

    # ---- doors

    def keep_door(self, job: str, url: str) -> None:
        """The parts of a job may come in by this address, which holds a token."""
        with self._writing():
            self._db.execute("insert or replace into door values (?, ?)", (url, job))

    def doors(self) -> tuple[OpenDoor, ...]:
        """All that were not dropped."""
        with self._told():
            return tuple(OpenDoor(job, url) for url, job in self._db.execute("select url, job from door").fetchall())

    def drop_door(self, url: str) -> None:
        """It is shut."""
        with self._writing():
            self._db.execute("delete from door where url = ?", (url,))

    # ---- beneath

    def _attempts(self, condition: str, *values: object) -> tuple[Attempt, ...]:
        columns = ", ".join(Attempt.__dataclass_fields__)
        order = "" if "order by" in condition else " order by id"
        with self._told():
            rows = self._db.execute(f"select {columns} from attempt {condition}{order}", values).fetchall()
        return tuple(_attempt(row) for row in rows)

    def _set(self, attempt: Attempt, assignments: str, *values: object) -> Attempt:
        with self._writing():
            self._db.execute(f"update attempt set {assignments} where id = ?", (*values, attempt.id))
            found = self._attempts("where id = ?", attempt.id)
        return found[0] if found else attempt

    def _end(self, attempt: Attempt, outcome: str, blamed: bool) -> None:
        self._db.execute(
            "update attempt set stage = 'ended', ended_s = ?, outcome = ?, blamed = ? where id = ? and stage != 'ended'",
            (self._clock(), outcome, blamed, attempt.id),
        )

    def _read_node(self, name: str) -> Node | None:
        row = self._db.execute("select body from node where name = ?", (name,)).fetchone()
        return None if row is None else self._node(row[0])

    def _node(self, body: str) -> Node:
        try:
            fields = json.loads(body)
            seen = fields.pop("seen")
            if seen is not None:
                seen = Seen(**{**seen, "passels": tuple(seen.get("passels", ()))})
            return Node(**fields, seen=seen)
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            todo = "another version may have written it; delete the file and add the nodes again"
            raise StorageError(f"A node's line cannot be read: {e}", str(self.path), todo) from None

    def _write_node(self, node: Node) -> None:
        self._db.execute("insert or replace into node values (?, ?)", (node.name, json.dumps(asdict(node))))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """All or nothing, and against what others write meanwhile."""
        with self._lock, self._told():
            if self._is_writing():
                yield
                return
            self._db.execute("begin immediate")
            try:
                yield
                self._db.execute("commit")
            finally:
                if self._is_writing():  # also after a commit that failed: left open, it would lock out everybody
                    self._db.execute("rollback")

    def _is_writing(self) -> bool:
        return self._db.in_transaction

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except (sqlite3.Error, OSError) as e:
            raise database_error("The book of nodes cannot be used", e, self.path) from None


def found_node(book: Book, name: str) -> Node:
    """The node of this name or address; UsageError when there is none."""
    node = book.node(name)
    if node is None:
        known = ", ".join(n.name for n in book.nodes()) or "none"
        raise UsageError("There is no such node", name, f"known are: {known}")
    return node


def _attempt(row: tuple[object, ...]) -> Attempt:
    fields = dict(zip(Attempt.__dataclass_fields__, row, strict=True))
    fields |= {name: bool(fields[name]) for name in ("blamed", "fans_out", "cleaned")}
    return Attempt(**{**fields, "stage": Stage(fields["stage"])})  # type: ignore[arg-type]
