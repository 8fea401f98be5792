"""The field kit over HTTP, for machines that have nothing yet: `/join` (the script) and `/wheels/` (the kit's folder).

A small ASGI application of its own: it stands before the API's and needs no token, since all of it is free software.
"""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from passel.cluster.kit.bundle import SUMS, is_whole
from passel.cluster.kit.join_script import Kit, join_script

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Message, Receive, Send], Awaitable[None]]

_BLOCK_BYTES = 2**20
_HOST = re.compile(rb"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:]{2,45}\])(?::[0-9]{1,5})?")
_NOT_YET = """#!/bin/sh
echo "passel: error: the coordinator has no kit yet: it is being made, try again in a minute (or run passel bundle there)" >&2
exit 1
"""


@dataclass(frozen=True)
class KitApp:
    """Answers for `/join` and `/wheels/`, and hands every other request to `other`.

    folder: of the wheels. workers_port: where the script shall join.
    """

    folder: Path
    workers_port: int
    other: AsgiApp

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """ASGI."""
        path = scope.get("path", "")
        if scope["type"] != "http" or not (path == "/join" or path.startswith("/wheels/")):
            await self.other(scope, receive, send)
        elif scope["method"] not in ("GET", "HEAD"):
            await _answer(send, 405, b"only GET\n")
        elif path == "/join":
            await self._script(scope, send)
        elif path == "/wheels/":
            await _answer(send, 200, await asyncio.to_thread(self._list), b"text/html; charset=utf-8")
        else:
            await self._wheel(path.removeprefix("/wheels/"), scope["method"] == "GET", send)

    async def _script(self, scope: Message, send: Send) -> None:
        host = next((v for k, v in scope["headers"] if k == b"host"), b"")
        if not _HOST.fullmatch(host):  # it goes into a script that somebody will run
            await _answer(send, 400, b"echo 'passel: error: the address of the request is odd' >&2; exit 1\n")
            return
        if not await asyncio.to_thread(is_whole, self.folder):
            await _answer(send, 200, _NOT_YET.encode())  # 200: `curl -f` would hide the words from the user
            return
        address = host.decode("ascii")
        name = re.sub(r":[0-9]+$", "", address)
        kit = await asyncio.to_thread(Kit.of, self.folder)
        text = join_script(kit, f"{scope['scheme']}://{address}/wheels/", f"https://{name}:{self.workers_port}")
        await _answer(send, 200, text.encode())

    def _list(self) -> bytes:
        """The page that pip reads: a link to each wheel with its digest."""
        if not is_whole(self.folder):
            return b"<!DOCTYPE html><title>Passel</title>The kit is not made yet: passel bundle\n"
        lines = (line.split("  ", 1) for line in (self.folder / SUMS).read_text("utf-8").splitlines())
        links = (f'<a href="{html.escape(n)}#sha256={html.escape(d)}">{html.escape(n)}</a><br>' for d, n in lines)
        return ("<!DOCTYPE html><title>Passel: field kit</title>\n" + "\n".join(links) + "\n").encode()

    async def _wheel(self, name: str, with_body: bool, send: Send) -> None:
        path = self.folder / name
        if not re.fullmatch(r"[\w.+-]+\.whl", name) or not path.is_file():
            await _answer(send, 404, b"no such wheel\n")
            return
        with await asyncio.to_thread(path.open, "rb") as file:
            size = path.stat().st_size
            await send(_start(200, b"application/octet-stream", size))
            left = size if with_body else 0
            while left > 0:
                block = await asyncio.to_thread(file.read, min(left, _BLOCK_BYTES))
                if not block:
                    return  # cut off behind our back; the reader sees too few bytes
                left -= len(block)
                await send({"type": "http.response.body", "body": block, "more_body": left > 0})
        if not with_body or size == 0:
            await send({"type": "http.response.body", "body": b""})


def _start(status: int, kind: bytes, size: int) -> Message:
    headers = [
        (b"content-type", kind),
        (b"content-length", str(size).encode()),
        (b"x-content-type-options", b"nosniff"),
    ]
    return {"type": "http.response.start", "status": status, "headers": headers}


async def _answer(send: Send, status: int, body: bytes, kind: bytes = b"text/plain; charset=utf-8") -> None:
    await send(_start(status, kind, len(body)))
    await send({"type": "http.response.body", "body": body})
