"""Merged rasters: every pixel where it belongs, real COGs, nodata that is no height, the same bytes each time."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

from passel.errors import StepError, StorageError
from passel.geo.frames import Frame
from passel.geo.packed import load_marks, save_marks
from passel.products.layout import written_aside
from passel.products.raster import cog_problems, merge_dsm, merge_filled, merge_orthophoto, read_reduced
from passel.products.tiles import read_tiles
from product_tiles import FRAME, Field


def make(field: Field, folder: Path, where: list[tuple[int, int]]) -> tuple[object, ...]:
    return read_tiles([field.write(folder / "tiles", i, j) for i, j in where])


GRID = [(i, j) for j in range(4) for i in range(5)]


def test_orthophoto_is_a_cog_with_every_pixel_in_place(tmp_path: Path) -> None:
    field = Field()
    tiles = make(field, tmp_path, [g for g in GRID if g != (2, 1)])
    out = tmp_path / "o ü & <x>" / "odm_orthophoto.tif"
    facts = merge_orthophoto(tiles, FRAME, out)
    assert cog_problems(out) == ()
    with rasterio.open(out) as d:
        assert (d.count, d.width, d.height) == (4, 1600, 1280) == (4, facts.width_px, facts.height_px)
        assert [c.name for c in d.colorinterp] == ["red", "green", "blue", "alpha"]
        assert d.overviews(1) == [2, 4]
        assert d.crs.to_epsg() == FRAME.epsg
        assert d.tags()["TIFFTAG_SOFTWARE"].startswith("Passel ")
        assert d.profile["compress"] == "deflate"
        assert d.bounds == pytest.approx(facts.bounds_m)
        east, north = FRAME.map_offset_m
        assert d.bounds.left == pytest.approx(east, abs=field.resolution_m)
        assert d.bounds.top == pytest.approx(north, abs=field.resolution_m)
        rgba = np.moveaxis(d.read(), 0, -1)
    truth = np.zeros_like(rgba)
    for t in tiles:
        place = t.ortho.slices_in(dataclasses.replace(tiles[0].ortho, cols=1600, rows=1280))
        alpha = 255 * load_marks(t.folder / "shown.npy", t.ortho.shape)
        truth[place] = np.dstack([np.load(t.folder / "ortho.npy"), alpha])
    np.testing.assert_array_equal(rgba, truth)
    assert facts.covered == pytest.approx((truth[..., 3] > 0).mean(), abs=1e-9)
    small = read_reduced(out, 400)
    assert small.values.shape == (320, 400, 4)
    assert small.metres_per_px == pytest.approx(0.5)
    inside = small.values[100:110, 20:30].astype(float)
    assert inside[..., 3].min() == 255
    assert not list(out.parent.glob(".*"))


@pytest.mark.parametrize(
    ("base_m", "amplitude_m"), [(0.0, 5.0), (-40.0, 3.0), (1200.0, 50.0), (-9999.0, 5.0), (0.0, 0.0)]
)
def test_dsm_nodata_is_never_a_height(tmp_path: Path, base_m: float, amplitude_m: float) -> None:
    field = Field(base_m=base_m, amplitude_m=amplitude_m)
    tiles = make(field, tmp_path, [(0, 0), (1, 0), (3, 2)])
    out = tmp_path / "dsm.tif"
    facts = merge_dsm(tiles, FRAME, out)
    assert cog_problems(out) == ()
    with rasterio.open(out) as d:
        z = d.read(1, masked=True)
        assert d.nodata == facts.nodata
        assert facts.nodata == (-9999.0 if base_m > -9000 else -32768.0)
        assert z.count() == 3 * (160 * 160 - 200)
        assert (z.min(), z.max()) == (pytest.approx(facts.minimum), pytest.approx(facts.maximum))
        assert (z.astype(float).mean(), z.astype(float).std()) == (
            pytest.approx(facts.mean, abs=1e-4),
            pytest.approx(facts.std, abs=1e-4),
        )
        assert float(d.tags(1)["STATISTICS_MINIMUM"]) == facts.minimum
        np.testing.assert_array_equal(z[:50, :160].data, field.heights(tiles[0].dsm)[:50])
        assert d.overviews(1) == [2]
    with rasterio.open(out, overview_level=0) as d:  # averages never mix the nodata value in
        half = d.read(1, masked=True)
        assert half.min() >= facts.minimum - 1e-3
        assert half.max() <= facts.maximum + 1e-3


def test_filled_heights_are_marked_where_they_are(tmp_path: Path) -> None:
    tiles = make(Field(), tmp_path, [(0, 0), (1, 0), (3, 2)])
    marks = load_marks(tiles[1].folder / "filled.npy", tiles[1].dsm.shape)
    marks[20:24, 30:36] = 1
    save_marks(tiles[1].folder / "filled.npy", marks)
    (tiles[2].folder / "filled.npy").unlink()
    merge_dsm(tiles, FRAME, tmp_path / "dsm.tif")
    merge_filled(tiles, FRAME, tmp_path / "dsm_filled.tif")
    assert cog_problems(tmp_path / "dsm_filled.tif") == ()
    with rasterio.open(tmp_path / "dsm_filled.tif") as d, rasterio.open(tmp_path / "dsm.tif") as heights:
        assert (d.shape, d.transform, d.crs) == (heights.shape, heights.transform, heights.crs)
        assert (d.count, d.dtypes, d.nodata) == (1, ("uint8",), 0)
        truth = np.zeros(d.shape, np.uint8)
        truth[20:24, 190:196] = 1
        np.testing.assert_array_equal(d.read(1), truth)
    save_marks(tiles[0].folder / "filled.npy", marks[:-1])
    with pytest.raises(StepError, match="rerun-all"):
        merge_filled(tiles, FRAME, tmp_path / "dsm_filled.tif")


def test_bytes_do_not_depend_on_threads_folders_or_order(tmp_path: Path) -> None:
    field = Field()
    tiles = make(field, tmp_path / "a", GRID)
    merge_orthophoto(tiles, FRAME, tmp_path / "1.tif", 1)
    merge_dsm(tiles, FRAME, tmp_path / "d1.tif", 1)
    again = make(field, tmp_path / "b", GRID[::-1])
    merge_orthophoto(again, FRAME, tmp_path / "2.tif", 4)
    merge_dsm(again, FRAME, tmp_path / "d2.tif", 4)
    assert (tmp_path / "1.tif").read_bytes() == (tmp_path / "2.tif").read_bytes()
    assert (tmp_path / "d1.tif").read_bytes() == (tmp_path / "d2.tif").read_bytes()


def test_one_small_tile_and_a_survey_without_gps(tmp_path: Path) -> None:
    field = Field(frame=Frame.local(), cells=100)
    tiles = make(field, tmp_path, [(0, 0)])
    merge_orthophoto(tiles, field.frame, tmp_path / "o.tif")
    merge_dsm(tiles, field.frame, tmp_path / "d.tif")
    for name in ("o.tif", "d.tif"):
        assert cog_problems(tmp_path / name) == ()
        with rasterio.open(tmp_path / name) as d:
            assert d.crs is None or not d.crs.is_geographic
            assert (d.transform.c, d.transform.f) == (0.0, 0.0)


def test_nothing_to_merge_and_wrong_arrays_are_told(tmp_path: Path) -> None:
    field = Field()
    tiles = make(field, tmp_path, [(0, 0), (1, 0)])
    np.save(tiles[1].folder / "dsm.npy", np.zeros((3, 3), np.float32))
    with pytest.raises(StepError, match="its window says"):
        merge_dsm(tiles, FRAME, tmp_path / "d.tif")
    for t in tiles:
        (t.folder / "ortho.npy").unlink()
        np.save(t.folder / "dsm.npy", np.full(t.dsm.shape, np.nan, np.float32))
    with pytest.raises(StepError, match="No tile"):
        merge_orthophoto(tiles, FRAME, tmp_path / "o.tif")
    with pytest.raises(StepError, match="No tile has anything"):
        merge_dsm(tiles, FRAME, tmp_path / "d.tif")
    (tiles[0].folder / "tile.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(StepError, match="cannot be read"):
        read_tiles([tiles[0].folder])


def test_writing_aside_leaves_nothing_behind_when_it_fails(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fill_the_disk() -> None:
        with written_aside(target) as aside:
            aside.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space"):
        fill_the_disk()
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
