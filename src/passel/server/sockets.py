"""How uvicorn runs the server: bounds on sockets and headers, no log of queries."""

from __future__ import annotations

import asyncio
import resource

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from passel.server.app import PasselServer

MOST_HEADER_BYTES = 64 * 1024
HEADERS_WITHIN_S = 30.0
MOST_WAITING_BYTES = 512 * 1024
KEEP_ALIVE_S = 75
"""Longer than clients poll, so that they keep their connection."""
FILES_BESIDE_SOCKETS = 512
REFUSED_READ_S = 2.0
_REFUSAL = b'{"error":"The request has too many or too long headers"}'
HEADERS_REFUSED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
    % (len(_REFUSAL), _REFUSAL)
)
"""NodeODM's clients read `error` in answers with status 200 only."""


def uvicorn_config(server: PasselServer, host: str, port: int) -> uvicorn.Config:
    """The configuration to run `server.asgi` with: `uvicorn.Server(uvicorn_config(…)).serve()`."""
    most = _most_connections(server.settings.limits.max_connections)

    class Bounded(BoundedProtocol):
        most_connections = most

    return uvicorn.Config(
        server.asgi,
        host,
        port,
        loop="uvloop",
        http=Bounded,
        lifespan="on",
        access_log=False,  # it would hold tokens; front.py has its own
        log_config=None,
        server_header=False,
        date_header=False,
        proxy_headers=False,  # whoever may choose its own address may guess tokens for ever
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=5,
        backlog=2048,
    )


def _most_connections(wanted: int) -> int:
    """As many sockets as the operator allows and the system has file descriptors for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + FILES_BESIDE_SOCKETS
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(16, min(wanted, soft - FILES_BESIDE_SOCKETS))


class BoundedProtocol(HttpToolsProtocol):
    """Drops connections beyond the bound, and those whose headers never come. Dropped, not refused with an answer: clients
    try again after a lost connection, and give up for good after an error, which endless headers are told.
    """

    most_connections = 1000
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._in_headers, self._header_bytes = False, 0
        self._waiting: asyncio.TimerHandle | None = None
        if len(self.connections) > self.most_connections:
            transport.abort()
        else:
            self._wait()

    def data_received(self, data: bytes) -> None:
        if self._in_headers:
            self._header_bytes += len(data)
            if self._header_bytes > MOST_HEADER_BYTES:
                self._refuse()
        if not self._refused:
            super().data_received(data)

    def _refuse(self) -> None:
        """Say why, then read on for a moment: the answer to a client that is still sending would be lost with the line."""
        if not self._refused:
            self._refused = True
            self.transport.write(HEADERS_REFUSED)
            self._stop_waiting()
            self._waiting = self.loop.call_later(REFUSED_READ_S, self._give_up)

    def on_message_begin(self) -> None:
        self._in_headers, self._header_bytes = True, 0
        if self._waiting is None:
            self._wait()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """As uvicorn's, but more may wait: uploads come in fewer, larger pieces. A piece that finds none waiting is handed on
        as it is; uvicorn would copy it twice.
        """
        cycle = self.cycle
        if cycle is None or cycle.response_complete or self.parser.should_upgrade():
            return
        cycle.body = bytes(cycle.body) + body if cycle.body else body  # type: ignore[assignment]
        if len(cycle.body) > MOST_WAITING_BYTES:
            self.flow.pause_reading()
        cycle.message_event.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(HEADERS_WITHIN_S, self._give_up)

    def _give_up(self) -> None:
        self._waiting = None
        self.transport.abort()

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
