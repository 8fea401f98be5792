"""Tokens: what a person types so that a machine may join (`join`) or a program may submit photos and look (`api`).

Only digests are stored; the secrets have 120 random bits, so a fast digest is enough. A token that Passel made begins
with its kind and the fingerprint of the coordinator's authority: whoever holds it knows the coordinator it belongs to.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from passel.cluster.trust.identity import FINGERPRINT_CHARS
from passel.databases import database_error, opened_database
from passel.errors import PasselError, StorageError, UsageError

Kind = Literal["join", "api"]
KINDS: tuple[Kind, ...] = ("join", "api")
OWN_NAME = "api"
"""API tokens of this name, the default, are the operator's own: they see the loopback's tasks and look after the passel."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tokens (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, digest BLOB NOT NULL UNIQUE, created_s REAL NOT NULL,
    expires_s REAL, uses_allowed INTEGER, uses INTEGER NOT NULL DEFAULT 0, revoked INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS workers (
    name TEXT PRIMARY KEY, key_digest TEXT NOT NULL UNIQUE, token_id TEXT NOT NULL, joined_s REAL NOT NULL,
    revoked INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS drained (name TEXT PRIMARY KEY);
"""


class TokenRefused(PasselError):  # noqa: N818 - it is said to whoever shows the token
    """The token opens nothing: wrong, expired, used up or revoked."""


@dataclass(frozen=True)
class Token:
    """What is known of a token; never the token itself.

    id: short, for lists and for revoking. name: whose it is, chosen by people. created_s, expires_s: seconds since 1970;
    expires_s None = never. uses_allowed: None = any number. uses: machines that joined with it.
    """

    id: str
    kind: Kind
    name: str
    created_s: float
    expires_s: float | None
    uses_allowed: int | None
    uses: int
    revoked: bool

    def trouble(self, now_s: float) -> str:
        """Why it opens nothing: 'revoked', 'expired', 'used up'; '' if it does."""
        if self.revoked:
            return "revoked"
        if self.expires_s is not None and now_s >= self.expires_s:
            return "expired"
        return "used up" if self.uses_allowed is not None and self.uses >= self.uses_allowed else ""


class AccessBook:
    """The SQLite file that holds tokens and workers. One connection, any thread; other processes may use the file too."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path, self.clock = path, clock
        self._guard = threading.RLock()
        try:
            self._db = opened_database(path, _SCHEMA, patience_s=20.0)
        except (OSError, sqlite3.Error) as e:
            raise _unusable(path, e) from e

    def close(self) -> None:
        """Let go of the file."""
        with self._guard:
            self._db.close()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone. Raises StorageError when the file cannot be used."""
        with self._guard:
            try:
                yield self._db
            except sqlite3.Error as e:
                raise _unusable(self.path, e) from e

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that is on the disk when the block ends, or did not happen."""
        with self.reading() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")


class Tokens:
    """The tokens of a coordinator."""

    def __init__(self, book: AccessBook, fingerprint: str) -> None:
        self._book, self._fingerprint = book, fingerprint
        self._known: dict[bytes, tuple[bytes, Token]] = {}
        self._seen_version: tuple[int, int] | None = None

    def create(
        self, kind: Kind, name: str = "", expires_in_s: float | None = None, uses_allowed: int | None = None
    ) -> str:
        """Make a token; the only time that it can be seen is now."""
        secret = base64.b32encode(secrets.token_bytes(15)).decode("ascii").lower()
        text = f"{kind}_{self._fingerprint}_{secret}"
        self.adopt(kind, text, name, expires_in_s, uses_allowed)
        return text

    def adopt(
        self, kind: Kind, text: str, name: str = "", expires_in_s: float | None = None, uses_allowed: int | None = None
    ) -> None:
        """Make a text that the user chose a token. One that is there already is renewed."""
        now_s, digest = self._book.clock(), _digest(kind, text)
        identifier = base64.b32encode(digest[:5]).decode("ascii").lower()
        expires_s = None if expires_in_s is None else now_s + expires_in_s
        with self._book.writing() as db:
            db.execute(
                "INSERT INTO tokens (id, kind, name, digest, created_s, expires_s, uses_allowed) VALUES (?,?,?,?,?,?,?)"
                " ON CONFLICT (digest) DO UPDATE SET revoked = 0, expires_s = excluded.expires_s",
                (identifier, kind, name or kind, digest, now_s, expires_s, uses_allowed),
            )

    def renew(self, kind: Kind, text: str, expires_in_s: float) -> bool:
        """Make a token good for so long from now. False when it opens nothing any more: then it stays so."""
        token = self.find(kind, text)
        if token is None or token.trouble(self._book.clock()):
            return False
        self.adopt(kind, text, expires_in_s=expires_in_s)
        return True

    def check(self, kind: Kind, text: str) -> Token:
        """The token that this text is. Raises TokenRefused; why is only told to who knows the text.

        Fast enough for every request: the table is read again only after it changed.
        """
        token = self.find(kind, text)
        if token is None:
            raise TokenRefused("the token is wrong", todo="ask whoever runs the coordinator for one")
        trouble = token.trouble(self._book.clock())
        if trouble:
            raise TokenRefused(
                f"the token is {trouble}", token.name, f"on the coordinator: passel token create --{kind}"
            )
        return token

    def find(self, kind: Kind, text: str) -> Token | None:
        """The token that this text is, whether or not it opens anything."""
        digest = _digest(kind, text)
        known = self._all().get(digest[:8])  # a digest cannot be guessed piece by piece, but compare it whole anyway
        return known[1] if known is not None and hmac.compare_digest(known[0], digest) else None

    def list(self) -> tuple[Token, ...]:
        """All tokens, oldest first."""
        return tuple(sorted((token for _, token in self._all().values()), key=lambda t: t.created_s))

    def now_s(self) -> float:
        """The clock by which tokens expire."""
        return self._book.clock()

    def usable(self, kind: Kind) -> bool:
        """Whether some token of that kind opens something."""
        now_s = self._book.clock()
        return any(t.kind == kind and not t.trouble(now_s) for t in self.list())

    def revoke(self, name: str) -> Token:
        """Make a token useless, by its id or, if only one has it, its name. Raises UsageError."""
        found = [t for t in self.list() if t.id == name] or [t for t in self.list() if t.name == name and not t.revoked]
        if not found:
            raise UsageError("no such token", name, "`passel token list` shows their ids")
        if len(found) > 1:
            raise UsageError(
                f"{len(found)} tokens have that name", name, f"give the id: {', '.join(t.id for t in found)}"
            )
        with self._book.writing() as db:
            db.execute("UPDATE tokens SET revoked = 1 WHERE id = ?", (found[0].id,))
        return found[0]

    def _all(self) -> dict[bytes, tuple[bytes, Token]]:
        """The table by the first bytes of the digest, kept until somebody changes the file."""
        with self._book.reading() as db:
            others = db.execute("PRAGMA data_version").fetchone()[0]
            version = (others, db.total_changes)
            if version != self._seen_version:
                columns = "digest, id, kind, name, created_s, expires_s, uses_allowed, uses, revoked"
                rows = db.execute(f"SELECT {columns} FROM tokens").fetchall()
                self._known = {row[0][:8]: (row[0], _token(*row[1:])) for row in rows}
                self._seen_version = version
            return self._known


class Throttle:
    """Slows down guessing: after `allowed` wrong tokens from an address within `window_s`, it must wait."""

    def __init__(self, allowed: int = 10, window_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._allowed, self._window_s, self._clock = allowed, window_s, clock
        self._wrong: dict[str, list[float]] = {}

    def must_wait(self, address: str) -> bool:
        """Whether this address has guessed too often lately."""
        return len(self._recent(address)) >= self._allowed

    def wrong(self, address: str) -> None:
        """Remember a wrong token of this address."""
        if len(self._wrong) >= 10_000:  # an attacker with many addresses must not fill the memory
            self._wrong.clear()
        self._wrong[address] = [*self._recent(address), self._clock()]

    def _recent(self, address: str) -> list[float]:
        since = self._clock() - self._window_s
        return [t for t in self._wrong.get(address, ()) if t > since]


def fingerprint_in(token: str) -> str:
    """The authority that a token made by Passel belongs to; '' for any other text."""
    kind, _, rest = token.partition("_")
    fingerprint, _, secret = rest.partition("_")
    return fingerprint if kind in KINDS and secret and len(fingerprint) == FINGERPRINT_CHARS else ""


def _token(
    identifier: str,
    kind: Kind,
    name: str,
    created_s: float,
    expires_s: float | None,
    allowed: int | None,
    uses: int,
    gone: int,
) -> Token:
    """A row of the table."""
    return Token(identifier, kind, name, created_s, expires_s, allowed, uses, bool(gone))


def _digest(kind: Kind, text: str) -> bytes:
    return hashlib.sha256(f"passel {kind} {text}".encode("utf-8", "surrogatepass")).digest()


def _unusable(path: Path, error: Exception) -> StorageError:
    lost = "a new one knows no token and no worker: all join again"
    return database_error("tokens and workers cannot be read or written", error, path, lost)
