"""Where numba keeps our compiled kernels: a folder of its own for each state of their sources.

Numba looks only whether the file of a kernel has changed, not those of the kernels that are compiled into it: after an update it
would go on with a mixture of old and new code, and two machines of the same version would not make the same pixels.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

PACKAGES = ("align", "demo", "surface")
"""Those with kernels."""
_VARIABLE = "NUMBA_CACHE_DIR"
_NAME = "passel-kernels-"
_UNUSED_S = 7 * 24 * 3600.0


def use_own_folder() -> None:
    """Tells numba, in this process and its children. To be called before numba is imported."""
    home = Path(__file__).parent
    given = Path(os.environ.get(_VARIABLE) or _usual_place(home))
    base = given.parent if given.name.startswith(_NAME) else given  # a parent's folder, perhaps of other sources
    folder = base / f"{_NAME}{_state_of_sources(home)}"
    os.environ[_VARIABLE] = str(folder)
    if folder.exists():
        with suppress(OSError):
            os.utime(folder)  # numba writes into folders in it, which leaves its own time alone: it tells the last use
    else:
        _clear(base)


def _usual_place(home: Path) -> Path:
    """Beside the sources; in the user's cache where these are somebody else's."""
    if os.access(home, os.W_OK):
        return home / "__pycache__"
    return _users_cache() / "passel"


def _users_cache() -> Path:
    """By the rules of the system: a relative $XDG_CACHE_HOME does not count, and a user may have no home at all, or one that may not
    be written: / in a container that runs as a number, /nonexistent for a service."""
    given, home = os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~")  # $HOME, or the list of users
    usual = given if os.path.isabs(given) else os.path.join(home, ".cache")
    return Path(usual) if os.path.isabs(usual) and _may_be_written(usual) else _own_temporary_folder()


def _may_be_written(folder: str) -> bool:
    """Whether there is, or can be made, such a folder with files of ours in it."""
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


def _own_temporary_folder() -> Path:
    """The same for every process of this user. Compiled kernels are code: a folder that somebody else has put there is not used."""
    folder = Path(tempfile.gettempdir()) / f"passel-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    seen = folder.lstat()
    is_ours = stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.getuid() and not seen.st_mode & 0o022
    return folder if is_ours else Path(tempfile.mkdtemp(prefix="passel-"))


def _state_of_sources(home: Path) -> str:
    """Changes with any file that may hold a kernel. Times and sizes are enough, and do not slow a start down."""
    seen = []
    for package in PACKAGES:
        with os.scandir(home / package) as entries:
            seen += [
                (package, e.name, e.stat().st_mtime_ns, e.stat().st_size) for e in entries if e.name.endswith(".py")
            ]
    return hashlib.sha256(repr(sorted(seen)).encode()).hexdigest()[:16]


def _clear(base: Path) -> None:
    """Folders of sources that are no more; recent ones may be in use."""
    with suppress(OSError):
        for old in base.glob(f"{_NAME}*"):
            if time.time() - old.stat().st_mtime > _UNUSED_S:
                shutil.rmtree(old, ignore_errors=True)
