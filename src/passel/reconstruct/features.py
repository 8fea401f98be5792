"""Features of one photo: OpenCV SIFT as RootSIFT bytes, found on a reduced image, kept in full-size pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from passel.errors import InputError

# Longest side (px) of the image features are found on, and how many are kept, by --feature-quality. Measured (research/sfm.md):
# 1600 px cost 0.5-0.7 CPU s a photo and reproject at 0.6 px of the full-size photo.
SIZE_PX = {"ultra": 2400, "high": 1600, "medium": 1200, "low": 900, "lowest": 640}
RECENT = 400  # photos whose features' pixels stay in memory: those of a chunk of matches and its neighbours
CONTRAST = 0.0133  # of a feature, the least
FAINT = (
    0.35 * CONTRAST
)  # … in photos that show next to nothing stronger: snow, sand, haze; below lie the blocks of JPEG, which match
FEW = 0.25  # of the features wanted: next to nothing
COUNT = {"ultra": 10000, "high": 6000, "medium": 4500, "low": 3500, "lowest": 2500}


@dataclass(frozen=True)
class Features:
    """xy: (n, 2) float32 full-size pixels, centres at .5. scale: (n,) float32 px; angle: (n,) float32 rad.
    descriptors: (n, 128) uint8 RootSIFT (L1-normalised, square root, times 512). Strongest first."""

    width_px: int
    height_px: int
    xy: NDArray[np.float32]
    scale: NDArray[np.float32]
    angle: NDArray[np.float32]
    descriptors: NDArray[np.uint8]

    def only(self, which: NDArray[np.bool_]) -> Features:
        """Some of the features, in their order."""
        descriptors = self.descriptors[which] if len(self.descriptors) else self.descriptors
        return replace(
            self, xy=self.xy[which], scale=self.scale[which], angle=self.angle[which], descriptors=descriptors
        )

    def save(self, path: Path) -> None:
        np.savez(
            path,
            size=np.array([self.width_px, self.height_px]),
            xy=self.xy,
            scale=self.scale,
            angle=self.angle,
            descriptors=self.descriptors,
        )

    @staticmethod
    def load(path: Path, with_descriptors: bool = True) -> Features:
        with np.load(path) as d:
            descriptors = d["descriptors"] if with_descriptors else np.zeros((0, 128), np.uint8)
            width, height = (int(v) for v in d["size"])
            return Features(width, height, d["xy"], d["scale"], d["angle"], descriptors)


class KeypointFiles:
    """The features' pixels (n, 2) of many photos, read when they are asked for: all those of a large survey take a gigabyte."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._read = lru_cache(maxsize=RECENT)(_read_xy)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, photo: int, /) -> NDArray[np.float32]:
        return self._read(self._paths[photo])


def _read_xy(path: Path) -> NDArray[np.float32]:
    with np.load(path) as d:
        return np.asarray(d["xy"], np.float32)


def find_features(path: Path, width_px: int, height_px: int, quality: str) -> Features:
    """Features of the photo at `path`, whose stored size must be width_px × height_px."""
    size = min(SIZE_PX[quality], max(width_px, height_px))
    image = _read_gray(path, max(width_px, height_px) / size)
    scale = size / max(width_px, height_px)
    wanted = (round(width_px * scale), round(height_px * scale))
    if image.shape[::-1] != wanted:
        if abs(image.shape[1] / image.shape[0] / (width_px / height_px) - 1) > 0.01:
            raise InputError("the photo's size changed since it was inspected", path.name, "run again with --rerun-all")
        image = np.asarray(cv2.resize(image, wanted, interpolation=cv2.INTER_AREA), np.uint8)
    count = COUNT[quality]
    keypoints, raw = cv2.SIFT.create(nfeatures=count, contrastThreshold=CONTRAST).detectAndCompute(image, None)
    if len(keypoints) < FEW * count:
        keypoints, raw = cv2.SIFT.create(nfeatures=count, contrastThreshold=FAINT).detectAndCompute(image, None)
    if raw is None or not len(keypoints):
        empty = np.zeros(0, np.float32)
        return Features(width_px, height_px, np.zeros((0, 2), np.float32), empty, empty, np.zeros((0, 128), np.uint8))
    rows = np.array([(*k.pt, k.size, k.angle, k.response) for k in keypoints], np.float64)
    # Sorted by strength with the place as a tie-break: an order that no library version or thread count can change.
    order = np.lexsort((rows[:, 1], rows[:, 0], -rows[:, 4]))[:count]
    rows, raw = rows[order], raw[order]
    factor = np.array([width_px / wanted[0], height_px / wanted[1]])
    root = np.sqrt(raw / np.maximum(raw.sum(axis=1, keepdims=True), 1e-9))
    return Features(
        width_px,
        height_px,
        ((rows[:, :2] + 0.5) * factor).astype(np.float32),
        (rows[:, 2] / 2 * factor[0]).astype(np.float32),
        np.deg2rad(rows[:, 3]).astype(np.float32),
        np.clip(np.round(root * 512), 0, 255).astype(np.uint8),
    )


def _read_gray(path: Path, reduction: float) -> NDArray[np.uint8]:
    """The photo in gray, decoded at 1/2, 1/4 or 1/8 size where `reduction` allows (JPEG scales while decoding)."""
    flags = cv2.IMREAD_GRAYSCALE
    for factor, flag in (
        (8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
        (4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
        (2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
    ):
        if reduction >= factor:
            flags = flag
            break
    try:
        data = np.fromfile(path, np.uint8)  # not cv2.imread: it prints, and fails on some names
    except OSError as e:
        what = f"the photo cannot be read ({e.strerror or type(e).__name__})"
        raise InputError(what, str(path), "check that it is still there and may be read") from e
    image = cv2.imdecode(data, flags | cv2.IMREAD_IGNORE_ORIENTATION) if len(data) else None
    if image is None:
        raise InputError("the photo cannot be decoded", str(path), "remove or replace the file")
    return np.asarray(image, np.uint8)
