"""The host: a warm child process that runs steps one by one, so that native code may crash, hang or leak without harm.

Started by `step_host.StepHost` as `python -m passel.pipeline.host REQUESTS LIFELINE` in its own process group. REQUESTS
is a socket with pickled requests and answers; LIFELINE is a pipe that nobody writes to: it ends when the parent dies.
"""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import os
import pickle
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path

from passel.collector import look_seldom
from passel.errors import PasselError, StepError
from passel.pipeline.manifest import Cost
from passel.pipeline.messages import Answer, Done, Failed, Request
from passel.pipeline.step import Fact, StepInputs, resolve
from passel.pipeline.store import Store, disk_trouble, storage_error

RECYCLE_RSS_MB = 1000.0


@dataclass(frozen=True)
class Meter:
    """Readings at the start of a step."""

    started: str
    clock_s: float
    cpu_s: float
    children_cpu_s: float

    @staticmethod
    def start() -> Meter:
        with suppress(OSError):  # not Linux, or forbidden: then the peak is the process's so far
            Path("/proc/self/clear_refs").write_text("5")
        return Meter(
            datetime.now().astimezone().isoformat(timespec="milliseconds"),
            time.monotonic(),
            _cpu_s(),
            _children_cpu_s(),
        )

    def had_children(self) -> bool:
        """True when child processes of the step ended meanwhile; their peak memory cannot be reset."""
        return _children_cpu_s() > self.children_cpu_s

    def cost(self, attempt: int) -> Cost:
        """What was used since the start."""
        peak_mb = _status_mb("VmHWM:") or _maxrss_mb(resource.RUSAGE_SELF)
        if self.had_children():
            peak_mb = max(peak_mb, _maxrss_mb(resource.RUSAGE_CHILDREN))
        seconds, cpu_s = time.monotonic() - self.clock_s, _cpu_s() - self.cpu_s
        return Cost(os.uname().nodename, self.started, round(seconds, 4), round(cpu_s, 4), round(peak_mb, 1), attempt)


def run_step(request: Request) -> Answer:
    """Runs one step in this process and commits its artifact. Every failure becomes a `Failed`."""
    step, store = request.step, Store(request.store, synced=request.synced)
    try:
        with store.aside(step.digest) as aside, _temporary_files_in(aside.scratch):
            meter = Meter.start()
            function = resolve(step.function)
            _limit_loaded_libraries(step.threads)
            with _hidden_full_disk_told(store):
                facts = _plain_facts(function(StepInputs(request.paths), step.params, aside.files))
            manifest = store.commit(aside, step, facts, meter.cost(request.attempt))
            had_children = meter.had_children()
    except PasselError as error:
        return Failed(disk_trouble(error) or "error", error.what, error.where, error.todo, traceback.format_exc())
    except MemoryError:
        return Failed("died", "the step ran out of memory", step.name, "use fewer workers", traceback.format_exc())
    except Exception as error:  # the one place where any bug of a step becomes a report
        what, todo = f"{type(error).__name__}: {error}", f"see {request.log} and report this as a bug"
        return Failed("crash", what, f"{step.stage} {step.name}", todo, traceback.format_exc())
    return Done(manifest, recycle=had_children or (_status_mb("VmRSS:") or 0.0) > RECYCLE_RSS_MB)


@contextmanager
def _hidden_full_disk_told(store: Store) -> Iterator[None]:
    """Libraries hide ENOSPC behind errors of their own, so the free space has a say before the step's files are removed."""
    try:
        yield
    except Exception as error:  # whatever a library makes of it
        if isinstance(error, OSError) and disk_trouble(error):
            raise storage_error(error, store.root) from error
        if not disk_trouble(error) and (full := store.full_disk()) is not None:
            hidden = OSError(errno.ENOSPC, "No space left on device")
            hidden.__cause__ = error
            raise full from hidden
        raise


