"""all.zip as a virtual file: its bytes are headers, known beforehand, and pieces of the files themselves. So it takes no
memory and (nearly) no disk, its length and its ETag are known, and any range of it can be sent.

`pack` writes the plan once, when a job is done: what is packed already (rasters, clouds, pictures) is stored as it is; text
is deflated into a file beside the plan.
"""

from __future__ import annotations

import bisect
import errno
import hashlib
import json
import os
import shutil
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import BufferedWriter
from itertools import accumulate
from pathlib import Path

from passel.errors import StorageError
from passel.server.folders import inside, sync_folder
from passel.server.zip_format import Member, central_directory, local_header

DEFLATED = frozenset(
    {
        *(".txt", ".json", ".geojson", ".html", ".csv", ".xml", ".tfw", ".wld", ".prj", ".vrt", ".obj", ".mtl"),
        *(".ply", ".las", ".dxf", ".gpkg", ".md", ".js", ".css", ".svg", ".log", ".gpx"),
    }
)
"""Kinds of files that get much smaller."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
CHUNK_BYTES = 1 << 20
PLAN, TEXTS = "plan.json", "texts.bin"
ALL = "all.zip"
ASSETS = {
    "orthophoto.tif": "odm_orthophoto/odm_orthophoto.tif",
    "orthophoto.png": "odm_report/orthophoto.png",
    "dsm.tif": "odm_dem/dsm.tif",
    "dtm.tif": "odm_dem/dtm.tif",
    "georeferenced_model.laz": "odm_georeferencing/odm_georeferenced_model.laz",
    "report.html": "odm_report/report.html",
    "report.pdf": "odm_report/report.pdf",
    "shots.geojson": "odm_report/shots.geojson",
}
"""Short names of products, as WebODM calls them; others are asked for by their path in all.zip."""
USUAL_OUTPUTS = (
    *("odm_orthophoto", "odm_dem", "odm_georeferencing", "odm_texturing", "odm_report"),
    *("dsm_tiles", "dtm_tiles", "orthophoto_tiles", "entwine_pointcloud", "3d_tiles"),
    *("images.json", "cameras.json", "task_output.txt", "log.json"),
)
"""What WebODM shows, as NodeODM packs it; what does not exist is left out."""


@dataclass(frozen=True)
class Entry:
    """A member of the archive and where its bytes are.

    name: in the archive, with '/' at the end for folders. size, packed_size, crc: as in the archive. modified_s: local
    time is not used: two machines must make equal archives. modified_ns: of the file, to notice a later change.
    text_at: offset in the file of deflated texts, None = the file itself, as it is.
    """

    name: str
    size: int
    packed_size: int
    crc: int
    modified_s: int
    modified_ns: int
    text_at: int | None

    def member(self) -> Member:
        return Member(self.name, self.size, self.packed_size, self.crc, self.modified_s, self.text_at is not None)


class NoRoomError(StorageError):
    """The disk is full now; another try goes well when there is room."""


@contextmanager
def packing_errors(folder: Path) -> Iterator[None]:
    """What the disk says while the results are packed into `folder`, as NoRoomError or StorageError. Half of a plan is removed:
    it would keep room from others.
    """
    try:
        yield
    except OSError as e:
        shutil.rmtree(folder, ignore_errors=True)
        kind = NoRoomError if e.errno in DISK_FULL else StorageError
        where = str(e.filename or folder)
        raise kind(f"The results cannot be packed: {e.strerror}", where, "make room") from None


def pack(project: Path, outputs: Iterable[str], folder: Path) -> None:
    """Write the plan of the archive of these outputs (paths below `project`; what is missing is left out) into `folder`.
    May run twice. NoRoomError on a full disk.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with packing_errors(folder):
        folder.mkdir(parents=True)
        with open(folder / TEXTS, "wb") as texts:
            entries = [_entry(project, name, texts) for name in _names(project, outputs)]
            texts.flush()
            os.fsync(texts.fileno())
        aside = folder / (PLAN + ".part")
        with open(aside, "w", encoding="utf-8") as f:
            json.dump([asdict(e) for e in entries], f)
            f.flush()
            os.fsync(f.fileno())
        aside.rename(folder / PLAN)
        sync_folder(folder)


