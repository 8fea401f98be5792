"""Requests that clients make the server send: photos by URL, webhooks. They must not reach into the network behind the
server: every address is looked up once, judged, and then connected to as it is, so a name cannot change its meaning in
between; redirects are judged in the same way. Blocking: call it in a thread.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from passel.server.jobs import JobError

TIMEOUT_S = 30.0
MOST_REDIRECTS = 5


@dataclass(frozen=True)
class Gate:
    """What may be reached. allow_private: also loopback, private and link-local addresses."""

    allow_private: bool

    def check(self, url: str) -> urllib.parse.SplitResult:
        """The parts of an http or https URL without a look-up; JobError says what is wrong with it."""
        try:
            parts = urllib.parse.urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError as e:
            raise JobError(f"Invalid URL: {e}") from None
        if parts.scheme not in {"http", "https"} or not host or not url.isprintable() or " " in url:
            raise JobError(f"Invalid URL: it must begin with http:// or https:// ({_shown(parts)})")
        with contextlib.suppress(ValueError):  # a name is judged when it is looked up
            self._judge(host, ipaddress.ip_address(host))
        return parts

    def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of a name, all of them allowed."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as e:
            raise JobError(f"Host {host} cannot be found: {e}") from None
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        for address in addresses:
            self._judge(host, ipaddress.ip_address(address.partition("%")[0]))
        return addresses

    def _judge(self, host: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
        """Public unicast addresses pass; IPv4 inside IPv6 counts as what it is."""
        inner: ipaddress.IPv4Address | ipaddress.IPv6Address = address
        if isinstance(address, ipaddress.IPv6Address):
            inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (address, address))[1]
            if address in ipaddress.ip_network("64:ff9b::/96"):
                inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if not self.allow_private and not (inner.is_global and not inner.is_multicast):
            raise JobError(
                f"Host {host} is in a private network, which this server reaches only with --allow-private-urls"
            )

    @contextmanager
    def get(self, url: str) -> Iterator[http.client.HTTPResponse]:
        """The answer (status 200) to GET, after redirects. JobError for everything that can go wrong."""
        for _ in range(MOST_REDIRECTS + 1):
            with self._answer("GET", url, None) as answer:
                if answer.status in {301, 302, 303, 307, 308} and answer.headers.get("Location"):
                    url = urllib.parse.urljoin(url, answer.headers["Location"])
                    continue
                if answer.status != 200:
                    raise JobError(f"{_shown(urllib.parse.urlsplit(url))} answered {answer.status}")
                yield answer
                return
        raise JobError("Too many redirects")

    def post(self, url: str, body: bytes) -> int:
        """Send JSON and return the status; redirects are not followed, the answer is not read."""
        with self._answer("POST", url, body) as answer:
            return answer.status

    @contextmanager
    def _answer(self, method: str, url: str, body: bytes | None) -> Iterator[http.client.HTTPResponse]:
        parts = self.check(url)
        assert parts.hostname is not None
        port = parts.port or (443 if parts.scheme == "https" else 80)
        connection = _Pinned(parts.hostname, port, self.addresses(parts.hostname, port), parts.scheme == "https")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"User-Agent": "passel", "Accept-Encoding": "identity"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, urllib.parse.quote(target, safe="%/:=&?~#+!$,;'@()*[]"), body, headers)
            yield connection.getresponse()
        except (OSError, http.client.HTTPException) as e:
            raise JobError(f"{_shown(parts)} cannot be reached: {e or type(e).__name__}") from None
        finally:
            connection.close()


class _Pinned(http.client.HTTPConnection):
    """Connects to addresses that were judged, and to no others; TLS still checks the name."""

    def __init__(self, host: str, port: int, addresses: list[str], tls: bool) -> None:
        super().__init__(host, port, timeout=TIMEOUT_S)
        self._addresses, self._tls = addresses, tls
        self.default_port = 443 if tls else 80

    def connect(self) -> None:
        last: OSError = OSError("no address")
        for address in self._addresses:
            try:
                plain = socket.create_connection((address, self.port), self.timeout)
            except OSError as e:
                last = e
                continue
            self.sock = (
                ssl.create_default_context().wrap_socket(plain, server_hostname=self.host) if self._tls else plain
            )
            return
        raise last


def _shown(parts: urllib.parse.SplitResult) -> str:
    """A URL for messages: without user, password and query, which may hold secrets."""
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        port = ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"[:200]
