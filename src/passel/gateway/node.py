"""A node as the gateway knows it, and the address that people give for one."""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass

from passel.errors import UsageError

DEFAULT_PORT = 3000
FRESH_S = 60.0
"""A node that has not answered for so long is offline."""
ISOLATION_S = 600.0
"""A node that answers nonsense, or whose disk is full, is left alone for so long; `passel node update` asks it at once."""


@dataclass(frozen=True)
class Seen:
    """What a node last said of itself in /info.

    at_s: when, seconds since 1970. queue: tasks that wait or run there. max_parallel: tasks that it runs at once.
    max_images: photos a task, None = any number. memory_bytes: of the machine; 0 when it did not say. passels: identities of
    the Passels that its tasks may come to, its own first; none of a NodeODM.
    """

    at_s: float
    engine: str
    engine_version: str
    api_version: str
    queue: int
    max_parallel: int
    max_images: int | None
    memory_bytes: int
    cpus: int
    passels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Node:
    """A line of the registry.

    name: unique, host:port unless the user chose another. url: without a path. token: '' = it asks for none. locked: takes
    no new tasks. ca_file: authority of its TLS certificate, '' = those that the system trusts. pin: SHA-256 of that certificate
    in hex, which then needs no authority. max_upload_mb_s: for each task, 0 = as fast as it goes. seconds_a_photo: measured,
    None = not yet. trouble: what was wrong last, '' = nothing. isolated_until_s: answered with something that is no NodeODM
    API, so it gets nothing until then.
    """

    name: str
    url: str
    token: str = ""
    locked: bool = False
    ca_file: str = ""
    pin: str = ""
    max_upload_mb_s: float = 0.0
    seconds_a_photo: float | None = None
    trouble: str = ""
    isolated_until_s: float = 0.0
    seen: Seen | None = None

    def is_online(self, now_s: float) -> bool:
        """It answered lately, and the last answer made sense."""
        fresh = self.seen is not None and now_s - self.seen.at_s < FRESH_S
        return fresh and not self.trouble and not self.is_isolated(now_s)

    def is_isolated(self, now_s: float) -> bool:
        """It is left alone for a while; not for years after a clock that was ahead is set right."""
        return now_s < self.isolated_until_s <= now_s + ISOLATION_S

    @property
    def is_passel(self) -> bool:
        """It knows a photo that it is sent twice."""
        return self.seen is not None and self.seen.engine == "passel"


def node_at(text: str, token: str = "", name: str = "") -> Node:
    """The node of an address: `host`, `host:3000`, `http://host:3000/?token=x`, `https://host`. UsageError when it is none."""
    advice = "give it as http://host:3000 or https://host"
    try:
        parts = urllib.parse.urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port
    except ValueError as e:
        raise UsageError(f"No address of a node: {e}", text, advice) from None
    host = parts.hostname or ""
    if parts.scheme not in {"http", "https"} or not re.fullmatch(r"[0-9A-Za-z._:%-]+", host) or "@" in parts.netloc:
        raise UsageError("No address of a node", text, advice)
    if parts.path not in {"", "/"}:
        raise UsageError("A node's address has no path: its clients leave it out", text, advice)
    secure = parts.scheme == "https" or port == 443
    port = port or (443 if secure else DEFAULT_PORT)
    shown = f"[{host}]" if ":" in host else host
    given = urllib.parse.parse_qs(parts.query).get("token", [""])[0]
    url = f"{'https' if secure else 'http'}://{shown}:{port}"
    return Node(_checked(name or f"{shown}:{port}"), url, token or given)


def checked_pin(text: str) -> str:
    """SHA-256 of a certificate as hex digits only; people also write it with colons. UsageError when it is none."""
    digits = text.replace(":", "").strip().lower()
    if digits and not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise UsageError("No SHA-256 of a certificate", text[:100], "it has 64 hex digits")
    return digits


def _checked(name: str) -> str:
    if not name.isprintable() or not name.strip() or len(name) > 200:
        raise UsageError("No name for a node", repr(name[:50]), "use letters and digits")
    return name
