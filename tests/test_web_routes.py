"""The data behind the web pages: who may see what, and odd numbers in addresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient

from passel.errors import InputError, PasselError
from passel.server.access import Access
from passel.server.app import create_app
from passel.server.canned import deliver
from passel.server.requests import Desk, answer
from passel.server.settings import Limits, ServerSettings, TestMode
from passel.web.map_tiles import map_box, tile_png
from passel.web.passel_routes import passel_routes
from passel.web.ports import PasselView, Services, TokenView
from passel.web.task_routes import line_of

OWNERS = {"of-the-operator": "", "of-anna": "anna"}


class Owners:
    def owner_of(self, token: str) -> str | None:
        return OWNERS.get(token)


@dataclass
class Machines:
    """Remembers what it was told to do."""

    made: list[tuple[str, str, float | None]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def view(self) -> PasselView:
        return PasselView("here", "1", 1.0, 0.0, None, join_lines=("passel join",))

    def drain(self, worker: str, drained: bool) -> None:
        self.told.append(worker)

    def revoke_worker(self, worker: str) -> None:
        self.told.append(worker)

    def tokens(self) -> Sequence[TokenView]:
        return ()

    def renew_invitation(self, token: str, expires_in_s: float) -> bool:
        return True

    def create_token(self, kind: str, name: str, expires_in_s: float | None) -> str:
        self.made.append((kind, name, expires_in_s))
        return "secret"

    def revoke_token(self, id: str) -> None:
        self.told.append(id)


async def tell(_: Request, error: Exception) -> Response:
    return answer({"error": str(error)})


@pytest.fixture
def machines() -> Machines:
    return Machines()


@pytest.fixture
def client(machines: Machines) -> TestClient:
    service = cast(Any, SimpleNamespace(settings=SimpleNamespace(limits=Limits())))
    app = FastAPI()
    app.add_exception_handler(PasselError, tell)
    app.include_router(passel_routes(Desk(service, Access(Owners(), 100)), Services(machines)))
    return TestClient(app)


def post(client: TestClient, path: str, token: str, **fields: str) -> dict[str, Any]:
    return cast(dict[str, Any], client.post(f"/ui/api/{path}?token={token}", data=fields).json())


def test_only_the_operator_looks_after_the_passel(client: TestClient, machines: Machines) -> None:
    for path in ("passel", "tokens"):
        assert "does not look after" in client.get(f"/ui/api/{path}?token=of-anna").json()["error"]
        assert "error" not in client.get(f"/ui/api/{path}?token=of-the-operator").json()
    for path in ("workers/drain", "workers/revoke", "tokens/create", "tokens/revoke"):
        said = post(client, path, "of-anna", kind="api", name="bob", worker="w", id="t")
        assert "does not look after" in said["error"], path
    assert not machines.made
    assert not machines.told
    assert post(client, "tokens/create", "of-the-operator", kind="api", name="bob")["token"] == "secret"
    assert machines.made == [("api", "bob", None)]


@pytest.mark.parametrize("days", ["nan", "-5", "0", "soon", "-inf"])
def test_days_that_are_none_make_no_token(client: TestClient, machines: Machines, days: str) -> None:
    said = post(client, "tokens/create", "of-the-operator", kind="join", days=days)
    assert said["success"] is False
    assert "days" in said["error"]
    assert not machines.made


@pytest.mark.parametrize("number", ["9" * 400, "1e308", "NaN", "-Infinity", "null", '"x"'])
def test_a_corner_that_is_nowhere_is_refused(number: str) -> None:
    with pytest.raises(InputError):
        line_of(f"[[{number}, 0], [1, 1]]")
    assert line_of("[[1, 2], [3, 4.5]]") == [(1.0, 2.0), (3.0, 4.5)]


def test_a_tile_far_away_is_empty(tmp_path: Path) -> None:
    deliver(tmp_path, ())  # an orthophoto of 64 m
    box = map_box(tmp_path)
    assert box is not None
    assert tile_png(tmp_path, box, "orthophoto", 0, 0, 0) is not None
    for column, row in ((int("9" * 400), 0), (0, int("9" * 400)), (-1, 0), (0, -1), (1, 0)):
        assert tile_png(tmp_path, box, "orthophoto", 0, column, row) is None


def test_the_schema_is_made_without_a_warning(tmp_path: Path) -> None:
    paths = create_app(ServerSettings(data=tmp_path, test=TestMode())).api.openapi()["paths"]
    assert "get" in paths["/task/{uuid}/download/{asset}"]
