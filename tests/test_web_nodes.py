"""The admin API of nodes: only the operator's tokens open it, every order of `passel node` is there, and OpenAPI tells of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from passel.gateway.book import Book
from passel.gateway.desk import NodeDesk
from passel.server.app import create_app
from passel.server.settings import ServerSettings, TestMode
from passel.serving.ui import UiNodes
from passel.web.app import add_ui
from passel.web.ports import Services

NOWHERE = "http://127.0.0.1:9"
ORDERS = ("add", "delete", "lock", "unlock", "update")


class Names:
    """A TokenChecker: the token 'op' is the operator's, 'anna' hers."""

    def owner_of(self, token: str) -> str | None:
        return {"op": "", "anna": "anna"}.get(token)


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path / "nodes.sqlite")


@pytest.fixture
def client(tmp_path: Path, book: Book) -> TestClient:
    server = create_app(ServerSettings(tmp_path / "data", test=TestMode()), tokens=Names())
    add_ui(server, Services(nodes=UiNodes(NodeDesk(book))))
    return TestClient(server.asgi)


def order(client: TestClient, order: str, who: str = "op", /, **fields: str) -> dict[str, Any]:
    answer = client.post(f"/admin/nodes/{order}", data=fields, headers={"Authorization": f"Bearer {who}"})
    return dict(answer.json())


def test_nobody_else_gets_in(client: TestClient, book: Book) -> None:
    for token, word in (("anna", "does not look after"), ("wrong", "token"), ("", "token")):
        for name in ORDERS:
            assert word in str(order(client, name, token, url=NOWHERE, node="x")["error"])
        for path in ("", "/info?node=x", "/best?photos=3"):
            said = client.get(f"/admin/nodes{path}", headers={"Authorization": f"Bearer {token}"}).json()
            assert word in said["error"]
    assert book.nodes() == ()


def test_a_node_from_add_to_delete(client: TestClient, book: Book) -> None:
    added = order(client, "add", url=NOWHERE, name="field", max_upload_mb_s="2.5")
    (row,) = added["nodes"]
    assert (row["name"], row["url"], row["state"], row["max_upload_mb_s"]) == ("field", NOWHERE, "offline", 2.5)
    assert row["trouble"]
    order(client, "add", url=NOWHERE, name="field", token="secret-of-the-node")
    told = client.get("/admin/nodes?token=op")
    assert told.json()["nodes"][0]["has_token"] is True
    assert "secret-of" not in told.text
    assert order(client, "lock", node="field")["nodes"][0]["locked"] is True
    assert order(client, "unlock", node=NOWHERE)["nodes"][0]["locked"] is False
    assert client.get("/admin/nodes/info?token=op&node=field").json()["tasks"] == []
    best = client.get("/admin/nodes/best?token=op&photos=12").json()
    assert best["name"] == ""
    assert best["why"]
    assert order(client, "update")["success"] is True
    assert order(client, "delete", node="field")["nodes"] == []


def test_json_bodies_do_as_well(client: TestClient) -> None:
    answer = client.post("/admin/nodes/add?token=op", json={"url": NOWHERE, "name": "j"})
    assert answer.json()["nodes"][0]["name"] == "j"


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("add", {"url": "ftp://x"}),
        ("add", {"url": ""}),
        ("add", {"url": NOWHERE, "max_upload_mb_s": "nan"}),
        ("add", {"url": NOWHERE, "max_upload_mb_s": "-1"}),
        ("add", {"url": NOWHERE, "pin": "zz"}),
        ("lock", {"node": "unknown"}),
        ("unlock", {}),
        ("delete", {"node": "unknown"}),
    ],
)
def test_what_makes_no_sense_is_told(client: TestClient, book: Book, name: str, fields: dict[str, str]) -> None:
    said = order(client, name, **fields)
    assert said["success"] is False
    assert said["error"]
    assert book.nodes() == ()


@pytest.mark.parametrize("path", ["/info?node=unknown", "/best?photos=many", "/best?photos=-1", "/best"])
def test_odd_questions_are_answered_with_words(client: TestClient, path: str) -> None:
    joint = "&" if "?" in path else "?"
    assert client.get(f"/admin/nodes{path}{joint}token=op").json()["error"]


def test_openapi_tells_of_it(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {f"/admin/nodes/{name}" for name in ORDERS} | {"/admin/nodes", "/admin/nodes/info"} <= set(paths)
    adding = paths["/admin/nodes/add"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"url", "token", "pin"} <= set(adding["properties"])
