"""A worker follows its coordinator to another address: laptops change networks, and networks give out other addresses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

from passel.cluster.trust.identity import Identity
from passel.cluster.worker.transfer import Link
from passel.errors import PasselError

LOST_AFTER_S = 20.0
"""A coordinator that does not answer for so long is looked for, and again after as long."""
_log = logging.getLogger("passel.worker")
Find = Callable[[], Sequence[str]]
"""Looks for the coordinator's addresses on the local network; takes some seconds, raises PasselError."""


async def follow(link: Link, find: Find, look_every_s: float = LOST_AFTER_S) -> None:
    """Looks for a coordinator that is lost, and tries its addresses one after the other. For ever."""
    while True:
        await asyncio.sleep(look_every_s)
        if link.down_s < look_every_s:
            continue
        with suppress(PasselError):  # no network at all: later
            urls = [u.rstrip("/") for u in await asyncio.to_thread(find)]
            url = urls[(urls.index(link.url) + 1) % len(urls)] if link.url in urls else next(iter(urls), link.url)
            if url != link.url and link.down_s:
                _log.warning("%s does not answer; the coordinator says that it is at %s", link.url, url)
                await link.move(url)


def announced_urls(identity: Identity) -> Sequence[str]:
    """Where a coordinator announces itself that has this identity's authority: each other one would be refused by TLS."""
    from passel.cluster.trust.discovery import find_coordinators  # seldom needed

    return [url for found in find_coordinators(fingerprint=identity.folder.name) for url in found.urls]
