"""Tokens, foreign web pages, private addresses, bounds: docs/threat-model.md, each defence once."""

from __future__ import annotations

import asyncio
import http.server
import io
import socket
import struct
import threading
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import fsspec
import httpx
import pytest

from passel.server.access import Access, TooManyWrongTokensError, WrongTokenError, is_same_site, token_in
from passel.server.buckets import is_in_buckets
from passel.server.folders import JobFolder
from passel.server.jobs import JobError, Order
from passel.server.outgoing import Gate
from passel.server.preparing import Preparation, prepare
from passel.server.settings import Limits
from passel.server.unpacking import Bounds, unpack_tree
from server_world import PHOTO, new_uuid, running

TOKENS = {"alice-secret": "alice", "bob-secret": "bob"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    limits = {"wrong_tokens_a_minute": 10, "max_field_bytes": 10_000, "max_fields": 50, "max_images": 3, "idle_s": 0.5}
    with running(tmp_path_factory.mktemp("secure"), tokens=TOKENS, limits=limits) as w:
        yield w


def test_a_missing_or_wrong_token_is_told_as_nodeodms_clients_know_it(world):
    for path in ("/info", "/options", "/task/list", f"/task/{new_uuid()}/info"):
        for params in ({}, {"token": "wrong"}):
            error = world.get(path, **params)["error"]
            assert error.startswith("Invalid authentication token")
    assert "token does not match" in world.post("/task/new/init")["error"]
    assert world.get("/info", token="alice-secret")["engine"] == "passel"
    assert world.http.get("/info", headers={"Authorization": "Bearer alice-secret"}).json()["engine"] == "passel"


def test_a_token_sees_only_its_own_tasks(world):
    task = world.submit("alice-secret")
    assert world.get("/task/list", token="bob-secret") == []
    assert world.get("/task/list", token="alice-secret") == [{"uuid": task}]
    missing = {"error": f"{task} not found"}
    assert world.info(task, token="bob-secret") == missing
    assert world.info(task, token="bob-secret", with_output="0") == missing
    assert world.get(f"/task/{task}/output", token="bob-secret") == missing
    assert world.get(f"/task/{task}/download/all.zip", token="bob-secret") == missing
    for action in ("cancel", "remove", "restart"):
        assert world.act(action, task, "bob-secret")["success"] is False
    upload = world.init("alice-secret")
    assert world.upload(upload, ("a.jpg", PHOTO), token="bob-secret") == {"error": "Invalid uuid (not found)"}
    assert world.commit(upload, "bob-secret") == {"error": "Invalid uuid (not found)"}
    answer = world.post("/task/new/init", headers={"set-uuid": upload}, params={"token": "bob-secret"})
    assert answer == {"error": f"Invalid set-uuid: {upload}"}
    assert world.act("remove", upload, "alice-secret")["success"]


def test_guessing_is_braked_and_honest_clients_behind_the_address_are_not():
    now = [0.0]
    asked: list[str] = []

    class Checker:
        def owner_of(self, token: str) -> str | None:
            asked.append(token)
            return TOKENS.get(token)

    access = Access(Checker(), 3, lambda: now[0])
    assert access.owner_of("alice-secret", "1.2.3.4") == "alice"
    for i in range(3):
        with pytest.raises(WrongTokenError):
            access.owner_of(f"guess{i}", "1.2.3.4")
    asked.clear()
    with pytest.raises(TooManyWrongTokensError):
        access.owner_of("bob-secret", "1.2.3.4")
    assert asked == [], "it was not even looked at"
    now[0] = 6.0  # what is remembered of alice has to be asked again
    assert access.owner_of("alice-secret", "1.2.3.4") == "alice"
    assert access.owner_of("bob-secret", "5.6.7.8") == "bob"
    now[0] = 61.0
    assert access.owner_of("bob-secret", "1.2.3.4") == "bob"


def test_a_revoked_token_ends_within_seconds():
    now, owners = [0.0], dict(TOKENS)

    class Checker:
        def owner_of(self, token: str) -> str | None:
            return owners.get(token)

    access = Access(Checker(), 3, lambda: now[0])
    access.owner_of("alice-secret", "a")
    del owners["alice-secret"]
    now[0] = 5.1
    with pytest.raises(WrongTokenError):
        access.owner_of("alice-secret", "a")


def test_tokens_are_found_where_clients_put_them():
    assert token_in(b"a=1&token=x%20y", []) == "x y"
    assert token_in(b"", [(b"authorization", b"bearer  z")]) == "z"
    assert token_in(b"token=", [(b"authorization", b"Basic abc")]) == ""


@pytest.mark.parametrize(
    ("host", "origin", "fine"),
    [
        ("127.0.0.1:3000", None, True),
        ("localhost:3000", "http://localhost:3000", True),
        ("node-odm-1:3000", None, True),
        ("field-pc.local:3000", None, True),
        ("[::1]:3000", None, True),
        ("maps.example.org", None, True),
        ("localhost:3000", "http://evil.example", False),
        ("localhost:3000", "null", False),
        ("rebound.evil.example:3000", None, False),
        ("rebound.evil.example:3000", "http://rebound.evil.example:3000", False),
        ("[::1", None, False),
    ],
)
def test_web_pages_of_others_do_not_reach_a_server_without_tokens(host, origin, fine):
    headers = [(b"host", host.encode())] + ([(b"origin", origin.encode())] if origin else [])
    assert is_same_site(headers, frozenset({"maps.example.org"})) is fine


def test_foreign_pages_are_refused_by_the_server_itself(tmp_path_factory):
    with running(tmp_path_factory.mktemp("open")) as world:
        evil = {"Origin": "http://evil.example"}
        assert world.http.post("/task/new/init", headers=evil).status_code == 403
        assert world.http.get("/info", headers=evil).status_code == 403
        assert world.http.get("/info", headers={"Host": "evil.example"}).status_code == 403
        headers = world.http.get("/info").headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "sandbox" in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers


def test_with_tokens_any_page_may_ask_as_with_nodeodm(world):
    assert world.http.options("/info", headers={"Origin": "http://x.example"}).status_code == 204
    response = world.http.get("/info?token=alice-secret", headers={"Origin": "http://x.example"})
    assert response.headers["access-control-allow-origin"] == "*"


def test_no_secret_is_in_the_log(world):
    world.get("/info", token="alice-secret")
    world.get("/task/nothing/info", token="a-wrong-secret")
    world.http.get("/info", headers={"Authorization": "Bearer bob-secret"})
    world.http.get("/%0a%0dforged line?token=alice-secret")
    log = world.wait(lambda: "forged" in (text := world.log.read_text()) and text)
    assert "secret" not in log
    assert "\nforged" not in log


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1/x", "http://localhost/x", "http://10.0.0.1/", "http://192.168.1.1/", "http://172.16.0.1/"),
        *("http://169.254.169.254/latest/meta-data/", "http://[::1]/", "http://[fe80::1]/", "http://[fc00::1]/"),
        *("http://[::ffff:127.0.0.1]/", "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/", "http://0.0.0.0/"),
        *("http://0x7f000001/", "http://2130706433/", "http://127.1/", "http://224.0.0.1/", "http://100.64.0.1/"),
    ],
)
def test_private_addresses_are_not_reached(url):
    with pytest.raises(JobError, match=r"private network|cannot be found"), Gate(allow_private=False).get(url):
        pass


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://x/", "http://", "gopher://x", "http://x:99999/", "//x", "http://a b/"]
)
def test_urls_that_are_none(url):
    with pytest.raises(JobError, match="Invalid URL"):
        Gate(allow_private=True).check(url)


