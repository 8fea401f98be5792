"""The worker's line and the coordinator's data plane in one event loop, with servers that a test makes misbehave."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from passel.cluster.coordinator.data_plane import WORKER, DataPlane
from passel.cluster.worker.transfer import Link, LinkSettings
from passel.pipeline.store import Store

SETTINGS = LinkSettings(stall_s=0.3, connect_s=1.0, longest_pause_s=0.2)

CONTENT = os.urandom(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(*routes: web.RouteDef, tls=None, port: int = 0, middlewares=()) -> AsyncIterator[str]:
    """A server of these routes; yields its URL."""
    app = web.Application(middlewares=list(middlewares))
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def linked(url: str, tls=None) -> AsyncIterator[Link]:
    link = Link(url, tls, SETTINGS)
    try:
        yield link
    finally:
        await link.close()


def fetched(handler: Handler, part: Path, known=None):
    """Downloads what the handler serves; returns the result."""

    async def go():
        async with serving(web.get("/file", handler)) as url, linked(url) as link:
            return await link.fetch("/file", part, known)

    return asyncio.run(go())


def ranged(content: bytes, request: web.Request, etag: str = "") -> tuple[web.StreamResponse, bytes]:
    """The answer to a request for the rest of a content, and the rest."""
    start = request.http_range.start or 0
    response = web.StreamResponse(status=206 if start else 200)
    response.headers["ETag"] = f'"{etag or hashlib.sha256(content).hexdigest()}"'
    if start:
        response.headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
    response.content_length = len(content) - start
    return response, content[start:]


@asynccontextmanager
async def data_plane(root: Path, fault) -> AsyncIterator[tuple[Link, Store]]:
    """The real data plane with a job 'j', and a fault that may answer or break in first."""
    store = Store(root)
    store.create()
    plane = DataPlane()
    plane.attach("j", root)

    @web.middleware
    async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[WORKER] = "w"
        return await fault(request) or await handler(request)

    async with serving(*plane.routes(), middlewares=(gate,)) as url, linked(url) as link:
        yield link, store
    plane.close()


async def no_fault(request: web.Request) -> None:
    """All is well."""
