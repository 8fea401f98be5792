"""The web UI's routes without a browser: who may see what, tiles of a real raster, odd requests."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import rasterio
from fastapi.testclient import TestClient
from PIL import Image
from rasterio.transform import from_origin

from passel.errors import InputError
from passel.server.app import create_app
from passel.server.drivers import StepSeen
from passel.server.jobs import Job, Order, State
from passel.server.runtimes import Live
from passel.server.settings import ServerSettings, TestMode
from passel.web.app import add_ui
from passel.web.map_tiles import TILE_PX, MapBox, map_box, profile_m, tile_png
from passel.web.ports import PasselView, Services, TokenView, WorkerView

CELL_M = 0.5


class Names:
    """A TokenChecker: the token 'op' is the operator's, all others are names."""

    def owner_of(self, token: str) -> str | None:
        return {"op": "", "anna": "anna"}.get(token)


class OnePassel:
    """A passel of one machine, and a book of orders."""

    def __init__(self) -> None:
        self.orders: list[tuple[object, ...]] = []

    def view(self) -> PasselView:
        worker = WorkerView("w1", "working", "host7", 4, 8000, 6000, running=("features secret.jpg",))
        return PasselView("p", "1", 5.0, 0.0, None, (worker,), ("curl http://host7/join | sh -s -- TOKEN",))

    def drain(self, worker: str, drained: bool) -> None:
        self.orders.append(("drain", worker, drained))

    def revoke_worker(self, worker: str) -> None:
        self.orders.append(("revoke", worker))

    def tokens(self) -> Sequence[TokenView]:
        return [TokenView("abc", "api", "anna", 0.0, None, 0)]

    def renew_invitation(self, token: str, expires_in_s: float) -> bool:
        self.orders.append(("renew", token, expires_in_s))
        return True

    def create_token(self, kind: str, name: str, expires_in_s: float | None) -> str:
        self.orders.append(("create", kind, name, expires_in_s))
        return "new-token"

    def revoke_token(self, id: str) -> None:
        self.orders.append(("revoke token", id))


@pytest.fixture
def passel() -> OnePassel:
    return OnePassel()