def test_a_name_is_looked_up_once_so_it_cannot_change_its_meaning(monkeypatch):
    calls: list[str] = []

    def look_up(host: str, port: int, **_: object) -> list[object]:
        calls.append(host)
        address = "93.184.216.34" if len(calls) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    dialled: list[object] = []

    def dial(address: tuple[str, int], *_: object) -> socket.socket:
        dialled.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket, "create_connection", dial)
    with (
        pytest.raises(JobError, match="cannot be reached"),
        Gate(allow_private=False).get("http://rebinding.example/x"),
    ):
        pass
    assert dialled == [("93.184.216.34", 80)]
    assert len(calls) == 1


def test_a_redirect_is_judged_like_the_first_address(monkeypatch):
    with web({"/go": (302, b"", {"Location": "http://10.1.2.3/secret"})}) as url:
        real = Gate._judge
        home = url.split("//")[1].split(":")[0]
        monkeypatch.setattr(Gate, "_judge", lambda s, h, a: None if str(a) == home else real(s, h, a))
        with pytest.raises(JobError, match="private network"), Gate(allow_private=False).get(f"{url}/go"):
            pass


@contextmanager
def web(pages: dict[str, tuple[int, bytes, dict[str, str]]]):
    """A web server with these pages; yields its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body, headers = pages.get(self.path, (404, b"", {}))
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=partial(server.serve_forever, 0.05))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def zip_of(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        for name, content in members.items():
            z.writestr(name, content)
    return out.getvalue()


def test_photos_by_url_and_by_zipurl(tmp_path):
    archive = zip_of(
        **{"in/a.jpg": PHOTO, "a.jpg": PHOTO + b"2", "geo.txt": b"x", "../up.jpg": PHOTO + b"3", ".DS_Store": b""}
    )
    pages = {
        "/b.jpg?key=secret": (200, PHOTO, {}),
        "/moved": (302, b"", {"Location": "/all.zip"}),
        "/all.zip": (200, archive, {}),
        "/short.jpg": (200, PHOTO, {"Content-Length": "999999"}),
    }
    with web(pages) as url, running(tmp_path, allow_private_urls=True) as world:
        task = world.post("/task/new", {"zipurl": f"{url}/moved", "urls": f'["{url}/b.jpg?key=secret"]'})["uuid"]
        assert world.wait_for(task, 40, 30) == 40, world.info(task)
        assert sorted(p.name for p in (world.job_folder(task) / "photos").iterdir()) == [
            *("a.jpg", "a_.jpg", "b.jpg", "up.jpg"),
        ]
        assert (world.job_folder(task) / "side" / "geo.txt").exists()
        for bad, why in (
            ("missing.zip", "answered 404"),
            ("b.jpg?key=secret", "not lead to a ZIP"),
            ("short.jpg", "broke off"),
        ):
            task = world.post("/task/new", {"zipurl": f"{url}/{bad}"})["uuid"]
            world.wait_for(task, 30)
            assert why in world.info(task)["status"]["errorMessage"]
        assert "secret" not in world.log.read_text() + str([world.info(task, with_output="0")])


@pytest.mark.parametrize(
    ("url", "fine"),
    [
        *(("memory://open/", True), ("memory://open", True), ("memory://open/a/b.jpg", True)),
        *(
            ("memory://open-not/", False),
            ("memory://open/../secret", False),
            ("memory://", False),
            ("file:///etc", False),
        ),
    ],
)
def test_only_opened_buckets_are_read(url, fine):
    assert is_in_buckets(url, ("memory://open/",)) is fine


def test_photos_from_a_bucket_are_fetched_once_and_may_be_fetched_again(tmp_path):
    store = fsspec.filesystem("memory")
    store.pipe({"/open/a.jpg": PHOTO, "/open/sub/b.jpg": PHOTO + b"b", "/secret/c.jpg": PHOTO})
    folder = JobFolder(tmp_path / "jobs" / "u")
    folder.make()
    to = Preparation(folder, Limits(), Gate(False), ("memory://open/",), lambda: False, lambda line: None)
    order = Order("x", 1, urls=("memory://open/",))
    assert prepare(order, to) == 2
    assert prepare(order, to) == 2, "as after a crash"
    assert {p.name for p in folder.photos.iterdir()} == {"a.jpg", "b.jpg"}
    with pytest.raises(JobError, match="no files"):
        prepare(replace(order, urls=("memory://open/nothing/",)), to)
    with pytest.raises(JobError, match="Invalid URL"):
        prepare(replace(order, urls=("memory://secret/",)), to)


def test_zipurl_to_a_private_address_is_refused_at_once(world):
    answer = world.post("/task/new", {"zipurl": "http://127.0.0.1:1/x.zip"}, params={"token": "alice-secret"})
    assert "private network" in answer["error"]
    answer = world.post("/task/new/init", {"webhook": "http://[::1]/"}, params={"token": "alice-secret"})
    assert "private network" in answer["error"]


def test_more_photos_than_allowed(world):
    task = world.init("alice-secret")
    answer = world.upload(task, *((f"{i}.jpg", PHOTO + bytes([i])) for i in range(4)), token="alice-secret")
    assert answer == {"error": "Max images count exceeded: 3 photos a task are allowed"}
    world.act("remove", task, "alice-secret")


BOUNDS = Bounds(max_bytes=1_000_000, max_members=20, disk_floor_bytes=0)


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"bomb": b"\0" * 1_000_001}, "more than is allowed"),
        ({f"{i}": b"" for i in range(21)}, "21 members"),
        ({"a": b"x", "a/b": b"y"}, "same name"),
        ({"d/" * 40 + "x": b""}, "unsafe name"),
        ({"c:evil": b""}, "unsafe name"),
    ],
)
def test_archives_are_bounded(tmp_path, members, why):
    (tmp_path / "x.zip").write_bytes(zip_of(**members))
    with pytest.raises(JobError, match=why):
        unpack_tree(tmp_path / "x.zip", tmp_path / "out", BOUNDS)


def test_an_archive_that_lies_about_sizes_links_or_encryption(tmp_path):
    archive = tmp_path / "x.zip"
    honest = zip_of(bomb=b"\0" * 2_000_000)
    lying = honest.replace(struct.pack("<I", 2_000_000), struct.pack("<I", 100))
    link = io.BytesIO()
    with zipfile.ZipFile(link, "w") as z:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        z.writestr(info, "/etc/passwd")
    secret = bytearray(zip_of(x=b"y"))
    secret[6] |= 1
    secret[secret.index(b"PK\x01\x02") + 8] |= 1
    for content in (lying, link.getvalue(), bytes(secret), b"PK\x05\x06" + b"\0" * 10, honest[: len(honest) // 2], b""):
        archive.write_bytes(content)
        with pytest.raises(JobError):
            unpack_tree(archive, tmp_path / "out", BOUNDS)
    assert not (tmp_path / "out" / "link").exists()


def test_giant_fields_and_many_fields_are_refused(world):
    token = {"token": "alice-secret"}
    assert world.post("/task/new/init", {"name": "x" * 20_000}, params=token) == {"error": "Field value too long"}
    assert "Too many fields" in world.post("/task/new/init", {f"f{i}": "" for i in range(60)}, params=token)["error"]
    files = {f"f{i}": (None, b"") for i in range(60)}
    assert "Too many fields" in world.post("/task/new/init", files=files, params=token)["error"]
    answer = world.post("/task/new/init", json={"name": "x" * 20_000}, params=token)
    assert answer == {"error": "Field value too long"}
    headers = {"Content-Type": "application/json"}
    answer = world.post("/task/new/init", content=b"[" * 9_000, headers=headers, params=token)
    assert answer["error"].startswith("Invalid JSON")


def test_a_body_that_stops_arriving_is_given_up(world):
    task = world.init("alice-secret")
    with socket.create_connection(("127.0.0.1", world.port)) as line:
        head = f"POST /task/new/upload/{task}?token=alice-secret HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n"
        part = '--b\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n'
        line.sendall((head + "Content-Type: multipart/form-data; boundary=b\r\n\r\n" + part).encode() + PHOTO)
        assert b"Nothing arrived" in line.makefile("rb").read(2000)
    assert list((world.job_folder(task) / "incoming").iterdir()) == []
    world.act("remove", task, "alice-secret")


def test_endless_headers_are_told_and_too_many_sockets_dropped(tmp_path):
    with running(tmp_path, limits={"max_connections": 20}) as world:
        with socket.create_connection(("127.0.0.1", world.port)) as line:
            line.settimeout(30)
            flood(line)
            assert b'{"error":"The request has too many or too long headers"}' in line.recv(2000)
        world.http.close()

        async def crowd() -> int:
            lines = [await asyncio.open_connection("127.0.0.1", world.port) for _ in range(60)]
            dropped = 0
            for reader, _ in lines:
                try:
                    async with asyncio.timeout(0.2):
                        dropped += await reader.read(1) == b""
                except TimeoutError:
                    pass
                except OSError:
                    dropped += 1
            for _, writer in lines:
                writer.close()
            await asyncio.gather(*(w.wait_closed() for _, w in lines), return_exceptions=True)
            return dropped

        assert asyncio.run(crowd()) >= 40
        with httpx.Client(base_url=f"http://127.0.0.1:{world.port}", timeout=30, trust_env=False) as client:
            world.wait(lambda: _answers(client))


def flood(line: socket.socket) -> None:
    """Headers without an end."""
    line.sendall(b"GET / HTTP/1.1\r\n")
    for _ in range(100):
        line.sendall(b"X: " + b"y" * 8000)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/info").status_code == 200
    except httpx.TransportError:
        return False
