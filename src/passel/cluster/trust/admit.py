"""The coordinator's door: `GET /ca.pem` shows who it is, `POST /v1/join` turns a join token into a certificate.

These are the only requests on the workers' port that need no certificate.
"""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import StreamReader, web
from cryptography import x509

from passel.cluster.trust.authority import Authority
from passel.cluster.trust.identity import IdentityError, key_digest
from passel.cluster.trust.roster import Roster
from passel.cluster.trust.tokens import Throttle, TokenRefused
from passel.cluster.wire.versions import other_version
from passel.cluster.wire.workers import WireError, WireProblem, decode, encode
from passel.errors import PasselError

CA_PATH = "/ca.pem"
JOIN_PATH = "/v1/join"
OPEN_PATHS = (CA_PATH, JOIN_PATH)
_MOST_BODY_BYTES = 16_384


@dataclass(frozen=True)
class JoinRequest:
    """token: a join token. csr_pem: a signing request for the machine's own key. hostname: the name that it would like."""

    token: str
    csr_pem: str
    hostname: str


@dataclass(frozen=True)
class JoinReply:
    """name: the machine's name in this passel. certificate_pem: for its key and that name. ca_pem: the authority's."""

    name: str
    certificate_pem: str
    ca_pem: str


class Door:
    """Admits machines. Answers are JoinReply or WireProblem: 400 garbage, 401 token, 426 other version, 429 guessing."""

    def __init__(self, authority: Authority, roster: Roster, throttle: Throttle) -> None:
        self._authority, self._roster, self._throttle = authority, roster, throttle

    def routes(self) -> list[web.RouteDef]:
        """For the application on the workers' port."""
        return [web.get(CA_PATH, self._show_ca), web.post(JOIN_PATH, self._join)]

    async def _show_ca(self, request: web.Request) -> web.Response:
        return web.Response(body=self._authority.ca.read_bytes(), content_type="application/x-pem-file")

    async def _join(self, request: web.Request) -> web.Response:
        if (refusal := other_version(request.headers)) is not None:
            return problem(426, refusal)
        address = request.remote or ""
        if self._throttle.must_wait(address):
            return problem(429, TokenRefused("too many wrong tokens from this address", address, "wait a minute"))
        try:
            return self._admit(decode(JoinRequest, await small_body(request)))
        except TokenRefused as e:
            self._throttle.wrong(address)
            return problem(401, e)
        except (WireError, IdentityError) as e:
            return problem(400, e)

    def _admit(self, asked: JoinRequest) -> web.Response:
        try:
            key = x509.load_pem_x509_csr(asked.csr_pem.encode("utf-8", "replace")).public_key()
        except ValueError as e:
            raise IdentityError("the signing request cannot be read", str(e), "join again") from e
        self._authority.sign_worker(asked.csr_pem, "nobody")  # a request that proves nothing must not use up the token
        name = self._roster.admit(asked.token, asked.hostname, key_digest(key))  # type: ignore[arg-type]
        certificate = self._authority.sign_worker(asked.csr_pem, name)
        reply = JoinReply(name, certificate, self._authority.ca.read_text("ascii"))
        return web.Response(body=encode(reply), content_type="application/json")


async def small_body(request: web.Request) -> bytes:
    """The body of a request from somebody who has not proven anything yet. Raises WireError if it is long."""
    return await read_all(request.content, _MOST_BODY_BYTES, request.path)


async def read_all(stream: StreamReader, most_bytes: int, where: str) -> bytes:
    """A message to its end, however many pieces it comes in. Raises WireError when there are more than `most_bytes`."""
    body = bytearray()
    async for piece in stream.iter_any():
        body += piece
        if len(body) > most_bytes:
            raise WireError("a message is too long", where, "run the same Passel everywhere")
    return bytes(body)


def problem(status: int, error: PasselError) -> web.Response:
    """A PasselError as an answer."""
    body = encode(WireProblem(error.what, error.where, error.todo))
    return web.Response(status=status, body=body, content_type="application/json")
