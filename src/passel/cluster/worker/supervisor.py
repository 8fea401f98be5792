"""Keeps a worker agent alive: starts it, and starts it again when it dies. Takes the agent's own command line."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from types import FrameType

from passel.cluster.worker.agent_options import GIVE_UP, AgentOptions, die_with, tell_on_stderr
from passel.errors import Interrupted
from passel.pipeline.task_limit import too_few_tasks

_ENDS = (0, GIVE_UP, Interrupted.exit_code)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_LIVED_WELL_S = 60.0
_TASKS = 16
"""Processes and threads of an agent with one small step; below that it cannot even say why it dies."""
_log = logging.getLogger("passel.worker")


class Supervisor:
    """One agent process at a time. `run` returns the exit code of the one that ended for good."""

    def __init__(self, options: AgentOptions) -> None:
        self._options = options
        self._agent: subprocess.Popen[bytes] | None = None
        self._told_to_stop = threading.Event()

    def run(self) -> int:
        """Until the agent drained, was stopped or gives up. Raises nothing; to be called in the main thread."""
        before = {n: signal.signal(n, self._pass_on) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        pause_s = _FIRST_PAUSE_S
        try:
            while not self._told_to_stop.is_set():
                started_s = time.monotonic()
                if few := too_few_tasks(_TASKS):
                    trouble = f"cannot start ({few})"
                else:
                    code = self._run_once()
                    if code in _ENDS:
                        return code
                    trouble = _how_it_ended(code)
                pause_s = _FIRST_PAUSE_S if time.monotonic() - started_s > _LIVED_WELL_S else pause_s
                if self._told_to_stop.is_set():
                    break  # it died of our own signal
                _log.error("the worker's process %s; it starts again in %.1f s", trouble, pause_s)
                self._told_to_stop.wait(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            return Interrupted.exit_code
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _run_once(self) -> int:
        theirs, ours = os.pipe()  # ours is closed when this process ends, however it ends: the agent's lifeline
        command = [sys.executable, "-P", "-m", "passel.cluster.worker.agent_process", *self._options.words()]
        try:
            self._agent = subprocess.Popen(
                [*command, "--lifeline", str(theirs)],
                pass_fds=(theirs,),
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # a terminal's Ctrl-C comes through us, once
            )
        finally:
            os.close(theirs)
        try:
            if self._told_to_stop.is_set():  # one came while the agent was being started
                self._agent.terminate()
            return self._agent.wait()
        finally:
            os.close(ours)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._told_to_stop.set()
        if self._agent is not None and self._agent.poll() is None:
            self._agent.send_signal(signal.SIGTERM)


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    with suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


def main() -> None:
    """Supervises one agent."""
    options = AgentOptions.parse(sys.argv[1:])
    tell_on_stderr()
    die_with(options.lifeline)
    sys.exit(Supervisor(options).run())


if __name__ == "__main__":
    main()
