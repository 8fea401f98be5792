"""A map made elsewhere, as if it were made here: photos over, watched, the map back into the same folders.

What is known of the task is kept in OUT/.passel/remote.json, so the same command goes on after anything: a Ctrl-C, a broken line, a
kill -9 of either side. Nothing is sent twice to a Passel.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import threading
import time
import uuid as uuids
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

from passel.client.wire import (
    CANCELED,
    COMPLETED,
    AwayError,
    Info,
    RemoteError,
    Server,
    TaskState,
    patiently,
)
from passel.errors import InputError, StorageError

T = TypeVar("T")

AT_ONCE = 4
PATIENCE_S = 3600.0
"""How long a server may be away before the command gives up; the task goes on there in any case."""
FIRST_PATIENCE_S = 60.0
"""The same while nothing has been handed over yet: the address may be a wrong one."""
_POLL_S = 2.0
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)
_MOST_UNPACKED = 200


@dataclass(frozen=True)
class Order:
    """What to have made. files: photos and side files, sent by their names. options: NodeODM's [{name, value}]."""

    name: str
    files: tuple[Path, ...]
    options: tuple[Mapping[str, object], ...]

    def digest(self) -> str:
        """Another one for other options or files. Files count by name, size and time: reading them all takes too long."""
        seen = [(path.name, path.stat()) for path in self.files]
        files = sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in seen)
        return hashlib.sha256(json.dumps([list(map(dict, self.options)), files]).encode()).hexdigest()


@dataclass(frozen=True)
class Note:
    """What is kept of a task that was handed over. order: digest of what was to be made. committed: all photos are there.
    sent: names that are there whole.
    """

    server: str
    uuid: str
    order: str = ""
    committed: bool = False
    sent: tuple[str, ...] = ()