@pytest.fixture
def client(tmp_path: Path, passel: OnePassel) -> TestClient:
    server = create_app(ServerSettings(tmp_path, test=TestMode()), tokens=Names())
    add_ui(server, Services(passel))
    return TestClient(server.asgi, raise_server_exceptions=True)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_pages_need_no_token_and_run_no_foreign_script(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert not re.search("https?://", page.text)
    assert client.head("/").status_code == 200  # what monitors ask
    again = client.get("/", headers={"If-None-Match": page.headers["etag"]})
    assert again.status_code == 304
    assert client.get("/ui/main.js").headers["content-type"].startswith("text/javascript")
    assert client.get("/ui/..%2Fapp.py").status_code == 404


def test_data_needs_a_token(client: TestClient) -> None:
    for path in ("tasks", "passel", "tokens"):
        assert "token" in client.get(f"/ui/api/{path}").json()["error"]


def test_a_named_token_sees_no_photos_of_others_and_changes_nothing(client: TestClient, passel: OnePassel) -> None:
    for path in ("passel", "tokens"):
        seen = client.get(f"/ui/api/{path}", headers=bearer("anna"))
        assert "does not look after the passel" in seen.json()["error"]
        assert "secret.jpg" not in seen.text
    for path in ("workers/drain", "workers/revoke", "tokens/create", "tokens/revoke", "invite"):
        answer = client.post(f"/ui/api/{path}", headers=bearer("anna"), data={"kind": "api", "worker": "w1"})
        assert "does not look after the passel" in answer.json()["error"]
    assert passel.orders == []


def test_the_operator_gives_orders(client: TestClient, passel: OnePassel) -> None:
    seen = client.get("/ui/api/passel", headers=bearer("op")).json()
    assert seen["workers"][0]["running"] == ["features secret.jpg"]
    assert client.get("/ui/api/tokens", headers=bearer("op")).json()["tokens"][0]["name"] == "anna"
    made = client.post("/ui/api/tokens/create", headers=bearer("op"), data={"kind": "join", "name": "x", "days": "2"})
    assert made.json() == {"success": True, "token": "new-token"}
    client.post("/ui/api/workers/drain", headers=bearer("op"), data={"worker": "w1", "drained": "true"})
    assert passel.orders == [("create", "join", "x", 172800.0), ("drain", "w1", True)]
    invited = client.post("/ui/api/invite", headers=bearer("op")).json()
    assert invited["lines"][0].endswith(" new-token")
    assert passel.orders.pop() == ("create", "join", "web page", 7 * 86400.0)
    assert client.post("/ui/api/invite", headers=bearer("op")).json() == invited
    assert passel.orders.pop() == ("renew", "new-token", 7 * 86400.0), "a click makes no other token"
    assert invited["qr"].startswith("<svg")
    assert "viewBox" in invited["qr"], "it would be a few pixels large on the page"
    for wrong in ({"kind": "root"}, {"kind": "api", "days": "soon"}):
        assert client.post("/ui/api/tokens/create", headers=bearer("op"), data=wrong).json()["success"] is False


def test_a_page_opened_late_is_told_all_steps_and_then_only_new_ones(tmp_path: Path) -> None:
    """The board of map tiles had lacked all but the latest 200."""
    server = create_app(ServerSettings(tmp_path, test=TestMode()), tokens=Names())
    add_ui(server, Services())
    uuid = "0b0c0d0e-0000-4000-8000-000000000001"
    asyncio.run(server.service._store.write(Job(uuid, "", Order("large", 1), State.RUNNING, 1)))
    runtime = server.service._runtimes.of(uuid)

    def finish(*numbers: int) -> None:
        for i in numbers:
            runtime.live.steps.add(StepSeen("tiles", f"x{i}_y0", "done", "host"))

    page = TestClient(server.asgi)

    def told(mark: str) -> tuple[list[str], str]:
        answer = page.get(f"/ui/api/tasks/{uuid}", params={"steps": mark}, headers=bearer("op")).json()
        return [s["name"] for s in answer["steps"]], answer["steps_mark"]

    finish(*range(1000))
    names, mark = told("")
    assert names == [f"x{i}_y0" for i in range(1000)]
    assert told(mark) == ([], mark)
    finish(1000, 1001)
    assert told(mark)[0] == ["x1000_y0", "x1001_y0"]
    for odd in ("nonsense", "x.5", f"{mark}9" * 500, mark.replace(".", "."[:0]), "0.-1"):
        assert len(told(odd)[0]) == 1002
    runtime.live = Live()  # another run
    finish(5)
    assert told(mark)[0] == ["x5_y0"]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map of 600 × 400 cells: red in the west, green in the east; a plane that rises 0.1 m a metre to the east."""
    folder = tmp_path_factory.mktemp("job")
    rows, cols = 400, 600
    place = {"crs": "EPSG:32615", "transform": from_origin(500_000.0, 5_000_000.0, CELL_M, CELL_M)}
    (folder / "odm_orthophoto").mkdir()
    (folder / "odm_dem").mkdir()
    rgba = np.zeros((4, rows, cols), np.uint8)
    rgba[0, :, :300], rgba[1, :, 300:], rgba[3, 50:] = 255, 255, 255  # the first 50 rows are empty
    size = {"height": rows, "width": cols, "tiled": True}
    with rasterio.open(
        folder / "odm_orthophoto/odm_orthophoto.tif", "w", count=4, dtype="uint8", **place, **size
    ) as file:
        file.write(rgba)
        file.colorinterp = [rasterio.enums.ColorInterp(n) for n in (3, 4, 5, 6)]
    heights = np.broadcast_to(100 + 0.1 * CELL_M * (np.arange(cols) + 0.5), (rows, cols)).astype(np.float32).copy()
    heights[:, 500:] = -9999
    with rasterio.open(
        folder / "odm_dem/dsm.tif", "w", count=1, dtype="float32", nodata=-9999, **place, **size
    ) as file:
        file.write(heights, 1)
    return folder


@pytest.fixture(scope="module")
def box(output: Path) -> MapBox:
    found = map_box(output)
    assert found is not None
    return found


def pixels(png: bytes | None) -> np.ndarray:
    assert png is not None
    return np.asarray(Image.open(io.BytesIO(png)))


def test_box_tells_place_and_levels(box: MapBox) -> None:
    assert (box.west, box.north, box.east, box.south) == (500_000.0, 5_000_000.0, 500_300.0, 4_999_800.0)
    assert box.levels == 3  # 600 cells: three tiles across, two, one
    assert 100 <= box.layer("dsm").low_m < box.layer("dsm").high_m <= 125


def test_tiles_lie_where_the_map_lies(output: Path, box: MapBox) -> None:
    finest = pixels(tile_png(output, box, "orthophoto", 0, 1, 0))
    assert finest.shape == (TILE_PX, TILE_PX, 4)
    assert not finest[:50, :, 3].any()
    assert finest[50:, :, 3].all()
    edge = 300 - TILE_PX
    assert (finest[100, edge - 1, :3] == (255, 0, 0)).all()
    assert (finest[100, edge, :3] == (0, 255, 0)).all()
    whole = pixels(tile_png(output, box, "orthophoto", 2, 0, 0))
    assert (whole[60, 70, :3] == (255, 0, 0)).all()
    assert (whole[60, 80, :3] == (0, 255, 0)).all()
    assert whole[150, 10, 3] == 0  # below the map


def test_relief_has_no_borders_and_holes_stay_holes(output: Path, box: MapBox) -> None:
    left, right = (pixels(tile_png(output, box, "dsm", 0, c, 0)) for c in (0, 1))
    step = np.abs(left[:, -1, :3].astype(int) - right[:, 0, :3]).max()
    assert step <= 2  # as between neighbours inside
    assert pixels(tile_png(output, box, "dsm", 0, 1, 0))[100, 500 - TILE_PX + 2, 3] == 0


def test_profile_follows_the_plane(output: Path, box: MapBox) -> None:
    line = profile_m(output, box, "dsm", [(500_010.0, 4_999_900.0), (500_110.0, 4_999_900.0)])
    assert line[0][0] == 0.0
    assert line[-1][0] == pytest.approx(100.0)
    assert line[-1][1] - line[0][1] == pytest.approx(10.0, abs=0.1)
    over_hole = profile_m(output, box, "dsm", [(500_240.0, 4_999_900.0), (500_290.0, 4_999_900.0)])
    assert np.isnan(over_hole[-1][1])


def test_what_is_not_there(output: Path, box: MapBox, tmp_path: Path) -> None:
    assert map_box(tmp_path) is None
    assert tile_png(output, box, "orthophoto", 0, 9, 0) is None
    assert tile_png(output, box, "orthophoto", 0, -1, 0) is None
    for layer, level in (("dtm", 0), ("../x", 0), ("dsm", 99), ("dsm", -1)):
        with pytest.raises(InputError):
            tile_png(output, box, layer, level, 0, 0)
    with pytest.raises(InputError):
        profile_m(output, box, "orthophoto", [(0, 0), (1, 1)])
