"""A job's files on their way to a node: what the node has acknowledged is not sent again, and a task that came out with more
or fewer photos than were sent is taken back and sent anew, so none is lost or doubled.

NodeODM cannot say which files of an upload it has, and keeps a photo that it is sent twice as a second photo. So every
acknowledgement is written down, and the number of photos is checked when the node has sorted them.
"""

from __future__ import annotations

import asyncio
import os
import zipfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from passel.errors import StorageError
from passel.gateway.attempt import Attempt, Stage
from passel.gateway.book import Book
from passel.gateway.client import (
    CANCELED,
    COMPLETED,
    FAILED,
    Commission,
    NodeBusy,
    NodeClient,
    NodeLies,
    NodeRefuses,
    NodeSilent,
    Pace,
    TaskUnknown,
)
from passel.server.folders import JobFolder

AT_ONCE = 4
TRIES = 5
SETTLING_S = 20.0
"""How long a node may take to sort photos from other files."""
_LOOK_S = 0.5
T = TypeVar("T")
FORWARD = "forward"
SEED = "seed.zip"


@dataclass(frozen=True)
class Shipment:
    """What is sent. files: photos first. photos: how many of them the node must count."""

    files: tuple[Path, ...]
    photos: int
    commission: Commission


def shipment_of(folder: JobFolder, commission: Commission) -> Shipment:
    """The files of a job: photos, side files, and the seed that the server has unpacked for its own engine."""
    photos = tuple(sorted(p for p in folder.photos.iterdir() if p.is_file()))
    side = tuple(sorted(folder.side.iterdir())) if folder.side.is_dir() else ()
    seed = _seed(folder)
    return Shipment((*photos, *side, *((seed,) if seed else ())), len(photos), commission)


async def send(
    book: Book, attempt: Attempt, client: NodeClient, what: Shipment, tell: Callable[[int, int], None]
) -> Attempt:
    """Returns the attempt with the task committed. tell: files sent, and all. NodeError."""
    for _ in range(3):
        attempt = await _sent_once(book, attempt, client, what, tell)
        if await _is_whole(client, attempt.remote_uuid, what):
            return book.committed(attempt)
        await client.act("remove", attempt.remote_uuid)
        attempt = book.again(attempt)
    raise NodeLies(f"It does not keep the {what.photos} photos that it is sent", client.node.name)


async def _sent_once(
    book: Book, attempt: Attempt, client: NodeClient, what: Shipment, tell: Callable[[int, int], None]
) -> Attempt:
    uuid = attempt.remote_uuid
    if attempt.stage is Stage.SENDING and await _has(client, uuid):
        return attempt  # it was committed when we died
    attempt = book.begin_sending(attempt)
    await _persistently(lambda: client.init(uuid, what.commission))
    done = book.sent(attempt)
    missing = [f for f in what.files if f.name not in done]
    pace, gate, count = Pace(client.node.max_upload_mb_s * 1e6), asyncio.Semaphore(AT_ONCE), len(what.files)
    arrived = count - len(missing)
    tell(arrived, count)

    async def one(path: Path) -> None:
        nonlocal arrived
        async with gate:
            await _persistently(lambda: client.upload(uuid, path, pace))
            book.note_sent(attempt, path.name)
            arrived += 1
            tell(arrived, count)

    try:
        async with asyncio.TaskGroup() as group:
            for path in missing:
                group.create_task(one(path))
    except ExceptionGroup as e:
        raise e.exceptions[0] from None
    attempt = book.commits(attempt)
    await _persistently(lambda: _committed(client, uuid))
    return attempt


async def _committed(client: NodeClient, uuid: str) -> None:
    """Commit, unless an earlier commit of which no answer came has done it."""
    try:
        await client.commit(uuid)
    except (NodeSilent, NodeRefuses):
        if not await _has(client, uuid):
            raise


async def _has(client: NodeClient, uuid: str) -> bool:
    try:
        await client.task(uuid)
    except TaskUnknown:
        return False
    return True


async def _is_whole(client: NodeClient, uuid: str, what: Shipment) -> bool:
    """Whether the node has just the photos. Before it has sorted them it counts all files."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + SETTLING_S
    while True:
        task = await _persistently(lambda: client.task(uuid))
        if task.images == what.photos or task.code == FAILED:  # its own words say more than the count
            return True
        sorted_by_now = task.code in {COMPLETED, CANCELED} or loop.time() > until_s
        if sorted_by_now or not what.photos < task.images <= len(what.files):
            return False
        await asyncio.sleep(_LOOK_S)


async def _persistently(ask: Callable[[], Awaitable[T]]) -> T:
    """Again when the node is silent for a moment."""
    for attempt in range(TRIES):
        try:
            return await ask()
        except NodeSilent as e:
            if attempt == TRIES - 1:
                raise
            asked_s = e.wait_s if isinstance(e, NodeBusy) else 0.0
        await asyncio.sleep(max(asked_s, min(8.0, 0.5 * 2**attempt)))
    raise AssertionError("unreachable")


def _seed(folder: JobFolder) -> Path | None:
    """seed.zip anew, from what the server unpacked into the output before anything ran. Made once; later the output holds
    results. An empty file says that there was none.
    """
    kept = folder.root / FORWARD / SEED
    if not kept.exists():
        try:
            kept.parent.mkdir(exist_ok=True)
            aside = kept.with_suffix(".part")
            names = [] if ran_here(folder.output) else _below(folder.output)
            with aside.open("wb") as file:
                if names:
                    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as zipped:
                        for name in names:
                            zipped.write(folder.output / name, name)
                file.flush()
                os.fsync(file.fileno())
            aside.rename(kept)
        except OSError as e:
            raise StorageError(f"seed.zip cannot be made: {e.strerror}", str(kept), "make room") from None
    return kept if kept.stat().st_size else None


def ran_here(output: Path) -> bool:
    """Whether our own engine worked here: it keeps its store in a hidden folder."""
    return output.is_dir() and any(p.name.startswith(".") for p in output.iterdir())


def _below(output: Path) -> list[str]:
    """Files and folders, also empty ones: OpenDroneMap looks for both."""
    return sorted(p.relative_to(output).as_posix() for p in output.rglob("*")) if output.is_dir() else []