def _plain_facts(facts: dict[str, Fact]) -> dict[str, Fact]:
    """The facts as plain Python values. Raises StepError for anything that a manifest cannot hold."""
    plain = {}
    for name, value in facts.items():
        item = value.item() if hasattr(value, "item") else value
        if not isinstance(item, float | int | str | bool):
            raise StepError(
                f"The fact {name!r} is a {type(value).__name__}, not a number or text", todo="report this as a bug"
            )
        plain[str(name)] = item
    return plain


def _limit_loaded_libraries(threads: int) -> None:
    """OpenCV does not follow OMP_NUM_THREADS; if the step's module has loaded it, it is told."""
    cv2 = sys.modules.get("cv2")
    if cv2 is not None:
        cv2.setNumThreads(threads)


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Temporary files of a step lie beside its artifact, so that they vanish with it even after kill -9."""
    before, before_env = tempfile.tempdir, os.environ.get("TMPDIR")
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
        if before_env is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before_env


@contextmanager
def _printing_to(log: Path) -> Iterator[None]:
    """Sends what this process and its children print to `log`; an empty log is removed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    _redirect(handle)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).fflush(None)  # what native code has printed
        empty = os.fstat(handle).st_size == 0
        os.close(handle)
        null = os.open(os.devnull, os.O_WRONLY)
        _redirect(null)
        os.close(null)
        if empty:
            log.unlink(missing_ok=True)


def _redirect(handle: int) -> None:
    os.dup2(handle, 1)
    os.dup2(handle, 2)


def _cpu_s() -> float:
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime + _children_cpu_s()


def _children_cpu_s() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime


def _maxrss_mb(who: int) -> float:
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(who).ru_maxrss * unit / 1e6


def _status_mb(field: str) -> float | None:
    """A field of /proc/self/status in MB, or None where there is no such file."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024 / 1e6
    return None


def _start_watcher(requests: int, lifeline: int) -> None:
    """Forks the watcher: it kills the whole group as soon as the parent or this process is gone.

    A process, not a thread: a step may hold the interpreter for minutes, and grandchildren must go as well.
    """
    own_end, kept_open = os.pipe()
    if os.fork() != 0:
        os.close(own_end)
        os.close(lifeline)
        return
    os.close(kept_open)
    os.close(requests)  # or the parent would not see the host's end
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    select.select([own_end, lifeline], [], [])
    os.killpg(0, signal.SIGKILL)


def _prepare_process() -> None:
    look_seldom()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # if memory runs out, a step goes, not the run
        Path("/proc/self/oom_score_adj").write_text("500")
    faulthandler.enable()
    # Where it is installed, rasterio loads it (0.4 CPU s) to ask for AWS credentials; steps read local files only.
    sys.modules["boto3"] = None  # type: ignore[assignment]


def main() -> None:
    """Serves requests until the parent closes the pipe."""
    requests, lifeline = int(sys.argv[1]), int(sys.argv[2])
    for handle in (requests, lifeline):
        os.set_inheritable(handle, False)
    _start_watcher(requests, lifeline)
    _prepare_process()
    connection = Connection(requests)
    while True:
        try:
            message = connection.recv_bytes()
        except EOFError:
            return
        connection.send(_answer(message))


def _answer(message: bytes) -> Answer:
    """Raises nothing but what ends the process."""
    log, payload = pickle.loads(message)
    try:
        with _printing_to(log):
            try:
                request: Request = pickle.loads(payload)  # imports the module of its params: may print, may fail
            except Exception as error:
                traceback.print_exc()
                return Failed("crash", f"The step cannot be loaded: {error}", str(log), "", traceback.format_exc())
            answer = run_step(request)
            if isinstance(answer, Failed):
                print(answer.detail, file=sys.stderr)
            return answer
    except OSError as error:  # whatever it is, it is this machine's: others may do the step
        trouble = storage_error(error, log.parent)
        return Failed("storage", trouble.what, trouble.where, trouble.todo, traceback.format_exc())


if __name__ == "__main__":
    main()
