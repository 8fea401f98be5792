"""Artifacts on their way in: what workers have sent so far, until all of it makes an artifact.

An artifact comes as its manifest and then the content of its files, one after the other, so one number says how much of it is here.
Each sender has a folder of its own in the job's store, so two that send the same one do not meet before the commit. Blocks are
hashed as they come. A restart of the coordinator forgets what was half there; it is sent again.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import PurePosixPath

from passel.cluster.wire.workers import WireError
from passel.errors import PasselError
from passel.pipeline.manifest import ArtifactFile, Manifest, manifest_from_json
from passel.pipeline.store import Store, storage_errors

IDLE_S = 1800.0
DIGEST = re.compile(r"[0-9a-f]{64}")


class MismatchError(PasselError):
    """What was sent is not what the manifest says."""


class OvertakenError(PasselError):
    """Another request of the same sender does the work."""


@dataclass(frozen=True)
class Sender:
    """Who sends which artifact of which job."""

    job: str
    digest: str
    worker: str


class Package:
    """What one sender has sent. Only the request that began last may write: an older one may still hang on a dead link.

    What such a one holds in memory is written when the next one asks or begins, so that it has not to come again.
    """

    def __init__(self, store: Store, digest: str) -> None:
        self._stack = ExitStack()
        self._store = store
        self._aside = self._stack.enter_context(store.aside(digest))
        self._guard = threading.Lock()
        self._owner: object = None
        self._unwritten: list[bytes] = []
        self._manifest: Manifest | None = None
        self._closed = False
        self.used_s = time.monotonic()
        self._go_back_to(())

    @property
    def received_bytes(self) -> int:
        """Of the content."""
        with self._guard:
            return self._received_bytes()

    def _received_bytes(self) -> int:
        return sum(f.size_bytes for f in self._files[: len(self._sha256s)]) + self._in_file_bytes

    def settle(self) -> int:
        """How much of the content is here, and stays it until a request begins: the one before writes no more. Raises StorageError."""
        with self._guard, storage_errors(self._aside.files):
            self._end_request()
            return self._received_bytes()

    def begin(self, owner: object, manifest: Manifest, start: int, unwritten: list[bytes] | None = None) -> bool:
        """From now on `owner` writes, after byte `start` of the content. False when that is neither 0 nor what was received so far.

        unwritten: where `owner` holds what it has received and not written. Raises OvertakenError when the artifact is being put in
        place, StorageError.
        """
        with self._guard, storage_errors(self._aside.files):
            if self._closed:
                raise OvertakenError(
                    "The artifact has come and is being put in place", manifest.digest[:12], "ask again"
                )
            self._end_request()
            if start and self._files != manifest.files:
                self._go_back_to(())  # it was made again
            if start not in (0, self._received_bytes()):
                return False
            if start == 0:
                shutil.rmtree(self._aside.files)  # perhaps with other files
                self._aside.files.mkdir()
                self._go_back_to(())
            self._owner, self._manifest, self.used_s = owner, manifest, time.monotonic()
            self._unwritten = [] if unwritten is None else unwritten
            self._end_full_files()
            return True

    def write(self, owner: object, blocks: list[bytes]) -> None:
        """The next bytes, no more than the manifest says; takes them out of `blocks`. Raises StorageError, OvertakenError."""
        with self._guard, storage_errors(self._aside.files):
            self._refuse_others(owner)
            self._take(blocks)

    def check(self, owner: object) -> None:
        """All has come: from now on nobody may write. Raises MismatchError (from the first wrong file on it must be sent again),
        OvertakenError."""
        with self._guard:
            self._refuse_others(owner)
            sent = zip_longest(self._files, self._sha256s)  # should something lack, that is wrong, too
            wrong = [number for number, (file, sha256) in enumerate(sent) if file.sha256 != sha256]
            if wrong:
                self._go_back_to(self._sha256s[: wrong[0]])
                what = f"{len(wrong)} files did not arrive as the manifest says"
                raise MismatchError(what, self._files[wrong[0]].name, "send them again")
            self._closed = True

    def commit(self) -> None:
        """Makes what was checked the artifact. Not under the guard, for the disk may take its time. Raises StorageError."""
        assert self._manifest is not None
        self._store.commit_received(self._aside, self._manifest)

    def close(self) -> None:
        """Removes what is not committed. Who still sends it begins anew."""
        with self._guard:
            self._closed = True
        self._stack.close()

    @property
    def _files(self) -> tuple[ArtifactFile, ...]:
        return self._manifest.files if self._manifest else ()

    def _refuse_others(self, owner: object) -> None:
        if self._owner is not owner or self._closed:
            raise OvertakenError("Another request sends this artifact")

    def _end_request(self) -> None:
        """Nobody writes now; what the one who did has not written is written."""
        if not self._closed:
            self._take(self._unwritten)
        self._owner, self._unwritten = None, []

    def _take(self, blocks: list[bytes]) -> None:
        """Under the guard: whoever comes next finds each block either written or still in the list, to which the event loop may add
        meanwhile. What a disk refuses is dropped, for its sender is told and sends it again.
        """
        rest = deque(memoryview(block) for block in tuple(blocks))
        taken = len(rest)
        try:
            while rest:
                self._append(_first_bytes(rest, self._files[len(self._sha256s)].size_bytes - self._in_file_bytes))
                self._end_full_files()
        finally:
            del blocks[:taken]
        self.used_s = time.monotonic()

    def _go_back_to(self, sha256s: Sequence[str]) -> None:
        """As if only these first files had come; the next write begins the one after them anew."""
        self._sha256s = list(sha256s)
        self._hash, self._in_file_bytes = hashlib.sha256(), 0

    def _append(self, pieces: Sequence[memoryview]) -> None:
        path = self._aside.files / self._files[len(self._sha256s)].name
        if not self._in_file_bytes:
            path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if self._in_file_bytes else "wb") as file:
            file.seek(self._in_file_bytes)
            file.writelines(pieces)
        for piece in pieces:
            self._hash.update(piece)
            self._in_file_bytes += len(piece)

    def _end_full_files(self) -> None:
        """Goes on to the next file that lacks something; those without content are made in passing."""
        for file in self._files[len(self._sha256s) :]:
            if self._in_file_bytes < file.size_bytes:
                break
            if not file.size_bytes:
                self._append(())
            self._sha256s.append(self._hash.hexdigest())
            self._hash, self._in_file_bytes = hashlib.sha256(), 0


class Incoming:
    """All that is on its way in. Not for several threads at once, but for `package` and `received_bytes`."""

    def __init__(self) -> None:
        self._packages: dict[Sender, Package] = {}

    def received_bytes(self, sender: Sender) -> int | None:
        """How much of an artifact's content is here for the next request to go on with, None when nothing was ever sent.

        Raises StorageError.
        """
        package = self._packages.get(sender)
        return package.settle() if package else None

    def package(self, sender: Sender, store: Store) -> Package:
        """Where the sender's artifact goes. Raises StorageError."""
        package = self._packages.get(sender)
        if package is None:
            package = Package(store, sender.digest)
            if self._packages.setdefault(sender, package) is not package:  # another request of it was quicker
                package.close()
        return self._packages[sender]

    def commit(self, sender: Sender, package: Package, owner: object) -> None:
        """Makes what `owner` has sent the artifact. Raises what `Package.check` does, and then keeps it; StorageError."""
        package.check(owner)
        try:
            package.commit()
        finally:
            self.discard(sender)

    def discard(self, sender: Sender) -> None:
        """Removes what was sent."""
        package = self._packages.pop(sender, None)
        if package:
            package.close()

    def forget(self, job: str) -> None:
        """Removes all of a job."""
        for sender in [s for s in self._packages if s.job == job]:
            self.discard(sender)

    def sweep(self) -> None:
        """Removes what nobody has gone on with for long."""
        long_ago_s = time.monotonic() - IDLE_S
        for sender in [s for s, p in self._packages.items() if p.used_s < long_ago_s]:
            self.discard(sender)

    def close(self) -> None:
        for sender in list(self._packages):
            self.discard(sender)


