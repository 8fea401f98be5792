"""Finding each other on a local network without typing addresses: mDNS, the service `_passel._tcp`.

Anybody on the network can announce anything, so what is found is only a proposal: the join token pins the authority.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from zeroconf import Error, IPVersion, ServiceBrowser, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from passel import __version__
from passel.errors import PasselError

SERVICE = "_passel._tcp.local."


@dataclass(frozen=True)
class Announced:
    """A coordinator as it announces itself. urls: its workers' port by each address, IPv4 first."""

    name: str
    urls: tuple[str, ...]
    fingerprint: str
    version: str


class DiscoveryError(PasselError):
    """Coordinators cannot be looked for, or none or too many were found."""


@asynccontextmanager
async def announced(
    name: str, port: int, fingerprint: str, addresses: Callable[[], Sequence[str]], look_every_s: float = 5.0
) -> AsyncIterator[None]:
    """Announce the workers' port while the block runs, at the addresses that this machine has at that time.

    Raises OSError where there is no network to announce on.
    """
    announcement = _Announcement(name, port, fingerprint)
    await announcement.make(addresses())
    following = asyncio.create_task(_follow_addresses(announcement, addresses, look_every_s))
    try:
        yield
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await announcement.withdraw()


async def _follow_addresses(
    announcement: _Announcement, addresses: Callable[[], Sequence[str]], look_every_s: float
) -> None:
    """Laptops change networks, and networks give out other addresses."""
    while True:
        await asyncio.sleep(look_every_s)
        now = addresses()
        if now != announcement.addresses:
            with suppress(OSError, Error):  # no network just now, or the old name still echoes: at the next look
                await announcement.withdraw()
                await announcement.make(now)


class _Announcement:
    """A service on the network. Its sockets belong to the addresses of their time, so others need new ones."""

    def __init__(self, name: str, port: int, fingerprint: str) -> None:
        self._name, self._port, self._fingerprint = name, port, fingerprint
        self._zeroconf: AsyncZeroconf | None = None
        self.addresses: Sequence[str] = ()

    async def make(self, addresses: Sequence[str]) -> None:
        """Raises OSError."""
        instance = f"{_label(self._name)}-{self._fingerprint[:6]}"  # two of the same name must not fight for it
        info = AsyncServiceInfo(
            SERVICE,
            f"{instance}.{SERVICE}",
            port=self._port,
            properties={"name": self._name, "fingerprint": self._fingerprint, "version": __version__},
            addresses=[ipaddress.ip_address(a).packed for a in addresses if not ipaddress.ip_address(a).is_loopback],
            server=f"{instance}.local.",
        )
        self._zeroconf = AsyncZeroconf()
        await self._zeroconf.async_register_service(info)
        self.addresses = addresses

    async def withdraw(self) -> None:
        zeroconf, self._zeroconf, self.addresses = self._zeroconf, None, ()
        if zeroconf is not None:
            try:
                await zeroconf.async_unregister_all_services()
            finally:
                await zeroconf.async_close()


def find_coordinators(patience_s: float = 4.0, more_s: float = 1.0, fingerprint: str = "") -> tuple[Announced, ...]:
    """The coordinators on this network: waits up to `patience_s` for one, then `more_s` for others. By name.

    fingerprint: only that authority's, as soon as it is seen. Raises DiscoveryError without a network.
    """
    try:
        zeroconf = Zeroconf()
    except OSError as e:
        raise DiscoveryError(f"coordinators cannot be looked for: {e}", todo="give the address: passel join URL") from e
    ears = _Ears()
    try:
        ServiceBrowser(zeroconf, SERVICE, handlers=[ears])
        until_s = time.monotonic() + patience_s
        while (rest_s := until_s - time.monotonic()) > 0:
            ears.news.wait(rest_s)
            ears.news.clear()
            found = ears.found(zeroconf)
            if fingerprint and any(f.fingerprint == fingerprint for f in found):
                break
            if found:
                until_s = min(until_s, time.monotonic() + more_s)
        found = ears.found(zeroconf)
        return tuple(f for f in found if not fingerprint or f.fingerprint == fingerprint)
    finally:
        zeroconf.close()


class _Ears:
    """Remembers the services that were heard; called by zeroconf's thread."""

    def __init__(self) -> None:
        self.news = threading.Event()
        self._names: set[str] = set()
        self._read: dict[str, Announced] = {}

    def __call__(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        self._read.pop(name, None)
        if state_change is ServiceStateChange.Removed:
            self._names.discard(name)
        else:
            self._names.add(name)
            self.news.set()

    def found(self, zeroconf: Zeroconf) -> tuple[Announced, ...]:
        """What is known of them; asks for what is not known yet."""
        for name in sorted(self._names.copy() - self._read.keys()):
            info = zeroconf.get_service_info(SERVICE, name, timeout=1500)
            if info is not None and info.port:
                texts = {key: _plain(value or "") for key, value in info.decoded_properties.items()}
                shown = [a for v in (IPVersion.V4Only, IPVersion.V6Only) for a in info.parsed_scoped_addresses(v)]
                urls = tuple(f"https://{f'[{a}]' if ':' in a else a}:{info.port}" for a in shown)
                known = texts.get("name", name), urls, texts.get("fingerprint", ""), texts.get("version", "")
                self._read[name] = Announced(*known)
        return tuple(sorted((f for f in self._read.copy().values() if f.urls), key=lambda f: (f.name, f.urls)))


def _plain(text: str) -> str:
    """What strangers announce is shown on a terminal: no control characters, not endless."""
    return "".join(c for c in text if c.isprintable())[:80]


def _label(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "-", name).strip("-")[:40] or socket.gethostname()[:40]
