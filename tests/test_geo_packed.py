"""Marks and points come back as they were saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from passel.geo.packed import load_marks, points_of, save_marks, steps_of


@pytest.mark.parametrize("shape", [(1, 1), (3, 8), (5, 17), (4, 0)])
def test_marks_come_back(tmp_path: Path, shape: tuple[int, int]) -> None:
    marks = np.random.default_rng(1).integers(0, 2, shape, np.uint8)
    save_marks(tmp_path / "marks.npy", 255 * marks)
    found = load_marks(tmp_path / "marks.npy", shape)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, marks)


def test_marks_of_another_shape_are_refused(tmp_path: Path) -> None:
    save_marks(tmp_path / "marks.npy", np.ones((4, 9), bool))
    for shape in ((3, 9), (4, 8), (4, 17)):
        with pytest.raises(ValueError, match="no marks"):
            load_marks(tmp_path / "marks.npy", shape)


@pytest.mark.parametrize(("far_mm", "bytes_a_step"), [(30_000, 2), (40_000, 4), (1_500_000_000, 4)])
@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_points_come_back(far_mm: int, bytes_a_step: int, count: int) -> None:
    xyz_mm = np.random.default_rng(2).integers(-far_mm // 2, far_mm // 2, (count, 3)).astype(np.int32)
    first_mm, steps_mm = steps_of(xyz_mm)
    assert count < 1000 or steps_mm.itemsize == bytes_a_step
    found = points_of(first_mm, steps_mm)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, xyz_mm)
