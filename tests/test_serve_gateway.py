"""The gateway inside a real `passel serve`: a node added while it runs makes the map; doors for nodes are least privilege."""

from __future__ import annotations

import json
import urllib.request
import uuid
from pathlib import Path

import pytest

from passel import cli
from passel.cluster.trust.tokens import OWN_NAME, AccessBook, TokenRefused, Tokens
from passel.fleet.ports import WorkerSeen
from passel.gateway.book import Book
from passel.gateway.node import Seen
from passel.server.wire import PASSELS_HEADER
from passel.serving.gateway import FleetNodes, PublicDoor
from serving import running, serve_words, until


def post(url: str, fields: dict[str, str], photo: bytes = b"") -> dict:
    """A multipart form as NodeODM's clients send it."""
    edge = uuid.uuid4().hex
    parts = [
        f'--{edge}\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n'.encode() for n, v in fields.items()
    ]
    if photo:
        head = f'--{edge}\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n'
        parts.append(head.encode() + photo + b"\r\n")
    body = b"".join(parts) + f"--{edge}--\r\n".encode()
    asked = urllib.request.Request(url, body, {"Content-Type": f"multipart/form-data; boundary={edge}"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return json.load(answer)


def get(url: str) -> dict:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)


def test_a_node_makes_the_map(tmp_path: Path, tiny_photo: bytes) -> None:
    node_words, node_port, _ = serve_words(tmp_path / "node", "--test")
    words, port, _ = serve_words(tmp_path / "front", "--no-worker")  # only the node can do it
    with running(node_words, tmp_path / "node.log") as node, running(words, tmp_path / "front.log") as front:
        node.wait_for("is ready")
        front.wait_for("is ready")
        data = ["--data", str(tmp_path / "front")]
        assert cli.main(["node", "add", f"http://127.0.0.1:{node_port}", *data]) == 0
        assert cli.main(["node", "update", *data]) == 0
        page = f"http://127.0.0.1:{port}"
        until(lambda: get(f"{page}/info")["cpuCores"] > 0, "the node's processors count")
        task = post(f"{page}/task/new/init", {"name": "through"})["uuid"]
        assert post(f"{page}/task/new/upload/{task}", {}, tiny_photo)["success"]
        post(f"{page}/task/new/commit/{task}", {})
        until(lambda: get(f"{page}/task/{task}/info")["status"]["code"] in (30, 40), "the task ended")
        ended = get(f"{page}/task/{task}/info")
        assert ended["status"]["code"] == 40, (ended, get(f"{page}/task/{task}/output?line=0"))


def test_no_passel_is_its_own_node_nor_that_of_its_node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Directly, through another one, and when a list of nodes says so: a task would go round in a circle."""
    listed = tmp_path / "nodes.json"
    first, port, _ = serve_words(tmp_path / "first", "--no-worker", "--nodes", str(listed))
    second, other, _ = serve_words(tmp_path / "second", "--no-worker")
    listed.write_text(json.dumps([{"hostname": "127.0.0.1", "port": str(port), "token": ""}]))

    def add(folder: str, at: int) -> tuple[int, str]:
        code = cli.main(["node", "add", f"http://127.0.0.1:{at}", "--data", str(tmp_path / folder)])
        said = capsys.readouterr()
        return code, said.out + said.err

    def nodes(folder: str) -> dict[str, str]:
        assert cli.main(["node", "list", "--json", "--data", str(tmp_path / folder)]) == 0
        return {n["url"]: n["trouble"] for n in json.loads(capsys.readouterr().out)}

    def reached(page: str) -> list[str]:
        with urllib.request.urlopen(f"{page}/info", timeout=60) as answer:
            return answer.headers[PASSELS_HEADER].split(", ")

    with running(first, tmp_path / "first.log") as one, running(second, tmp_path / "second.log") as two:
        one.wait_for("is ready")
        two.wait_for("is ready")
        itself, behind = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{other}"
        until(lambda: "this Passel itself" in nodes("first")[itself], "the listed node is known to be itself")
        code, said = add("first", port)
        assert code
        assert "It is this Passel itself" in said
        assert add("first", other)[0] == 0
        until(lambda: len(reached(itself)) == 2, "the first one tells that tasks may come to the second")
        assert reached(itself)[1:] == reached(behind)
        code, said = add("second", port)
        assert code
        assert "round in a circle" in said
        assert (nodes("first"), nodes("second")) == ({behind: ""}, {})


@pytest.fixture(scope="module")
def tiny_photo() -> bytes:
    from io import BytesIO

    from PIL import Image

    held = BytesIO()
    Image.new("RGB", (16, 16), "grey").save(held, "jpeg")
    return held.getvalue()


def test_nodes_never_get_a_token_of_the_operators(tmp_path: Path) -> None:
    book = AccessBook(tmp_path / "access.sqlite")
    tokens = Tokens(book, "f" * 24)
    door = PublicDoor(tokens, lambda: "http://h:3000/")
    for owner, name in (("anna", "parts of anna"), ("", "parts of a task"), (OWN_NAME, f"parts of {OWN_NAME}")):
        url, _, token = door.url_for(owner, "job").partition("?token=")
        assert url == "http://h:3000/"
        known = tokens.check("api", token)
        assert known.name == name
        assert known.expires_s is not None
    url = door.url_for("anna", "job")
    for _ in range(2):
        door.shut(url)
    with pytest.raises(TokenRefused, match="revoked"):
        tokens.check("api", url.partition("?token=")[2])
    tokens.check("api", door.url_for("anna", "job").partition("?token=")[2])
    door.shut("http://h:3000/?token=nobodys")
    assert PublicDoor(tokens, lambda: "").url_for("anna", "job") == ""
    book.close()


def test_the_fleets_nodes_come_and_go(tmp_path: Path) -> None:
    now = [1e9]
    book = Book(tmp_path / "nodes.sqlite", lambda: now[0])
    nodes = FleetNodes(book)
    nodes.drain("m1", True)
    nodes.remove("m1")
    for _ in range(2):
        nodes.add("m1", "10.0.0.5", 3000, "secret")
    nodes.add("m2", "fd00::1", 3000, "secret")
    assert [n.url for n in book.nodes()] == ["http://10.0.0.5:3000", "http://[fd00::1]:3000"]
    assert nodes.nodes() == ()  # none has answered yet
    book.answered(book.node("m1"), Seen(now[0], "odm", "3.5", "2.2.4", 0, 1, None, 0, 8))
    assert nodes.nodes() == (WorkerSeen("m1", False, False),)
    nodes.drain("m1", True)
    nodes.add("m1", "10.0.0.5", 3000, "secret")  # said again, it stays drained
    assert nodes.nodes() == (WorkerSeen("m1", False, True),)
    nodes.drain("m1", False)
    assert nodes.nodes() == (WorkerSeen("m1", False, False),)
    nodes.add("m1", "10.0.0.6", 3000, "secret")
    assert book.node("m1").url == "http://10.0.0.6:3000"
    nodes.remove("m1")
    assert [n.name for n in book.nodes()] == ["m2"]
    book.close()