def _names(project: Path, outputs: Iterable[str]) -> list[str]:
    """Members in order, each once: files, and folders too, since clients want empty ones."""
    names: dict[str, None] = {}
    for output in outputs:
        path = inside(project, output)
        if path is None or not path.exists():
            continue
        top = path.relative_to(project.resolve()).as_posix()
        if path.is_file():
            names[top] = None
            continue
        for root, folders, files in os.walk(path):
            folders[:] = sorted(f for f in folders if not f.startswith("."))
            relative = Path(root).relative_to(project.resolve()).as_posix()
            if relative != ".":
                names[relative + "/"] = None
            here = "" if relative == "." else relative + "/"
            names |= dict.fromkeys(here + f for f in sorted(files))
    return [n for n in names if _is_packable(project / n, n)]


def _is_packable(path: Path, name: str) -> bool:
    """No links, no names that are not text, nothing hidden: the engine's own store is."""
    if any(part.startswith(".") for part in name.split("/")):
        return False
    try:
        name.encode()
        mode = path.lstat().st_mode
    except (OSError, UnicodeEncodeError):
        return False
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def _entry(project: Path, name: str, texts: BufferedWriter) -> Entry:
    path = project / name
    if name.endswith("/"):
        return Entry(name, 0, 0, 0, int(path.stat().st_mtime), 0, None)
    with open(path, "rb") as f:
        status = os.fstat(f.fileno())
        deflate = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS) if path.suffix.lower() in DEFLATED else None
        crc, size, start = 0, 0, texts.tell()
        while chunk := f.read(CHUNK_BYTES):
            crc, size = zlib.crc32(chunk, crc), size + len(chunk)
            if deflate is not None:
                texts.write(deflate.compress(chunk))
    if deflate is not None:
        texts.write(deflate.flush())
    packed = size if deflate is None else texts.tell() - start
    at = None if deflate is None else start
    return Entry(name, size, packed, crc, int(status.st_mtime), status.st_mtime_ns, at)


@dataclass(frozen=True)
class _Piece:
    """Bytes of the archive: `data`, or `length` bytes of a file from `start` on. modified_ns: None = not checked."""

    length: int
    data: bytes = b""
    file: Path | None = None
    start: int = 0
    modified_ns: int | None = None


class Archive:
    """all.zip, to be read in ranges. size_bytes, etag: of the whole."""

    def __init__(self, project: Path, folder: Path) -> None:
        """StorageError when there is no plan (or half of one)."""
        try:
            text = (folder / PLAN).read_text(encoding="utf-8")
            entries = [Entry(**row) for row in json.loads(text)]
        except (OSError, ValueError, TypeError) as e:
            raise StorageError("The results are not packed", str(folder)) from e
        self.etag = hashlib.sha256(text.encode()).hexdigest()[:32]
        self._pieces = list(_pieces(entries, project, folder / TEXTS))
        self._ends = list(accumulate(p.length for p in self._pieces))
        self.size_bytes = self._ends[-1]

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """Bytes start … end (not included), in chunks. StorageError when a file has changed since it was packed."""
        index = bisect.bisect_right(self._ends, start)
        while start < end:
            piece = self._pieces[index]
            first = start - (self._ends[index] - piece.length)
            last = min(piece.length, first + end - start)
            yield from _read_piece(piece, first, last)
            start += last - first
            index += 1


def _pieces(entries: list[Entry], project: Path, texts: Path) -> Iterator[_Piece]:
    offset = 0
    placed: list[tuple[Member, int]] = []
    for entry in entries:
        header = local_header(entry.member())
        placed.append((entry.member(), offset))
        offset += len(header) + entry.packed_size
        yield _Piece(len(header), header)
        if entry.packed_size and entry.text_at is not None:
            yield _Piece(entry.packed_size, file=texts, start=entry.text_at)
        elif entry.packed_size:
            yield _Piece(entry.packed_size, file=project / entry.name, modified_ns=entry.modified_ns)
    end = central_directory(placed, offset)
    yield _Piece(len(end), end)


def _read_piece(piece: _Piece, first: int, last: int) -> Iterator[bytes]:
    if piece.file is None:
        yield piece.data[first:last]
        return
    with open(piece.file, "rb") as f:
        if piece.modified_ns is not None and os.fstat(f.fileno()).st_mtime_ns != piece.modified_ns:
            raise StorageError("A result changed while it was sent", str(piece.file))
        f.seek(piece.start + first)
        while first < last:
            chunk = f.read(min(CHUNK_BYTES, last - first))
            if not chunk:
                raise StorageError("A result was cut short while it was sent", str(piece.file))
            first += len(chunk)
            yield chunk
