"""Who is asking: tokens in the query (NodeODM's way) or an Authorization header, and a brake on guessing them."""

from __future__ import annotations

import hashlib
import ipaddress
import time
import urllib.parse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from passel.server.jobs import JobError
from passel.server.ports import TokenChecker

K = TypeVar("K")
V = TypeVar("V")

REMEMBER_S = 5.0
"""How long a right token is believed without asking again: a revoked one works no longer than this."""
WINDOW_S = 60.0
MOST_REMEMBERED = 10_000
LOCAL_SUFFIXES = (".local", ".lan", ".internal", ".home.arpa", ".localhost")


class WrongTokenError(JobError):
    """The token is wrong or missing. Clients know the text."""

    text = "Invalid authentication token: token does not match."

    def __init__(self) -> None:
        super().__init__(self.text)


class TooManyWrongTokensError(WrongTokenError):
    """This address guesses tokens."""

    text = "Invalid authentication token: too many wrong ones; wait a minute."


@dataclass
class _Wrong:
    """Wrong tokens of an address since `since_s`."""

    since_s: float
    count: int


class Access:
    """Asks the TokenChecker, remembers right tokens for a moment, counts wrong ones by address."""

    def __init__(self, tokens: TokenChecker, wrong_a_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._tokens, self._most_wrong, self._clock = tokens, wrong_a_minute, clock
        self._known: dict[bytes, tuple[str, float]] = {}
        self._wrong: dict[str, _Wrong] = {}
        self._open, self._open_until_s = False, -1.0

    @property
    def is_open(self) -> bool:
        """Whether the server asks for no token."""
        now = self._clock()
        if now >= self._open_until_s:
            self._open, self._open_until_s = self._tokens.owner_of("") is not None, now + REMEMBER_S
        return self._open

    def owner_of(self, token: str, address: str) -> str:
        """The owner. WrongTokenError, or TooManyWrongTokensError before the token was even looked at."""
        digest = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        now = self._clock()
        known = self._known.get(digest)
        if known is not None and now < known[1]:
            return known[0]
        wrong = self._wrong.get(address)
        if wrong is not None and now - wrong.since_s > WINDOW_S:
            wrong = None
        # A token that was right a moment ago is looked at in any case: guessing neighbours behind one address
        # must not lock an honest client out.
        if wrong is not None and wrong.count >= self._most_wrong and known is None:
            raise TooManyWrongTokensError
        owner = self._tokens.owner_of(token)
        if owner is None:
            self._known.pop(digest, None)
            if token:  # a missing token is no guess: browsers and monitors come without one
                self._count(address, wrong, now)
            raise WrongTokenError
        _bounded(self._known)[digest] = (owner, now + REMEMBER_S)
        return owner

    def _count(self, address: str, wrong: _Wrong | None, now: float) -> None:
        if wrong is None:
            _bounded(self._wrong)[address] = _Wrong(now, 1)
        else:
            wrong.count += 1


def _bounded(known: dict[K, V]) -> dict[K, V]:
    """Forget the oldest when there are too many: memory is bounded whoever asks."""
    while len(known) >= MOST_REMEMBERED:
        del known[next(iter(known))]
    return known


def token_in(query: bytes, headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The token of a request; '' if it has none. The query counts first: some clients add one to every request."""
    if b"token=" in query:
        values = urllib.parse.parse_qs(query.decode("latin-1"), max_num_fields=None).get("token")
        if values:
            return values[-1]
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].decode("latin-1").strip()
    return ""


def is_same_site(headers: Iterable[tuple[bytes, bytes]], own_names: frozenset[str]) -> bool:
    """Whether a browser that sent this was on our own page: for servers without tokens, where any web page could
    otherwise reach into the user's network. Programs send no Origin. A Host that is a public name which is not ours
    means that somebody's DNS points at us.
    """
    found = {n: v.decode("latin-1") for n, v in headers if n in {b"host", b"origin"}}
    host, origin = found.get(b"host", ""), found.get(b"origin")
    try:
        if origin is not None and urllib.parse.urlsplit(origin).netloc.lower() != host.lower():
            return False
        name = urllib.parse.urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return "." not in name or name in own_names or name.endswith(LOCAL_SUFFIXES) or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
