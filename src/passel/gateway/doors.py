"""Ways for nodes to send us the parts of split tasks: each is open while its task runs, and shut some time after."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from passel.errors import PasselError
from passel.gateway.book import Book
from passel.gateway.ports import Door

CLOSES_AFTER_S = 600.0
"""OpenDroneMap takes the parts of a task that was canceled off us again; it needs the token for that."""
_LOOK_S = 10.0
_log = logging.getLogger("passel.gateway")


class Doors:
    """Those that are open are in the book, so they are shut also after a kill -9. is_over: nobody works on the job any more."""

    def __init__(self, book: Book, door: Door, is_over: Callable[[str], bool]) -> None:
        self._book, self._door, self._is_over = book, door, is_over
        self._over_s: dict[str, float] = {}

    def open(self, owner: str, job: str) -> str:
        """An address for the parts of this job; '' when nodes cannot reach us."""
        url = self._door.url_for(owner, job)
        if url:
            self._book.keep_door(job, url)
        return url

    async def run(self) -> None:
        """Until it is canceled. What fails is tried again."""
        while True:
            try:
                await self.turn(asyncio.get_running_loop().time())
            except PasselError as e:
                _log.error("%s", e)
            await asyncio.sleep(_LOOK_S)

    async def turn(self, now_s: float) -> None:
        """Shut what is over for long enough."""
        doors = await asyncio.to_thread(self._book.doors)
        over = {d.job for d in doors if self._is_over(d.job)}
        self._over_s = {job: self._over_s.get(job, now_s) for job in over}
        for door in doors:
            if door.job in over and now_s - self._over_s[door.job] >= CLOSES_AFTER_S:
                await asyncio.to_thread(self._door.shut, door.url)
                await asyncio.to_thread(self._book.drop_door, door.url)
