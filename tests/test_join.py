"""Joining over real TLS sockets: the door of a real coordinator, and everything that may stand in its place."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web

import passel
from passel.cluster.trust import join as joining
from passel.cluster.trust.admit import Door, JoinRequest
from passel.cluster.trust.authority import Authority
from passel.cluster.trust.identity import Identity, IdentityError, trusting
from passel.cluster.trust.join import Unreachable, join, kept_identity, meet, remember_url, workers_url
from passel.cluster.trust.roster import Roster
from passel.cluster.trust.tokens import AccessBook, Throttle, TokenRefused, Tokens
from passel.cluster.wire.versions import VERSION_HEADER, WIRE_HEADER, WIRE_VERSION, version_headers
from passel.cluster.wire.workers import encode
from passel.commands.join import find_and_join
from passel.errors import PasselError, UsageError


@contextmanager
def listening(routes: Sequence[web.RouteDef], tls: ssl.SSLContext | None) -> Iterator[int]:
    """A server in a thread of its own; yields its port."""
    loop = asyncio.new_event_loop()
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None)
    open_socket = socket.create_server(("127.0.0.1", 0))

    async def start() -> None:
        await runner.setup()
        await web.SockSite(runner, open_socket, ssl_context=tls).start()

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield open_socket.getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@dataclass(frozen=True)
class Host:
    """A coordinator's door on a port of this machine."""

    authority: Authority
    tokens: Tokens
    roster: Roster
    url: str


@contextmanager
def host(folder: Path) -> Iterator[Host]:
    authority = Authority.open(folder / "identity")
    book = AccessBook(folder / "access.db")
    tokens = Tokens(book, authority.fingerprint)
    roster = Roster(book, tokens)
    door = Door(authority, roster, Throttle(allowed=3))
    with listening(door.routes(), authority.server_context(["127.0.0.1"])) as port:
        yield Host(authority, tokens, roster, f"https://127.0.0.1:{port}")
    book.close()


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Host]:
    with host(tmp_path) as made:
        yield made


def test_a_token_becomes_an_identity_that_is_kept(one: Host, tmp_path: Path) -> None:
    seen = meet(one.url)
    assert kept_identity(seen, tmp_path / "home") is None
    token = one.tokens.create("join", uses_allowed=1)
    identity = join(seen, token, tmp_path / "home", "field pc")
    assert (identity.name, identity.fingerprint) == ("field-pc", one.authority.fingerprint)
    assert kept_identity(meet(one.url), tmp_path / "home") == identity
    identity.client_context()
    identity.certificate.unlink()  # killed before the answer was kept: the same token, the same key, the same name
    assert join(seen, token, tmp_path / "home", "field pc").name == "field-pc"
    with pytest.raises(TokenRefused, match="used up"):
        join(seen, token, tmp_path / "another", "field pc")


def test_wrong_expired_and_revoked_tokens_are_told_apart(one: Host, tmp_path: Path) -> None:
    seen = meet(one.url)
    good = one.tokens.create("join")
    expired, revoked = one.tokens.create("join", expires_in_s=0), one.tokens.create("join", "gone")
    one.tokens.revoke("gone")
    wrong = good[:-1] + ("a" if good[-1] != "a" else "b")
    for token, words in ((expired, "expired"), (revoked, "revoked"), (wrong, "the token is wrong")):
        with pytest.raises(TokenRefused, match=words):
            join(seen, token, tmp_path / "home", "pc")
    with pytest.raises(TokenRefused, match="too many wrong tokens"):
        join(seen, good, tmp_path / "home", "pc")
    for other in (one.tokens.create("api").replace("api_", "x_"), "hunter2", ""):
        with pytest.raises(TokenRefused, match="no join token"):
            join(seen, other, tmp_path / "home", "pc")
    assert one.roster.members() == ()


def test_a_token_of_another_coordinator_is_not_sent(one: Host, tmp_path: Path) -> None:
    with host(tmp_path / "other") as other, pytest.raises(IdentityError, match="another coordinator"):
        join(meet(one.url), other.tokens.create("join"), tmp_path / "home", "pc")


def test_somebody_in_between_with_the_right_ca_pem_is_found_out(one: Host, tmp_path: Path) -> None:
    """The authority's certificate is public; without its key nobody can serve under it."""
    thief = Authority.open(tmp_path / "thief")
    caught: list[str] = []

    async def show(request: web.Request) -> web.Response:
        return web.Response(body=one.authority.ca.read_bytes())

    async def steal(request: web.Request) -> web.Response:
        caught.append(await request.text())
        return web.Response()

    routes = [web.get("/ca.pem", show), web.post("/v1/join", steal)]
    with listening(routes, thief.server_context(["127.0.0.1"])) as port:
        seen = meet(f"https://127.0.0.1:{port}")
        with pytest.raises(IdentityError, match="cannot prove who it is"):
            join(seen, one.tokens.create("join"), tmp_path / "home", "pc")
    assert caught == []


