"""Tiles' points into one LAZ file that is also cloud-optimised (COPC): any LAZ reader opens it, viewers stream it.

The octree is ours; copclib only writes its nodes. Points are quantised to millimetres and sorted along a Morton curve,
after which each level of the tree is one linear pass: of each cell (a 128th of a node's side) the middle point stays on
this level, the rest go down; a node with few points keeps them all. Large clouds are cut into square columns that are
handled one after the other; a cell of the levels above a column never crosses its border, so that the result is one
octree and memory is that of one column.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import copclib
import numpy as np
from numpy.typing import NDArray

from passel import __version__
from passel.errors import StepError, StorageError
from passel.geo.frames import Frame
from passel.geo.packed import points_of
from passel.products.layout import written_aside
from passel.products.tiles import ProductTile

UNIT_M = 0.001
COLUMN_POINTS = 4_000_000
LEAF_POINTS = 60_000
DISK_BYTES = 28  # a point: 16 of scratch and at most 12 in the file (5 to 10 measured)
_DEPTH = 20  # the root's side is 2**20 quanta
_BY_RETURN_AT = 255  # LAS 1.4 header: number of points by return, the first of fifteen
_CELL_BITS = 7  # 128 cells along a node's side
_LAST_LEVEL = _DEPTH - _CELL_BITS

_POINT = np.dtype([("xyz", "<i4", 3), ("rgb", "u1", 3), ("views", "u1")])
_LAS7 = np.dtype(
    [("xyz", "<i4", 3), ("intensity", "<u2"), ("returns", "u1"), ("flags", "u1"), ("classification", "u1"),
     ("user_data", "u1"), ("angle", "<i2"), ("source", "<u2"), ("time", "<f8"), ("rgb", "<u2", 3)]
)  # fmt: skip
Points = NDArray[np.void]
U64 = NDArray[np.uint64]


@dataclass(frozen=True)
class CloudFacts:
    """A written cloud: how many points, octree nodes and columns; low, high: its corners in the CRS (m)."""

    points: int
    nodes: int
    columns: int
    low: tuple[float, float, float]
    high: tuple[float, float, float]


@dataclass(frozen=True)
class _Cube:
    """The octree's root: lowest corner (mm from the map offset), mm a quantum, level of the columns (0: only one)."""

    low: NDArray[np.int64]
    quantum: int
    column_level: int

    def quanta(self, p: Points) -> NDArray[np.uint64]:
        """(n, 3) quanta from the lowest corner, each below 2**_DEPTH."""
        return np.asarray((p["xyz"] - self.low) // self.quantum, np.uint64)


def merge_points(
    tiles: Sequence[ProductTile], frame: Frame, path: Path, column_points: int = COLUMN_POINTS
) -> CloudFacts:
    """Write the tiles' points as COPC (LAZ 1.4, point format 7).

    Coordinates are in the CRS, to the millimetre; colour has 16 bits; `user_data` is how many photos saw the point.

    Peak memory is about 150 bytes times `column_points` (or the fullest 128th of the map, if that is more) plus one
    tile; scratch space of 16 bytes a point is used beside `path` when there are more. Raises StepError when no tile
    has a point, StorageError when the disk is too small.
    """
    low, high, count = _extent(tiles)
    if count == 0:
        raise StepError("No tile has a single point", path.name, "see the report for what failed before")
    quantum = int(-(-(int((high - low).max()) + 1) // (1 << _DEPTH)))
    cube = _Cube(low, quantum, 0)
    if count > column_points:
        cube = _Cube(low, quantum, _column_level(tiles, cube, column_points))
    with written_aside(path) as aside:
        _check_space(path.parent, count)
        writer = copclib.FileWriter(str(aside), _config(frame, cube, high))
        with tempfile.TemporaryDirectory(prefix=".points-", dir=path.parent) as work:
            nodes, columns, written = _write_tree(writer, cube, _columns(tiles, cube, Path(work)))
        writer.Close()
        _finish_header(aside, count)
        found = sum(n.point_count for n in copclib.FileReader(str(aside)).GetAllNodes())
        if not written == found == count:
            raise StepError(
                f"{found} of {count} points were written", path.name, "check the free space, then run again"
            )
    offset = np.array([*frame.map_offset_m, 0.0])
    low_m, high_m = (tuple((c * UNIT_M + offset).tolist()) for c in (low, high))
    return CloudFacts(count, nodes, columns, low_m, high_m)


def _check_space(folder: Path, count: int) -> None:
    """Before copclib starts: it aborts the process when a disk fills, so there would be nobody left to tell the user."""
    needed, free = count * DISK_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        what = f"The point cloud needs about {needed / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free"
        raise StorageError(what, str(folder), "free some space")


def _read(tile: ProductTile) -> Points:
    if not tile.points_path.exists():
        return np.zeros(0, _POINT)
    with np.load(tile.points_path) as d:
        xyz_mm = points_of(d["first_mm"], d["steps_mm"])
        out = np.empty(len(xyz_mm), _POINT)
        out["xyz"] = xyz_mm
        out["rgb"], out["views"] = d["rgb"], d["views"]
    return out


def _extent(tiles: Sequence[ProductTile]) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    low, high, count = np.full(3, 2**40, np.int64), np.full(3, -(2**40), np.int64), 0
    for t in tiles:
        xyz = _read(t)["xyz"]
        if len(xyz):
            low, high, count = np.minimum(low, xyz.min(axis=0)), np.maximum(high, xyz.max(axis=0)), count + len(xyz)
    return low, high, count


def _column_level(tiles: Sequence[ProductTile], cube: _Cube, column_points: int) -> int:
    """The coarsest level whose fullest column has at most `column_points`; at most 7, where a root cell is a column."""
    counts = np.zeros((1 << _CELL_BITS, 1 << _CELL_BITS), np.int64)
    for t in tiles:
        q = (cube.quanta(_read(t))[:, :2] >> np.uint64(_DEPTH - _CELL_BITS)).astype(np.int64)
        np.add.at(counts, (q[:, 1], q[:, 0]), 1)
    for level in range(1, _CELL_BITS):
        side = 1 << (_CELL_BITS - level)
        blocks = counts.reshape(1 << level, side, 1 << level, side).sum(axis=(1, 3))
        if blocks.max() <= column_points:
            return level
    return _CELL_BITS


def _columns(tiles: Sequence[ProductTile], cube: _Cube, work: Path) -> Iterator[Points]:
    """The points column by column, rows from the south, each in the order of the tiles."""
    if cube.column_level == 0:
        yield np.concatenate([_read(t) for t in tiles])
        return
    found = set()
    for t in tiles:
        points = _read(t)
        q = (cube.quanta(points)[:, :2] >> np.uint64(_DEPTH - cube.column_level)).astype(np.int64)
        column = (q[:, 1] << cube.column_level) | q[:, 0]
        order = np.argsort(column, kind="stable")
        names, starts = np.unique(column[order], return_index=True)
        for name, part in zip(names.tolist(), np.split(points[order], starts[1:])):
            found.add(name)
            with (work / str(name)).open("ab") as f:
                part.tofile(f)
    for name in sorted(found):
        yield np.fromfile(work / str(name), _POINT)
        (work / str(name)).unlink()


def _write_tree(writer: copclib.FileWriter, cube: _Cube, columns: Iterator[Points]) -> tuple[int, int, int]:
    """Write all nodes; (nodes, columns, points). Levels above the columns are gathered and written last."""
    coarse: list[list[tuple[U64, Points]]] = [[] for _ in range(cube.column_level)]
    nodes = number = written = 0
    for column in columns:
        number += 1
        code = _morton(cube.quanta(column))
        order = np.argsort(code, kind="stable")
        code, points = code[order], column[order]
        del column, order
        for level in range(cube.column_level):
            keep = _middle_of_runs(code >> np.uint64(3 * (_LAST_LEVEL - level)))
            coarse[level].append((code[keep], points[keep]))
            code, points = code[~keep], points[~keep]
        level = cube.column_level
        while len(code):
            keep = _stays(code, level)
            nodes += _write_level(writer, level, code[keep], points[keep])
            written += int(np.count_nonzero(keep))
            code, points, level = code[~keep], points[~keep], level + 1
    for level, parts in enumerate(coarse):
        code, points = (np.concatenate(a) for a in zip(*parts))
        order = np.argsort(code, kind="stable")
        nodes += _write_level(writer, level, code[order], points[order])
        written += len(code)
    return nodes, number, written


def _stays(code: U64, level: int) -> NDArray[np.bool_]:
    """Which of the points (sorted by code) stay on this level."""
    if level >= _LAST_LEVEL:
        return np.ones(len(code), bool)
    node = code >> np.uint64(3 * (_DEPTH - level))
    starts = _starts(node)
    sizes = np.diff(np.append(starts, len(code)))
    small = np.repeat(sizes <= LEAF_POINTS, sizes)
    return np.asarray(small | _middle_of_runs(code >> np.uint64(3 * (_LAST_LEVEL - level))))


def _starts(sorted_values: U64) -> NDArray[np.int64]:
    change = np.flatnonzero(sorted_values[1:] != sorted_values[:-1]) + 1
    return np.concatenate([[0], change]).astype(np.int64)


def _middle_of_runs(sorted_values: U64) -> NDArray[np.bool_]:
    """True for the middle element of each run of equal values."""
    keep = np.zeros(len(sorted_values), bool)
    if len(sorted_values):
        starts = _starts(sorted_values)
        keep[(starts + np.append(starts[1:], len(sorted_values))) // 2] = True
    return keep


def _write_level(writer: copclib.FileWriter, level: int, code: U64, points: Points) -> int:
    """Write the nodes of one level; points sorted by code. Returns their number."""
    if len(code) == 0:
        return 0
    las = np.zeros(len(points), _LAS7)
    las["xyz"], las["returns"], las["user_data"] = points["xyz"], 0x11, points["views"]
    las["rgb"] = points["rgb"].astype(np.uint16) * 256  # the LAS specification's way from 8 to 16 bits
    node = code >> np.uint64(3 * (_DEPTH - level))
    starts = _starts(node)
    for a, b in zip(starts.tolist(), [*starts[1:].tolist(), len(code)]):
        x, y, z = (_compact(int(node[a]) >> axis) for axis in range(3))
        raw = copclib.VectorChar(np.frombuffer(las[a:b].tobytes(), np.int8))
        writer.AddNode(copclib.VoxelKey(level, x, y, z), raw)
    return len(starts)


def _morton(quanta: U64) -> U64:
    """(n, 3) quanta below 2**20 → (n,) interleaved bits, x lowest."""
    x, y, z = (_spread(quanta[:, axis]) for axis in range(3))
    return np.asarray(x | (y << np.uint64(1)) | (z << np.uint64(2)))


def _spread(values: U64) -> U64:
    v: U64 = values
    for shift, mask in (
        (32, 0x1F00000000FFFF), (16, 0x1F0000FF0000FF), (8, 0x100F00F00F00F00F), (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):  # fmt: skip
        v = np.asarray((v | (v << np.uint64(shift))) & np.uint64(mask))
    return v


def _compact(code: int) -> int:
    """Every third bit of a Morton code."""
    return sum(((code >> (3 * i)) & 1) << i for i in range(_DEPTH + 1))


def _config(frame: Frame, cube: _Cube, high: NDArray[np.int64]) -> copclib.CopcConfigWriter:
    offset = np.array([*frame.map_offset_m, 0.0])
    scale = copclib.Vector3(UNIT_M, UNIT_M, UNIT_M)
    config = copclib.CopcConfigWriter(7, scale, copclib.Vector3(*offset), frame.crs_wkt)
    header, info = config.las_header, config.copc_info
    low_m = cube.low * UNIT_M + offset
    header.min, header.max = copclib.Vector3(*low_m), copclib.Vector3(*(high * UNIT_M + offset))
    header.generating_software = f"Passel {__version__}"
    half = cube.quantum * (1 << _DEPTH) * UNIT_M / 2
    info.halfsize, info.spacing = half, 2 * half / (1 << _CELL_BITS)
    info.center_x, info.center_y, info.center_z = (low_m + half).tolist()
    return config


def _finish_header(path: Path, count: int) -> None:
    """copclib leaves the number of points by return at zero: every point here is the only return."""
    with path.open("r+b") as f:
        f.seek(_BY_RETURN_AT)
        f.write(struct.pack("<Q", count))
