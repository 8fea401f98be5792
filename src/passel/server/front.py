"""What stands before every route: the polls of task/info, answered from memory; headers; the log of requests.

The log never holds a query, for tokens stand there.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from passel.server.access import Access, WrongTokenError, is_same_site, token_in
from passel.server.clock import now_ms
from passel.server.jobs import ENDED, Job
from passel.server.service import JobService
from passel.server.wire import info_fields

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("passel.access")

FRESH_MS = 250
"""How old the processing time in an answer may be."""
SAFE_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"SAMEORIGIN"),
)
API_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; sandbox"),
)
API_PATHS = ("/task/", "/info", "/options", "/auth/")
CORS = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"GET,HEAD,PUT,POST,OPTIONS"),
    (b"access-control-allow-headers", b"authorization,content-type,content-range,range,set-uuid"),
    (b"access-control-expose-headers", b"content-range,etag,upload-offset,upload-complete"),
)
JSON_TYPE = (b"content-type", b"application/json")


@dataclass(frozen=True)
class _Cached:
    """An answer that was made. It holds for this very job record (another state is another record) until `until_ms`."""

    job: Job
    until_ms: int
    body: bytes
    headers: list[tuple[bytes, bytes]]


class Front:
    """The ASGI application that the server runs; everything it does not answer itself goes to `app`."""

    def __init__(self, app: App, service: JobService, access: Access) -> None:
        self._app, self._service, self._access = app, service, access
        self._cache: dict[str, _Cached] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        headers, path = scope["headers"], scope["path"]
        is_open = self._access.is_open
        if is_open and not is_same_site(headers, self._service.settings.host_names):
            await _refuse(scope, send)
            return
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        if path.startswith(API_PATHS):
            scope = _as_express(scope)
            path = scope["path"]
        extra: Headers = SAFE_HEADERS if is_open else SAFE_HEADERS + CORS
        if path.startswith(API_PATHS):
            extra += API_HEADERS
            if path.endswith("/info") and scope["method"] == "GET" and b"with_output" not in scope["query_string"]:
                uuid = path[6:-5]
                cached = self._cached(uuid, scope) if "/" not in uuid else None
                if cached is not None:
                    await send({"type": "http.response.start", "status": 200, "headers": [*cached.headers, *extra]})
                    await send({"type": "http.response.body", "body": cached.body})
                    return
        if scope["method"] == "OPTIONS" and not is_open:
            await send({"type": "http.response.start", "status": 204, "headers": [*extra]})
            await send({"type": "http.response.body", "body": b""})
            return
        await self._logged(scope, receive, send, extra)

    def _cached(self, uuid: str, scope: Scope) -> _Cached | None:
        """The answer for a task that this token may see; None: the routes answer (with an error, most likely)."""
        try:
            owner = self._access.owner_of(token_in(scope["query_string"], scope["headers"]), _address(scope))
        except WrongTokenError:
            return None
        job = self._service.get(uuid, owner)
        if job is None:
            return None
        now = now_ms()
        cached = self._cache.get(job.uuid)
        if cached is None or cached.job is not job or now >= cached.until_ms:
            until = now + (3_600_000 if job.state in ENDED else FRESH_MS)
            body = json.dumps(info_fields(job, now), separators=(",", ":")).encode()
            while len(self._cache) >= 20_000:
                del self._cache[next(iter(self._cache))]
            cached = _Cached(job, until, body, [JSON_TYPE, (b"content-length", str(len(body)).encode())])
            self._cache[job.uuid] = cached
        return cached

    async def _logged(self, scope: Scope, receive: Receive, send: Send, extra: Headers) -> None:
        status = 0
        begun = time.perf_counter()

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                known = {name.lower() for name, _ in message.get("headers", ())}
                message["headers"] = [*message.get("headers", ()), *(h for h in extra if h[0] not in known)]
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        finally:
            took_ms = 1000 * (time.perf_counter() - begun)
            log.info("%s %s %r %d %.0f ms", _address(scope), scope["method"], scope["path"][:300], status, took_ms)


def _as_express(scope: Scope) -> Scope:
    """NodeODM's web framework takes a path with a slash at its end, and HEAD wherever it takes GET; monitors ask so. Whoever sends
    the answer leaves the body of HEAD out.
    """
    path, method = scope["path"], scope["method"]
    has_own_head = "/download/" in path or path.startswith("/task/new/")
    return {**scope, "path": path.rstrip("/"), "method": "GET" if method == "HEAD" and not has_own_head else method}


async def _refuse(scope: Scope, send: Send) -> None:
    """A web page of somebody else reaches for a server without tokens."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    text = "This server takes requests from its own pages only. To allow others, start it with tokens."
    await send({"type": "http.response.start", "status": 403, "headers": [JSON_TYPE, *SAFE_HEADERS]})
    await send({"type": "http.response.body", "body": json.dumps({"error": text}).encode()})


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""