@pytest.mark.parametrize(
    ("header", "theirs", "named"),
    [
        (VERSION_HEADER, "99.0", f"Passel 99.0 (wire {WIRE_VERSION})"),
        (WIRE_HEADER, "1", f"Passel {passel.__version__} (wire 1)"),
    ],
)
def test_another_version_is_refused_with_both_named(
    one: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: str, theirs: str, named: str
) -> None:
    monkeypatch.setattr(joining, "version_headers", lambda: version_headers() | {header: theirs})
    both = f"runs {named}, the coordinator runs Passel {passel.__version__} (wire {WIRE_VERSION})"
    with pytest.raises(PasselError, match=re.escape(both)):
        join(meet(one.url), one.tokens.create("join"), tmp_path / "home", "pc")
    assert one.roster.members() == ()


def test_a_request_that_proves_nothing_uses_nothing_up(
    one: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = one.tokens.create("join", uses_allowed=1)
    monkeypatch.setattr("passel.cluster.trust.identity.Identity.request_pem", lambda *_: "garbage")
    with pytest.raises(PasselError, match="signing request cannot be read"):
        join(meet(one.url), token, tmp_path / "home", "pc")
    monkeypatch.undo()
    assert join(meet(one.url), token, tmp_path / "home", "pc").name == "pc"


def test_garbage_at_the_door_is_refused_and_bounded(one: Host) -> None:
    context = trusting(one.authority.ca)
    for body, words in ((b"", "not a JoinRequest"), (b"\xff{", "not a JoinRequest"), (b" " * 10**6, "too long")):
        status, answer = asyncio.run(joining._request("POST", one.url, "/v1/join", context, body))
        assert status == 400
        assert words.encode() in answer


def test_a_request_in_pieces_is_read_to_its_end(one: Host, tmp_path: Path) -> None:
    token, identity = one.tokens.create("join"), Identity(tmp_path / "slow")
    body = encode(JoinRequest(token, identity.request_pem("slow"), "slow"))
    fields = {"Host": "x", **version_headers(), "Content-Length": str(len(body))}
    head = "POST /v1/join HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n"
    address = ("127.0.0.1", int(one.url.rpartition(":")[2]))
    with socket.create_connection(address) as raw, trusting(one.authority.ca).wrap_socket(raw) as tls:
        for piece in (head.encode(), body[:100], body[100:]):
            tls.sendall(piece)
            threading.Event().wait(0.1)
        assert tls.recv(20).startswith(b"HTTP/1.1 200")
    assert [m.name for m in one.roster.members()] == ["slow"]


def test_what_is_no_coordinator_is_said_to_be_none(tmp_path: Path) -> None:
    async def nothing(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    with listening([web.get("/ca.pem", nothing)], None) as port, pytest.raises(Unreachable, match="does not speak TLS"):
        meet(f"https://127.0.0.1:{port}")
    tls = Authority.open(tmp_path / "a").server_context(["127.0.0.1"])
    with listening([], tls) as port, pytest.raises(Unreachable, match="something else answers"):
        meet(f"https://127.0.0.1:{port}")
    with (
        listening([web.get("/ca.pem", nothing)], tls) as port,
        pytest.raises(Unreachable, match="something else answers"),
    ):
        meet(f"https://127.0.0.1:{port}")
    free = socket.create_server(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    with pytest.raises(Unreachable, match="cannot be reached: nobody listens") as told:
        meet(f"https://127.0.0.1:{port}")
    assert told.value.where == f"https://127.0.0.1:{port}", "as it was typed"


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("coordinator", "https://coordinator:3001"),
        ("10.1.2.3:4001", "https://10.1.2.3:4001"),
        ("https://pc.local", "https://pc.local:3001"),
        ("https://[fd00::1]:3001/", "https://[fd00::1]:3001"),
        ("fd00::1", "https://[fd00::1]:3001"),
    ],
)
def test_addresses_as_people_type_them(typed: str, url: str) -> None:
    assert workers_url(typed) == url


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("http://pc:3000", "over https.*passel join https://pc:3001"),
        ("https://", "no address"),
        ("pc:99999", "cannot be read"),
        ("https://pc/path", "no address"),
        ("[", "cannot be read"),
    ],
)
def test_what_is_no_address(typed: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        workers_url(typed)


def test_what_is_kept_serves_while_the_coordinator_is_away_but_not_with_another(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with host(tmp_path / "first") as one:
        with pytest.raises(TokenRefused, match=r"a join token is needed \["):
            find_and_join(one.url, "", home, "pc")
        url, identity = find_and_join(one.url, one.tokens.create("join"), home, "pc")
        assert find_and_join(one.url, "", home, "pc") == (url, identity)
    assert find_and_join(url, "", home, "pc") == (url, identity)
    other_url = url[:-1] + ("1" if url[-1] != "1" else "2")
    with pytest.raises(Unreachable):
        find_and_join(other_url, "", home, "pc")
    with host(tmp_path / "second") as other:
        remember_url(identity, other.url)  # as if the second stood where the first was
        with pytest.raises(TokenRefused, match="needed, for it is another coordinator than before"):
            find_and_join(other.url, "", home, "pc")
        _, new = find_and_join(other.url, other.tokens.create("join"), home, "pc")
        assert new.fingerprint == other.authority.fingerprint
        assert find_and_join(other.url, "", home, "pc") == (other.url, new)
    assert find_and_join(other.url, "", home, "pc") == (other.url, new)  # away, and not mistaken for the first
