"""Raster tiles of a job's products in their own map projection, so that a metre on the screen is a metre in the products.

Level 0 is the orthophoto's own resolution, each further level halves it. Tiles are `TILE_PX` squares counted in columns
(east) and rows (south) from the north-west corner of the map's box. The page has no base map and needs no other projection.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from passel.errors import InputError

if TYPE_CHECKING:
    from rio_tiler.io import Reader

TILE_PX = 256
MOST_PROFILE_POINTS = 1000
ORTHOPHOTO, SURFACE, TERRAIN = "orthophoto", "dsm", "dtm"
FILES = {
    ORTHOPHOTO: "odm_orthophoto/odm_orthophoto.tif",
    SURFACE: "odm_dem/dsm.tif",
    TERRAIN: "odm_dem/dtm.tif",
}
_RAMP = np.array(
    [(38, 70, 107), (42, 125, 126), (112, 168, 102), (214, 199, 122), (196, 140, 88), (238, 230, 222)], np.float64
)
"""Colours from low to high: water blue, green, sand, rock, snow."""
_LAMP = np.array([-0.5, 0.5, 0.7071])  # east, north, up: the north-western light that maps are used to


@dataclass(frozen=True)
class MapLayer:
    """A raster. low_m, high_m: heights between which its colours run, 2nd and 98th percentile; 0 for pictures."""

    name: str
    resolution_m: float
    low_m: float = 0.0
    high_m: float = 0.0


@dataclass(frozen=True)
class MapBox:
    """What there is to see. west, south, east, north: of all layers together, in `crs` (metres). levels: how many there are.

    stamp: another one when the task ran again; in the address of tiles it keeps a browser from showing those of the old map.
    """

    crs: str
    west: float
    south: float
    east: float
    north: float
    resolution_m: float
    levels: int
    layers: tuple[MapLayer, ...]
    stamp: str

    def layer(self, name: str) -> MapLayer:
        """Raises InputError when the job has no such layer."""
        found = next((layer for layer in self.layers if layer.name == name), None)
        if found is None:
            raise InputError(f"the map has no layer {name[:40]!r}")
        return found


def map_box(output: Path) -> MapBox | None:
    """The map in a job's output folder, None while there is none. Reads headers and one overview of each raster."""
    found = [(name, output / file) for name, file in FILES.items() if (output / file).is_file()]
    if not found:
        return None
    layers, bounds, crs = [], [], ""
    for name, path in found:
        with _opened(path) as reader:
            bounds.append(reader.bounds)
            crs = crs or str(reader.crs or "")
            west, _, east, _ = reader.bounds
            resolution_m = (east - west) / reader.dataset.width
            low_m, high_m = (0.0, 0.0) if name == ORTHOPHOTO else _range_m(reader)
            layers.append(MapLayer(name, resolution_m, low_m, high_m))
    west, south = min(b[0] for b in bounds), min(b[1] for b in bounds)
    east, north = max(b[2] for b in bounds), max(b[3] for b in bounds)
    finest_m = min(layer.resolution_m for layer in layers)
    tiles_across = max(east - west, north - south) / finest_m / TILE_PX
    levels = max(1, math.ceil(math.log2(max(1.0, tiles_across))) + 1)
    stamp = f"{max(path.stat().st_mtime_ns for _, path in found):x}"
    return MapBox(crs, west, south, east, north, finest_m, levels, tuple(layers), stamp)


def tile_png(output: Path, box: MapBox, layer: str, level: int, column: int, row: int) -> bytes | None:
    """A tile as PNG with alpha, None where nothing of the layer lies. Raises InputError for a layer or level that is not."""
    if not 0 <= level < box.levels:
        raise InputError(f"the map has no level {level}")
    about = box.layer(layer)
    size_m = box.resolution_m * 2**level * TILE_PX
    columns, rows = math.ceil((box.east - box.west) / size_m), math.ceil((box.north - box.south) / size_m)
    if not (0 <= column < columns and 0 <= row < rows):
        return None
    west, north = box.west + column * size_m, box.north - row * size_m
    edge_m = 0.0 if layer == ORTHOPHOTO else size_m / TILE_PX  # relief needs a neighbour on each side
    bounds = (west - edge_m, north - size_m - edge_m, west + size_m + edge_m, north + edge_m)
    pixels = TILE_PX if layer == ORTHOPHOTO else TILE_PX + 2
    part = _part(output / FILES[layer], bounds, pixels)
    if part is None:
        return None
    data, mask = part
    if layer == ORTHOPHOTO:
        alpha = data[3] if data.shape[0] == 4 else mask
        rgba = np.dstack([data[0], data[1], data[2], alpha]).astype(np.uint8)
    else:
        heights = np.where(mask > 0, data[0], np.nan).astype(np.float64)
        rgba = relief(heights, size_m / TILE_PX, about.low_m, about.high_m)[1:-1, 1:-1]
    if not rgba[..., 3].any():
        return None
    held = io.BytesIO()
    Image.fromarray(rgba, "RGBA").save(held, "PNG", compress_level=1)
    return held.getvalue()


