"""Files beside the photos that count without being named, as in OpenDroneMap."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from passel.options import Options


def with_side_files(options: Options, photos: Path, output: Path) -> Options:
    """geo.txt and image_groups.txt count when they lie with the photos or in the project, unless others are named."""
    geo = options.geo or side_file("geo.txt", photos, output)
    groups = options.split_image_groups or side_file("image_groups.txt", photos, output)
    return replace(options, geo=geo, split_image_groups=groups)


def side_file(name: str, *folders: Path) -> Path | None:
    """The first of these folders' file of that name."""
    return next((f / name for f in folders if (f / name).is_file()), None)
