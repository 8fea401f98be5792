"""A picture of the orthophoto."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from passel.products.layout import written_aside
from passel.products.raster import read_reduced

LONGEST_PX = 1600


def orthophoto_preview(raster: Path, path: Path, longest_px: int = LONGEST_PX) -> None:
    """Write a PNG with alpha of an orthophoto COG."""
    picture = Image.fromarray(np.asarray(read_reduced(raster, longest_px).values, np.uint8), "RGBA")
    with written_aside(path) as aside:
        picture.save(aside, "PNG")
