"""The worker that the coordinator starts on its own machine, so that one machine alone is a whole passel."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from contextlib import suppress

from passel.cluster.worker.agent_options import GIVE_UP, AgentOptions
from passel.pipeline.task_limit import too_few_tasks

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_LIVED_WELL_S = 60.0
_log = logging.getLogger("passel.serve")


class LocalWorker:
    """A supervisor process and what it starts; all of it dies with this process, however it ends."""

    def __init__(self, options: AgentOptions) -> None:
        self._options = options
        self._process: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    def start(self) -> None:
        """Start it in the running loop, and again whenever it dies."""
        self._keeping = asyncio.create_task(self._keep())

    async def stop(self, patience_s: float) -> None:
        """Let it finish what it can within `patience_s`, then end it. Steps that are cut off are run again some day."""
        self._stopping.set()
        for number, wait_s in ((signal.SIGTERM, patience_s), (signal.SIGTERM, 2.0), (signal.SIGKILL, None)):
            if self._keeping is None or self._keeping.done():
                return
            if self._process is not None and self._process.returncode is None:
                self._process.send_signal(number)
            await asyncio.wait([self._keeping], timeout=wait_s)

    async def _keep(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            started_s, code = time.monotonic(), None
            try:
                code = await self._run_once()
                trouble = f"ended with {code}"
            except OSError as e:
                trouble = f"cannot be started ({too_few_tasks(1) or e.strerror})"
            pause_s = _FIRST_PAUSE_S if time.monotonic() - started_s > _LIVED_WELL_S else pause_s
            if self._stopping.is_set():
                return
            if code == GIVE_UP:
                _log.error("the worker on this machine gave up (see above); jobs wait for other workers")
                return
            _log.warning("the worker on this machine %s; it is started again in %g s", trouble, pause_s)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _run_once(self) -> int:
        theirs, ours = os.pipe()  # `ours` closes with this process: that is how they learn of a kill -9
        try:
            return await self._run_with(theirs)
        finally:
            os.close(ours)

    async def _run_with(self, lifeline: int) -> int:
        command = [sys.executable, "-P", "-m", "passel.cluster.worker.supervisor", *self._options.words()]
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                "--lifeline",
                str(lifeline),
                pass_fds=(lifeline,),
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            os.close(lifeline)
        if self._stopping.is_set():
            self._process.terminate()
        return await self._process.wait()
