"""The store: finished artifacts, each in a folder named by its step's digest, made aside and put in place by a rename.

<root>/ab/abcd…/files/…        what the step left in its folder
<root>/ab/abcd…/manifest.json
<root>/ab/abcd…/away          instead of files/: what the step left is kept elsewhere, at the URL that this file holds
<root>/tmp/<digest>-<pid>-<n>/ being written; locked by its writer, so leftovers of dead writers can be told apart
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from passel.errors import PasselError, StepError, StorageError
from passel.pipeline.damage import file_sha256, is_damaged
from passel.pipeline.manifest import ArtifactFile, Cost, Manifest, manifest_from_json, manifest_to_json
from passel.pipeline.step import Fact, Step

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FAILING = (errno.EIO, errno.ENODEV, errno.ESTALE, getattr(errno, "EUCLEAN", errno.EIO))  # the last: not on a Mac
_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
_FULL_BYTES = 4 * 2**20  # a library that cannot write a block of a raster or database leaves less than one free
_AWAY = "away"
_serial = itertools.count()
Bring = Callable[[str], None]
"""Fetches the files of the artifact of this digest, which are kept elsewhere, into the store."""


@dataclass(frozen=True)
class Aside:
    """A place to make an artifact. files: the empty folder for the step. scratch: for temporary files, thrown away."""

    folder: Path
    files: Path
    scratch: Path


def storage_error(error: OSError, folder: Path) -> StorageError:
    """The user's words for an OSError met while writing under `folder`."""
    if _says_full(error):
        return StorageError(
            "The disk is full",
            str(folder),
            "free some space and start again: what is finished is kept and not made again",
        )
    if error.errno in _NOT_WRITABLE:
        reason = "The folder is on a read-only disk" if error.errno == errno.EROFS else "The folder may not be written"
        return StorageError(reason, str(folder), "make it writable or choose another output folder")
    if error.errno in _FAILING:
        todo = "check this disk, and the one with the photos if it is another; then start again"
        return StorageError(f"The disk fails: {error.strerror or error}", str(folder), todo)
    return StorageError(f"The folder cannot be used: {error.strerror or error}", str(folder), "check the disk")


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turns an OSError inside the block into a StorageError that names `folder`."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, folder) from error


