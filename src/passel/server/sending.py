"""Answers with many bytes: ranges, ETags, conditional requests."""

from __future__ import annotations

import mimetypes
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Content:
    """Something to download. etag: changes with the bytes. read: the bytes start … end (not included), in chunks."""

    name: str
    media_type: str
    size_bytes: int
    etag: str
    read: Callable[[int, int], Iterator[bytes]]


def file_content(path: Path) -> Content:
    """A file, as it is now; OSError when it cannot be read."""
    status = path.stat()
    kind = {".laz": "application/vnd.laszip", ".tif": "image/tiff", ".geojson": "application/geo+json"}.get(path.suffix)
    media = kind or mimetypes.guess_type(path.name)[0] or "application/octet-stream"

    def read(start: int, end: int) -> Iterator[bytes]:
        with open(path, "rb") as f:
            if os.fstat(f.fileno()).st_mtime_ns != status.st_mtime_ns:
                raise OSError("the file changed while it was sent")
            f.seek(start)
            while start < end and (chunk := f.read(min(CHUNK_BYTES, end - start))):
                start += len(chunk)
                yield chunk

    return Content(path.name, media, status.st_size, f"{status.st_mtime_ns:x}-{status.st_size:x}", read)


def send(request: Request, content: Content) -> Response:
    """The whole or the range that was asked for, as an attachment; 304 and 416 where they belong."""
    etag = f'"{content.etag}"'
    name = content.name
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\;' else "_" for c in name)
    disposition = (
        f"attachment; filename={plain}"
        if plain == name and " " not in name
        else (f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name)}")
    )
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": etag,
        "Content-Disposition": disposition,
        "Cache-Control": "private, no-cache",
        "Content-Type": content.media_type,
    }
    if _has_etag(request.headers.get("if-none-match", ""), etag):
        return Response(status_code=304, headers=headers)
    wanted = request.headers.get("range")
    if wanted and request.headers.get("if-range", etag) != etag:
        wanted = None
    span = _span(wanted, content.size_bytes)
    if span is None:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{content.size_bytes}"})
    start, end = span
    status = 200 if wanted is None or not _is_range(wanted) else 206
    if status == 206:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{content.size_bytes}"
    headers["Content-Length"] = str(end - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    return StreamingResponse(content.read(start, end), status, headers)


def _has_etag(header: str, etag: str) -> bool:
    return header.strip() == "*" or etag in {e.strip().removeprefix("W/") for e in header.split(",")}


def _is_range(header: str) -> re.Match[str] | None:
    """One range of bytes; several at once are answered with the whole, which is allowed."""
    return re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", header.strip(), re.ASCII)


def _span(header: str | None, size: int) -> tuple[int, int] | None:
    """(start, end) to send; None when the range lies outside."""
    match = _is_range(header) if header else None
    if match is None or match.group(0) == "bytes=-":
        return 0, size
    first, last = match.groups()
    if not first:
        return (max(0, size - int(last)), size) if int(last) and size else None
    start, end = int(first), min(int(last) + 1, size) if last else size
    return (start, end) if start < size and start < end else None
