"""What tiles leave on disk, in less room, for it travels between machines: marks a bit each, points by the steps between them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_SMALL = np.iinfo(np.int16)


def save_marks(path: Path, marks: NDArray[np.generic]) -> None:
    """(rows, cols): whether each is not 0."""
    np.save(path, np.packbits(marks != 0, axis=1))


def load_marks(path: Path, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """(rows, cols) 1 where marked. Raises ValueError when the file holds marks of another shape."""
    packed = np.load(path)
    rows, cols = shape
    if packed.shape != (rows, -(-cols // 8)) or packed.dtype != np.uint8:
        raise ValueError(f"{packed.dtype} {packed.shape} are no marks of {shape}")
    return np.unpackbits(packed, axis=1, count=cols)


def steps_of(xyz_mm: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32] | NDArray[np.int16]]:
    """What `points_of` takes. Neighbours in their order are near to each other, so two bytes mostly hold a step."""
    steps = np.diff(xyz_mm, axis=0)
    small = not len(steps) or (steps.min() >= _SMALL.min and steps.max() <= _SMALL.max)
    return xyz_mm[:1], steps.astype(np.int16) if small else steps


def points_of(first_mm: NDArray[np.int32], steps_mm: NDArray[np.int32] | NDArray[np.int16]) -> NDArray[np.int32]:
    """(n, 3) the points again."""
    xyz_mm = np.empty((len(first_mm) + len(steps_mm), 3), np.int32)
    xyz_mm[:1] = first_mm
    xyz_mm[1:] = steps_mm
    return np.cumsum(xyz_mm, axis=0, dtype=np.int32, out=xyz_mm)
