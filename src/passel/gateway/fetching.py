"""Results on their way back: all.zip streamed to the disk, gone on with where it broke off, unpacked without trusting it,
and put in place of the output in one rename.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from passel.errors import StorageError
from passel.gateway.client import NodeClient, NodeLies, NodeSilent
from passel.gateway.downloading import download
from passel.gateway.sending import FORWARD
from passel.server.folders import JobFolder, sync_folder
from passel.server.jobs import JobError
from passel.server.outgoing import Gate
from passel.server.settings import Limits
from passel.server.unpacking import Bounds, unpack_tree

_BAD_ARCHIVES = 2
_PAUSE_S = 2.0


async def fetch(client: NodeClient, uuid: str, folder: JobFolder, patience_s: float, gate: Gate) -> None:
    """The task's results are in `folder.output` when this returns. NodeSilent after `patience_s` without progress; NodeLies
    when what comes is no good archive. gate: where else than on the node they may lie. May be done again at any time.
    """
    limits, archive = Limits(), folder.root / FORWARD / "all.zip"
    for bad in range(_BAD_ARCHIVES + 1):
        await _downloaded(client, uuid, archive, patience_s, gate)
        try:
            await asyncio.to_thread(_put_in_place, archive, folder, limits)
        except JobError as e:
            archive.unlink(missing_ok=True)
            check_room(folder.root, limits, 0)
            if bad == _BAD_ARCHIVES:
                raise NodeLies(f"Its results cannot be used: {e.what}", client.node.name) from None
        else:
            archive.unlink(missing_ok=True)
            return


def check_room(folder: Path, limits: Limits, size: int) -> None:
    """StorageError when so many bytes more would leave too little free space."""
    if shutil.disk_usage(folder).free < limits.disk_floor_bytes + size:
        raise StorageError("The disk is too full for the results", str(folder), "make room")


async def _downloaded(client: NodeClient, uuid: str, archive: Path, patience_s: float, gate: Gate) -> None:
    """all.zip, whole. Every piece that arrives begins the patience anew."""
    loop, limits = asyncio.get_running_loop(), Limits()
    part, etag = archive.with_suffix(".part"), ""
    part.parent.mkdir(exist_ok=True)
    part.unlink(missing_ok=True)
    heard_s, before = loop.time(), 0
    while True:
        try:
            start = part.stat().st_size if part.exists() else 0
            async with download(client, uuid, start, etag, gate) as response:
                length = response.content_length
                check_room(archive.parent, limits, length or 0)
                etag = response.headers.get("ETag", "") if "bytes" in response.headers.get("Accept-Ranges", "") else ""
                resumed = response.status == 206
                if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                    raise NodeLies("It sent another part of its results than was asked for", client.node.name)
                await _write(response.content.iter_chunked(1 << 20), part, resumed, limits)
            part.rename(archive)
            return
        except NodeSilent:
            now = part.stat().st_size if part.exists() else 0
            if now > before:
                heard_s, before = loop.time(), now
            if loop.time() - heard_s > patience_s:
                raise
        await asyncio.sleep(_PAUSE_S)


async def _write(chunks: AsyncIterator[bytes], part: Path, append: bool, limits: Limits) -> None:
    try:
        with part.open("ab" if append else "wb") as file:
            async for chunk in chunks:
                await asyncio.to_thread(file.write, chunk)
                if file.tell() > limits.max_unzipped_bytes:
                    raise NodeLies("Its results are larger than a map can be")
                check_room(part.parent, limits, len(chunk))
    except OSError as e:
        if e.errno is None:
            raise  # of the network
        raise StorageError(f"The results cannot be written: {e.strerror}", str(part), "make room") from None


def _put_in_place(archive: Path, folder: JobFolder, limits: Limits) -> None:
    """Unpack aside; then the old output goes and the new one comes. JobError: the archive is bad."""
    aside = folder.root / FORWARD / "output"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    bounds = Bounds(limits.max_unzipped_bytes, limits.max_zip_members, limits.disk_floor_bytes)
    try:
        if not unpack_tree(archive, aside, bounds):
            raise JobError("ZIP file is empty")
        shutil.rmtree(folder.output, ignore_errors=True)
        aside.rename(folder.output)
        sync_folder(folder.root)
    except OSError as e:
        raise StorageError(f"The results cannot be unpacked: {e.strerror}", str(folder.output), "make room") from None
