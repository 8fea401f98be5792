"""The roster: which machines were admitted to the passel, under which names, and which were shut out again."""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass

from passel.cluster.trust.tokens import AccessBook, TokenRefused, Tokens
from passel.errors import UsageError


@dataclass(frozen=True)
class Member:
    """A worker that was admitted. joined_s: seconds since 1970. revoked: it may not speak to the coordinator any more."""

    name: str
    joined_s: float
    revoked: bool


class Roster:
    """The workers of a coordinator. A name is given once and never to another machine."""

    def __init__(self, book: AccessBook, tokens: Tokens) -> None:
        self._book, self._tokens = book, tokens

    def admit(self, token: str, hostname: str, key_digest: str) -> str:
        """The name for a machine with that key, which shows that join token. Raises TokenRefused.

        A machine that asks again with the same key and token gets the same name, although the token's uses are over: the
        answer to its first request may have been lost.
        """
        known = self._known(key_digest)
        if known is not None:
            if known.revoked:
                raise TokenRefused("this machine was revoked", known.name, "join with a new identity")
            if self._joined_with(known.name, token):
                return known.name
        used = self._tokens.check("join", token)
        with self._book.writing() as db:
            if known is not None:
                db.execute("UPDATE workers SET token_id = ? WHERE name = ?", (used.id, known.name))
                return known.name
            spent = db.execute(
                "UPDATE tokens SET uses = uses + 1 WHERE id = ? AND revoked = 0"
                " AND (uses_allowed IS NULL OR uses < uses_allowed)",
                (used.id,),
            )
            if spent.rowcount != 1:  # two machines showed it at the same moment
                raise TokenRefused("the token is used up", used.name, "on the coordinator: passel token create --join")
            return self._add(db, hostname, key_digest, used.id)

    def enlist(self, hostname: str, key_digest: str) -> str:
        """The name of the worker that the coordinator itself starts; it needs no token."""
        known = self._known(key_digest)
        with self._book.writing() as db:
            if known is None:
                return self._add(db, hostname, key_digest, "")
            db.execute("UPDATE workers SET revoked = 0 WHERE name = ?", (known.name,))
            return known.name

    def is_member(self, name: str) -> bool:
        """Whether a machine with that name may speak to the coordinator."""
        with self._book.reading() as db:
            row = db.execute("SELECT revoked FROM workers WHERE name = ?", (name,)).fetchone()
        return row is not None and not row[0]

    def members(self) -> tuple[Member, ...]:
        """Everybody who ever joined, oldest first."""
        with self._book.reading() as db:
            rows = db.execute("SELECT name, joined_s, revoked FROM workers ORDER BY joined_s").fetchall()
        return tuple(Member(name, joined_s, bool(revoked)) for name, joined_s, revoked in rows)

    def revoke(self, name: str) -> None:
        """Shut a worker out for good. Raises UsageError if nobody has that name."""
        with self._book.writing() as db:
            if db.execute("UPDATE workers SET revoked = 1 WHERE name = ?", (name,)).rowcount == 0:
                known = ", ".join(m.name for m in self.members())
                raise UsageError("no such worker", name, f"known: {known}" if known else "nobody has joined yet")

    def note_drained(self, name: str, drained: bool) -> None:
        """Somebody wants no new steps for a worker, or again some: that holds until they say otherwise."""
        with self._book.writing() as db:
            words = "INSERT OR IGNORE INTO drained VALUES (?)" if drained else "DELETE FROM drained WHERE name = ?"
            db.execute(words, (name,))

    def drained(self) -> frozenset[str]:
        """The workers that get no new steps."""
        with self._book.reading() as db:
            return frozenset(row[0] for row in db.execute("SELECT name FROM drained"))

    def _add(self, db: sqlite3.Connection, hostname: str, key_digest: str, token_id: str) -> str:
        name = _free_name(hostname, {row[0] for row in db.execute("SELECT name FROM workers")})
        values = (name, key_digest, token_id, self._book.clock())
        db.execute("INSERT INTO workers (name, key_digest, token_id, joined_s) VALUES (?, ?, ?, ?)", values)
        return name

    def _known(self, key_digest: str) -> Member | None:
        with self._book.reading() as db:
            row = db.execute(
                "SELECT name, joined_s, revoked FROM workers WHERE key_digest = ?", (key_digest,)
            ).fetchone()
        return None if row is None else Member(row[0], row[1], bool(row[2]))

    def _joined_with(self, name: str, token: str) -> bool:
        shown = self._tokens.find("join", token)
        with self._book.reading() as db:
            row = db.execute("SELECT token_id FROM workers WHERE name = ?", (name,)).fetchone()
        return row is not None and shown is not None and row[0] == shown.id


def _free_name(hostname: str, taken: set[str]) -> str:
    """The host's own name, in characters that are safe in a URL and a log, with a number if it is taken."""
    wanted = re.sub(r"[^A-Za-z0-9.-]+", "-", hostname).strip("-.")[:48] or "worker"
    if wanted not in taken:
        return wanted
    return next(name for n in range(2, len(taken) + 3) if (name := f"{wanted}-{n}") not in taken)