class Store:
    """Artifacts under one folder. Safe for several processes at once; see `run_lock` for whole runs.

    bring: with it, artifacts whose files are kept elsewhere count as finished; without, they are missing, and made here.
    synced: artifacts made here outlive a power cut.
    """

    def __init__(self, root: Path, bring: Bring | None = None, synced: bool = True) -> None:
        self.root, self._bring, self._synced = root, bring, synced
        self._tmp = root / "tmp"

    def create(self) -> None:
        """Makes the folders, proves that they can be written and sweeps leftovers. Raises StorageError."""
        with storage_errors(self.root):
            self._tmp.mkdir(parents=True, exist_ok=True)
            probe = self._tmp / f"probe-{socket.gethostname()}-{os.getpid()}"
            probe.write_bytes(b"x")
            probe.unlink()
        self.sweep()

    def path(self, digest: str) -> Path:
        """The folder with the artifact's files, whether it exists or not."""
        return self._home(digest) / "files"

    def has(self, digest: str) -> bool:
        """True when the manifest is intact and every file has its size. A damaged artifact counts as missing."""
        return self.find(digest) is not None

    def manifest(self, digest: str) -> Manifest:
        """The manifest of a finished artifact. Raises StorageError when it is missing or damaged."""
        found = self.find(digest)
        if found is None:
            raise StorageError("An artifact is missing or damaged", str(self._home(digest)), "start the run again")
        return found

    def find(self, digest: str) -> Manifest | None:
        """The manifest if the artifact is complete, else None."""
        return self._find(digest, self._bring is not None)

    def _find(self, digest: str, also_away: bool) -> Manifest | None:
        try:
            manifest = manifest_from_json((self._home(digest) / "manifest.json").read_text("utf-8"))
            folder = self.path(digest)
            whole = (also_away and self.is_away(digest)) or all(
                _size(folder / f.name) == f.size_bytes for f in manifest.files
            )
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
            return None
        except OSError as error:
            raise storage_error(error, self._home(digest)) from error
        return manifest if whole and manifest.digest == digest else None

    def is_away(self, digest: str) -> bool:
        """Whether the artifact is here but for its files, which are kept elsewhere."""
        return bool(self.away_at(digest))

    def away_at(self, digest: str) -> str:
        """The URL at which the artifact's files are kept, '' when they are here or there is no artifact."""
        try:
            return (self._home(digest) / _AWAY).read_text("utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return ""

    def bring_of(self, digest: str) -> Bring | None:
        """What fetches the artifact's files before somebody reads them; None when they are here."""
        return self._bring if self.is_away(digest) else None

    def verify(self, digest: str) -> list[str]:
        """Reads every file again. Returns the names whose content is not what the manifest says (empty: all well). Raises StorageError
        when there is no manifest, or the system does not let a file be read."""
        with storage_errors(self.path(digest)):
            return [f.name for f in self.manifest(digest).files if is_damaged(self.path(digest) / f.name, f)]

    def is_well(self, digest: str) -> bool:
        """Reads the artifact again: False when it is damaged or gone. Raises StorageError when the system does not let it be read."""
        return self.is_away(digest) or (self.find(digest) is not None and not self.verify(digest))

    def drop_damaged(self) -> int:
        """Reads all artifacts again and forgets those that are damaged; returns how many. Raises StorageError."""
        with storage_errors(self.root):
            digests = sorted(home.name for home in self.root.glob("??/*"))
        return sum(self.drop(digest) for digest in digests if not self.is_well(digest))

    def full_disk(self) -> StorageError | None:
        """The error to tell when next to nothing is free on the store's disk, None otherwise.

        For steps that failed for another reason as they say: libraries hide a full disk behind errors of their own, or die.
        """
        with storage_errors(self.root):
            free = shutil.disk_usage(self.root).free
        return storage_error(OSError(errno.ENOSPC, ""), self.root) if free < _FULL_BYTES else None

    @contextmanager
    def aside(self, digest: str) -> Iterator[Aside]:
        """A fresh folder on the store's own disk; whatever is left of it after the block is removed."""
        with storage_errors(self.root):
            folder, lock = self._locked_folder(digest)
            aside = Aside(folder, folder / "files", folder / "scratch")
            aside.files.mkdir()
            aside.scratch.mkdir()
        try:
            yield aside
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            _unlock(_lock_of(folder), lock)

    def commit(self, aside: Aside, step: Step, facts: dict[str, Fact], cost: Cost) -> Manifest:
        """Makes `aside` the artifact of `step`; if another was first, ours goes and the first's manifest is returned.

        Raises StorageError when the disk refuses, StepError when the step left something that is not a plain file.
        """
        with storage_errors(self.root):
            files, found = _record_files(aside.files, self._synced), tuple(sorted(facts.items()))
            manifest = Manifest(step.digest, step.stage, step.name, step.function, step.version, files, found, cost)
            return self._place(aside, manifest)

    def commit_received(self, aside: Aside, manifest: Manifest) -> Manifest:
        """Makes `aside`, whose files another machine made, the artifact of its manifest; the first one wins, as in `commit`.

        The caller has checked that the files are those of the manifest. Raises StorageError when the disk refuses.
        """
        with storage_errors(self.root):
            for file in manifest.files:
                _sync(aside.files / file.name)
            return self._place(aside, manifest)

    def commit_away(self, manifest: Manifest, url: str) -> Manifest:
        """Makes an artifact whose files are kept at `url`; the first one wins. Raises StorageError when the disk refuses."""
        with storage_errors(self.root), self.aside(manifest.digest) as aside:
            aside.files.rmdir()
            _write(aside.folder / _AWAY, url, self._synced)
            return self._place(aside, manifest)

    def drop(self, digest: str, only_away: bool = False) -> bool:
        """Forgets an artifact that is lost or damaged: it will be made again. False when there is none, or (only_away) it is here."""
        gone = self._gone(digest)
        with storage_errors(self.root), _locked_file(self.root / "commit.lock"):
            if not self._home(digest).exists() or (only_away and not self.is_away(digest)):
                return False
            os.rename(self._home(digest), gone)
        shutil.rmtree(gone, ignore_errors=True)
        return True

    def away(self) -> list[Manifest]:
        """All artifacts whose files are kept elsewhere."""
        with storage_errors(self.root):
            digests = [path.parent.name for path in self.root.glob(f"??/*/{_AWAY}")]
            return [m for d in sorted(digests) if (m := self._find(d, also_away=True)) is not None]

    def _place(self, aside: Aside, manifest: Manifest) -> Manifest:
        shutil.rmtree(aside.scratch, ignore_errors=True)
        _write(aside.folder / "manifest.json", manifest_to_json(manifest), self._synced)
        home = self._home(manifest.digest)
        home.parent.mkdir(exist_ok=True)
        with _locked_file(self.root / "commit.lock"):
            first = self._find(manifest.digest, also_away=(aside.folder / _AWAY).exists())
            if first is not None:
                return first
            damaged = self._gone(manifest.digest)
            if home.exists():
                os.rename(home, damaged)
            os.rename(aside.folder, home)
        shutil.rmtree(damaged, ignore_errors=True)
        return manifest

    def sweep(self) -> int:
        """Removes half-written folders whose writer is gone; returns how many. Those still being written stay."""
        removed = 0
        with storage_errors(self._tmp):
            for folder in sorted(p for p in self._tmp.iterdir() if p.is_dir()):
                lock = _try_lock(_lock_of(folder))
                if lock is None:
                    continue
                shutil.rmtree(folder, ignore_errors=True)
                _unlock(_lock_of(folder), lock)
                removed += 1
        return removed

    def forget(self, unwanted: Callable[[Manifest], bool]) -> int:
        """Removes the artifacts whose manifest is `unwanted`; returns how many."""
        removed = 0
        with storage_errors(self.root):
            for home in sorted(self.root.glob("??/*")):
                manifest = self._find(home.name, also_away=True)
                if manifest is not None and unwanted(manifest):
                    shutil.rmtree(home)
                    removed += 1
        return removed

    @contextmanager
    def run_lock(self) -> Iterator[None]:
        """Held while a run works on this store; the kernel drops it when the process dies. Raises StorageError."""
        path = self.root / "run.lock"
        with storage_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                owner = path.read_text("utf-8", errors="replace").strip() or "another process"
                raise StorageError(
                    f"Another run is working on this project ({owner})", str(self.root), "wait for it or stop it"
                ) from error
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"pid {os.getpid()} on {socket.gethostname()}".encode(), 0)
            yield
        finally:
            os.close(handle)

    def _home(self, digest: str) -> Path:
        return self.root / digest[:2] / digest

    def _gone(self, digest: str) -> Path:
        """A place for what is about to be removed; what a crash leaves there is swept."""
        return self._tmp / f"damaged-{digest}-{os.getpid()}-{next(_serial)}"

    def _locked_folder(self, digest: str) -> tuple[Path, int]:
        """A new folder under tmp whose lock file, made first, this process holds."""
        self._tmp.mkdir(parents=True, exist_ok=True)
        while True:
            folder = self._tmp / f"{digest[:16]}-{os.getpid()}-{next(_serial)}"
            lock = _try_lock(_lock_of(folder))
            if lock is None:
                continue  # the same pid on another machine of a shared disk
            if folder.exists():
                shutil.rmtree(folder, ignore_errors=True)  # a dead writer had our pid
            folder.mkdir()
            return folder, lock


