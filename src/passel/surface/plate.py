"""Plates: a photo reduced once to what matching needs (gray) and what colours and previews need (tiny), memory-mapped afterwards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from passel.errors import InputError
from passel.reconstruct.scene import View
from passel.surface.camera import packed

U8 = NDArray[np.uint8]

TINY_REDUCTION = 16


@dataclass(frozen=True)
class Plate:
    """One photo's plate. scale_x, scale_y: plate pixels per photo pixel; tiny_x, tiny_y: the same for the tiny image.

    gray, tiny: files of the folder `folder`: (h, w) u8, and (h', w', 3) u8 RGB.
    """

    photo: str
    scale_x: float
    scale_y: float
    tiny_x: float
    tiny_y: float
    gray: str
    tiny: str
    folder: str = ""

    def read_gray(self) -> U8:
        """(h, w) u8, memory-mapped read-only."""
        return np.asarray(np.load(Path(self.folder) / self.gray, mmap_mode="r"))

    def read_tiny(self) -> U8:
        """(h', w', 3) u8 RGB."""
        return np.asarray(np.load(Path(self.folder) / self.tiny))

    def packed(self, view: View) -> NDArray[np.float64]:
        return packed(view, self.scale_x, self.scale_y)

    def packed_tiny(self, view: View) -> NDArray[np.float64]:
        return packed(view, self.tiny_x, self.tiny_y)


def plate_reduction(view_gsd_m: float, cell_m: float) -> int:
    """The whole factor that brings a photo of this ground sampling distance near 2/3 of the matching cell, never above 1 of it."""
    return max(1, int(cell_m / view_gsd_m / 1.5 + 0.15))


def read_photo(path: Path, *, gray: bool = False, reduction: int = 1) -> tuple[U8, float, float]:
    """The photo as stored (orientation tag ignored), 8 bit, RGB or gray, reduced by a whole factor; and its x and y scale.

    JPEGs are reduced while decoding (their blocks scale exactly), the rest by area averaging. Raises InputError when unreadable.
    """
    jpeg = path.suffix.lower() in {".jpg", ".jpeg", ".jpe", ".jfif", ""}
    step = max(s for s in (1, 2, 4, 8) if reduction % s == 0) if jpeg else 1
    flags = {
        (True, 1): cv2.IMREAD_GRAYSCALE,
        (True, 2): cv2.IMREAD_REDUCED_GRAYSCALE_2,
        (True, 4): cv2.IMREAD_REDUCED_GRAYSCALE_4,
        (True, 8): cv2.IMREAD_REDUCED_GRAYSCALE_8,
        (False, 1): cv2.IMREAD_COLOR,
        (False, 2): cv2.IMREAD_REDUCED_COLOR_2,
        (False, 4): cv2.IMREAD_REDUCED_COLOR_4,
        (False, 8): cv2.IMREAD_REDUCED_COLOR_8,
    }[gray, step]
    if path.suffix.lower() in {".tif", ".tiff"}:
        flags |= cv2.IMREAD_ANYDEPTH
    image = cv2.imdecode(np.fromfile(path, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise InputError(
            "The photo cannot be decoded.", path.name, "Remove it or copy it again from the camera's card."
        )
    if image.dtype != np.uint8:
        image = _to_8_bit(image)
    scale_x = scale_y = 1.0 / step
    rest = reduction // step
    if rest > 1:
        h, w = image.shape[:2]
        size = max(1, round(w / rest)), max(1, round(h / rest))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        scale_x, scale_y = scale_x * size[0] / w, scale_y * size[1] / h
    if not gray:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return np.ascontiguousarray(image), scale_x, scale_y


def _to_8_bit(image: NDArray[np.generic]) -> U8:
    """16-bit or float photos: the full range of the type is kept, not stretched to the photo, so that neighbours stay comparable."""
    values = image.astype(np.float32)
    top = 65535.0 if image.dtype == np.uint16 else max(float(values.max()), 1e-6)
    return np.asarray(np.clip(values * (255.0 / top) + 0.5, 0, 255).astype(np.uint8))


def make_plate(path: Path, photo: str, reduction: int, number: int, out: Path) -> Plate:
    """Read one photo, write its plate files into `out` and return the record (without folder)."""
    if reduction in (1, 2, 4, 8):
        # one decoding serves both: the JPEG's entropy decoding is the cost, not the colour conversion
        colour, scale_x, scale_y = read_photo(path, reduction=reduction)
        gray = cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY)
        small, sx, sy = colour, scale_x, scale_y
    else:
        gray, scale_x, scale_y = read_photo(path, gray=True, reduction=reduction)
        small, sx, sy = read_photo(path, reduction=TINY_REDUCTION // 2)
    h, w = small.shape[:2]
    rest = max(1, round(TINY_REDUCTION * sx))
    size = max(1, w // rest), max(1, h // rest)
    tiny = cv2.resize(small, size, interpolation=cv2.INTER_AREA)
    plate = Plate(
        photo, scale_x, scale_y, sx * size[0] / w, sy * size[1] / h, f"{number}_gray.npy", f"{number}_tiny.npy"
    )
    np.save(out / plate.gray, gray)
    np.save(out / plate.tiny, tiny)
    return plate


def save_plates(plates: Sequence[Plate], out: Path) -> None:
    """Write the list that makes a folder of plate files an artifact."""
    text = json.dumps([asdict(p) for p in plates], indent=1, ensure_ascii=False)
    (out / "plates.json").write_text(text, encoding="utf-8")


def load_plates(folders: Sequence[Path]) -> dict[str, Plate]:
    """All plates of some artifacts, by photo name."""
    found = {}
    for folder in folders:
        for record in json.loads((folder / "plates.json").read_text(encoding="utf-8")):
            plate = Plate(**{**record, "folder": str(folder)})
            found[plate.photo] = plate
    return found