def relief(heights_m: NDArray[np.float64], metres_per_px: float, low_m: float, high_m: float) -> NDArray[np.uint8]:
    """(rows, cols, 4) uint8 RGBA: coloured by height, lit from the north-west; transparent where heights are NaN."""
    known = np.isfinite(heights_m)
    place = np.clip((np.where(known, heights_m, low_m) - low_m) / max(high_m - low_m, 0.01), 0, 1) * (len(_RAMP) - 1)
    below = np.minimum(place.astype(int), len(_RAMP) - 2)
    part = (place - below)[..., None]
    colour = _RAMP[below] * (1 - part) + _RAMP[below + 1] * part
    down, right = np.gradient(np.where(known, heights_m, np.nan), metres_per_px)
    normal = np.dstack([-right, down, np.ones_like(right)])
    normal /= np.linalg.norm(normal, axis=2, keepdims=True)
    shade = np.nan_to_num(np.clip(normal @ _LAMP, 0, 1), nan=_LAMP[2])  # beside a hole: as flat ground
    lit = np.clip(colour * (0.45 + 0.78 * shade)[..., None], 0, 255)
    return np.dstack([lit, np.where(known, 255, 0)]).astype(np.uint8)


def profile_m(output: Path, box: MapBox, layer: str, line: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Heights along a line of (east, north) corners: (metres from its start, height in metres), NaN over holes."""
    box.layer(layer)
    if layer == ORTHOPHOTO or len(line) < 2:
        raise InputError("a profile needs a height layer and two points")
    corners = np.asarray(line, np.float64)
    lengths = np.linalg.norm(np.diff(corners, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    count = int(min(MOST_PROFILE_POINTS, max(2, along[-1] / box.resolution_m)))
    at = np.linspace(0, along[-1], count)
    east, north = np.interp(at, along, corners[:, 0]), np.interp(at, along, corners[:, 1])
    span_m = max(np.ptp(east), np.ptp(north), 10 * box.resolution_m)
    bounds = (float(east.min()), float(north.max() - span_m), float(east.min() + span_m), float(north.max()))
    part = _part(output / FILES[layer], bounds, MOST_PROFILE_POINTS)
    if part is None:
        return [(float(d), math.nan) for d in at]
    data, mask = part
    heights = np.where(mask > 0, data[0], np.nan).astype(np.float64)
    scale = MOST_PROFILE_POINTS / span_m
    columns = np.clip(((east - bounds[0]) * scale).astype(int), 0, MOST_PROFILE_POINTS - 1)
    rows = np.clip(((bounds[3] - north) * scale).astype(int), 0, MOST_PROFILE_POINTS - 1)
    return [(float(d), float(z)) for d, z in zip(at, heights[rows, columns])]


@contextmanager
def _opened(path: Path) -> Iterator[Reader]:
    """A raster. Its library is loaded with the first map: half of a server's time to start would go into it."""
    from rio_tiler.io import Reader

    with Reader(str(path)) as reader:
        yield reader


def _part(
    path: Path, bounds: tuple[float, float, float, float], pixels: int
) -> tuple[NDArray[np.generic], NDArray[np.uint8]] | None:
    """(bands, pixels, pixels) of a box (west, south, east, north) and (pixels, pixels) what is known; None outside."""
    from rio_tiler.errors import TileOutsideBounds

    with _opened(path) as reader:
        try:
            part = reader.part(bounds, dst_crs=reader.crs, bounds_crs=reader.crs, width=pixels, height=pixels)
        except TileOutsideBounds:
            return None
        return np.asarray(part.data), np.asarray(part.mask)


def _range_m(reader: Reader) -> tuple[float, float]:
    """2nd and 98th percentile of the heights, from a small overview."""
    image = reader.preview(max_size=512)
    known = np.asarray(image.data)[0][np.asarray(image.mask) > 0]
    if known.size == 0:
        return 0.0, 1.0
    low_m, high_m = np.percentile(known.astype(np.float64), [2, 98])
    return float(low_m), float(max(high_m, low_m + 0.1))
