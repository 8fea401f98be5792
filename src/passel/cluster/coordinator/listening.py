"""Ports and sockets to listen on, the addresses that others may use, and clear words when something is in the way."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psutil
from aiohttp import web

from passel.errors import PasselError, UsageError


class PortError(PasselError):
    """A port cannot be listened on."""


def is_loopback(listen: str) -> bool:
    """Whether only this machine can reach that address. Raises UsageError if it is none."""
    if listen == "localhost":
        return True
    try:
        return ipaddress.ip_address(listen).is_loopback
    except ValueError:
        raise UsageError(f"--listen {listen!r} is no address", todo="0.0.0.0 is all of this machine's") from None


@contextmanager
def public_socket(listen: str, port: int) -> Iterator[socket.socket]:
    """A listening TCP socket. port 0: any free one. Raises PortError."""
    family = socket.AF_INET6 if ":" in listen else socket.AF_INET
    try:
        made = socket.create_server((listen, port), family=family, backlog=2048, dualstack_ipv6=listen == "::")
    except OSError as e:
        raise trouble_at(e, listen, port, "--port") from e
    with made:
        made.setblocking(False)
        yield made


def trouble_at(error: OSError, listen: str, port: int, option: str) -> PasselError:
    """What is in the way of listening there."""
    where = f"{listen}:{port}"
    if error.errno == errno.EADDRINUSE:
        return PortError(
            f"port {port} is in use", where, f"is another passel serve running? Else choose another {option}"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return PortError("this machine does not have that address", listen, "0.0.0.0 is all that it has")
    if error.errno == errno.EACCES:
        return PortError(f"port {port} is not allowed to this user", where, f"choose {option} 1024 or higher")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return PortError("this process may open no more files", where, "raise its limit: ulimit -n 4096")
    reason = os.strerror(error.errno) if error.errno else str(error)
    return PortError(f"the port cannot be used: {reason}", where, f"choose another {option}")


def reachable_addresses(listen: str) -> tuple[str, ...]:
    """This machine's addresses under which others may reach a server that listens on `listen`; the likeliest first."""
    if listen not in ("0.0.0.0", "::"):
        return ("127.0.0.1",) if listen == "localhost" else (listen,)
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    found = [
        a.address
        for name, addresses in sorted(psutil.net_if_addrs().items())
        for a in addresses
        if name in up and a.family == socket.AF_INET and not ipaddress.ip_address(a.address).is_loopback
    ]
    main = _towards_the_world()
    return tuple(sorted(found, key=lambda a: a != main)) or ("127.0.0.1",)


def page_url(address: str, port: int) -> str:
    """The public port as a browser is given it."""
    return f"http://{f'[{address}]' if ':' in address else address}:{port}/"


def _towards_the_world() -> str:
    """The address that packets to the internet would leave from (none is sent), '' without such a way."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


@asynccontextmanager
async def serve_on_socket(routes: Sequence[web.RouteDef], path: Path) -> AsyncIterator[None]:
    """An HTTP server on a unix socket that only this user may open, until the block ends."""
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    path.unlink(missing_ok=True)  # of a coordinator that was killed; the folder's lock says that it is gone
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    try:
        await web.SockSite(runner, listener, shutdown_timeout=1.0).start()
        yield
    finally:
        await runner.cleanup()
        path.unlink(missing_ok=True)
