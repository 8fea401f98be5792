"""all.zip from a node, or from where the node keeps it: ClusterODM, and NodeODM with a bucket, answer with a redirect. A node that
lies could send us into our own network, so only its own address and public ones are followed, without its token.
"""

from __future__ import annotations

import asyncio
import socket
import urllib.parse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from passel.gateway.client import CONNECT_S, LONGEST_ANSWER_S, USUAL_HEADERS, NodeClient, NodeLies, NodeSilent
from passel.gateway.words import plain
from passel.server.jobs import JobError
from passel.server.outgoing import MOST_REDIRECTS, Gate

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TIMEOUT = aiohttp.ClientTimeout(sock_connect=CONNECT_S, sock_read=2 * LONGEST_ANSWER_S)


@asynccontextmanager
async def download(
    client: NodeClient, uuid: str, start: int, etag: str, gate: Gate
) -> AsyncIterator[aiohttp.ClientResponse]:
    """The task's all.zip, from byte `start` on if it still is the one with this etag (status 206), else the whole (200). gate:
    which other places may be reached. NodeLies when it sends us where we do not go.
    """
    headers = {"Range": f"bytes={start}-", "If-Range": etag} if start and etag else {}
    place = f"{client.node.url}/task/{uuid}/download/all.zip"
    connector = aiohttp.TCPConnector(
        resolver=_Judged(gate, client.node.name)
    )  # with the usual trust: a node's pin is for the node
    async with aiohttp.ClientSession(
        connector=connector, headers=USUAL_HEADERS, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
    ) as elsewhere:
        for _ in range(MOST_REDIRECTS + 1):
            at_node = _origin(place) == _origin(client.node.url)
            session = client.session if at_node else elsewhere
            params = client.query() if at_node else {}
            with client.troubles(place):
                async with session.get(
                    place, params=params, headers=headers, timeout=_TIMEOUT, allow_redirects=False
                ) as response:
                    if response.status in _REDIRECTS:
                        place = _next_place(client, place, response.headers.get("Location", ""), gate)
                        continue
                    await client.check_download(response)
                    yield response
                    return
    raise NodeLies("It sends us on and on for its results", client.node.name)


def _next_place(client: NodeClient, place: str, location: str, gate: Gate) -> str:
    """Where a redirect leads."""
    try:
        address = urllib.parse.urljoin(place, location)
        if _origin(address) != _origin(client.node.url):
            gate.check(address)
    except (JobError, ValueError) as e:
        words = f"It sends us to {plain(location, 100)!r} for its results: {e}"
        raise NodeLies(words, client.node.name) from None
    return address


def _origin(address: str) -> tuple[str, str | None, int | None]:
    parts = urllib.parse.urlsplit(address)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


class _Judged(AbstractResolver):
    """Finds the addresses of names that may be reached, and of no others; they are connected to as they were judged."""

    def __init__(self, gate: Gate, node: str) -> None:
        self._gate, self._node = gate, node

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """NodeSilent when it has none, or one that may not be reached."""
        try:
            addresses = await asyncio.to_thread(self._gate.addresses, host, port)
        except JobError as e:
            raise NodeSilent(f"It sends us on for its results: {e.what}", self._node) from None
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing is kept."""
