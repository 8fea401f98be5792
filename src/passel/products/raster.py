"""Tiles into cloud-optimised GeoTIFFs, without ever holding the raster.

The tiles' .npy files are bands of a virtual raster as they lie on disk (a VRT whose sources are raw files; only marks are
unpacked for it); GDAL's COG driver reads that block by block, so memory does not depend on the size of the map.
DEFLATE level 1 with a
predictor: measured on drone photos, level 6 costs 2.3 times the CPU and saves 2 % (0.19 and 0.085 CPU s/Mpx with
overviews).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import RasterioError

from passel import __version__
from passel.errors import StepError, StorageError
from passel.geo.frames import Frame
from passel.geo.grid import Window
from passel.geo.packed import load_marks
from passel.products.layout import written_aside
from passel.products.tiles import ProductTile

BLOCK_PX = 512
CACHE_BYTES = 128 << 20
_NODATA_CANDIDATES = (-9999.0, -32768.0, -1e6, -3.4e38)
_TYPES = {"uint8": "Byte", "float32": "Float32"}


@dataclass(frozen=True)
class RasterFacts:
    """A written raster. bounds_m: west, south, east, north in the CRS. covered: share of cells with data, 0 to 1.

    minimum, maximum, mean, std: of the heights (m), NaN for an orthophoto; nodata likewise. filled: share of the cells
    with data whose height was filled from around.
    """

    width_px: int
    height_px: int
    resolution_m: float
    bounds_m: tuple[float, float, float, float]
    covered: float
    minimum: float = math.nan
    maximum: float = math.nan
    mean: float = math.nan
    std: float = math.nan
    nodata: float = math.nan
    filled: float = 0.0

    @property
    def area_m2(self) -> float:
        """Area of the cells with data."""
        return self.covered * self.width_px * self.height_px * self.resolution_m**2


@dataclass(frozen=True)
class _Piece:
    """One tile's array on disk, its window, and the part of it that holds data: the map ends where the data end, not the tiles.

    marks: of the tile's cells, in a file beside the array.
    """

    path: Path
    window: Window
    header_bytes: int
    data: Window
    marks: Path = Path()

    def marked(self) -> NDArray[np.uint8]:
        return _marks(self.marks, self.window)


def merge_orthophoto(tiles: Sequence[ProductTile], frame: Frame, path: Path, threads: int = 1) -> RasterFacts:
    """Write the tiles' ortho.npy and shown.npy as an RGBA COG with overviews (averages that respect alpha). The bytes do not depend
    on `threads`.

    Raises StepError when no tile has an orthophoto or an array is not what its tile says, StorageError when writing
    fails.
    """
    found = [p for t in tiles if (p := _picture(t)) is not None]
    outer = _union([p.data for p in found], path)
    seen = sum(int(np.count_nonzero(p.marked())) for p in found)
    resolution = tiles[0].ortho_resolution_m
    bands = [
        _Band("uint8", name, _sources(found, outer, b + 1, "SimpleSource"), "")
        for b, name in enumerate(("Red", "Green", "Blue", "Alpha"))
    ]
    head = _head(outer, resolution, frame)
    _write_cog(path, found, _mosaic(head, bands), _raw_picture, threads)
    return RasterFacts(outer.cols, outer.rows, resolution, _bounds(outer, resolution), seen / (outer.cols * outer.rows))


def merge_dsm(tiles: Sequence[ProductTile], frame: Frame, path: Path, threads: int = 1) -> RasterFacts:
    """Write the tiles' dsm.npy as a float32 COG with overviews and statistics; NaN becomes a nodata value below all
    heights.

    Raises as `merge_orthophoto`.
    """
    found = [p for t in tiles if (p := _heights(t)) is not None]
    outer = _union([p.data for p in found], path)
    facts = _height_facts(found, outer, tiles[0].dsm_resolution_m)
    facts = replace(facts, filled=_filled_cells(tiles) / (facts.covered * outer.cols * outer.rows))
    statistics = "".join(
        f'<MDI key="STATISTICS_{key}">{value!r}</MDI>'
        for key, value in (
            ("MAXIMUM", facts.maximum), ("MEAN", facts.mean), ("MINIMUM", facts.minimum), ("STDDEV", facts.std),
            ("VALID_PERCENT", round(100 * facts.covered, 4)),
        )
    )  # fmt: skip
    about = f"<NoDataValue>{facts.nodata!r}</NoDataValue><Metadata>{statistics}</Metadata>"
    band = _Band("float32", "Gray", _sources(found, outer, 1, "ComplexSource"), about)
    _write_cog(path, found, _mosaic(_head(outer, facts.resolution_m, frame), [band]), _raw_floats, threads)
    return facts


def merge_filled(tiles: Sequence[ProductTile], frame: Frame, path: Path, threads: int = 1) -> None:
    """Write the tiles' filled.npy as a byte COG that covers what the DSM covers: 1 where its height was filled from around, no data
    elsewhere.

    Raises as `merge_orthophoto`.
    """
    pieces = [p for t in tiles if (p := _heights(t)) is not None]
    outer = _union([p.data for p in pieces], path)
    found = [p for p in pieces if p.marks.exists()]
    band = _Band("uint8", "Gray", _sources(found, outer, 1, "SimpleSource"), "<NoDataValue>0</NoDataValue>")
    _write_cog(path, found, _mosaic(_head(outer, tiles[0].dsm_resolution_m, frame), [band]), _raw_marks, threads)


def _picture(tile: ProductTile) -> _Piece | None:
    path, marks = tile.folder / "ortho.npy", tile.folder / "shown.npy"
    array = _array(path, tile.ortho, np.dtype("u1"), 3)
    return None if array is None else _piece(path, tile.ortho, int(array.offset), _marks(marks, tile.ortho) > 0, marks)


def _heights(tile: ProductTile) -> _Piece | None:
    path, marks = tile.folder / "dsm.npy", tile.folder / "filled.npy"
    array = _array(path, tile.dsm, np.dtype("<f4"), 1)
    return None if array is None else _piece(path, tile.dsm, int(array.offset), np.isfinite(array), marks)


def _marks(path: Path, window: Window) -> NDArray[np.uint8]:
    try:
        return load_marks(path, window.shape)
    except (OSError, ValueError) as e:
        raise StepError(f"A tile's marks cannot be read: {e}", str(path), "run again with --rerun-all") from e


def _array(path: Path, window: Window, dtype: np.dtype[np.generic], bands: int) -> np.memmap[Any, Any] | None:
    if not path.exists() or window.cols == 0 or window.rows == 0:
        return None
    array: np.memmap[Any, Any] = np.load(path, mmap_mode="r")
    wanted = window.shape if bands == 1 else (*window.shape, bands)
    if array.shape != wanted or array.dtype != dtype or not array.flags.c_contiguous:
        what = f"The tile's array is {array.dtype} {array.shape}, its window says {dtype} {wanted}"
        raise StepError(what, str(path), "run again with --rerun-all")
    return array


def _piece(path: Path, window: Window, header_bytes: int, held: NDArray[np.bool_], marks: Path) -> _Piece | None:
    rows, cols = np.flatnonzero(held.any(axis=1)), np.flatnonzero(held.any(axis=0))
    if not len(rows):
        return None
    data = Window(
        window.col + int(cols[0]), window.row + int(rows[0]), int(cols[-1] - cols[0]) + 1, int(rows[-1] - rows[0]) + 1
    )
    return _Piece(path.resolve(), window, header_bytes, data, marks.resolve())


def _union(windows: Sequence[Window], path: Path) -> Window:
    if not windows:
        raise StepError("No tile has anything for this product", path.name, "see the report for what failed before")
    col, row = min(w.col for w in windows), min(w.row for w in windows)
    return Window(col, row, max(w.col + w.cols for w in windows) - col, max(w.row + w.rows for w in windows) - row)


def _bounds(w: Window, resolution_m: float) -> tuple[float, float, float, float]:
    # The lattice starts at easting 0, northing 0 of the CRS itself, so the frame's offset plays no part.
    west, north = w.col * resolution_m, -w.row * resolution_m
    return west, north - w.rows * resolution_m, west + w.cols * resolution_m, north


def _height_facts(pieces: Sequence[_Piece], outer: Window, resolution_m: float) -> RasterFacts:
    count, total, squares, low, high = 0, 0.0, 0.0, math.inf, -math.inf
    shift = None
    for p in pieces:
        heights = np.load(p.path, mmap_mode="r")
        h = heights[np.isfinite(heights)].astype(np.float64)
        if h.size == 0:
            continue
        shift = float(h[0]) if shift is None else shift
        count += h.size
        total += float((h - shift).sum())
        squares += float(((h - shift) ** 2).sum())
        low, high = min(low, float(h.min())), max(high, float(h.max()))
    assert shift is not None, "every piece holds data"
    mean = total / count
    nodata = next(v for v in _NODATA_CANDIDATES if v < low - 1.0)
    std = math.sqrt(max(0.0, squares / count - mean**2))
    cells = outer.cols * outer.rows
    return RasterFacts(
        outer.cols, outer.rows, resolution_m, _bounds(outer, resolution_m), count / cells, low, high, mean + shift, std,
        nodata,
    )  # fmt: skip


def _filled_cells(tiles: Sequence[ProductTile]) -> int:
    marks = [(path, t.dsm) for t in tiles if (path := t.folder / "filled.npy").exists()]
    return sum(int(np.count_nonzero(_marks(path, window))) for path, window in marks)


@dataclass(frozen=True)
class _Band:
    """One band of the mosaic as XML.

    GDAL type by numpy name, colour interpretation, sources, and what stands before them.
    """

    dtype: str
    colour: str
    sources: Iterable[str]
    about: str


def _head(outer: Window, resolution_m: float, frame: Frame) -> str:
    west, _, _, north = _bounds(outer, resolution_m)
    return (
        f'<VRTDataset rasterXSize="{outer.cols}" rasterYSize="{outer.rows}"><SRS>{escape(frame.crs_wkt)}</SRS>'
        f"<GeoTransform>{west!r},{resolution_m!r},0,{north!r},0,{-resolution_m!r}</GeoTransform>"
        '<Metadata><MDI key="AREA_OR_POINT">Area</MDI>'
        f'<MDI key="TIFFTAG_SOFTWARE">Passel {__version__}</MDI></Metadata>'
    )


def _mosaic(head: str, bands: Sequence[_Band]) -> Iterable[str]:
    yield head
    for number, b in enumerate(bands, 1):
        yield f'<VRTRasterBand dataType="{_TYPES[b.dtype]}" band="{number}">{b.about}'
        yield f"<ColorInterp>{b.colour}</ColorInterp>"
        yield from b.sources
        yield "</VRTRasterBand>"
    yield "</VRTDataset>"


def _sources(pieces: Sequence[_Piece], outer: Window, band: int, kind: str) -> Iterable[str]:
    # NODATA nan leaves the mosaic's own nodata where a tile has no height.
    nodata = "<NODATA>nan</NODATA>" if kind == "ComplexSource" else ""
    dtype = "Float32" if kind == "ComplexSource" else "Byte"
    for i, p in enumerate(pieces):
        w, d = p.window, p.data
        size = f'xSize="{d.cols}" ySize="{d.rows}"'
        yield (
            f'<{kind}><SourceFilename relativeToVRT="1">{i}.vrt</SourceFilename><SourceBand>{band}</SourceBand>'
            f'<SourceProperties RasterXSize="{w.cols}" RasterYSize="{w.rows}" DataType="{dtype}" BlockXSize="{w.cols}" '
            f'BlockYSize="1"/><SrcRect xOff="{d.col - w.col}" yOff="{d.row - w.row}" {size}/>'
            f'<DstRect xOff="{d.col - outer.col}" yOff="{d.row - outer.row}" {size}/>{nodata}</{kind}>'
        )


_Raw = Callable[[_Piece, Path], str]
"""A piece as a VRT; the path is for a file that it may need beside it."""


def _raw_picture(p: _Piece, beside: Path) -> str:
    (p.marked() * np.uint8(255)).tofile(beside)
    bands = [_raw(p.path, p.header_bytes + b, p.window, b + 1, "Byte", 3) for b in range(3)]
    return _raw_raster(p.window, [*bands, _raw(beside, 0, p.window, 4, "Byte", 1)])


def _raw_marks(p: _Piece, beside: Path) -> str:
    p.marked().tofile(beside)
    return _raw_raster(p.window, [_raw(beside, 0, p.window, 1, "Byte", 1)])


def _raw_floats(p: _Piece, beside: Path) -> str:
    return _raw_raster(p.window, [_raw(p.path, p.header_bytes, p.window, 1, "Float32", 4)])


def _raw_raster(w: Window, bands: Iterable[str]) -> str:
    return f'<VRTDataset rasterXSize="{w.cols}" rasterYSize="{w.rows}">{"".join(bands)}</VRTDataset>'


def _raw(path: Path, offset_bytes: int, w: Window, band: int, dtype: str, pixel_bytes: int) -> str:
    return (
        f'<VRTRasterBand dataType="{dtype}" band="{band}" subClass="VRTRawRasterBand">'
        f'<SourceFilename relativeToVRT="0">{escape(str(path.resolve()))}</SourceFilename>'
        f"<ImageOffset>{offset_bytes}</ImageOffset><PixelOffset>{pixel_bytes}</PixelOffset>"
        f"<LineOffset>{pixel_bytes * w.cols}</LineOffset><ByteOrder>LSB</ByteOrder></VRTRasterBand>"
    )


def _write_cog(path: Path, pieces: Sequence[_Piece], mosaic: Iterable[str], raw: _Raw, threads: int) -> None:
    with written_aside(path) as aside:
        work = aside.with_name(aside.name + ".sources")
        work.mkdir(exist_ok=True)
        try:
            for i, p in enumerate(pieces):
                (work / f"{i}.vrt").write_text(raw(p, work / f"{i}.raw"), encoding="utf-8")
            with (work / "mosaic.vrt").open("w", encoding="utf-8") as f:
                f.writelines(mosaic)
            _copy_to_cog(work / "mosaic.vrt", aside, path, threads)
        finally:
            for f2 in work.iterdir():
                f2.unlink()
            work.rmdir()


def _copy_to_cog(source: Path, target: Path, final: Path, threads: int) -> None:
    # GDAL opens raw files only beside their VRT unless told that this VRT is ours.
    try:
        with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES, GDAL_VRT_RAWRASTERBAND_ALLOWED_SOURCE="ALL"):
            rasterio.shutil.copy(
                source, target, driver="COG", COMPRESS="DEFLATE", LEVEL=1, PREDICTOR="YES", BLOCKSIZE=BLOCK_PX,
                OVERVIEW_RESAMPLING="AVERAGE", BIGTIFF="IF_SAFER", NUM_THREADS=str(threads),
            )  # fmt: skip
        problems = cog_problems(target)
    except (RasterioError, rasterio._err.CPLE_BaseError) as e:
        raise StorageError(f"Cannot write the raster: {e}", str(final), "check the free space") from e
    if problems:
        raise StorageError(f"The raster came out broken: {'; '.join(problems)}", str(final), "check the free space")


def cog_problems(path: Path) -> tuple[str, ...]:
    """What keeps a file from being a cloud-optimised GeoTIFF.

    Tiling, overviews, order of headers and data, unreadable blocks.
    """
    found = []
    with rasterio.open(path) as d:
        if d.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") != "COG":
            found.append("not laid out as COG")
        factors = d.overviews(1)
        large = max(d.width, d.height) > BLOCK_PX
        if large and set(d.block_shapes) != {(BLOCK_PX, BLOCK_PX)}:
            found.append("not tiled")
        if large and max(d.width, d.height) / max(factors, default=1) > BLOCK_PX:
            found.append("overviews missing")
        levels: list[int | None] = [None, *range(len(factors))]
        headers = [int(d.get_tag_item("IFD_OFFSET", "TIFF", bidx=1, ovr=o)) for o in levels]
        if headers != sorted(headers):
            found.append("headers out of order")
        d.read(window=((d.height - 1, d.height), (d.width - 1, d.width)))
    for level in range(len(factors)):
        with rasterio.open(path, overview_level=level) as d:
            d.read(window=((d.height - 1, d.height), (d.width - 1, d.width)))
    return tuple(found)


@dataclass(frozen=True)
class Reduced:
    """A raster at picture size. values: (rows, cols, 4) uint8 RGBA, or (rows, cols) float32 heights with NaN = none.

    metres_per_px: of the reduced picture.
    """

    values: NDArray[np.uint8] | NDArray[np.float32]
    metres_per_px: float


def read_reduced(path: Path, longest_px: int) -> Reduced:
    """The whole raster of `path` with its longest side at most `longest_px`; reads overviews only."""
    with rasterio.open(path) as d:
        scale = max(1.0, max(d.width, d.height) / longest_px)
        shape = max(1, round(d.height / scale)), max(1, round(d.width / scale))
        size = abs(d.transform.a) * d.width / shape[1]
        if d.count == 4:
            rgba = d.read(out_shape=(4, *shape), resampling=Resampling.average)
            return Reduced(np.ascontiguousarray(np.moveaxis(rgba, 0, -1)), size)
        heights = d.read(1, out_shape=shape, masked=True, resampling=Resampling.average)
        return Reduced(np.ma.filled(heights.astype(np.float32), np.nan), size)
