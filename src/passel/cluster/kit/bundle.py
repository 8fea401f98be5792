"""The field kit: wheels of Passel and of all that it needs, made from what is installed here.

No registry, no cache and no network is asked: an installed distribution lists its files and their digests, so the wheel it
came from can be put together again. The kit therefore holds exactly the versions that run here, for this kind of
machine and this Python.
"""

from __future__ import annotations

import base64
import csv
import ensurepip
import fcntl
import hashlib
import io
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, PackagePath, distribution
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import passel
from passel.errors import PasselError, StorageError
from passel.pipeline.damage import file_sha256

SUMS = "SHA256SUMS"
_ASIDE = ".making-"
_NOT_CARRIED = {"INSTALLER", "REQUESTED", "RECORD", "direct_url.json", "WHEEL"}
_COMPRESSION_LEVEL = 1  # a kit is made on a field laptop and read over a LAN: time counts more than size


class BundleError(PasselError):
    """A kit cannot be made from what is installed."""


@dataclass(frozen=True)
class Content:
    """One file of a wheel. name: in the wheel. path: where it lies now. sha256: as installed, '' = not known."""

    name: str
    path: Path
    sha256: str


def bundle(folder: Path, say: Callable[[str], None]) -> tuple[Path, ...]:
    """Make the kit in a folder and return its wheels. What is there already is kept. Raises BundleError, StorageError.

    SHA256SUMS is there from the beginning, for it says that the wheels are a kit's, and filled last: with that the kit is whole.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone_in(folder, say):
            return _made(folder, say)
    except OSError as e:
        what = f"the kit cannot be written: {e.strerror or e}"
        raise StorageError(what, str(e.filename or folder), "make room (about 500 MB) or choose another folder") from e


def _made(folder: Path, say: Callable[[str], None]) -> tuple[Path, ...]:
    for leftover in folder.glob(f"{_ASIDE}*"):  # of a bundle that was killed
        leftover.unlink()
    if not (folder / SUMS).exists() and any(folder.glob("*.whl")):
        what = "the folder holds wheels that are not of a kit: other versions of them would be removed"
        raise BundleError(what, str(folder), "choose another folder")
    _write(folder / SUMS, b"")
    parts = needed_distributions("passel")
    wheels = []
    for number, part in enumerate(parts, 1):
        wheels.append(_wheel(part, folder))
        say(f"{number}/{len(parts)} {wheels[-1].name}")
    wheels.append(_pip(folder))
    for other in _outdated(folder, wheels):
        other.unlink()
    lines = [f"{file_sha256(w)}  {w.name}\n" for w in sorted(folder.glob("*.whl"))]
    _write(folder / SUMS, "".join(lines).encode())
    return tuple(wheels)


@contextmanager
def _alone_in(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Two that make a kit in the same folder do so one after the other, and the second finds it made."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another passel bundle makes a kit there: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            pass  # a network share, where folders cannot be locked
        yield
    finally:
        os.close(handle)


def _outdated(folder: Path, wheels: Sequence[Path]) -> list[Path]:
    """Other versions of what the kit holds, for the same machines: pip would take the highest. Other machines' stay."""

    def kind(wheel: Path) -> tuple[str, ...]:
        name, _version, *tags = wheel.stem.split("-")
        return (name, *tags)

    kinds = {kind(w) for w in wheels}
    return [w for w in folder.glob("*-*-*-*-*.whl") if w not in wheels and kind(w) in kinds]


def is_whole(folder: Path) -> bool:
    """Whether a folder holds a finished kit of this version of Passel."""
    with suppress(OSError):
        return f"  passel-{passel.__version__}-" in (folder / SUMS).read_text("utf-8")
    return False


def needed_distributions(name: str) -> tuple[Distribution, ...]:
    """The installed distributions that `name` needs, itself first. Raises BundleError if one is missing."""
    found: dict[str, Distribution] = {}
    wanted: list[tuple[str, frozenset[str]]] = [(name, frozenset())]
    asked: set[tuple[str, frozenset[str]]] = set()
    while wanted:
        item = wanted.pop()
        if item in asked:
            continue
        asked.add(item)
        try:
            found[item[0]] = part = distribution(item[0])
        except PackageNotFoundError as e:
            raise BundleError("a library that Passel needs is not installed", item[0], "install Passel anew") from e
        for line in part.requires or ():
            requirement = Requirement(line)
            environments = [{"extra": extra} for extra in ("", *item[1])]
            if requirement.marker is None or any(requirement.marker.evaluate(e) for e in environments):
                wanted.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return tuple(found.values())


def _wheel(part: Distribution, folder: Path) -> Path:
    """The distribution as a wheel in the folder; one that is there already is taken as it is, but for Passel's own."""
    info = _info_folder(part)
    tags = _tags(part)
    wheel = folder / f"{info.removesuffix('.dist-info')}-{tags}.whl"
    own = canonicalize_name(part.name) == "passel"
    if wheel.is_file() and not own:
        return wheel
    contents = list(_own_contents(part, info) if own else _contents(part, info))
    handle, aside = tempfile.mkstemp(prefix=_ASIDE, dir=folder)
    os.close(handle)
    try:
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED, compresslevel=_COMPRESSION_LEVEL) as archive:
            record = [_add(archive, c.name, c.path, c.sha256) for c in contents]
            about = f"Wheel-Version: 1.0\nGenerator: passel\nRoot-Is-Purelib: {str(tags.endswith('any')).lower()}\n"
            about += "".join(f"Tag: {tag}\n" for tag in _tag_lines(part))
            record.append(_add_text(archive, f"{info}/WHEEL", about))
            rows = io.StringIO()
            csv.writer(rows, lineterminator="\n").writerows([*record, (f"{info}/RECORD", "", "")])
            _add_text(archive, f"{info}/RECORD", rows.getvalue())
        os.chmod(aside, 0o644)
        os.replace(aside, wheel)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(aside)
    return wheel


