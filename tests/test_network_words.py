"""What people are told when something else, or nobody, is where they look for a passel: one line, in words, by real sockets."""

from __future__ import annotations

import errno
import re
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest
from aiohttp import web
from PIL import Image

from passel import cli
from passel.client import hand_over
from passel.client import wire as client_wire
from passel.cluster.coordinator.admin import OVERVIEW_PATH
from passel.cluster.coordinator.listening import trouble_at
from passel.cluster.trust import join as joining
from passel.cluster.trust.admit import CA_PATH, JOIN_PATH
from passel.cluster.trust.authority import Authority
from passel.errors import PasselError, network_reason
from test_join import host, listening

RAW = re.compile(r"ssl:|Cannot connect|Errno|Error\b|_ssl\.c|[<>]|Traceback|httpx|aiohttp|None")


async def page(request: web.Request) -> web.Response:
    """As a proxy or a web server answers whatever it is asked."""
    return web.Response(text="<html><b>502</b> proxy</html>", content_type="text/html", status=200)


def shows(authority: Authority) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def show(request: web.Request) -> web.Response:
        return web.Response(body=authority.ca.read_bytes())

    return show


class World:
    """Everybody who may be at an address. token: of the coordinator that ought to be there."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        authority = Authority.open(folder / "ours")
        everything = [web.route("*", "/{path:.*}", page)]
        self.certificate = certificate = web.get(CA_PATH, shows(authority))
        tls = authority.server_context(["127.0.0.1"])
        with socket.create_server(("127.0.0.1", 0)) as freed:
            refused = freed.getsockname()[1]
        self.ports = {
            "refused": refused,
            "silent": self._silent(),
            "hangs_up": self._hangs_up(),
            "http": stack.enter_context(listening(everything, None)),
            "other_tls": stack.enter_context(listening(everything, self._tls_of_somebody())),
            "proxy_behind_our_tls": stack.enter_context(listening([certificate, *everything], tls)),
        }
        self._host = stack.enter_context(host(folder))
        self.ports["other_passel"] = int(self._host.url.rpartition(":")[2])
        self.tokens = {kind: f"{kind}_{authority.fingerprint}_{'a' * 24}" for kind in ("join", "api")}

    def _tls_of_somebody(self) -> ssl.SSLContext:
        return Authority.open(self.folder / "somebody").server_context(["127.0.0.1"])

    def _silent(self) -> int:
        return int(self._stack.enter_context(closing(socket.create_server(("127.0.0.1", 0)))).getsockname()[1])

    def _hangs_up(self) -> int:
        listener = self._stack.enter_context(closing(socket.create_server(("127.0.0.1", 0))))

        def serve() -> None:
            while True:
                try:
                    listener.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        self._stack.callback(listener.shutdown, socket.SHUT_RDWR)
        return int(listener.getsockname()[1])

    def at(self, who: str) -> str:
        return "no-such-host.invalid:3001" if who == "unknown" else f"127.0.0.1:{self.ports[who]}"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("w"), stack)


@pytest.fixture
def say(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line that a command ends with."""
    monkeypatch.setattr(joining, "_PATIENCE_S", 1.0)
    monkeypatch.setattr(client_wire, "_TIMEOUT", httpx.Timeout(1.0))
    monkeypatch.setattr(client_wire, "_LOOK_TIMEOUT", httpx.Timeout(1.0))
    monkeypatch.setattr(hand_over, "FIRST_PATIENCE_S", 0.0)
    monkeypatch.setenv("XDG_DATA_HOME", str(world.folder / "xdg"))

    def run(*words: str) -> str:
        assert cli.main(list(words)) in (1, 2)
        seen = capsys.readouterr()
        lines = (seen.err + seen.out).strip().splitlines()
        assert len(lines) <= 2, lines  # two: what is tried again is said, too
        assert not RAW.search(lines[-1].replace(str(world.folder), "")), lines
        return lines[-1]

    return run


AS_WORKER = {
    "refused": "cannot be reached: nobody listens at this address and port .* → check the address",
    "unknown": "cannot be reached: its name leads to no address",
    "silent": "does not answer .* → check the address, the network and firewalls",
    "hangs_up": "cannot be reached: the connection broke off",
    "http": "no workers' port: it does not speak TLS .* workers join at port 3001",
    "other_tls": "no workers' port of a Passel: something else answers there .* workers join at 3001",
    "other_passel": "the token belongs to another coordinator",
    "proxy_behind_our_tls": "the coordinator's answer cannot be understood .* is it a Passel",
}


@pytest.mark.parametrize("who", AS_WORKER)
def test_joining(world, say, who):
    at = f"https://{world.at(who)}"
    words = say("join", at, "--token", world.tokens["join"], "--home", str(world.folder / f"home-{who}"))
    assert re.search(AS_WORKER[who], words)


@pytest.mark.parametrize("who", AS_WORKER)
@pytest.mark.parametrize("command", [["status"], ["drain", "name"]], ids=["status", "drain"])
def test_looking_after_a_passel(world, say, who, command):
    words = say(*command, "--url", f"https://{world.at(who)}", "--token", world.tokens["api"])
    assert re.search(AS_WORKER[who], words)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("field")
    Image.new("RGB", (320, 240)).save(folder / "p.jpg")
    return folder


AS_CLIENT = {
    "refused": "cannot be reached: nobody listens at this address and port .* → is `passel serve` running there",
    "unknown": "cannot be reached: its name leads to no address",
    "silent": "cannot be reached: it does not answer",
    "hangs_up": "cannot be reached: the connection broke off",
    "http": "no Passel or NodeODM server .* → check the address",
    "other_tls": "cannot be reached: its certificate is not believed here .*SSL_CERT_FILE",
    "other_passel": "this is the port for workers .* → clients use the other one, for example --server http://127.0.0.1:3000",
}


