"""Artifacts on their way in: what workers have sent so far, file by file, until the manifest makes an artifact of it.

Each sender of an artifact has a folder of its own in the job's store, so two that send the same one do not meet before the
commit. Blocks are hashed as they come. A restart of the coordinator forgets what was half there; it is sent again.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from passel.cluster.wire.workers import WireError
from passel.errors import PasselError
from passel.pipeline.manifest import Manifest, manifest_from_json
from passel.pipeline.store import Store, storage_errors

IDLE_S = 1800.0
DIGEST = re.compile(r"[0-9a-f]{64}")


class MismatchError(PasselError):
    """What was sent is not what the manifest says."""


class OvertakenError(PasselError):
    """A later request of the same sender has taken over."""


@dataclass(frozen=True)
class Sender:
    """Who sends which artifact of which job."""

    job: str
    digest: str
    worker: str


class Part:
    """One file of an artifact. Only the request that began last may write: an older one may still hang on a dead link."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.received_bytes = 0
        self._owner: object = None
        self._hash = hashlib.sha256()
        self._guard = threading.Lock()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def begin(self, owner: object, start: int) -> bool:
        """From now on `owner` writes, after byte `start`. False when that is neither 0 nor what was received so far."""
        with self._guard, storage_errors(self.path.parent):
            if start not in (0, self.received_bytes):
                return False
            self._owner = owner
            if start == 0:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.path.write_bytes(b"")
                self.received_bytes, self._hash = 0, hashlib.sha256()
            return True

    def write(self, owner: object, blocks: Sequence[bytes]) -> None:
        """The next bytes. Raises StorageError, OvertakenError."""
        with self._guard, storage_errors(self.path.parent):
            if self._owner is not owner:
                raise OvertakenError("Another request writes this file", self.path.name)
            with self.path.open("r+b") as file:
                file.seek(self.received_bytes)
                file.writelines(blocks)
            for block in blocks:
                self._hash.update(block)
                self.received_bytes += len(block)


class _Package:
    """The folder of one sender."""

    def __init__(self, store: Store, digest: str) -> None:
        self._stack = ExitStack()
        self.store = store
        self.aside = self._stack.enter_context(store.aside(digest))
        self.parts: dict[str, Part] = {}
        self.used_s = time.monotonic()

    def part(self, name: str) -> Part:
        return self.parts.setdefault(name, Part(self.aside.files / name))

    def close(self) -> None:
        self._stack.close()


class Incoming:
    """All that is on its way in. Not for several threads at once, but for `part` and `commit` of different senders."""

    def __init__(self) -> None:
        self._packages: dict[Sender, _Package] = {}

    def received_bytes(self, sender: Sender, name: str) -> int | None:
        """How much of a file is here, None when nothing was ever sent."""
        package = self._packages.get(sender)
        part = package.parts.get(name) if package else None
        return part.received_bytes if part else None

    def part(self, sender: Sender, store: Store, name: str) -> Part:
        """Where a file of the sender's artifact goes. Raises StorageError, MismatchError for a bad name."""
        check_name(name)
        package = self._packages.get(sender)
        if package is None:
            package = _Package(store, sender.digest)
            self._packages.setdefault(sender, package)
            if self._packages[sender] is not package:  # another file of it was quicker
                package.close()
                package = self._packages[sender]
        package.used_s = time.monotonic()
        return package.part(name)

    def commit(self, sender: Sender, store: Store, manifest: Manifest) -> None:
        """Checks what was sent and makes it the artifact. Raises MismatchError (what is wrong must be sent again), StorageError."""
        package = self._packages.get(sender) or _Package(store, sender.digest)
        self._packages[sender] = package
        wrong = [name for name in package.parts.keys() - {f.name for f in manifest.files}]
        for file in manifest.files:
            part = package.parts.get(file.name)
            if part is None or (part.received_bytes, part.sha256) != (file.size_bytes, file.sha256):
                wrong.append(file.name)
        if wrong:
            for name in wrong:
                if (gone := package.parts.pop(name, None)) is not None:
                    gone.path.unlink(missing_ok=True)
            raise MismatchError(f"{len(wrong)} files did not arrive as the manifest says", wrong[0], "send them again")
        try:
            package.store.commit_received(package.aside, manifest)
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
        plain &= all(isinstance(f.size_bytes, int) and bool(DIGEST.fullmatch(f.sha256)) for f in manifest.files)
        for file in manifest.files:
            check_name(file.name)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WireError(f"This is no manifest: {error}") from error
    if not plain or manifest.digest != digest:
        raise WireError("This is no manifest of this artifact")
    return manifest
