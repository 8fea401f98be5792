"""Pictures beside the photos that no map will show, for their format is not read: said before the work begins."""

from __future__ import annotations

from pathlib import Path

from passel.errors import InputError

_FORMATS = (
    ".dng", ".arw", ".cr2", ".cr3", ".nef", ".orf", ".raf", ".raw", ".rw2",
    ".heic", ".heif", ".avif", ".webp", ".bmp", ".gif", ".jp2", ".jxl",
)  # fmt: skip
_SHOWN = 3


def unread_pictures(photos: Path) -> tuple[str, ...]:
    """A warning that names them; none where each is a raw copy of a JPEG or TIFF beside it.

    photos: the folder as `list_photos` takes it. Where there is no photo at all the work itself says so, and this nothing.
    """
    from passel.survey.inspect import list_photos  # the engine's idea of what a photo is; imported late, it is slow

    try:
        read = list_photos(photos)
    except InputError:
        return ()
    stems = {path.stem.lower() for path in read}
    found = sorted(
        path.name
        for path in read[0].parent.iterdir()
        if path.suffix.lower() in _FORMATS and path.stem.lower() not in stems and not path.name.startswith(".")
    )
    if not found:
        return ()
    names = ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
    return (f"warning: left out, for only JPEG, PNG and TIFF are read: {names}; convert them to have them mapped",)
