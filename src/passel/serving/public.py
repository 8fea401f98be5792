"""What the network sees of `passel serve` besides the workers' port: the public port, mDNS, the kit for bare computers."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import uvicorn

from passel.cluster.kit.bundle import is_whole
from passel.cluster.kit.kit_server import KitApp
from passel.cluster.trust.discovery import announced
from passel.errors import InputError, PasselError
from passel.server.app import PasselServer
from passel.server.sockets import uvicorn_config
from passel.serving.options import ServeOptions, TlsFiles

_log = logging.getLogger("passel.serve")


class PublicTls:
    """The public port's certificate. Raises InputError when its files cannot be used."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._seen = self._state()
        self.context = self._loaded()

    def follow(self) -> None:
        """Take the files again when they changed, as whoever renews certificates does it; running connections stay."""
        try:
            now = self._state()
            if now != self._seen:
                self._loaded()  # certificate and key may be replaced one after the other: never half of them
                self._load(self.context)
                self._seen = now
                _log.info("the public port has a new certificate")
        except InputError as e:
            _log.warning("%s", e)  # the one in use still serves

    def _state(self) -> tuple[int, int]:
        try:
            return self._files.certificate.stat().st_mtime_ns, self._files.key.stat().st_mtime_ns
        except OSError as e:
            raise _tls_trouble(e.strerror or str(e), Path(e.filename)) from None

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._load(context)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        files = self._files
        try:
            # Without a password function OpenSSL would ask the terminal.
            context.load_cert_chain(files.certificate, files.key, password=lambda: "")
        except OSError as e:  # SSLError is one
            what = e.reason if isinstance(e, ssl.SSLError) and e.reason else e.strerror or str(e)
            raise _tls_trouble(what.replace("_", " ").lower(), files.certificate) from None


def _tls_trouble(what: str, path: Path) -> InputError:
    todo = "give PEM files that belong together: --tls-cert with the whole chain, --tls-key without a password"
    return InputError(f"the certificate cannot be used: {what}", str(path), todo)


@asynccontextmanager
async def public_port(
    server: PasselServer, public: socket.socket, wheels: Path, workers_port: int, tls: PublicTls | None
) -> AsyncIterator[None]:
    """API, pages and field kit, until the block ends; then jobs' drivers are stopped."""
    host, port = public.getsockname()[:2]
    config = uvicorn_config(server, host, port)
    config.app = KitApp(wheels, workers_port, server.asgi)
    config.load()
    config.ssl = tls.context if tls is not None else None
    uvicorn_server = _Uvicorn(config)
    serving = asyncio.create_task(uvicorn_server.serve(sockets=[public]))
    try:
        while not uvicorn_server.started:
            if serving.done():
                serving.result()
                raise PasselError("the server could not start", str(server.settings.data), "see the messages above")
            await asyncio.sleep(0.02)
        yield
    finally:
        uvicorn_server.should_exit = True
        await serving


@asynccontextmanager
async def announced_here(options: ServeOptions, workers_port: int, fingerprint: str) -> AsyncIterator[None]:
    """mDNS; a passel whose network does not allow it can be joined by its address."""
    async with AsyncExitStack() as stack:
        news = announced(options.name, workers_port, fingerprint, lambda: options.addresses)
        try:
            await stack.enter_async_context(news)
        except OSError as e:
            _log.warning("this passel cannot be announced on the network (%s): join it by its address", e)
        yield


@asynccontextmanager
async def kit_made(wheels: Path) -> AsyncIterator[None]:
    """Makes the field kit beside the work, if there is none of this version."""
    if is_whole(wheels):
        yield
        return
    command = [sys.executable, "-P", "-m", "passel", "bundle", "--output", str(wheels)]
    making = await asyncio.create_subprocess_exec(
        "nice", "-n", "10", *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
        start_new_session=True,  # a terminal's Ctrl-C is for us, not for it as well
    )  # fmt: skip
    watching = asyncio.create_task(_tell_of_kit(making))
    try:
        yield
    finally:
        watching.cancel()
        if making.returncode is None:
            making.terminate()
        await making.wait()


async def _tell_of_kit(making: asyncio.subprocess.Process) -> None:
    code = await making.wait()
    if code == 0:
        _log.info("the kit for bare computers is ready")
    else:
        _log.warning("the kit for bare computers was not made (%d): mend it and give `passel bundle`", code)


class _Uvicorn(uvicorn.Server):
    """Leaves signals to us: the public port is only one of the parts that must be stopped."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
