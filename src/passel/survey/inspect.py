"""Read one photo once: what it is, where it was taken, and whether its pixels are whole."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from passel.errors import InputError
from passel.survey.check import some
from passel.survey.exif import Tags, jpeg_damage, number, read_tags, text
from passel.survey.facts import PhotoFacts, Refusal
from passel.survey.gps import angles_of, position_of, time_of
from passel.survey.xmp import Xmp, as_number

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff")
_REDUCTION = 4  # keeps a motion blur of a dozen pixels visible; decoding at less saves next to nothing
_SHORTEST_SIDE_PX = 64
_MOST_PIXELS = 500_000_000
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, AttributeError, OverflowError,
    MemoryError, Image.DecompressionBombError, struct.error, zlib.error,
)  # fmt: skip


def list_photos(folder: Path) -> list[Path]:
    """The image files directly in `folder`, or in `folder/images` when that has more (a project folder); sorted by name.

    Hidden files and masks ('*_mask.*') are left out. Raises InputError when there is no folder or no image in it.
    """
    inner = folder / "images"
    try:
        if not folder.exists():
            raise InputError("There is no such folder", str(folder), "give the folder that holds the photos")
        if not folder.is_dir():
            raise InputError("This is a file, not a folder", str(folder), "give the folder that holds the photos")
        found = max(_images_in(folder), _images_in(inner) if inner.is_dir() else [], key=len)
        is_empty = not found and next(folder.iterdir(), None) is None
        inside = [] if found else photos_in_folders(folder)
    except OSError as e:
        what = f"The folder cannot be read ({e.strerror or type(e).__name__})"
        raise InputError(what, str(folder), "check that you have the right to read it") from None
    if inside:
        what = f"There are no photos in the folder itself, only in its sub-folders: {some([r.name for r in inside])}"
        todo = "give the sub-folder, or put the photos of all of them into one folder, under different names"
        raise InputError(what, str(folder), todo)
    if not found:
        what = "The folder is empty" if is_empty else "There are no photos in the folder"
        raise InputError(what, str(folder), "put JPEG, PNG or TIFF photos into it (not into sub-folders)")
    return found


def _images_in(folder: Path) -> list[Path]:
    return sorted(
        (
            p
            for p in folder.iterdir()
            if p.suffix.lower() in EXTENSIONS
            and not p.name.startswith(".")
            and not p.stem.lower().endswith("_mask")
            and (p.is_file() or not p.exists())  # a dead link is refused by name; a pipe or device would hang us
        ),
        key=lambda p: p.name,
    )


def photos_in_folders(folder: Path) -> list[Refusal]:
    """A refusal for each folder beside the photos that holds photos itself: they are not searched, and that must be said."""
    inner = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    counts = [(p.name, len(_images_in(p))) for p in inner if os.access(p, os.R_OK | os.X_OK)]
    message = "is a sub-folder with photos, which is not searched; put them beside the others to have them mapped"
    return [Refusal(f"{name}/ ({count})", "folder", message) for name, count in counts if count]


def with_writable_names(paths: Sequence[Path]) -> tuple[list[Path], list[Refusal]]:
    """The photos whose names are text, and refusals of those with bytes that are not UTF-8: no report or JSON could name them."""
    good, refused = [], []
    for path in paths:
        shown = path.name.encode("utf-8", "backslashreplace").decode()
        if shown == path.name:
            good.append(path)
        else:
            refused.append(Refusal(shown, "name", "has a name that is not UTF-8 text; rename it"))
    return good, refused


def inspect_photo(path: Path, name: str = "") -> PhotoFacts | Refusal:
    """Facts of the photo at `path`, called `name` (default: its file name). Never raises because of the file's content."""
    name = name or path.name
    try:
        data = path.read_bytes()
    except OSError as e:
        return _unreadable(name, e)
    if not data:
        return Refusal(name, "empty", "is an empty file (0 bytes); copy it again from the camera's card")
    tags = read_tags(data)
    pixels = _small_grey(name, data, tags)
    if isinstance(pixels, Refusal):
        return pixels
    width, height, grey = pixels
    xmp = Xmp(tags.xmp)
    position, gps_note = position_of(tags, xmp)
    yaw, pitch, roll = angles_of(xmp)
    original = _positive(number(tags.exif, 0xA002)), _positive(number(tags.exif, 0xA003))
    longest = max(width, height, *(side or 0.0 for side in original))
    make, model = text(tags.image, 0x10F), text(tags.image, 0x110)
    return PhotoFacts(
        name=name,
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        width_px=width,
        height_px=height,
        original_width_px=int(original[0]) if original[0] else None,
        original_height_px=int(original[1]) if original[1] else None,
        make=make or xmp.text("tiff:Make"),
        model=model or xmp.text("tiff:Model"),
        lens=text(tags.exif, 0xA434),
        orientation=int(number(tags.image, 0x112) or 1),
        focal_mm=_positive(number(tags.exif, 0x920A) or number(tags.image, 0x920A)),
        focal35_mm=_positive(number(tags.exif, 0xA405)),
        digital_zoom=max(number(tags.exif, 0xA404) or 1.0, 1.0),
        focal_plane_px_per_mm=_focal_plane(tags, longest),
        xmp_focal_px=_xmp_focal(tags, xmp, longest),
        xmp_middle_x_px=_positive(xmp.number("CalibratedOpticalCenterX")),
        xmp_middle_y_px=_positive(xmp.number("CalibratedOpticalCenterY")),
        position=position,
        gps_note=gps_note,
        time=time_of(tags),
        yaw_deg=yaw,
        pitch_deg=pitch,
        roll_deg=roll,
        relative_altitude_m=xmp.number("RelativeAltitude"),
        sharpness=_sharpness(grey),
    )