def _contents(part: Distribution, info: str) -> Iterator[Content]:
    """The files of an installed distribution under their names in a wheel."""
    scripts = {e.name for e in part.entry_points if e.group in ("console_scripts", "gui_scripts")}
    prefix = Path(sys.prefix).resolve()
    data = info.replace(".dist-info", ".data")
    for file in part.files or ():
        if "__pycache__" in file.parts or (file.parts[0] == info and file.name in _NOT_CARRIED):
            continue
        path = Path(str(part.locate_file(file)))
        if file.parts[0] != "..":
            yield Content(file.as_posix(), path, _recorded(file))
        elif path.parent.name in ("bin", "Scripts"):
            if file.name.removesuffix(".exe") not in scripts:  # those are made by the installer
                yield Content(f"{data}/scripts/{file.name}", path, "")
        else:
            inside = path.resolve().relative_to(prefix)
            yield Content(f"{data}/data/{PurePosixPath(inside)}", path, _recorded(file))


def _own_contents(part: Distribution, info: str) -> Iterator[Content]:
    """Passel itself, which may be installed from a folder of sources: its package as it runs, its metadata as installed."""
    package = Path(passel.__file__).parent
    for path in sorted(package.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in (".nbi", ".nbc"):
            yield Content(f"passel/{path.relative_to(package).as_posix()}", path, "")
    for file in part.files or ():
        if file.parts[0] == info and file.name not in _NOT_CARRIED:
            yield Content(file.as_posix(), Path(str(part.locate_file(file))), "")


def _add(archive: zipfile.ZipFile, name: str, path: Path, sha256: str) -> tuple[str, str, str]:
    """Put a file into the wheel and return its line of RECORD. Raises BundleError if it is not what was installed."""
    digest, size = hashlib.sha256(), 0
    entry = _entry(name, executable=os.access(path, os.X_OK))
    try:
        with path.open("rb") as source, archive.open(entry, "w", force_zip64=True) as target:
            if ".data/scripts/" in name:  # the installer writes its own Python into the first line
                first = source.readline()
                first = b"#!python\n" if first.startswith(b"#!") else first
                digest.update(first)
                size += target.write(first)
            while block := source.read(2**20):
                digest.update(block)
                size += target.write(block)
    except FileNotFoundError as e:
        raise BundleError("an installed file is missing", str(path), "install Passel anew") from e
    encoded = base64.urlsafe_b64encode(digest.digest()).decode("ascii").rstrip("=")
    if sha256 and sha256 != encoded:
        raise BundleError("an installed file was changed after its installation", str(path), "install Passel anew")
    return name, f"sha256={encoded}", str(size)


def _add_text(archive: zipfile.ZipFile, name: str, text: str) -> tuple[str, str, str]:
    content = text.encode()
    archive.writestr(_entry(name, executable=False), content)
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode("ascii").rstrip("=")
    return name, f"sha256={digest}", str(len(content))


def _entry(name: str, executable: bool) -> zipfile.ZipInfo:
    """The same files always make the same wheel, so there are no dates."""
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = (0o100755 if executable else 0o100644) << 16
    return entry


def _info_folder(part: Distribution) -> str:
    """The name of the folder with the distribution's metadata, from which the wheel's name is made."""
    metadata = next((f for f in part.files or () if f.name == "METADATA" and len(f.parts) == 2), None)
    if metadata is None or not metadata.parts[0].endswith(".dist-info"):
        raise BundleError("a library was not installed from a wheel", part.name, "install it with pip")
    return metadata.parts[0]


def _tag_lines(part: Distribution) -> list[str]:
    lines = (part.read_text("WHEEL") or "").splitlines()
    tags = [line.partition(":")[2].strip() for line in lines if line.startswith("Tag:")]
    if not tags or not all(re.fullmatch(r"[\w.]+-[\w.]+-[\w.]+", tag) for tag in tags):
        raise BundleError("a library was not installed from a wheel", part.name, "install it with pip")
    if canonicalize_name(part.name) == "passel":
        return ["py3-none-any"]
    return tags


def _tags(part: Distribution) -> str:
    """Python, ABI and platform for the wheel's name: `cp311-cp311-manylinux_2_28_x86_64`."""
    columns = zip(*(tag.split("-") for tag in _tag_lines(part)), strict=True)
    return "-".join(".".join(dict.fromkeys(column)) for column in columns)


def _recorded(file: PackagePath) -> str:
    return file.hash.value if file.hash is not None and file.hash.mode == "sha256" else ""


def _pip(folder: Path) -> Path:
    """pip's own wheel: a machine whose Python came without it can run it from there."""
    bundled = sorted((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"))
    if not bundled:
        try:
            return _wheel(distribution("pip"), folder)
        except PackageNotFoundError as e:
            raise BundleError("this Python has no pip to give", sys.executable, "install pip") from e
    target = folder / bundled[-1].name
    if not target.is_file():
        aside = folder / f"{_ASIDE}{target.name}"
        shutil.copyfile(bundled[-1], aside)
        os.replace(aside, target)
    return target


def _write(path: Path, content: bytes) -> None:
    aside = path.with_name(f"{_ASIDE}{path.name}")
    aside.write_bytes(content)
    os.replace(aside, path)
