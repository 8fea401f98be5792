"""The other end of `admin.py`: asking a running coordinator, on this machine or another."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiohttp

from passel.cluster.coordinator.admin import (
    DRAIN_PATH,
    OVERVIEW_PATH,
    REVOKE_PATH,
    SOCKET,
    Done,
    DrainOrder,
    Overview,
    RevokeOrder,
)
from passel.cluster.trust.identity import IdentityError, trusting
from passel.cluster.trust.join import Unreachable, meet, understood, unreachable, workers_url
from passel.cluster.trust.tokens import TokenRefused, fingerprint_in
from passel.cluster.wire.workers import encode
from passel.errors import PasselError

_PATIENCE_S = 30.0
Reply = TypeVar("Reply", Overview, Done)


@dataclass(frozen=True)
class AdminClient:
    """base_url, headers, ca_pem: where and how to ask. socket: the unix socket instead of the network."""

    base_url: str
    socket: Path | None = None
    token: str = ""
    ca_pem: str = ""

    @staticmethod
    def here(data: Path) -> AdminClient:
        """The coordinator with that data folder on this machine."""
        return AdminClient("http://coordinator", data / SOCKET)

    @staticmethod
    def at(url: str, token: str) -> AdminClient:
        """A coordinator on the network; the token tells which one it must be. Raises PasselError."""
        pinned = fingerprint_in(token)
        todo = "on the coordinator: passel token create --api"
        if not token:
            raise TokenRefused("an API token is needed: --token T, or PASSEL_TOKEN", todo=todo)
        if not pinned:
            raise TokenRefused("this token does not say which coordinator it is for", todo=todo)
        if token.startswith("join_"):
            raise TokenRefused("this is a join token: it makes a computer a worker, and shows nothing", todo=todo)
        coordinator = meet(workers_url(url))
        if coordinator.fingerprint != pinned:
            raise IdentityError("the token belongs to another coordinator", coordinator.url, "check the address")
        return AdminClient(coordinator.url, None, token, coordinator.ca_pem)

    def overview(self) -> Overview:
        """What the passel is doing."""
        return asyncio.run(self._ask("GET", OVERVIEW_PATH, Overview))

    def drain(self, worker: str, drained: bool = True) -> Done:
        """No new steps for a worker, or again some."""
        return asyncio.run(self._ask("POST", DRAIN_PATH, Done, encode(DrainOrder(worker, drained))))

    def revoke(self, worker: str) -> Done:
        """Shut a worker out."""
        return asyncio.run(self._ask("POST", REVOKE_PATH, Done, encode(RevokeOrder(worker))))

    async def _ask(self, method: str, path: str, kind: type[Reply], body: bytes | None = None) -> Reply:
        connector = aiohttp.UnixConnector(str(self.socket)) if self.socket else aiohttp.TCPConnector()
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        tls = trusting(self.ca_pem) if self.ca_pem else True
        patience = aiohttp.ClientTimeout(total=_PATIENCE_S)
        where = str(self.socket.parent) if self.socket else self.base_url
        try:
            async with (
                aiohttp.ClientSession(connector=connector, headers=headers, timeout=patience) as session,
                session.request(method, self.base_url + path, data=body, ssl=tls, allow_redirects=False) as answer,
            ):
                return understood(answer.status, await answer.read(), kind, where)
        except TimeoutError as e:
            raise Unreachable("the coordinator does not answer", where, "see its log") from e
        except aiohttp.ClientConnectorCertificateError as e:
            what = "the coordinator cannot prove who it is"
            raise IdentityError(what, where, "somebody may be in between") from e
        except (aiohttp.ClientError, OSError) as e:
            if self.socket is not None:
                raise _nobody_here(self.socket, e) from e
            raise unreachable(e, where) from e


def _nobody_here(socket: Path, error: Exception) -> PasselError:
    if isinstance(error, OSError) and error.errno == errno.EACCES:
        return Unreachable(
            "the coordinator runs as another user", str(socket), "ask as that user, or with --url and --token"
        )
    todo = "start it with `passel serve`, or say where: --data DIR, or --url URL --token TOKEN"
    return Unreachable("no coordinator runs with this data folder", str(socket.parent), todo)
