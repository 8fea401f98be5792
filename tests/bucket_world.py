"""A real S3 server process (moto's) for tests, behind a line that can fail: it refuses, stumbles, cuts, and knows what time it is."""

from __future__ import annotations

import asyncio
import gc
import io
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import fsspec.asyn
from aiohttp import ClientSession, DummyCookieJar, web

from free_ports import free_port

KEY, SECRET = "AKIDPASSELTEST", "the-artifact-secret"
BUCKET = "artifacts"


@dataclass
class Line:
    """What goes through it. fault: asked for every request; an HTTP status, or 'cut', instead of an answer.

    clock_ahead_s: of the server.
    """

    url: str
    server_url: str
    fault: Callable[[web.Request], int | str | None] = lambda request: None
    clock_ahead_s: float = 0.0
    seen: list[tuple[str, str, int]] = field(default_factory=list)
    http: ClientSession | None = None

    def client(self) -> Any:
        """Straight to the server, as its administrator."""
        return boto3.client(
            "s3",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            endpoint_url=self.server_url,
            region_name="us-east-1",
        )

    def objects(self) -> list[str]:
        found = self.client().list_objects_v2(Bucket=BUCKET).get("Contents", [])
        return [o["Key"] for o in found if not o["Key"].endswith("passel-check")]

    def size(self, key: str) -> int:
        return int(self.client().head_object(Bucket=BUCKET, Key=key)["ContentLength"])

    def clear(self) -> None:
        for key in self.objects():
            self.client().delete_object(Bucket=BUCKET, Key=key)
        self.fault, self.clock_ahead_s = lambda request: None, 0.0
        self.seen.clear()

    def bytes_of(self, method: str) -> int:
        """That workers moved by signed addresses."""
        return sum(n for m, kind, n in self.seen if m == method and kind == "signed")

    def _is_over(self, request: web.Request) -> bool:
        """Whether the address was signed too long ago, or in the future, as S3 sees it."""
        query = request.query
        if "X-Amz-Date" not in query:
            return False
        signed = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        now = datetime.now(UTC) + timedelta(seconds=self.clock_ahead_s)
        return not signed - timedelta(minutes=15) <= now <= signed + timedelta(seconds=int(query["X-Amz-Expires"]))

    async def answer(self, request: web.Request) -> web.StreamResponse:
        assert self.http is not None
        body = await request.read()
        fault = 403 if self._is_over(request) else self.fault(request)
        if fault == "cut" and request.transport is not None:
            request.transport.close()
            return web.Response()
        if isinstance(fault, int):
            code = {403: "AccessDenied", 404: "NoSuchKey", 503: "SlowDown"}.get(fault, "InternalError")
            return web.Response(status=fault, text=f"<Error><Code>{code}</Code><Message>No</Message></Error>")
        kept = {k: v for k, v in request.headers.items() if k not in ("Transfer-Encoding", "Content-Length")}
        async with self.http.request(
            request.method,
            self.server_url + request.raw_path,
            data=io.BytesIO(body) if body else None,
            headers=kept,
            allow_redirects=False,
        ) as reply:
            answer = await reply.read()
            kind = "signed" if "X-Amz-Signature" in request.query else "other"
            self.seen.append((request.method, kind, len(body) + len(answer)))
            dropped = ("Transfer-Encoding", "Connection", "Content-Encoding")
            headers = {k: v for k, v in reply.headers.items() if k not in dropped}
            return web.Response(status=reply.status, body=answer, headers=headers)


@contextmanager
def moto_process(host: str = "127.0.0.1", namespace: str = "") -> Iterator[str]:
    """The server, perhaps on a host of its own; yields its URL."""
    port = free_port()
    inside = ["ip", "netns", "exec", namespace] if namespace else []
    command = [*inside, sys.executable, "-P", "-m", "moto.server", "-H", host, "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://{host}:{port}"
    try:
        while subprocess.run([*inside, "curl", "-s", url], capture_output=True, check=False).returncode != 0:
            assert process.poll() is None, "moto ended"
            time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


@contextmanager
def bucket_line() -> Iterator[Line]:
    """A server with an empty bucket, and the line to it."""
    with moto_process() as server_url:
        port = free_port()
        line = Line(f"http://127.0.0.1:{port}", server_url)
        line.client().create_bucket(Bucket=BUCKET)
        loop = asyncio.new_event_loop()
        ready, over = threading.Event(), asyncio.Event()

        async def serve() -> None:
            app = web.Application(client_max_size=2**30)
            app.add_routes([web.route("*", "/{path:.*}", line.answer)])
            async with ClientSession(cookie_jar=DummyCookieJar(), auto_decompress=False) as line.http:
                runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
                await runner.setup()
                await web.TCPSite(runner, "127.0.0.1", port).start()
                ready.set()
                await over.wait()
                await runner.cleanup()

        thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
        thread.start()
        assert ready.wait(30)
        try:
            yield line
        finally:
            loop.call_soon_threadsafe(over.set)
            thread.join(10)
            loop.close()
            _end_fsspec()


def _end_fsspec() -> None:
    """Its loop and thread are the process's, and left open at its end."""
    gc.collect()  # file systems end their connections when they go
    loop, thread = fsspec.asyn.loop[0], fsspec.asyn.iothread[0]
    if loop is not None:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
    fsspec.asyn.reset_lock()
