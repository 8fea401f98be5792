"""A job's point cloud for the browser: the octree of its COPC file, and the points of one node, packed for the graphics card.

A node goes over the wire as its points' places, three little-endian uint16 each, which count 65,536ths of the node's side from
its lowest corner, then their colours, three bytes each: 9 bytes a point.
"""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import lazrs  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from passel.errors import InputError

CLOUD = "odm_georeferencing/odm_georeferenced_model.laz"
MOST_NODES = 100_000
"""Octree nodes that are told to a browser, coarse ones first: three thousand million points of our own clouds."""
MOST_POINTS = 500_000
"""Points of a node that are sent; ours have fewer. More are thinned evenly."""
_MOST_DECODED_BYTES = 1 << 28
_HEAD_BYTES = 589
_VLR = struct.Struct("<H16sHH32s")
_MOST_VLRS, _LASZIP_RECORD = 100, 22204
_FARTHEST_M = 1e8
_ENTRY = struct.Struct("<iiiiQii")
_LAYERS = lazrs.DecompressionSelection(
    lazrs.SELECTIVE_DECOMPRESS_XY_RETURNS_CHANNEL | lazrs.SELECTIVE_DECOMPRESS_Z | lazrs.SELECTIVE_DECOMPRESS_RGB
)
_RGB_AT = {7: 30, 8: 30}
"""Where the colours are in a point, by point format."""


@dataclass(frozen=True)
class Cloud:
    """An octree. centre_m: of its cube, in the products' projection; halfsize_m: of the cube; spacing_m: of points on level 0.

    low_corner_m, high_corner_m: of the points. low_m, high_m: heights between which its colours run. points: in the file.
    coloured: whether they have colours. nodes: (level, x, y, z, points), coarse ones first. stamp: another one when the task ran again.
    """

    centre_m: tuple[float, float, float]
    halfsize_m: float
    spacing_m: float
    low_corner_m: tuple[float, float, float]
    high_corner_m: tuple[float, float, float]
    low_m: float
    high_m: float
    points: int
    coloured: bool
    nodes: tuple[tuple[int, int, int, int, int], ...]
    stamp: str


@dataclass(frozen=True)
class _Head:
    """What the first bytes of a COPC file say. tree: offset and size of the octree's first page. laszip: how it is packed."""

    centre: tuple[float, float, float]
    half_m: float
    spacing_m: float
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    scale: tuple[float, float, float]
    offset: tuple[float, float, float]
    format: int
    point_bytes: int
    points: int
    tree: tuple[int, int]
    laszip: bytes


@dataclass(frozen=True)
class _Part:
    """Where a node's points lie in the file."""

    offset: int
    size: int
    points: int


