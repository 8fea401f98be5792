"""Step functions for the tests of store, hosts and executors; hosts import this module by PYTHONPATH."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from passel.errors import InputError
from passel.pipeline.step import ArtifactInput, Fact, Step, StepInputs


@dataclass(frozen=True)
class Params:
    """value: what the step writes. marker: a file that notes each run, or ''. seconds: how long it takes."""

    value: int = 0
    marker: str = ""
    seconds: float = 0.0


def note(params: Params) -> int:
    """Appends this process's id to the marker file; returns how many runs there were before."""
    if not params.marker:
        return 0
    with open(params.marker, "a+") as file:
        file.seek(0)
        before = len(file.readlines())
        file.write(f"{os.getpid()}\n")
    return before


def add(inputs: StepInputs, params: Params, out: Path) -> dict[str, Fact]:
    """Writes the sum of its value and its inputs' values."""
    note(params)
    time.sleep(params.seconds)
    total = params.value + sum(int((p / "total.txt").read_text()) for p in inputs.many("part"))
    (out / "total.txt").write_text(str(total))
    (out / "sub").mkdir()
    (out / "sub" / "bytes.bin").write_bytes(np.arange(total % 1000, dtype=np.int32).tobytes())
    return {"total": total}


def add_when_let(inputs: StepInputs, params: Params, out: Path) -> dict[str, Fact]:
    """As `add`, once there is a file `go` beside the marker."""
    note(params)
    while not Path(params.marker).with_name("go").exists():
        time.sleep(0.05)
    return add(inputs, Params(params.value), out)


def known_error(inputs: StepInputs, params: Params, out: Path) -> dict[str, Fact]:
    note(params)
    raise InputError("Photo is blurred", "DJI_1.JPG", "leave it out")


def bug(inputs: StepInputs, params: Params, out: Path) -> dict[str, Fact]:
    note(params)
    print("about to fail")
    raise IndexError("7 of 5")


def segfault(inputs: StepInputs, params: Params, out: Path) -> dict[str, Fact]:
    note(params)
    (out / "half.bin").write_bytes(b"half")
    ctypes.string_at(0)
    return {}


def abort_once(inputs: StepInputs, params: Params, out: Path) -> dict[str, Fact]:
    """Dies at the first try only."""
    if note(params) == 0:
        os.abort()
    return add(inputs, Params(params.value), out)


def hang(inputs: StepInputs, params: Params, out: Path) -> dict[str, Fact]:
    """Sleeps with the interpreter held, as native code does, and with a child that sleeps, too."""
    note(params)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    Path(params.marker + ".child").write_text(str(child.pid))
    ctypes.PyDLL(None).sleep(100)
    return {}


def kill_self(inputs: StepInputs, params: Params, out: Path) -> dict[str, Fact]:
    note(params)
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def fat(inputs: StepInputs, params: Params, out: Path) -> dict[str, Fact]:
    """Uses `value` MB and about `seconds` of CPU time."""
    block = np.ones(params.value * 125_000)
    end = time.process_time() + params.seconds
    while time.process_time() < end:
        block[:1000] += 1
    return {"pid": os.getpid(), "omp": os.environ["OMP_NUM_THREADS"]}


def fat_child(inputs: StepInputs, params: Params, out: Path) -> dict[str, Fact]:
    code = f"b = bytearray({params.value} * 10**6); sum(range(3_000_000))"
    subprocess.run([sys.executable, "-c", code], check=True)
    return {"pid": os.getpid()}


def fill_disk(inputs: StepInputs, params: Params, out: Path) -> dict[str, Fact]:
    np.zeros(params.value * 125_000).tofile(out / "big.bin")
    return {}


def bad_sector(inputs: StepInputs, params: Params, out: Path) -> dict[str, Fact]:
    """Writes its value, unless the disk is that of a worker named bad: that one fails as a dying disk does, now and then."""
    with (Path("/proc/self/mem") if "/bad/" in str(out) else out / "total.txt").open("w+b", buffering=0) as file:
        file.write(str(params.value).encode())  # nothing is at the address 0: a real EIO
    return {}