def photo_sha256(path: Path, name: str = "") -> str | Refusal:
    """sha256 (hex) of a file's content, which names it as a step's input before it is inspected; a Refusal if it cannot be read."""
    try:
        with path.open("rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError as e:
        return _unreadable(name or path.name, e)


def _unreadable(name: str, e: OSError) -> Refusal:
    why = e.strerror or type(e).__name__
    return Refusal(name, "unreadable", f"cannot be read ({why}); check its permissions and the disk")


def _positive(value: float | None) -> float | None:
    return value if value is not None and value > 0 else None


def _focal_plane(tags: Tags, longest: float) -> float | None:
    """Pixels of the camera's picture (`longest`: its longer side) per mm of sensor, from FocalPlaneXResolution; None if absent or if
    the sensor would be absurd."""
    density = _positive(number(tags.exif, 0xA20E))
    mm = {2.0: 25.4, 3.0: 10.0, 4.0: 1.0, 5.0: 0.001}.get(number(tags.exif, 0xA210) or 2.0)
    if density is None or mm is None:
        return None
    density /= mm
    return density if 2.0 < longest / density < 70.0 else None


def _xmp_focal(tags: Tags, xmp: Xmp, longest: float) -> float | None:
    """The maker's calibrated focal length in pixels of the camera's picture: DJI's dewarp data or calibrated focal, or Pix4D's tag."""
    candidates: list[float | None] = []
    _, _, dewarp = xmp.text("DewarpData").partition(";")
    candidates.append(as_number(dewarp.split(",")[0]))
    candidates.append(xmp.number("CalibratedFocalLength"))
    pixels = [c for c in candidates if c is not None]
    focal = xmp.number("PerspectiveFocalLength")
    if focal is not None:
        density = _focal_plane(tags, longest)
        if "pix" in xmp.text("PerspectiveFocalLengthUnits").lower():
            pixels.append(focal)
        elif density is not None:
            pixels.append(focal * density)
    # some firmware writes millimetres here, some zeros: only what a lens can be is believed
    return next((p for p in pixels if 0.2 * longest < p < 20.0 * longest), None)


def _small_grey(name: str, data: bytes, tags: Tags) -> tuple[int, int, NDArray[np.float32]] | Refusal:
    """(stored width, stored height, grey levels at 1/4 size), or why the pixels cannot be used."""
    unsupported = _unsupported(name, data, tags)
    if unsupported is not None:
        return unsupported
    # The formats' own readers rather than Image.open: it refuses large photos, and guesses at a dozen other formats.
    reader = {b"\xff\xd8": JpegImagePlugin.JpegImageFile, b"\x89P": PngImagePlugin.PngImageFile}
    opened = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = reader.get(data[:2], TiffImagePlugin.TiffImageFile)(io.BytesIO(data))
            opened = True
            width, height = image.size
            if min(width, height) < _SHORTEST_SIDE_PX:
                return Refusal(name, "too-small", f"has only {width} x {height} pixels; give the photos at full size")
            if width * height > _MOST_PIXELS:
                return Refusal(name, "damaged", f"claims {width} x {height} pixels; no camera makes such a photo")
            image.draft("L", (width // _REDUCTION, height // _REDUCTION))
            image.load()
            factor = max(1, round(width / image.size[0]))
            grey = image.convert("L").reduce(max(1, _REDUCTION // factor))
    except _DECODER_ERRORS as e:
        if opened and "truncated" in str(e):
            return Refusal(
                name, "truncated", "is cut off: the file ends too early; copy it again from the camera's card"
            )
        return Refusal(name, "damaged", f"cannot be decoded ({e}); copy it again from the camera's card")
    damage = jpeg_damage(data) if data[:2] == b"\xff\xd8" else ""
    if damage:
        return Refusal(name, "damaged", f"is damaged: {damage}; copy it again from the camera's card")
    return width, height, np.asarray(grey, np.float32)


def _unsupported(name: str, data: bytes, tags: Tags) -> Refusal | None:
    """Refuse what is not JPEG, PNG or TIFF, and TIFF or PNG of more than 8 bits or 4 channels."""
    is_png, is_tiff = data[:8] == b"\x89PNG\r\n\x1a\n", data[:4] in (b"II*\0", b"MM\0*")
    if data[:4] in (b"II+\0", b"MM\0+"):
        return Refusal(name, "unsupported", "is a BigTIFF file; save it as 8-bit JPEG or plain TIFF")
    if not (is_png or is_tiff or data[:3] == b"\xff\xd8\xff"):
        kind = (
            "has nothing but zeros" if not data.strip(b"\0") else "is not a JPEG, PNG or TIFF image, whatever its name"
        )
        return Refusal(name, "not-an-image", f"{kind}; remove it or copy it again from the camera's card")
    bits = data[24] if is_png and len(data) > 24 else (number(tags.image, 0x102) or 8.0) if is_tiff else 8.0
    if bits > 8:
        return Refusal(
            name,
            "sixteen-bit",
            f"has {bits:g} bits a channel; convert it to 8 bits (for example JPEG), keeping its EXIF",
        )
    if is_tiff and (number(tags.image, 0x115) or 1) > 4:
        channels = number(tags.image, 0x115)
        return Refusal(name, "unsupported", f"has {channels:g} channels; export its red, green and blue as 8-bit JPEG")
    return None


def _sharpness(grey: NDArray[np.float32]) -> float:
    """Variance of the 4-neighbour Laplacian of grey levels (h, w)."""
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4.0 * inner
    return round(float(laplacian.var(dtype=np.float64)), 3)