class CloudFile:
    """A COPC file, read once for its octree. Blocking; InputError when it is none, or damaged."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts: dict[tuple[int, int, int, int], _Part] = {}
        try:
            with path.open("rb") as file:
                head = _head(file)
            self._head, self._low, self._side_m = head, np.array(head.centre) - head.half_m, 2.0 * head.half_m
            self._read_tree(*head.tree)
            low_m, high_m = self._heights_m(head.low[2], head.high[2])
        except (OSError, ValueError, struct.error) as e:
            raise InputError(
                "this point cloud is not in levels (COPC), so it cannot be shown here", str(e)[:200]
            ) from e
        nodes = tuple((*key, part.points) for key, part in sorted(self._parts.items()))
        stamp = f"{path.stat().st_mtime_ns:x}"
        place, coloured = (head.centre, head.half_m, head.spacing_m, head.low, head.high), head.format in _RGB_AT
        self.cloud = Cloud(*place, low_m, high_m, head.points, coloured, nodes, stamp)

    def node(self, level: int, x: int, y: int, z: int) -> bytes:
        """The points of a node, packed. Raises InputError when there is no such node or it cannot be read."""
        part = self._parts.get((level, x, y, z))
        if part is None:
            raise InputError("the point cloud has no such part")
        side_m = self._side_m / 2**level
        xyz_m, rgb = self._decode(part)
        places = (xyz_m - self._low - np.array([x, y, z]) * side_m) / side_m * 65536
        packed: bytes = np.clip(places, 0, 65535).astype("<u2").tobytes() + rgb.tobytes()
        return packed

    def _decode(self, part: _Part) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        """((n, 3) metres in the projection, (n, 3) colours); evenly thinned to MOST_POINTS."""
        raw = np.zeros((part.points, self._head.point_bytes), np.uint8)
        try:
            with self._path.open("rb") as file:
                file.seek(part.offset)
                packed = file.read(part.size)
            chunks = [(part.points, part.size)]
            lazrs.decompress_points_with_chunk_table(packed, self._head.laszip, raw.reshape(-1), chunks, _LAYERS)
        except (lazrs.LazrsError, OSError) as e:
            raise InputError("this part of the point cloud cannot be read", str(e)[:200]) from e
        raw = raw[:: -(-part.points // MOST_POINTS)]
        xyz_m = np.ascontiguousarray(raw[:, :12]).view("<i4") * self._head.scale + self._head.offset
        at = _RGB_AT.get(self._head.format)
        if at is None:
            return xyz_m, np.full((len(raw), 3), 200, np.uint8)
        colours = np.ascontiguousarray(raw[:, at : at + 6]).view("<u2")
        return xyz_m, (colours >> 8 if colours.max(initial=0) > 255 else colours).astype(np.uint8)

    def _read_tree(self, offset: int, size: int) -> None:
        """Breadth first, so that what is left out of a giant tree is its finest."""
        pages, seen, length = deque([(offset, size)]), {offset}, self._path.stat().st_size
        with self._path.open("rb") as file:
            while pages and len(self._parts) < MOST_NODES:
                offset, size = pages.popleft()
                if not (0 < offset <= length and 0 <= size <= length):
                    raise ValueError("a page of its octree lies outside of the file")
                file.seek(offset)
                further = self._take(
                    _ENTRY.iter_unpack(file.read(min(size // _ENTRY.size, MOST_NODES) * _ENTRY.size)), length
                )
                pages += [page for page in further if page[0] not in seen]  # a damaged page may name itself
                seen |= {page[0] for page in further}

    def _take(self, entries: Iterator[tuple[int, ...]], length: int) -> list[tuple[int, int]]:
        """Remember the nodes of a page; the further pages that it names."""
        pages: list[tuple[int, int]] = []
        most = _MOST_DECODED_BYTES // self._head.point_bytes
        for level, x, y, z, offset, size, points in entries:
            if not (0 <= level < 32 and all(0 <= v < 2**level for v in (x, y, z))):
                raise ValueError("its octree has a node that is nowhere")
            if points == -1 and len(pages) < MOST_NODES:
                pages.append((offset, size))
            elif 0 < points <= most and size > 0 and offset + size <= length and len(self._parts) < MOST_NODES:
                self._parts[level, x, y, z] = _Part(offset, size, points)
        return pages

    def _heights_m(self, low_m: float, high_m: float) -> tuple[float, float]:
        """2nd and 98th percentile of the coarsest points' heights; what was given when there are none."""
        if not self._parts:
            return low_m, high_m
        heights_m = self._decode(self._parts[min(self._parts)])[0][:, 2]
        low, high = np.percentile(heights_m, [2, 98])
        return float(low), float(max(high, low + 0.1))


def _head(file: BinaryIO) -> _Head:
    """Raises ValueError or struct.error when these are no first bytes of a COPC file.

    Read here and not by laspy, which believes whatever number a damaged file tells of and takes memory for it.
    """
    start = file.read(_HEAD_BYTES)
    if start[:4] != b"LASF" or start[377:381] != b"copc":
        raise ValueError("it is LAS or LAZ without levels" if start[:4] == b"LASF" else "it is no LAZ file")
    (first_vlr,), (vlrs,) = struct.unpack_from("<H", start, 94), struct.unpack_from("<I", start, 100)
    format_, point_bytes = struct.unpack_from("<BH", start, 104)
    numbers = struct.unpack_from("<12d", start, 131)
    (points,) = struct.unpack_from("<Q", start, 247)
    x, y, z, half_m, spacing_m, *tree = struct.unpack_from("<5d2Q", start, 429)
    sound = all(map(math.isfinite, (*numbers, x, y, z))) and 0 < half_m < _FARTHEST_M and 0 < spacing_m <= 2 * half_m
    if not sound or not 30 <= point_bytes < 1000 or format_ & 63 not in (6, 7, 8):
        raise ValueError("its header is damaged")
    high, low = numbers[6::2], numbers[7::2]
    laszip = _laszip(file, first_vlr, min(vlrs, _MOST_VLRS))
    place = ((x, y, z), half_m, spacing_m, (low[0], low[1], low[2]), (high[0], high[1], high[2]))
    units = (numbers[0], numbers[1], numbers[2]), (numbers[3], numbers[4], numbers[5])
    return _Head(*place, *units, format_ & 63, point_bytes, points, (tree[0], tree[1]), laszip)


def _laszip(file: BinaryIO, at: int, vlrs: int) -> bytes:
    """The record that tells how points are packed."""
    for _ in range(vlrs):
        file.seek(at)
        _, user, number, size, _ = _VLR.unpack(file.read(_VLR.size))
        if user.rstrip(b"\0") == b"laszip encoded" and number == _LASZIP_RECORD:
            return file.read(size)
        at += _VLR.size + size
    raise ValueError("it does not tell how its points are packed")
