"""The control groups of this process, of both generations: where containers and services write what they allow."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


@cache  # asked often; what is in the files may change, where they are does not
def own_files(name: str, controller: str = "") -> tuple[Path, ...]:
    """The files of this name in this process's control group and all above it; in a container that is the root.

    controller: of the first generation; '' for the second.
    """
    return tuple(file for folder in _own_groups(controller) if (file := folder / name).is_file())


def _own_groups(controller: str) -> list[Path]:
    try:
        fields = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return []
    own = next((path for _, name, path in fields if controller in name.split(",")), "/").strip("/")
    root = _CGROUPS / controller
    folders = [root / own, *(p for p in (root / own).parents if p.is_relative_to(root))]
    return list(dict.fromkeys(folders))