def _first_bytes(blocks: deque[memoryview], most_bytes: int) -> list[memoryview]:
    """Takes at most so many bytes from the front of the blocks."""
    taken: list[memoryview] = []
    while blocks and most_bytes:
        block = blocks.popleft()
        taken.append(block[:most_bytes])
        if len(block) > most_bytes:
            blocks.appendleft(block[most_bytes:])
        most_bytes -= len(taken[-1])
    return taken


def check_name(name: str) -> None:
    """Raises MismatchError unless this is a plain relative path with / that stays inside its folder."""
    parts = PurePosixPath(name).parts
    plain = name and "/".join(parts) == name and not name.startswith("/") and ".." not in parts
    if (
        not plain
        or "\0" in name
        or "\\" in name
        or len(name) > 1000
        or any(len(p.encode("utf-8", "surrogatepass")) > 255 for p in parts)
    ):
        raise MismatchError("This is no name of an artifact's file", name[:200])


def manifest_of(body: bytes, digest: str) -> Manifest:
    """The manifest that a worker sent, with types checked: it will be read by others. Raises WireError, MismatchError for a bad name."""
    try:
        manifest = manifest_from_json(body.decode("utf-8"))
        texts = [manifest.stage, manifest.name, manifest.function, manifest.cost.machine, manifest.cost.started]
        numbers = [manifest.cost.seconds, manifest.cost.cpu_seconds, manifest.cost.peak_rss_mb]
        plain = all(isinstance(t, str) for t in texts) and all(isinstance(n, int | float) for n in numbers)
        plain &= isinstance(manifest.cost.attempt, int) and isinstance(manifest.version, int)
        plain &= all(isinstance(value, int | float | str | bool) for _, value in manifest.facts)
        plain &= all(type(f.size_bytes) is int and f.size_bytes >= 0 for f in manifest.files)
        plain &= all(bool(DIGEST.fullmatch(f.sha256)) for f in manifest.files)
        plain &= len({f.name for f in manifest.files}) == len(manifest.files)
        for file in manifest.files:
            check_name(file.name)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WireError(f"This is no manifest: {error}") from error
    if not plain or manifest.digest != digest:
        raise WireError("This is no manifest of this artifact")
    return manifest
