"""The worker's cache: photos by content and artifacts by digest, on disk, bounded in bytes. The folder is its own index.

<root>/lock                      one agent at a time
<root>/files/ab/<sha256>         a photo, under the sha256 of its content
<root>/aliases/<key>             a link to the file that this key means: steps may name one photo in two ways
<root>/store/…                   artifacts, fetched or made here, in a `pipeline.store.Store`
<root>/partial/<key>             a download that was broken off; the next try goes on there
<root>/views/<n>/…               inputs under the names that a step should see; hard links

Every checked file has the time of change `_CHECKED_NS`. Who writes to it afterwards changes that time, so that the file is hashed
again before its next use; so is every file after the machine was started anew, for nothing here waits for the disk. Damage that
leaves the time alone is found by `verify`. The order of use is kept in the time of access.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import shutil
import threading
import zlib
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from passel.cluster.wire.workers import CacheNews
from passel.cluster.worker.machine import boot_name
from passel.errors import StorageError
from passel.pipeline.damage import file_sha256
from passel.pipeline.manifest import Manifest, manifest_from_json
from passel.pipeline.store import Store, storage_errors

_CHECKED_NS = (1_000_000_000 + zlib.crc32(boot_name().encode()) % 10**8) * 10**9
_KEY = re.compile(r"[0-9a-f]{64}")
_OWN_FOLDERS = ("files", "aliases", "partial", "views", "store", "logs")
Kind = Literal["file", "artifact", "partial"]


class Cache:
    """What a worker has fetched or made, at most `most_bytes` of it; the longest unused goes first, what is pinned stays.

    Its methods may be called from any thread. They raise StorageError when the disk refuses or the cache is too small.
    """

    def __init__(self, root: Path, most_bytes: int) -> None:
        self.root, self.most_bytes = root.absolute(), most_bytes
        self.store = Store(self.root / "store")
        self._sizes: OrderedDict[tuple[str, Kind], int] = OrderedDict()  # bytes; the longest unused first
        self._pins: Counter[str] = Counter()
        self._alias: dict[str, str] = {}
        self._used_bytes = self._reserved_bytes = 0
        self._guard = threading.RLock()
        self._views = itertools.count()
        self._uses = itertools.count()
        self._lock = -1
        self._added: dict[str, None] = {}
        self._removed: dict[str, None] = {}

    def open(self) -> None:
        """Locks the folder and looks at what is in it. Raises StorageError, also when another agent has it, or it is somebody else's."""
        with storage_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            self._refuse_strangers()
            self._lock = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(self._lock)
                self._lock = -1
                advice = "stop it, or give this one another --cache"
                raise StorageError("Another worker uses this cache", str(self.root), advice) from error
            for folder in ("files", "aliases", "partial", "views"):
                (self.root / folder).mkdir(exist_ok=True)
            shutil.rmtree(self.root / "views")
            (self.root / "views").mkdir()
        self.store.create()
        with storage_errors(self.root):
            self._scan()
            self._make_room(0)

    def _refuse_strangers(self) -> None:
        """In these folders what is not known is removed, so they must be ours. The lock is the first thing that we make."""
        if not (self.root / "lock").exists():
            for name in _OWN_FOLDERS:
                if (self.root / name).exists():
                    what = f"The folder for the cache holds {name}, which no worker has made"
                    raise StorageError(what, str(self.root), "give the worker a --cache of its own")

    def close(self) -> None:
        """Lets another agent have the folder."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def size_bytes(self) -> int:
        """What lies in the cache, with downloads under way at their full size."""
        return self._used_bytes + self._reserved_bytes

    def take_news(self) -> CacheNews:
        """Keys that came and went since the last call."""
        with self._guard:
            news = CacheNews(False, tuple(self._added), tuple(self._removed))
            self._added, self._removed = {}, {}
            return news

    def everything(self) -> CacheNews:
        """All keys. Forgets the news."""
        with self._guard:
            self.take_news()
            keys = [key for key, kind in self._sizes if kind != "partial"]
            return CacheNews(True, (*keys, *self._alias))

    def has_file(self, key: str) -> bool:
        """Whether there is a file for this key or alias; it may yet turn out to be damaged."""
        with self._guard:
            return (self._alias.get(key, key), "file") in self._sizes

    def pin_file(self, key: str, size_bytes: int = 0) -> Path | None:
        """The file of this key or alias, kept until `unpin`; None when it is missing, or damaged and so removed.

        size_bytes: what it should have, 0 if unknown.
        """
        with self._guard:
            sha256 = self._alias.get(key, key)
            if not self._use(sha256, "file"):
                return None
            path = self._file(sha256)
            if _is_whole(path, sha256) and size_bytes in (0, _size(path)):
                self._pins[sha256] += 1
                return path
            self._drop(sha256, "file")
            return None

    def pin_artifact(self, digest: str) -> Manifest | None:
        """The artifact's manifest, its files (`store.path`) kept until `unpin`; None when missing, or damaged and so removed."""
        with self._guard:
            manifest = self.store.find(digest) if self._use(digest, "artifact") else None
            folder = self.store.path(digest)
            if manifest and all(_is_whole(folder / f.name, f.sha256) for f in manifest.files):
                self._pins[digest] += 1
                return manifest
            self._drop(digest, "artifact")
            return None

    def unpin(self, key: str) -> None:
        """Undoes one `pin_file` (give the name of the path that it returned) or `pin_artifact`."""
        with self._guard:
            self._pins[key] -= 1
            if self._pins[key] <= 0:
                del self._pins[key]

    @contextmanager
    def view(self, files: Sequence[tuple[Path, str]]) -> Iterator[list[Path]]:
        """The cached files (path, name that a step should see) under these names."""
        named = [(path, f"{number}/{Path(name).name or 'file'}") for number, (path, name) in enumerate(files)]
        with self.gathered(named) as folder:
            yield [folder / name for _, name in named]

    @contextmanager
    def gathered(self, files: Sequence[tuple[Path, str]]) -> Iterator[Path]:
        """One folder with these cached files (path, name in the folder, with /). Copies them where the disk knows no links."""
        folder = self.root / "views" / str(next(self._views))
        try:
            with storage_errors(self.root):
                for path, name in files:
                    _show(path, folder / name)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def download(self, key: str, size_bytes: int) -> Iterator[Path]:
        """Room for a download, and the file to write: what an earlier try left is in it already."""
        path = self.root / "partial" / key
        with self._guard, storage_errors(self.root):
            self._forget(key, "partial")
            self._make_room(size_bytes)
            self._reserved_bytes += size_bytes
        try:
            yield path
        finally:
            with self._guard:
                self._reserved_bytes -= size_bytes
                if path.exists():
                    self._count(key, "partial", _size(path))
                    self._sizes.move_to_end((key, "partial"), last=False)

    def add_file(self, partial: Path, sha256: str, key: str) -> Path:
        """Takes a downloaded file with this sha256, checked by the caller; `key` means it, too, from now on. Pinned, as by `pin_file`."""
        with self._guard, storage_errors(self.root):
            place = self._file(sha256)
            place.parent.mkdir(exist_ok=True)
            os.replace(partial, place)
            _stamp(place)
            self._enter(sha256, "file", _size(place))
            self.add_alias(key, sha256)
            return place

    def add_alias(self, key: str, sha256: str) -> None:
        """From now on `key` means the file with this content."""
        if key == sha256:
            return
        with self._guard, storage_errors(self.root):
            link = self.root / "aliases" / key
            link.unlink(missing_ok=True)
            link.symlink_to(sha256)
            self._alias[key] = sha256
            self._note(key, present=True)

    def add_artifact(self, manifest_json: str, parts: Sequence[Path]) -> Manifest:
        """Takes a downloaded artifact: its manifest's text and its files, checked by the caller, in its order. Pinned."""
        manifest = manifest_from_json(manifest_json)
        home = self.store.path(manifest.digest).parent
        with self._guard, storage_errors(self.root), self.store.aside(manifest.digest) as aside:
            for file, part in zip(manifest.files, parts, strict=True):
                place = aside.files / file.name
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(part, place)
            shutil.rmtree(aside.scratch)
            (aside.folder / "manifest.json").write_text(manifest_json, "utf-8")
            home.parent.mkdir(exist_ok=True)
            if self.store.find(manifest.digest) is None:  # else a step has made it here meanwhile
                shutil.rmtree(home, ignore_errors=True)
                os.rename(aside.folder, home)
        self.made(manifest)
        return manifest

    def made(self, manifest: Manifest) -> None:
        """Takes an artifact that is in `store` already. Pinned, as by `pin_artifact`."""
        with self._guard, storage_errors(self.root):
            for file in manifest.files:
                _stamp(self.store.path(manifest.digest) / file.name)
            self._enter(manifest.digest, "artifact", sum(f.size_bytes for f in manifest.files))

    def verify(self, keys: Sequence[str]) -> list[str]:
        """Reads the files and artifacts of these keys again; removes those that are not what they should be and returns their keys."""
        damaged = []
        for key in keys:
            sha256 = self._alias.get(key, key)
            if (sha256, "file") in self._sizes and _sha256(self._file(sha256)) != sha256:
                self._drop(sha256, "file")
                damaged.append(key)
            if (key, "artifact") in self._sizes and not self.store.is_well(key):
                self._drop(key, "artifact")
                damaged.append(key)
        return damaged

    def free(self, wanted_bytes: int) -> int:
        """Gives up what no step needs, the longest unused first, until so much is free or nothing is left; returns the bytes freed."""
        with self._guard, storage_errors(self.root):
            freed = 0
            for key, kind in [k for k in self._sizes if k[0] not in self._pins]:
                if freed >= wanted_bytes:
                    break
                freed += self._sizes[key, kind]
                self._drop(key, kind)
            return freed

    def _make_room(self, size_bytes: int) -> None:
        over = self.size_bytes + size_bytes - self.most_bytes
        if over > 0 and self.free(over) < over and size_bytes:
            raise StorageError(
                f"The cache of {self.most_bytes / 1e9:.3g} GB is too small for the inputs of the steps that run",
                str(self.root),
                "give the worker a larger --cache-gb",
            )

    def _file(self, sha256: str) -> Path:
        return self.root / "files" / sha256[:2] / sha256

    def _use(self, key: str, kind: Kind) -> bool:
        """Whether it is there; then it is now the last used."""
        if (key, kind) not in self._sizes:
            return False
        self._sizes.move_to_end((key, kind))
        with suppress(FileNotFoundError):  # taken away behind our back: the caller will see
            _touch(self._file(key) if kind == "file" else self._manifest(key), next(self._uses))
        return True

    def _manifest(self, digest: str) -> Path:
        return self.store.path(digest).parent / "manifest.json"

    def _enter(self, key: str, kind: Kind, size_bytes: int) -> None:
        """Notes and pins what has come, or has come again."""
        self._count(key, kind, size_bytes)
        self._pins[key] += 1
        self._use(key, kind)
        self._note(key, present=True)

    def _drop(self, key: str, kind: Kind) -> None:
        """Removes from the disk and from the books."""
        with self._guard:
            if not self._forget(key, kind):
                return
            if kind == "artifact":
                shutil.rmtree(self.store.path(key).parent, ignore_errors=True)
            elif kind == "partial":
                (self.root / "partial" / key).unlink(missing_ok=True)
                return
            else:
                self._file(key).unlink(missing_ok=True)
                for alias in [a for a, sha256 in self._alias.items() if sha256 == key]:
                    del self._alias[alias]
                    (self.root / "aliases" / alias).unlink(missing_ok=True)
                    self._note(alias, present=False)
            self._note(key, present=False)

    def _count(self, key: str, kind: Kind, size_bytes: int) -> None:
        self._forget(key, kind)
        self._sizes[key, kind] = size_bytes
        self._used_bytes += size_bytes

    def _forget(self, key: str, kind: Kind) -> bool:
        """Out of the books, not from the disk; whether it was in them."""
        size_bytes = self._sizes.pop((key, kind), None)
        self._used_bytes -= size_bytes or 0
        return size_bytes is not None

    def _note(self, key: str, present: bool) -> None:
        came, went = (self._added, self._removed) if present else (self._removed, self._added)
        went.pop(key, None)
        came[key] = None

    def _scan(self) -> None:
        """Takes up what an earlier agent left; what is incomplete goes."""
        found: list[tuple[int, str, Kind, int]] = []
        for path in self.root.glob("files/??/*"):
            found.append((path.stat().st_atime_ns, path.name, "file", _size(path)))
        for path in self.root.glob("partial/*"):
            found.append((0, path.name, "partial", _size(path)))
        for home in self.root.glob("store/??/*"):
            manifest = self.store.find(home.name)
            if manifest is None:
                shutil.rmtree(home, ignore_errors=True)
                continue
            size_bytes = sum(f.size_bytes for f in manifest.files)
            found.append((self._manifest(home.name).stat().st_atime_ns, home.name, "artifact", size_bytes))
        for _, key, kind, size_bytes in sorted(found):
            if _KEY.fullmatch(key):
                self._count(key, kind, size_bytes)
        self._uses = itertools.count(max((f[0] for f in found), default=0) + 1)
        for link in (self.root / "aliases").iterdir():
            sha256 = os.readlink(link) if link.is_symlink() else ""
            if (sha256, "file") in self._sizes:
                self._alias[link.name] = sha256
            else:
                link.unlink()


def _show(path: Path, place: Path) -> None:
    """Makes a cached file appear at another place, too."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, place)
    except FileNotFoundError:
        pass  # for the step, too, it is missing
    except OSError:  # a disk without hard links, as on memory sticks; a full one fails again
        shutil.copyfile(path, place)


def _size(path: Path) -> int:
    return path.stat().st_size


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except FileNotFoundError:
        return ""


def _is_whole(path: Path, sha256: str) -> bool:
    """True when nobody changed the file since it was checked, or what is in it is right all the same."""
    try:
        if path.stat().st_mtime_ns == _CHECKED_NS:
            return True
        if _sha256(path) != sha256:
            return False
        _stamp(path)
    except OSError:  # gone, or the disk cannot read it any more
        return False
    return True


def _stamp(path: Path) -> None:
    os.utime(path, ns=(path.stat().st_atime_ns, _CHECKED_NS))


def _touch(path: Path, use: int) -> None:
    os.utime(path, ns=(use, path.stat().st_mtime_ns))
