"""The merged cloud: all points, to the millimetre, as LAZ and as COPC, in any number of columns."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import laspy
import numpy as np
import pytest

from passel.errors import StepError, StorageError
from passel.geo.frames import Frame
from passel.geo.packed import points_of
from passel.products.points import merge_points
from passel.products.tiles import ProductTile, read_tiles
from product_tiles import FRAME, Field


def tiles_of(field: Field, folder: Path, points: bool = True) -> tuple[ProductTile, ...]:
    folders = [
        field.write(folder / "tiles", i, j, points=points and (i, j) != (1, 1)) for j in range(2) for i in range(3)
    ]
    return read_tiles(folders)


def truth(tiles: tuple[ProductTile, ...], frame: Frame) -> np.ndarray:  # type: ignore[type-arg]
    rows = []
    for t in tiles:
        with np.load(t.points_path) as d:
            xyz = np.rint(points_of(d["first_mm"], d["steps_mm"]) + 1000 * np.array([*frame.map_offset_m, 0.0]))
            rows.append(np.column_stack([xyz, d["rgb"].astype(float) * 256, d["views"]]))
    found = np.concatenate(rows)
    return np.asarray(found[np.lexsort(found.T)])


@pytest.mark.parametrize("column_points", [4_000_000, 20_000, 500])
@pytest.mark.parametrize(
    "field", [Field(), Field(frame=Frame.local(), base_m=-60.0, amplitude_m=40.0)], ids=["utm", "local"]
)
def test_every_point_is_there_as_laz_and_as_copc(tmp_path: Path, field: Field, column_points: int) -> None:
    tiles = tiles_of(field, tmp_path)
    out = tmp_path / "cloud" / "odm_georeferenced_model.laz"
    facts = merge_points(tiles, field.frame, out, column_points)
    assert facts.points == 5 * (160 * 160 - 200)
    assert (facts.columns > 1) == (column_points < 100_000)
    las = laspy.read(out)
    assert (str(las.header.version), las.header.point_format.id) == ("1.4", 7)
    assert list(las.header.scales) == [0.001] * 3
    assert las.header.number_of_points_by_return[0] == facts.points
    if field.frame.is_georeferenced:
        assert las.header.parse_crs().to_epsg() == FRAME.epsg
    columns = [np.rint(np.asarray(las[a]) * 1000) for a in "xyz"]
    columns += [np.asarray(las[a], float) for a in ("red", "green", "blue", "user_data")]
    found = np.column_stack(columns)
    np.testing.assert_array_equal(found[np.lexsort(found.T)], truth(tiles, field.frame))
    assert las.header.mins == pytest.approx(facts.low, abs=1e-6)
    assert las.header.maxs == pytest.approx(facts.high, abs=1e-6)
    with laspy.CopcReader.open(out) as reader:
        levels = [len(reader.query(level=k)) for k in range(3)]
        assert 0 < levels[0] < levels[1]
        part = laspy.Bounds(mins=las.header.mins[:2], maxs=las.header.mins[:2] + 10.0)
        near = ((np.asarray(las.xyz)[:, :2] - las.header.mins[:2]) <= 10.0).all(axis=1)
        assert len(reader.query(bounds=part)) == np.count_nonzero(near)
        assert len(reader.query()) == facts.points


def test_same_bytes_again_and_whatever_the_order_of_the_tiles(tmp_path: Path) -> None:
    tiles = tiles_of(Field(), tmp_path)
    merge_points(tiles, FRAME, tmp_path / "a.laz", 30_000)
    merge_points(read_tiles([t.folder for t in reversed(tiles)]), FRAME, tmp_path / "b.laz", 30_000)
    assert (tmp_path / "a.laz").read_bytes() == (tmp_path / "b.laz").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.laz", "b.laz", "tiles"]


def test_no_points_is_told(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="single point"):
        merge_points(tiles_of(Field(), tmp_path, points=False), FRAME, tmp_path / "a.laz")


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = tiles_of(Field(), tmp_path)
    monkeypatch.setattr("passel.products.points.shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(StorageError, match="GB of disk"):
        merge_points(tiles, FRAME, tmp_path / "out" / "a.laz")
    assert list((tmp_path / "out").iterdir()) == []
