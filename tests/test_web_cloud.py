"""The point cloud as the browser gets it: every point once, where it is; files that are no such cloud; who may look."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import laspy
import numpy as np
import pytest
from fastapi.testclient import TestClient

from passel.errors import InputError
from passel.products.points import merge_points
from passel.products.tiles import read_tiles
from passel.server.app import create_app
from passel.server.settings import ServerSettings, TestMode
from passel.web import cloud_nodes
from passel.web.app import add_ui
from passel.web.cloud_nodes import CLOUD, CloudFile
from passel.web.ports import Services
from product_tiles import Field


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, field = tmp_path_factory.mktemp("cloud"), Field()
    tiles = read_tiles([field.write(folder / "tiles", i, j, points=True) for j in range(2) for i in range(3)])
    merge_points(tiles, field.frame, folder / CLOUD, 30_000)
    return folder / CLOUD


@pytest.fixture(scope="module")
def file(path: Path) -> CloudFile:
    return CloudFile(path)


def places_m(file: CloudFile, key: tuple[int, ...], packed: bytes) -> np.ndarray[Any, Any]:
    """What the browser makes of a node."""
    cloud, count = file.cloud, len(packed) // 9
    side_m = 2 * cloud.halfsize_m / 2 ** key[0]
    low = np.array(cloud.centre_m) - cloud.halfsize_m + np.array(key[1:4]) * side_m
    return np.asarray(low + np.frombuffer(packed, "<u2", 3 * count).reshape(-1, 3) * side_m / 65536)


def test_every_point_comes_once_with_its_colour(path: Path, file: CloudFile) -> None:
    las = laspy.read(path)
    assert file.cloud.points == len(las.points) == sum(n[4] for n in file.cloud.nodes)
    assert [n[0] for n in file.cloud.nodes] == sorted(n[0] for n in file.cloud.nodes)
    found, colours, worst_m = [], [], 2 * file.cloud.halfsize_m / 65536 + 0.001
    for key in file.cloud.nodes:
        packed = file.node(*key[:4])
        assert len(packed) == 9 * key[4]
        found.append(places_m(file, key, packed))
        colours.append(np.frombuffer(packed, np.uint8, offset=6 * key[4]).reshape(-1, 3))
    there = np.asarray(las.xyz)
    for axis in range(3):
        ours, theirs = np.sort(np.concatenate(found)[:, axis]), np.sort(there[:, axis])
        assert np.abs(ours - theirs).max() <= worst_m
    expected = np.column_stack([las.red, las.green, las.blue]) >> 8
    got = np.concatenate(colours)
    assert (got[np.lexsort(got.T)] == expected[np.lexsort(expected.T)]).all()
    assert there[:, 2].min() - 0.5 <= file.cloud.low_m < file.cloud.high_m <= there[:, 2].max() + 0.5


def test_a_node_that_is_too_large_is_thinned(file: CloudFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud_nodes, "MOST_POINTS", 100)
    key = max(file.cloud.nodes, key=lambda n: n[4])
    assert 50 <= len(file.node(*key[:4])) // 9 <= 100


def test_what_is_no_cloud_in_levels_is_refused(path: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.laz"
    laspy.create(point_format=3, file_version="1.4").write(str(plain))
    whole = path.read_bytes()
    (tmp_path / "cut.laz").write_bytes(whole[: len(whole) // 2])  # its octree lies at the end
    (tmp_path / "empty.laz").write_bytes(b"")
    (tmp_path / "text.laz").write_text("LASF" + "x" * 1000)
    for bad in ("plain", "cut", "empty", "text", "missing"):
        with pytest.raises(InputError):
            CloudFile(tmp_path / f"{bad}.laz")


def test_damage_is_told_and_kills_nobody(path: Path, tmp_path: Path) -> None:
    whole, random = path.read_bytes(), np.random.default_rng(5)
    for _ in range(60):
        spoilt = np.frombuffer(whole, np.uint8).copy()
        spoilt[random.integers(375, len(spoilt), 400)] = random.integers(0, 256, 400)
        (tmp_path / "spoilt.laz").write_bytes(spoilt.tobytes())
        try:
            file = CloudFile(tmp_path / "spoilt.laz")
            for key in file.cloud.nodes[:5]:
                file.node(*key[:4])
        except InputError:
            continue


def test_an_octree_that_bites_its_tail_has_an_end(path: Path, tmp_path: Path) -> None:
    spoilt = bytearray(path.read_bytes())
    offset, size = struct.unpack_from("<QQ", spoilt, 469)
    struct.pack_into("<iiiiQii", spoilt, offset, 0, 0, 0, 0, offset, size, -1)
    (tmp_path / "loop.laz").write_bytes(spoilt)
    assert len(CloudFile(tmp_path / "loop.laz").cloud.nodes) < size // 32


@pytest.mark.parametrize("key", [(0, 0, 0, 1), (40, 0, 0, 0), (-1, 0, 0, 0), (0, int("9" * 400), 0, 0)])
def test_a_node_that_is_not_there(file: CloudFile, key: tuple[int, int, int, int]) -> None:
    with pytest.raises(InputError):
        file.node(*key)


def test_nobody_sees_the_cloud_of_others(tmp_path: Path) -> None:
    class Names:
        def owner_of(self, token: str) -> str | None:
            return {"anna": "anna"}.get(token)

    server = create_app(ServerSettings(tmp_path, test=TestMode()), tokens=Names())
    add_ui(server, Services())
    client = TestClient(server.asgi)
    for path in ("cloud", "cloud/0/0/0/0"):
        address = f"/ui/api/tasks/{'0' * 8}-0000-4000-8000-{'0' * 12}/{path}"
        assert "token" in client.get(address).json()["error"]
        assert "not found" in client.get(address, headers={"Authorization": "Bearer anna"}).json()["error"]
