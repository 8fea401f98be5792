"""The worker that the coordinator starts on its own machine, so that one machine alone is a whole passel."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

from passel.cluster.worker.agent_options import GIVE_UP, AgentOptions

_AGAIN_AFTER_S = 1.0
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
        while not self._stopping.is_set():
            code = await self._run_once()
            if self._stopping.is_set():
                return
            if code == GIVE_UP:
                _log.error("the worker on this machine gave up (see above); jobs wait for other workers")
                return
            _log.warning("the worker on this machine ended with %d; it is started again", code)
            await asyncio.sleep(_AGAIN_AFTER_S)

    async def _run_once(self) -> int:
        theirs, ours = os.pipe()  # `ours` closes with this process: that is how they learn of a kill -9
        command = [sys.executable, "-P", "-m", "passel.cluster.worker.supervisor", *self._options.words()]
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                "--lifeline",
                str(theirs),
                pass_fds=(theirs,),
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        try:
            if self._stopping.is_set():
                self._process.terminate()
            return await self._process.wait()
        finally:
            os.close(ours)
