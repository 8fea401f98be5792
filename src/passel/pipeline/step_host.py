"""The parent's side of a host: starts it, hands it steps, and ends it with all its children when it hangs or dies."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path

from passel.pipeline.messages import Answer, Failed, Request
from passel.pipeline.task_limit import too_few_tasks

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
    "GDAL_NUM_THREADS",
)
_MOST_STEPS = 200
_POLL_S = 0.2
_TASKS = 8
"""Processes and threads of a step: fewer may be what it died of."""


@dataclass(frozen=True)
class HostOptions:
    """python_path: folders put before PYTHONPATH of the hosts. most_steps: a host is replaced after so many."""

    python_path: tuple[Path, ...] = ()
    most_steps: int = _MOST_STEPS


class StepHost:
    """One host at a time, started when needed and replaced when it died, has grown or has served long.

    `run` is for one thread; `kill` may be called from any other.
    """

    def __init__(self, options: HostOptions | None = None) -> None:
        self._options = options or HostOptions()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._lifeline = -1
        self._death_handle = -1
        self._threads = 0
        self._served = 0
        self._stopped = False
        self._busy = False
        self._guard = threading.Lock()

    @property
    def threads(self) -> int:
        """The number of threads that native libraries may use in the present host."""
        return self._threads

    @property
    def pid(self) -> int | None:
        """The host's process id (and group), None when there is none."""
        return self._process.pid if self._process else None

    def run(self, request: Request) -> Answer:
        """Runs a step in the host and waits for the answer, at most for the step's time limit."""
        if self._process is not None and (
            self._threads != request.step.threads or self._served >= self._options.most_steps
        ):
            self.close()
        with self._guard:
            if self._stopped:
                return Failed("stopped", "The run was stopped")
            if self._process is None:
                try:
                    self._start(request.step.threads)
                except OSError as error:
                    self._end()
                    todo = too_few_tasks(1) or "use fewer workers"
                    return Failed("died", f"a process for the step could not be started: {error}", "", todo)
            connection = self._connection
            self._busy = True
        assert connection is not None
        try:
            answer = self._ask(connection, request)
        finally:
            self._busy = False
        self._served += 1
        if answer.recycle or self._stopped:
            self.close()
        return answer

    def close(self) -> None:
        """Ends the host and everything in its group; a later `run` starts a new one. Not while a thread runs a step."""
        with self._guard:
            self._end()

    def kill(self) -> None:
        """Ends the host for good, from any thread: a step that runs is lost and `run` answers 'stopped' from now on."""
        with self._guard:
            self._stopped = True
            self._kill_group()
            if not self._busy:  # else the running thread sees the end and clears up: it still waits on the handles
                self._end()

    def _start(self, threads: int) -> None:
        environment = dict(os.environ)
        environment.update({name: str(threads) for name in _THREAD_VARIABLES})
        environment["PYTHONHASHSEED"] = "0"  # the order of sets must not change results
        folders = [str(p) for p in self._options.python_path]
        environment["PYTHONPATH"] = os.pathsep.join(folders + [p for p in (environment.get("PYTHONPATH"),) if p])
        ours, theirs = Pipe(duplex=True)
        lifeline_read, self._lifeline = os.pipe()
        command = [sys.executable, "-P", "-m", "passel.pipeline.host", str(theirs.fileno()), str(lifeline_read)]
        try:
            self._process = subprocess.Popen(
                command,
                pass_fds=(theirs.fileno(), lifeline_read),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            theirs.close()
            os.close(lifeline_read)
        self._connection, self._threads, self._served = ours, threads, 0
        if hasattr(os, "pidfd_open"):
            with suppress(OSError):
                self._death_handle = os.pidfd_open(self._process.pid)

    def _kill_group(self) -> None:
        """Only while the host is not yet reaped: its id cannot be another's."""
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):  # macOS says 'permission' for a group of zombies
                os.killpg(self._process.pid, signal.SIGKILL)

    def _end(self) -> int:
        """Kills and reaps the host, closes the handles; returns its exit code (negative: a signal)."""
        code = 0
        if self._process is not None:
            self._kill_group()
            code = self._process.wait()
            self._process = None
        for handle in (self._lifeline, self._death_handle):
            if handle >= 0:
                os.close(handle)
        self._lifeline = self._death_handle = -1
        self._connection = None
        return code

    def _ask(self, connection: Connection, request: Request) -> Answer:
        deadline_s = time.monotonic() + request.step.limit_s
        try:
            connection.send_bytes(pickle.dumps((request.log, pickle.dumps(request))))
            while not self._ready(connection, deadline_s):
                if time.monotonic() >= deadline_s:
                    self.close()
                    what = f"the step ran past its limit of {request.step.limit_s:g} s"
                    return self._ended(Failed("timeout", what, str(request.log)))
            answer: Answer = connection.recv()
            return answer
        except (EOFError, OSError):
            return self._ended(self._death(request))

    def _ready(self, connection: Connection, deadline_s: float) -> bool:
        """True when there is an answer to read or the host is gone (then reading raises EOFError)."""
        left_s = max(0.0, deadline_s - time.monotonic())
        death_handle = self._death_handle
        if death_handle < 0:
            if wait([connection], min(left_s, _POLL_S)):
                return True
            process = self._process
            if process is None or process.poll() is not None:
                raise EOFError
            return False
        ready = wait([connection, death_handle], left_s)
        if death_handle in ready and not connection.poll():
            raise EOFError
        return connection in ready

    def _ended(self, failure: Failed) -> Failed:
        return Failed("stopped", "The run was stopped") if self._stopped else failure

    def _death(self, request: Request) -> Failed:
        """Reaps a host that ended on its own and says how."""
        with self._guard:
            code = self._end()
        how = f"with {_signal_name(-code)}" if code < 0 else f"with exit code {code}"
        todo = "probably out of memory: use fewer workers" if code == -signal.SIGKILL else f"see {request.log}"
        todo = too_few_tasks(_TASKS) or todo
        return Failed("died", f"the step's process died {how}", f"{request.step.stage} {request.step.name}", todo)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
