"""Routes that move files: downloads with ranges, single assets, and uploads in pieces that can be resumed."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from passel.server.archive import ALL, ASSETS, PLAN, Archive
from passel.server.folders import JobFolder, inside
from passel.server.jobs import Job, JobError, State
from passel.server.multipart import BodyWatch
from passel.server.openapi import piece, query
from passel.server.requests import Desk, answer
from passel.server.sending import Content, file_content, send
from passel.server.service import JobService
from passel.server.uploads import PartialFile, Received, write_all

ARCHIVES_KEPT = 8
PIECE_BYTES = 1 << 20


class Downloads:
    """What can be downloaded of a task. Opened archives are kept: clients read one in many ranges."""

    def __init__(self, service: JobService) -> None:
        self._service = service
        self._archives: dict[tuple[str, int], Archive] = {}

    def content(self, job: Job, asset: str) -> Content:
        """all.zip, a product, or any file among the results. JobError in NodeODM's words. Blocking."""
        if job.state is not State.COMPLETED:
            raise JobError("Asset not ready")
        folder = self._service.folder(job.uuid)
        try:
            if asset == ALL:
                return self._all(job, folder)
            path = inside(folder.output, ASSETS.get(asset, asset))
            if path is None or any(p.startswith(".") for p in Path(asset).parts) or not path.is_file():
                raise JobError("Invalid asset")
            return file_content(path)
        except OSError:
            raise JobError("Invalid asset") from None

    def _all(self, job: Job, folder: JobFolder) -> Content:
        try:
            key = job.uuid, (folder.packed / PLAN).stat().st_mtime_ns
        except OSError:
            raise JobError("Asset not ready") from None
        archive = self._archives.get(key)
        if archive is None:
            archive = Archive(folder.output, folder.packed)
            while len(self._archives) >= ARCHIVES_KEPT:
                self._archives.pop(next(iter(self._archives)), None)
            self._archives[key] = archive
        return Content(ALL, "application/zip", archive.size_bytes, archive.etag, archive.read)


def file_routes(desk: Desk) -> APIRouter:
    """Downloads and resumable uploads."""
    router = APIRouter(tags=["Files"])
    downloads = Downloads(desk.service)

    @router.head("/task/{uuid}/download/{asset:path}", include_in_schema=False)  # a schema's names must differ
    @router.get(
        "/task/{uuid}/download/{asset:path}",
        summary="all.zip, or one product (orthophoto.tif, dsm.tif, … or a path in all.zip)",
        openapi_extra=query("token"),
    )
    async def download(uuid: str, asset: str, request: Request) -> Response:
        job = desk.service.task(uuid, desk.owner(request))
        if (address := await desk.service.address(job, asset)) is not None:
            return RedirectResponse(address, 302, {"Cache-Control": "no-store"})
        return send(request, await asyncio.to_thread(downloads.content, job, asset))

    @router.head("/task/new/upload/{uuid}/{name}", include_in_schema=False)
    @router.get(
        "/task/new/upload/{uuid}/{name}",
        summary="How much of a file is here",
        openapi_extra=query("token"),
    )
    async def progress(uuid: str, name: str, request: Request) -> Response:
        job = desk.service.uploading(uuid, desk.owner(request))
        part = PartialFile(desk.service.folder(job.uuid), name, desk.service.settings.limits_for(job.owner))
        return _offset(*await asyncio.to_thread(part.offset))

    @router.put("/task/new/upload/{uuid}/{name}", summary="A file, or the next piece of one", openapi_extra=piece())
    async def upload_piece(uuid: str, name: str, request: Request) -> Response:
        job = desk.service.uploading(uuid, desk.owner(request))
        return await _take_piece(desk.service, job, name, request)

    return router


async def _take_piece(service: JobService, job: Job, name: str, request: Request) -> Response:
    """Append the body to the file. What arrived before the line broke stays, so the next request goes on there."""
    limits = service.settings.limits_for(job.owner)
    part = PartialFile(service.folder(job.uuid), name, limits)
    start, total = _content_range(request)
    watch = BodyWatch(limits.idle_s)
    async with service.exclusive(job, part.name, watch):
        try:
            fd = await asyncio.to_thread(part.open, start, total if total is not None else start)
        except JobError as e:
            offset, complete = await asyncio.to_thread(part.offset)
            return _offset(offset, complete, str(e), status=409)
        try:
            room = (limits.max_file_bytes if total is None else total) - start
            await _append(fd, watch.pieces(request.stream()), room)
        finally:
            await asyncio.to_thread(_sync_and_close, fd)
        whole = total if total is not None else await asyncio.to_thread(lambda: part.offset()[0])
        with service.receive(job) as receiver:
            received: Received | None = await asyncio.to_thread(part.finish, whole, receiver)
    service.touch(job)
    if received is None:
        return _offset(*await asyncio.to_thread(part.offset))
    row = {"name": received.name, "size": received.size, "sha256": received.sha256}
    return answer({"success": True, "complete": True, "files": [row]})


async def _append(fd: int, body: AsyncIterator[bytes], room: int) -> None:
    """Write the body; also what arrived just before the line broke, for on bad lines every byte counts."""
    held: list[bytes] = []
    held_bytes = 0
    try:
        async for chunk in body:
            if len(chunk) > room:
                raise JobError("More bytes arrived than were announced")
            room -= len(chunk)
            held.append(chunk)
            held_bytes += len(chunk)
            if held_bytes >= PIECE_BYTES:
                ready, held, held_bytes = held, [], 0
                await asyncio.to_thread(write_all, fd, ready)
    finally:
        await asyncio.to_thread(write_all, fd, held)


def _sync_and_close(fd: int) -> None:
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _content_range(request: Request) -> tuple[int, int | None]:
    """(first byte, size of the whole file or None when the body is the whole)."""
    header = request.headers.get("content-range")
    if header is None:
        return 0, None
    match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", header.strip(), re.ASCII)
    if match is None or not int(match.group(1)) <= int(match.group(2)) < int(match.group(3)):
        raise JobError("Content-Range must read: bytes FIRST-LAST/TOTAL")
    return int(match.group(1)), int(match.group(3))


def _offset(offset: int, complete: bool, error: str = "", status: int = 200) -> Response:
    content: dict[str, object] = {"offset": offset, "complete": complete}
    response = answer({"error": error, **content} if error else {"success": True, **content}, status)
    response.headers["Upload-Offset"] = str(offset)
    response.headers["Upload-Complete"] = "?1" if complete else "?0"
    return response
