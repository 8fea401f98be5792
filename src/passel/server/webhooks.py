"""Calls that clients asked for at the end of a task: tried six times like NodeODM's, also across restarts of the server."""

from __future__ import annotations

import asyncio
import logging

from passel.errors import StorageError
from passel.server.clock import now_ms
from passel.server.job_store import Call, JobStore
from passel.server.jobs import JobError
from passel.server.outgoing import Gate

log = logging.getLogger("passel.server")

DELAYS_S = (0, 5, 10, 15, 20, 25)
"""Before each attempt."""
AT_ONCE = 4


class Webhooks:
    """Makes the calls that are owed. `run` is a task; `wake` it when a call was added."""

    def __init__(self, store: JobStore, gate: Gate, own: str = "", delays_s: tuple[float, ...] = DELAYS_S) -> None:
        """gate: for webhooks of clients. own: the operator's, which may lead anywhere."""
        self._store, self._gate, self._own, self._delays_s = store, gate, own, delays_s
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Look again for calls."""
        self._wake.set()

    async def run(self) -> None:
        """Make calls as they fall due, for ever."""
        while True:
            self._wake.clear()
            try:
                wait_s = await self._make_due()
            except StorageError as e:
                log.warning("webhooks: %s", e)
                wait_s = max(self._delays_s)
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _make_due(self) -> float | None:
        """Make all calls that are due; returns seconds until the next one, None = none is owed."""
        calls, now = await self._store.calls(), now_ms()
        latest = now + 1000 * max(self._delays_s)  # what is due later was noted before somebody set the clock back
        due = [c for c in calls if not now < c.due_ms <= latest]
        for start in range(0, len(due), AT_ONCE):
            await asyncio.gather(*(self._make(c) for c in due[start : start + AT_ONCE]))
        left = await self._store.calls() if due else calls
        return max(0.0, (left[0].due_ms - now_ms()) / 1000) if left else None

    async def _make(self, call: Call) -> None:
        gate = Gate(allow_private=True) if call.url == self._own else self._gate
        try:
            status = await asyncio.to_thread(gate.post, call.url, call.body.encode())
        except JobError as e:
            status, reason = 0, str(e)
        else:
            reason = f"it answered {status}"
        done = call.attempts + 1
        if status == 200 or done >= len(self._delays_s):
            if status != 200:
                log.warning("webhook of task %s given up: %s", call.uuid, reason)
            await self._store.called(call, None)
        else:
            await self._store.called(call, now_ms() + int(1000 * self._delays_s[done]))
