"""What a tile leaves on disk: everything that it shows, and no rims."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from passel.geo.grid import Window
from passel.geo.packed import load_marks, points_of
from passel.surface.tile import TilePoints, TileResult


def result(known: tuple[slice, slice], shown: tuple[slice, slice]) -> TileResult:
    """A tile of 6 x 8 cells, 12 x 16 on the orthophoto, that is known and shown in these parts."""
    dsm, ortho = np.full((6, 8), np.nan, np.float32), np.zeros((12, 16, 4), np.uint8)
    dsm[known], ortho[shown] = 100.25, (10, 20, 30, 255)
    points = TilePoints(np.array([[1.2344, -5.0006, 100.25]]), np.zeros((1, 3), np.uint8), np.ones(1, np.uint8))
    return TileResult(
        Window(8, -6, 8, 6), dsm, np.isfinite(dsm).astype(np.uint8), Window(16, -12, 16, 12), ortho, points
    )


def test_rims_that_show_nothing_are_left_out() -> None:
    whole = result((slice(2, 5), slice(1, 3)), (slice(0, 12), slice(15, 16)))
    kept = whole.cropped()
    assert (kept.dem_window, kept.ortho_window) == (Window(9, -4, 2, 3), Window(31, -12, 1, 12))
    assert (kept.dsm == 100.25).all()
    assert kept.filled.all()
    assert (kept.ortho == (10, 20, 30, 255)).all()
    assert kept.points is whole.points


def test_a_full_tile_stays_as_it_is() -> None:
    kept = result((slice(None), slice(None)), (slice(None), slice(None))).cropped()
    assert (kept.dem_window, kept.ortho_window) == (Window(8, -6, 8, 6), Window(16, -12, 16, 12))


def test_an_empty_tile_keeps_a_cell_that_can_be_read(tmp_path: Path) -> None:
    kept = result((slice(0), slice(0)), (slice(0), slice(0))).cropped()
    kept.save(tmp_path)
    assert kept.dem_window.shape == kept.ortho_window.shape == (1, 1)
    assert np.isnan(np.load(tmp_path / "dsm.npy", mmap_mode="r")).all()
    assert not np.load(tmp_path / "ortho.npy", mmap_mode="r").any()
    assert not load_marks(tmp_path / "shown.npy", (1, 1)).any()


def test_files_are_contiguous_and_points_are_millimetres(tmp_path: Path) -> None:
    result((slice(2, 5), slice(1, 3)), (slice(3, 4), slice(5, 9))).cropped().save(tmp_path)
    for name in ("dsm", "filled", "ortho", "shown"):
        assert np.load(tmp_path / f"{name}.npy", mmap_mode="r").flags.c_contiguous
    assert load_marks(tmp_path / "shown.npy", np.load(tmp_path / "ortho.npy").shape[:2]).all()
    with np.load(tmp_path / "points.npz") as saved:
        points = points_of(saved["first_mm"], saved["steps_mm"])
        assert points.dtype == np.int32
        assert points.tolist() == [[1234, -5001, 100250]]
