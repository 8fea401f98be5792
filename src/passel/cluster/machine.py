"""What this machine has, as a worker tells it; containers' limits count."""

from __future__ import annotations

import os
import platform
import shutil
from contextlib import suppress
from pathlib import Path

import psutil

from passel.cluster.wire import MachineInfo

_CGROUPS = Path("/sys/fs/cgroup")


def machine_info(disk: Path) -> MachineInfo:
    """This machine; `disk` is a folder on the disk that counts."""
    return MachineInfo(
        platform.node(),
        usable_cpus(),
        int(_memory_bytes() / 1e6),
        free_memory_mb(),
        int(free_disk_bytes(disk) / 1e6),
        gpu_name(),
    )


def usable_cpus() -> int:
    """Processors that this process may use, a container's quota rounded up."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _own_groups():
        with suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text().split()
            if quota != "max":
                count = min(count, max(1, -(-int(quota) // int(period))))
    return count


def free_memory_mb() -> int:
    """Memory that can be taken now before something is killed: the machine's or, where tighter, the container's."""
    free = [int(psutil.virtual_memory().available)]
    for folder, limit in _memory_limits():
        with suppress(OSError, ValueError, KeyError):
            used = int((folder / "memory.current").read_text())
            kept = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            free.append(limit - used + int(kept["inactive_file"]))  # file pages go when others need the memory
    return max(0, int(min(free) / 1e6))


def free_disk_bytes(folder: Path) -> int:
    """Free space on the disk of a folder, 0 when there is no such folder."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def gpu_name() -> str:
    """The first NVIDIA GPU's model, 'GPU' for one that has no name, '' when there is none."""
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        with suppress(OSError):
            for line in file.read_text(errors="replace").splitlines():
                if line.startswith("Model:"):
                    return line.partition(":")[2].strip() or "GPU"
    return "GPU" if Path("/dev/nvidia0").exists() or Path("/dev/kfd").exists() else ""


def _memory_bytes() -> int:
    return min([int(psutil.virtual_memory().total), *(limit for _, limit in _memory_limits())])


def _memory_limits() -> list[tuple[Path, int]]:
    """The memory limits of this process's control groups, each with its folder."""
    found = []
    for folder in _own_groups():
        with suppress(OSError, ValueError):  # 'max' is no number: no limit
            found.append((folder, int((folder / "memory.max").read_text())))
    with suppress(OSError, ValueError):  # the older hierarchy; without a limit it says something enormous
        folder = _CGROUPS / "memory"
        found.append((folder, int((folder / "memory.limit_in_bytes").read_text())))
    return found


def _own_groups() -> list[Path]:
    """The folders of this process's control group and of all above it; in a container that is the root."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    own = next((line[3:] for line in lines if line.startswith("0::")), "/").strip("/")
    folders = [_CGROUPS / own, *(p for p in (_CGROUPS / own).parents if p.is_relative_to(_CGROUPS))]
    return list(dict.fromkeys(folders))