def _lock_of(folder: Path) -> Path:
    return folder.with_name(folder.name + ".lock")


def _try_lock(path: Path) -> int | None:
    """An open, locked file, or None when another holds it or swept it away between our two calls."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(path).st_ino == os.fstat(handle).st_ino:
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(handle)
    return None


def _unlock(path: Path, handle: int) -> None:
    path.unlink(missing_ok=True)
    os.close(handle)


@contextmanager
def _locked_file(path: Path) -> Iterator[None]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _size(path: Path) -> int:
    return path.stat().st_size


def _record_files(folder: Path, synced: bool) -> tuple[ArtifactFile, ...]:
    """Every file under `folder`, sorted by name and, if synced, written through to the disk.

    Folders are not synced: should a power cut lose a name, the artifact is seen to be incomplete and made again.
    """
    records = []
    for where, subfolders, names in os.walk(folder):
        for name in names + subfolders:
            path = Path(where, name)
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise StepError("The step left something that is not a plain file", str(path), "report this as a bug")
            if path.is_file():
                if synced:
                    _sync(path)
                records.append(ArtifactFile(path.relative_to(folder).as_posix(), _size(path), file_sha256(path)))
    return tuple(sorted(records, key=lambda f: f.name))


def _write(path: Path, text: str, synced: bool) -> None:
    path.write_text(text, "utf-8")
    if synced:
        _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def disk_trouble(error: BaseException) -> str:
    """When the disk itself refuses, so that every further step would fail in the same way: 'storage' if it is full, 'broken' if it
    is read-only or fails, else ''. A photo that cannot be read (an InputError) may be on another disk, and says so itself.
    """
    met = _met_by(error)
    if met is None:
        return ""
    failing = met.errno in _FAILING and isinstance(error, OSError | StorageError)
    return "storage" if _says_full(met) else "broken" if failing or met.errno == errno.EROFS else ""


def is_full_disk(error: BaseException) -> bool:
    """True when the disk has no room: what cannot be written now may be later."""
    return disk_trouble(error) == "storage"


def _met_by(error: BaseException | None) -> OSError | None:
    """What the system said, also when it was put into our words."""
    if isinstance(error, PasselError):
        return _met_by(error.__cause__)
    return error if isinstance(error, OSError) else None


def _says_full(error: OSError) -> bool:
    """numpy reserves the room of large arrays beforehand and says in words, without a number, that there is none."""
    return error.errno in DISK_FULL or (error.errno is None and "Not enough free space" in str(error))
