"""How a machine joins: see who the coordinator is, check that against the token, ask for a certificate, keep it.

Run twice it does the same; with an identity kept from an earlier time no token is needed.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import aiohttp

from passel import __version__
from passel.cluster.trust.admit import CA_PATH, JOIN_PATH, JoinReply, JoinRequest, read_all
from passel.cluster.trust.identity import Identity, IdentityError, fingerprint_of, trusting, write_secret
from passel.cluster.trust.tokens import TokenRefused, fingerprint_in
from passel.cluster.wire.versions import version_headers
from passel.cluster.wire.workers import WireError, WireProblem, decode, encode
from passel.errors import PasselError, UsageError, network_reason

WORKERS_PORT = 3001
_PATIENCE_S = 15.0
_MOST_ANSWER_BYTES = 65_536
_REFUSALS: dict[int, type[PasselError]] = {401: TokenRefused, 403: TokenRefused, 429: TokenRefused, 404: UsageError}
Reply = TypeVar("Reply")


class Unreachable(PasselError):  # noqa: N818 - a state of the network, said to the user
    """Nobody, or nobody who speaks our protocol, answers at an address."""


@dataclass(frozen=True)
class Coordinator:
    """Where a coordinator's workers' port is, and the authority that it showed. Not to be believed without a token's pin."""

    url: str
    ca_pem: str

    @property
    def fingerprint(self) -> str:
        """The authority's, to be compared with the one in a token."""
        return fingerprint_of(self.ca_pem.encode("ascii", "replace"))


def workers_url(text: str) -> str:
    """The address of the workers' port from what people type: a host, host:port or an https URL. Raises UsageError."""
    with suppress(ValueError):
        text = f"[{IPv6Address(text)}]"  # without a port it needs no brackets
    try:
        parts = urlsplit(text if "//" in text else f"https://{text}")
        host, port = parts.hostname, parts.port
    except ValueError as e:
        raise UsageError(f"the coordinator's address cannot be read: {e}", text, "passel join https://HOST:3001") from e
    if not host or parts.path not in ("", "/") or parts.query or parts.username:
        raise UsageError("this is no address of a coordinator", text, "passel join https://HOST:3001")
    host = f"[{host}]" if ":" in host else host
    if parts.scheme != "https":
        todo = f"passel join https://{host}:{WORKERS_PORT}"
        raise UsageError(f"workers join over https, not {parts.scheme}", text, todo)
    return f"https://{host}:{port or WORKERS_PORT}"


def meet(url: str) -> Coordinator:
    """Ask who is at this address. Raises Unreachable or IdentityError."""
    return asyncio.run(_meet(url))


def kept_identity(coordinator: Coordinator, home: Path) -> Identity | None:
    """The identity that this machine has with that coordinator from an earlier time."""
    identity = Identity(home / coordinator.fingerprint)
    return identity if identity.is_complete else None


def kept_url(identity: Identity) -> str:
    """Where that identity's coordinator was last met; '' if it never was."""
    try:
        return (identity.folder / "url").read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def remember_url(identity: Identity, url: str) -> None:
    """So that a worker that starts while the coordinator is away knows whom to wait for. One coordinator is at an address."""
    for folder in identity.folder.parent.glob("*"):
        if folder != identity.folder and kept_url(Identity(folder)) == url:
            (folder / "url").unlink(missing_ok=True)
    write_secret(identity.folder / "url", url.encode("ascii"))


def join(coordinator: Coordinator, token: str, home: Path, hostname: str) -> Identity:
    """Become a worker of this coordinator and keep the identity in a folder of `home`. Raises PasselError."""
    pinned = fingerprint_in(token)
    if not pinned or token.startswith("api_"):
        what = "this is an API token, for programs that submit photos" if pinned else "this is no join token"
        raise TokenRefused(what, token[:8] + "…", "on the coordinator: passel token create --join")
    if pinned != coordinator.fingerprint:
        raise IdentityError(
            "the token belongs to another coordinator", coordinator.url, "check the address, or ask for a new token"
        )
    identity = Identity(home / pinned)
    request = JoinRequest(token, identity.request_pem(hostname), hostname)
    reply = asyncio.run(_ask(coordinator, request))
    identity.keep(reply.certificate_pem, coordinator.ca_pem)
    return identity


async def _meet(url: str) -> Coordinator:
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE  # the token's pin decides, not this handshake
    status, body = await _request("GET", url, CA_PATH, stranger)
    if status != 200 or b"BEGIN CERTIFICATE" not in body:
        todo = f"check the address and the port: workers join at {WORKERS_PORT}, if nothing else was chosen"
        raise Unreachable("this is no workers' port of a Passel: something else answers there", url, todo)
    coordinator = Coordinator(url, body.decode("ascii", "replace"))
    _ = coordinator.fingerprint  # raises if it is no certificate
    return coordinator


async def _ask(coordinator: Coordinator, request: JoinRequest) -> JoinReply:
    context = trusting(coordinator.ca_pem)
    status, body = await _request("POST", coordinator.url, JOIN_PATH, context, encode(request))
    return understood(status, body, JoinReply, coordinator.url)


async def _request(
    method: str, url: str, path: str, context: ssl.SSLContext, body: bytes | None = None
) -> tuple[int, bytes]:
    """Status and body of one request. Raises Unreachable for every way in which a network may fail; people know the url alone."""
    patience = aiohttp.ClientTimeout(total=_PATIENCE_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=patience, headers=version_headers()) as session,
            session.request(method, url + path, ssl=context, data=body, allow_redirects=False) as answer,
        ):
            return answer.status, await read_all(answer.content, _MOST_ANSWER_BYTES, url)
    except aiohttp.ClientConnectorCertificateError as e:
        raise IdentityError("the coordinator cannot prove who it is", url, "somebody may be in between") from e
    except (aiohttp.ClientError, OSError) as e:
        raise unreachable(e, url) from e


def unreachable(error: Exception, where: str) -> Unreachable:
    """In words, why no coordinator was reached."""
    if isinstance(error, aiohttp.ClientSSLError):
        todo = f"that is what browsers and clients use; workers join at port {WORKERS_PORT}, if no other was chosen"
        return Unreachable("this is no workers' port: it does not speak TLS", where, todo)
    if isinstance(error, TimeoutError):
        return Unreachable("the coordinator does not answer", where, "check the address, the network and firewalls")
    todo = "check the address, and that `passel serve` runs there with --listen"
    return Unreachable(f"the coordinator cannot be reached: {network_reason(error)}", where, todo)


def understood(status: int, body: bytes, kind: type[Reply], where: str) -> Reply:
    """A coordinator's answer. Raises what it says, or Unreachable when that is not our protocol."""
    try:
        if status == 200:
            return decode(kind, body)
        said = decode(WireProblem, body)
    except WireError:
        todo = f"is it a Passel {__version__}, as this one, with nothing in between?"
        raise Unreachable("the coordinator's answer cannot be understood", where, todo) from None
    raise _REFUSALS.get(status, PasselError)(said.what, said.where or where, said.todo)
