"""How a worker tells a slow link from a dead one, so that whatever moves at all comes to its end.

An upload shows itself here only when the transport's buffers, far larger than a slow link's seconds, take more of it. So it is the
kernel that watches for silence, since it sees every acknowledgement; what this process sees is for those whose kernel does not, and
for a coordinator that hangs behind something that still acknowledges.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_writer import StreamWriter
from aiohttp.payload import AsyncIterablePayload

UPLOAD_PATIENCE = 15.0
"""Times stall_s until an upload must have moved a piece on: with 10 s, four of them at a time may share 32 kbit/s."""
DOWNLOAD_PATIENCE = 3.0
"""Times stall_s until something must have come: a TLS record, which is 16 kB, is seen only as a whole."""
_PIECE_BYTES = 80 * 2**10
"""Just more than the 64 kB after which aiohttp lets the transport catch up: each piece moved is seen."""
_BUFFERED_BYTES = 2**16
"""Of TLS's own 512 kB three quarters would have to go before any of it was seen."""


def pieces(block: bytes) -> Iterator[bytes]:
    """A block that was worth a thread's time, in pieces that a slow link moves in a time worth waiting for."""
    for start in range(0, len(block), _PIECE_BYTES):
        yield block[start : start + _PIECE_BYTES]


class Outgoing(AsyncIterablePayload):
    """A body of `pieces`, each asked for when nearly all before it have left this process."""

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        if isinstance(writer, StreamWriter) and writer.transport is not None:
            writer.transport.set_write_buffer_limits(high=_BUFFERED_BYTES)
        await super().write_with_length(writer, content_length)


def socket_factory(stall_s: float) -> Callable[[aiohttp.AddrInfoType], socket.socket]:
    """Makes sockets whose connection the kernel gives up when the other end has acknowledged nothing for `stall_s`, whether something
    is on its way there or an answer is waited for. Only Linux has that.
    """

    def made(address: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, _, _ = address
        found = socket.socket(family, kind, protocol)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            probe_s = max(1, int(stall_s / 5))  # so often that one lost probe does not count
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * stall_s))
            found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, probe_s)
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, probe_s)
        return found

    return made