def large_file(inputs: StepInputs, params: Params, out: Path) -> dict[str, Fact]:
    """Leaves `value` MB, the same each time, and a small file."""
    note(params)
    time.sleep(params.seconds)
    (out / "large.bin").write_bytes(np.random.default_rng(params.value).bytes(params.value * 10**6))
    (out / "ok").write_text("ok")
    return {}


def mix_large(inputs: StepInputs, params: Params, out: Path) -> dict[str, Fact]:
    """Leaves a large file with the first megabyte of each of its inputs'."""
    note(params)
    time.sleep(params.seconds)
    parts = [(p / "large.bin").read_bytes()[: 10**6] for p in inputs.many("part")]
    (out / "large.bin").write_bytes(b"".join(parts))
    return {"parts": len(parts)}


def count_files(inputs: StepInputs, params: Params, out: Path) -> dict[str, Fact]:
    """Writes how many files its inputs have."""
    total = sum(1 for part in inputs.many("part") for _ in part.rglob("*"))
    (out / "total.txt").write_text(str(total))
    return {"total": total}


def fill_disk_at_once(inputs: StepInputs, params: Params, out: Path) -> dict[str, Fact]:
    """numpy reserves so large a file before it writes."""
    np.save(out / "big.npy", np.zeros(3_000_000))
    return {}


def fill_disk_and_die(inputs: StepInputs, params: Params, out: Path) -> dict[str, Fact]:
    """As native libraries do."""
    try:
        return fill_disk(inputs, params, out)
    except OSError:
        os.abort()


def fill_disk_and_blame(inputs: StepInputs, params: Params, out: Path) -> dict[str, Fact]:
    """As libraries with errors of their own do."""
    try:
        return fill_disk(inputs, params, out)
    except OSError:
        raise InputError("The raster cannot be written") from None


def grow(inputs: StepInputs, params: Params, out: Path) -> dict[str, Fact]:
    """Takes ever more memory, to `value` MB."""
    note(params)
    blocks = []
    for _ in range(params.value // 10):
        blocks.append(np.ones(10 * 125_000))
        time.sleep(params.seconds)
    return {}


def copy_names(inputs: StepInputs, params: Params, out: Path) -> dict[str, Fact]:
    """Writes the names and contents of its photos as it sees them."""
    note(params)
    photos = [p for p in inputs.many("photo")]
    (out / "names.txt").write_text("\n".join(p.name for p in photos))
    for number, photo in enumerate(photos):
        (out / str(number)).write_bytes(photo.read_bytes() if photo.exists() else b"missing")
    return {}


def list_files(inputs: StepInputs, params: Params, out: Path) -> dict[str, Fact]:
    """Writes the names of the files that it finds in its inputs."""
    note(params)
    names = [p.relative_to(f).as_posix() for f in inputs.many("part") for p in sorted(f.rglob("*")) if p.is_file()]
    (out / "names.txt").write_text("\n".join(names))
    return {}


def copy_parts(inputs: StepInputs, params: Params, out: Path) -> dict[str, Fact]:
    """Writes what is in the files of its inputs."""
    note(params)
    for number, file in enumerate(p for f in inputs.many("part") for p in sorted(f.rglob("*")) if p.is_file()):
        (out / str(number)).write_bytes(file.read_bytes())
    return {}


def kill_worker(inputs: StepInputs, params: Params, out: Path) -> dict[str, Fact]:
    """Kills the process that started this one: a worker's agent."""
    note(params)
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(100)
    return {}


def numpy_facts(inputs: StepInputs, params: Params, out: Path) -> dict[str, Fact]:
    return {"count": np.int64(3), "ok": np.bool_(True), "mean": np.float32(0.5)}  # type: ignore[dict-item]


def leave_link(inputs: StepInputs, params: Params, out: Path) -> dict[str, Fact]:
    (out / "link").symlink_to("/etc/hostname")
    return {}


def step(function: str, name: str = "a", after: tuple[Step, ...] = (), stage: str = "test", **more: object) -> Step:
    """A step of this module; what is not a field of Step is a field of Params."""
    fields = {k: more.pop(k) for k in ("memory_mb", "threads", "limit_s") if k in more}
    inputs = tuple(("part", ArtifactInput(s.digest)) for s in after)
    params = Params(**more)  # type: ignore[arg-type]
    return Step(stage, name, f"step_functions:{function}", 1, params, inputs, **fields)  # type: ignore[arg-type]
