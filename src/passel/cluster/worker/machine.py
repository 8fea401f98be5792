"""What this machine has, as a worker tells it; containers' limits count."""

from __future__ import annotations

import platform
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

from passel.cluster.full_disk import free_disk_bytes
from passel.cluster.wire.workers import MachineInfo
from passel.option_table import usable_cores
from passel.pipeline.control_groups import own_files

_SHARE_FOR_STEPS = 0.9


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
    count = usable_cores()
    for file in own_files("cpu.max"):
        with suppress(OSError, ValueError):
            quota, period = file.read_text().split()
            if quota != "max":
                count = min(count, max(1, -(-int(quota) // int(period))))
    for file in own_files("cpu.cfs_quota_us", "cpu"):
        with suppress(OSError, ValueError):
            quota_us = int(file.read_text())  # -1: none
            if quota_us > 0:
                count = min(count, max(1, -(-quota_us // int(file.with_name("cpu.cfs_period_us").read_text()))))
    return count


def free_memory_mb() -> int:
    """Memory that can be taken now before something is killed: the machine's or, where tighter, the container's."""
    free = [int(psutil.virtual_memory().available), *(limit.free_bytes() for limit in _memory_limits())]
    return max(0, int(min(free) / 1e6))


def memory_for_steps_mb() -> int:
    """What steps may take together of the memory that is free now."""
    return max(1, int(_SHARE_FOR_STEPS * free_memory_mb()))


@cache
def gpu_name() -> str:
    """The first NVIDIA GPU's model, 'GPU' for one that has no name, '' when there is none."""
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        with suppress(OSError):
            for line in file.read_text(errors="replace").splitlines():
                if line.startswith("Model:"):
                    return line.partition(":")[2].strip() or "GPU"
    return "GPU" if Path("/dev/nvidia0").exists() or Path("/dev/kfd").exists() else ""


def boot_name() -> str:
    """Another one after each start of the machine."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return str(int(psutil.boot_time()) // 60)


@dataclass(frozen=True)
class _MemoryLimit:
    """A control group's limit, where its use is written, and the name of what the kernel gives up first when more is needed."""

    limit_bytes: int
    usage: Path
    statistics: Path
    file_pages: str

    def free_bytes(self) -> int:
        try:
            used_bytes = int(self.usage.read_text())
            counts = dict(line.split() for line in self.statistics.read_text().splitlines())
            return self.limit_bytes - used_bytes + int(counts.get(self.file_pages, 0))
        except (OSError, ValueError):
            return self.limit_bytes


def _memory_bytes() -> int:
    return min([int(psutil.virtual_memory().total), *(limit.limit_bytes for limit in _memory_limits())])


def _memory_limits() -> list[_MemoryLimit]:
    """Of this process's control groups and all above them, of both generations, where they are below the machine's memory."""
    found = []
    for file in own_files("memory.max"):
        with suppress(OSError, ValueError):  # 'max' is no number: no limit
            limit_bytes, usage = int(file.read_text()), file.with_name("memory.current")
            found.append(_MemoryLimit(limit_bytes, usage, file.with_name("memory.stat"), "inactive_file"))
    for file in own_files("memory.limit_in_bytes", "memory"):
        with suppress(OSError, ValueError):
            limit_bytes, usage = int(file.read_text()), file.with_name("memory.usage_in_bytes")
            found.append(_MemoryLimit(limit_bytes, usage, file.with_name("memory.stat"), "total_inactive_file"))
    most_bytes = int(psutil.virtual_memory().total)
    return [limit for limit in found if limit.limit_bytes < most_bytes]  # others never bind, and are slow to read