class Desk:
    """Where a task's note lies, and what is said to the user. say: a line. bar: (what, done, all), often."""

    def __init__(self, output: Path, say: Callable[[str], None], bar: Callable[[str, float, float], None]) -> None:
        self.output, self.say, self.bar = output, say, bar
        self._path = output / ".passel" / "remote.json"

    @property
    def archive(self) -> Path:
        """The download on its way."""
        return self._path.with_name("all.zip.part")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Held while a command works with this note: two would send the same pieces and write the same files. A kill lets go.
        Raises StorageError when another holds it.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as e:
            raise StorageError(f"the note of the task cannot be written: {e.strerror}", str(self._path)) from e
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                what = "another passel command hands over the same photos, or waits for their map"
                raise StorageError(what, str(self.output), "wait for it, or stop it and go on with this one") from None
            yield
        finally:
            os.close(handle)

    def read(self, server: str) -> Note | None:
        """The note of an earlier command for this server; None if there is none."""
        try:
            found = json.loads(self._path.read_text("utf-8"))
            note = Note(**{**found, "sent": tuple(found["sent"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return note if note.server == server else None

    def write(self, note: Note) -> None:
        """Keep the note, durably."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        aside = self._path.with_suffix(".part")
        with aside.open("w", encoding="utf-8") as file:
            json.dump(asdict(note), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, self._path)

    def forget(self) -> None:
        """The task is over."""
        self._path.unlink(missing_ok=True)
        self.archive.unlink(missing_ok=True)


def hand_over(server: Server, order: Order, desk: Desk) -> TaskState:
    """Submit, watch to the end, bring the map back. Raises RemoteError when the task failed or was cancelled there."""
    note = submit(server, order, desk)
    state = watch(server, note.uuid, desk)
    if state.code != COMPLETED:
        desk.forget()
        what = "was canceled there" if state.code == CANCELED else f"failed: {state.error or 'its log says why'}"
        url = server.address.url
        raise RemoteError(
            f"the task {what}", f"{url} {state.uuid}", f"`passel logs {state.uuid} --server {url}` tells more"
        )
    bring_back(server, note.uuid, desk)
    desk.forget()
    return state


def submit(server: Server, order: Order, desk: Desk) -> Note:
    """Photos over; returns once the server has promised to do the work."""
    found = desk.read(server.address.url)
    info = _patiently(server.info, desk, most_s=FIRST_PATIENCE_S if found is None else PATIENCE_S)
    if info.max_images is not None and len(order.files) > info.max_images:
        raise InputError(
            f"the server takes at most {info.max_images} photos a task, these are {len(order.files)}",
            server.address.url,
            "split the survey, or ask another server",
        )
    note = _begun(server, info, order, found, desk)
    if not note.committed:
        note = _sent(server, info, order, note, desk)
        try:
            _patiently(lambda: server.commit(note.uuid), desk)
        except RemoteError as refusal:  # perhaps it is committed, and the answer was lost
            try:
                _patiently(lambda: server.task(note.uuid), desk)
            except RemoteError:
                raise refusal from None
        note = replace(note, committed=True, sent=())
        desk.write(note)
    return note


def _begun(server: Server, info: Info, order: Order, found: Note | None, desk: Desk) -> Note:
    """The note to go on with, if its task is still there, else a new one that is written before the task is made."""
    digest = order.digest()
    if found is not None and found.order != digest:
        if found.committed:
            desk.say(
                f"photos or options are others than before: a new task is made; the earlier one, {found.uuid}, goes on"
            )
        desk.forget()
        found = None
    if found is not None and found.committed:
        try:
            state = _patiently(lambda: server.task(found.uuid), desk)
        except RemoteError:
            desk.say("the earlier task is gone from the server: it is made again")
        else:
            desk.say(f"going on with task {state.uuid}")
            return found
    note = found if found is not None and not found.committed and info.is_passel else None
    if note is None:
        note = Note(server.address.url, str(uuids.uuid4()), digest)
        desk.write(note)
    begun = _patiently(lambda: server.begin(note.uuid, order.name, order.options), desk)
    return note if begun == note.uuid else Note(note.server, begun, digest)


def _sent(server: Server, info: Info, order: Order, note: Note, desk: Desk) -> Note:
    """Every file there, a few at a time."""
    sizes = {path: path.stat().st_size for path in order.files}
    whole, guard = sum(sizes.values()), threading.Lock()
    sent, told = set(note.sent), [0]
    stopped = threading.Event()

    def tell(count: int) -> None:
        with guard:
            told[0] += count
            desk.bar("uploading", min(told[0], whole), whole)

    def send(path: Path) -> None:
        if stopped.is_set():
            return
        if path.name in sent:
            tell(sizes[path])
            return
        with _told_if_unreadable(path):
            if info.is_passel:
                _patiently(lambda: _send_rest(server, note.uuid, path, tell), desk, stopped)
            else:
                _patiently(lambda: server.send_whole(note.uuid, path), desk, stopped)
                tell(sizes[path])
        with guard:
            sent.add(path.name)
            if len(sent) % 20 == 0:
                desk.write(replace(note, sent=tuple(sorted(sent))))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(send, path) for path in order.files]
        try:
            for future in futures:
                future.result()
        finally:  # after Ctrl-C or an error the others must not go on in the background
            stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
            note = replace(note, sent=tuple(sorted(sent)))
            desk.write(note)
    return note


@contextmanager
def _told_if_unreadable(path: Path) -> Iterator[None]:
    """A card was pulled, a share went away: the network's troubles are no OSError here."""
    try:
        yield
    except OSError as e:
        todo = "is its disk or card still there? The same command sends only what has not arrived"
        raise InputError(f"a photo cannot be read any more: {e.strerror or e}", str(path), todo) from e


def _send_rest(server: Server, uuid: str, path: Path, tell: Callable[[int], None]) -> None:
    """What the server lacks of a file."""
    start, complete = server.offset(uuid, path.name)
    size = path.stat().st_size
    if complete and start == size:
        return
    if complete or start > size:
        start = 0
    server.send_piece(uuid, path, start, tell)


def watch(server: Server, uuid: str, desk: Desk) -> TaskState:
    """Says the task's output as it comes, until it ends."""
    said = 0
    while True:
        state = _patiently(partial(server.task, uuid, said), desk)
        for text in state.lines:
            desk.say(text)
        said += len(state.lines)
        desk.bar("mapping", state.progress, 100.0)
        if state.has_ended:
            return state
        time.sleep(_POLL_S)


def bring_back(server: Server, uuid: str, desk: Desk) -> None:
    """Fetch all.zip, going on with what is there, and unpack it into the output folder."""
    desk.archive.parent.mkdir(parents=True, exist_ok=True)

    def fetch() -> None:
        server.fetch(uuid, desk.archive, lambda done, whole: desk.bar("downloading", done, whole or done))

    for is_last in (False, True):
        _patiently(fetch, desk)
        try:
            _unpack(desk.archive, desk.output)
            break
        except _DAMAGED:
            desk.archive.unlink()
            if is_last:
                raise RemoteError(
                    "the server's archive is damaged", server.address.url, f"`passel restart {uuid}` makes it again"
                ) from None
            desk.say("the download was damaged: it is fetched again")
    desk.archive.unlink()


def _unpack(archive: Path, output: Path) -> None:
    """Every member checked against its CRC; written aside and put in place one by one, nothing outside `output`."""
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            parts = PurePosixPath(member.filename.replace("\\", "/")).parts
            if not parts or any(p in ("..", "/") for p in parts) or ":" in parts[0]:
                raise StorageError("the archive holds a file that lies outside of it", member.filename[:100])
            path = output.joinpath(*parts)
            if member.is_dir():
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_name(f".{path.name[:_MOST_UNPACKED]}.part")
            with packed.open(member) as source, aside.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            os.replace(aside, path)


def _patiently(
    work: Callable[[], T], desk: Desk, stopped: threading.Event | None = None, most_s: float = PATIENCE_S
) -> T:
    def sleep(seconds: float) -> None:
        if stopped is None:
            time.sleep(seconds)
        elif stopped.wait(seconds):
            raise AwayError("stopped")

    return patiently(work, desk.say, most_s, sleep)


def order_of(name: str, photos: Sequence[Path], side: Sequence[Path], options: Sequence[Mapping[str, object]]) -> Order:
    """An order; names must differ, for the server keeps all files in one folder."""
    files = (*photos, *side)
    seen: dict[str, Path] = {}
    for path in files:
        if path.name in seen:
            raise InputError("two files have the same name", f"{seen[path.name]}, {path}", "rename one of them")
        seen[path.name] = path
    return Order(name, files, tuple(options))
