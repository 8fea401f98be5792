"""The folder of a job, and names of files that clients send: nothing that a client writes ever lies outside its folder."""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from passel.server.jobs import JobError

UUID_FORM = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[1-7][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.IGNORECASE)
"""What a client may choose as uuid; also what keeps a uuid from being a path."""
LONGEST_NAME_BYTES = 200


@dataclass(frozen=True)
class JobFolder:
    """Where everything of one job lies.

    photos: what the driver maps. incoming: uploads on their way. side: control points, geo.txt and the like.
    output: the driver's folder, in OpenDroneMap's layout. packed: what all.zip is made of besides `output`.
    whole: all.zip as a file, only while it is sent to a bucket.
    console: the task's output. options: the driver's command line. driver_log: what the driver said to stderr.
    """

    root: Path

    @property
    def photos(self) -> Path:
        return self.root / "photos"

    @property
    def incoming(self) -> Path:
        return self.root / "incoming"

    @property
    def side(self) -> Path:
        return self.root / "side"

    @property
    def output(self) -> Path:
        return self.root / "output"

    @property
    def packed(self) -> Path:
        return self.root / "packed"

    @property
    def whole(self) -> Path:
        return self.root / "all.zip"

    @property
    def console(self) -> Path:
        return self.root / "console.txt"

    @property
    def options(self) -> Path:
        return self.root / "options.json"

    @property
    def driver_log(self) -> Path:
        return self.root / "driver.log"

    def shown(self, text: str) -> str:
        """Words for clients, with paths as they are in the job: where the server keeps it is not for them."""
        for root in (self.root.resolve(), self.root):
            text = text.replace(f"{root}/", "").replace(str(root), "the task's folder")
        return text

    def make(self) -> None:
        """Make the folders that uploads need, durably."""
        self.photos.mkdir(parents=True, exist_ok=True)
        self.incoming.mkdir(exist_ok=True)
        for folder in (self.root, self.root.parent):
            sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Make renames in the folder survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def safe_name(name: str) -> str:
    """The plain file name in what a client calls a file: no folders, no control characters, not hidden, not too long.

    JobError when nothing is left.
    """
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    kept = "".join(c for c in last if unicodedata.category(c)[0] != "C" and c not in '<>:"|?*')
    kept = kept.strip().lstrip(".").strip()
    stem, dot, suffix = kept.rpartition(".")
    if not dot:
        stem, suffix = kept, ""
    suffix = suffix[:20]
    room = LONGEST_NAME_BYTES - len((dot + suffix).encode())
    stem = stem.encode()[:room].decode(errors="ignore")
    if not stem:
        raise JobError(f"File name {name!r:.100} cannot be used")
    return f"{stem}{dot}{suffix}"


def next_name(name: str, count: int) -> str:
    """The name for another file of the same name: `x_.jpg`, `x__.jpg` …, as NodeODM does."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}{'_' * count}{dot}{suffix}" if dot else f"{name}{'_' * count}"


def inside(root: Path, relative: str) -> Path | None:
    """The path below `root`, or None if it leaves it, by dots, as an absolute path or through a link."""
    if not relative or "\0" in relative or "\\" in relative:
        return None
    path = root / relative
    try:
        real = path.resolve()
    except (OSError, RuntimeError):  # a loop of links; a name that is too long
        return None
    top = root.resolve()
    return real if real == top or top in real.parents else None