@pytest.mark.parametrize("who", AS_CLIENT)
def test_handing_over(world, say, who, photos):
    scheme = "https" if who == "other_tls" else "http"
    assert re.search(AS_CLIENT[who], say("submit", str(photos), "--server", f"{scheme}://{world.at(who)}"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tasks", "--server", "https://{http}"], "does not speak TLS as we do .* → try http://127"),
        (["tasks", "--server", "https://{other_passel}"], "this is the port for workers"),
        (
            ["status", "--url", "http://{http}", "--token", "{api}"],
            "address for browsers and clients .* --url https://",
        ),
        (["status", "--url", "https://{other_passel}", "--token", "{join}"], "this is a join token.* create --api"),
        (["status", "--url", "https://{other_passel}", "--token", "x"], "does not say which coordinator .*--api"),
        (["join", "https://{proxy_behind_our_tls}", "--token", "{api}"], "this is an API token.* create --join"),
        (["join", "http://{http}", "--token", "{join}"], "workers join over https, not http .* → passel join https"),
        (["status", "--data", "/nowhere"], "no coordinator runs with this data folder"),
    ],
)
def test_the_wrong_kind_of_address_or_token(world, say, words, expected):
    values = {**{w: world.at(w) for w in world.ports}, **world.tokens}
    filled = [w.format_map(values) for w in words]
    if filled[0] == "join":
        filled += ["--home", str(world.folder / "home")]
    assert re.search(expected, say(*filled))


def test_who_is_there_is_looked_at_once_for_each_kind_of_trouble(world, monkeypatch):
    looked = []
    monkeypatch.setattr(client_wire, "_is_workers_port", lambda url: bool(looked.append(url)))

    def fail(server: client_wire.Server) -> None:
        with pytest.raises(client_wire.AwayError):
            server.info()

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"engine": "passel", "version": "1"})

    with client_wire.Server(client_wire.Address.parse(world.at("refused"))) as server:
        for _ in range(5):
            fail(server)
    assert len(looked) == 1
    with listening([web.get("/info", answer)], None) as port:
        server = client_wire.Server(client_wire.Address.parse(f"127.0.0.1:{port}"))
        server.info()
    with server:
        fail(server)  # it has gone
    assert len(looked) == 1, "who has answered as a server is one"


def _json(text: str) -> Callable[[], web.Response]:
    return lambda: web.Response(text=text, content_type="application/json")


STRANGE = {
    "a login page that leads in a circle": (
        lambda: web.Response(status=302, headers={"Location": "/x"}),
        "no Passel or",
    ),
    "not the compression that it says": (
        lambda: web.Response(body=b"hello", headers={"Content-Encoding": "gzip"}),
        "no Passel or",
    ),
    "JSON without an end": (_json("[" * 100_000), "no Passel or"),
    "words for a number": (_json('{"maxImages": "lots"}'), "the server's answer to /info"),
    "a number without an end": (_json('{"maxImages": 1e999}'), "the server's answer to /info"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_a_strange_server_is_told_in_words(say, photos, kind):
    answer, expected = STRANGE[kind]

    async def strange(request: web.Request) -> web.Response:
        return answer()

    with listening([web.route("*", "/{path:.*}", strange)], None) as port:
        assert expected in say("submit", str(photos), "--server", f"127.0.0.1:{port}")


def test_the_port_for_clients_is_told_as_it_is_typed(monkeypatch):
    monkeypatch.setattr(client_wire, "_is_workers_port", lambda url: True)
    with client_wire.Server(client_wire.Address.parse("[::1]:1")) as server, pytest.raises(PasselError) as told:
        server.info()
    assert "--server http://[::1]:3000" in told.value.todo


def test_a_token_that_the_server_does_not_take(world, say):
    async def refuse(request: web.Request) -> web.Response:
        return web.json_response({"error": "Invalid authentication token"})

    with listening([web.route("*", "/{path:.*}", refuse)], None) as port:
        assert "→ that is a join token" in say(
            "tasks", "--server", f"127.0.0.1:{port}", "--token", world.tokens["join"]
        )
        assert "→ set PASSEL_TOKEN, or end the address in /?token=TOKEN" in say(
            "tasks", "--server", f"127.0.0.1:{port}"
        )


def test_another_version_is_named(world, say):
    authority = Authority.open(world.folder / "ours")

    async def newer(request: web.Request) -> web.Response:
        return web.json_response({"name": "x", "all": "new"})

    routes = [world.certificate, web.get(OVERVIEW_PATH, newer), web.post(JOIN_PATH, newer)]
    with listening(routes, authority.server_context(["127.0.0.1"])) as port:
        at = f"https://127.0.0.1:{port}"
        assert "is it a Passel" in say("status", "--url", at, "--token", world.tokens["api"])
        home = str(world.folder / "versions")
        assert "is it a Passel" in say("join", at, "--token", world.tokens["join"], "--home", home)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EHOSTUNREACH, "No route to host"), "there is no way to it from here"),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 1), [Errno 111]"), "nobody listens"),
        (OSError(errno.ETIMEDOUT, "x"), "it does not answer"),
        (OSError(errno.EMFILE, "x"), "too many open files"),
        (ValueError("<odd>"), "the connection broke off"),
        (PasselError("the disk is full", "here"), "the disk is full"),
    ],
)
def test_reasons(error, words):
    assert network_reason(error).startswith(words)


def test_a_limit_of_open_files_is_not_blamed_on_the_port():
    error = trouble_at(OSError(errno.EMFILE, ""), "127.0.0.1", 3000, "--port")
    assert "→ raise its limit: ulimit -n 4096" in str(error)
