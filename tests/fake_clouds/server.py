"""What the fake clouds share: an HTTP server in a thread, faults on order, and machines that run their boot script.

A machine is a process group of this computer. Its PATH begins with stand-ins for the commands that would change the
computer (shutdown, mkswap, docker …), and it never starts without them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

STAND_INS = {
    "shutdown": 'echo "shutdown $*" >>"$PASSEL_MACHINE_HOME/switched-off"; kill -KILL 0',
    "poweroff": 'echo "poweroff $*" >>"$PASSEL_MACHINE_HOME/switched-off"; kill -KILL 0',
    "fallocate": "exit 0",
    "dd": "exit 0",
    "mkswap": "exit 0",
    "swapon": 'echo "$*" >>"$PASSEL_MACHINE_HOME/swapped-on"',
    "docker": 'for a in "$@"; do printf "%s\\n" "$a"; done >>"$PASSEL_MACHINE_HOME/docker"',
}


def make_stand_ins(folder: Path) -> Path:
    """The commands that machines of tests use instead of the real ones."""
    folder.mkdir()
    for name, script in STAND_INS.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return folder


@dataclass
class FakeMachine:
    id: str
    name: str
    size: str
    region: str
    tags: tuple[str, ...]
    script: str
    home: Path
    created_s: float = field(default_factory=time.time)
    process: subprocess.Popen[bytes] | None = None
    off: bool = False

    @property
    def created(self) -> str:
        return datetime.fromtimestamp(self.created_s, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")

    @property
    def running(self) -> bool:
        """False when it has switched itself off or never was on."""
        return not self.off and (self.process is None or self.process.poll() is None)

    def boot(self, stand_ins: Path) -> None:
        assert (stand_ins / "shutdown").exists()
        self.home.mkdir(exist_ok=True)
        environment = {"PATH": f"{stand_ins}:{os.environ['PATH']}", "PASSEL_MACHINE_HOME": str(self.home)}
        (self.home / "user-data").write_text(self.script)
        with (self.home / "console").open("ab") as console:
            self.process = subprocess.Popen(
                ["/bin/sh", str(self.home / "user-data")],
                env=environment,
                start_new_session=True,
                stdout=console,
                stderr=console,
            )

    def end(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        return json.loads(self.body or b"{}")


@dataclass(frozen=True)
class Reply:
    status: int
    body: object = None
    headers: dict[str, str] = field(default_factory=dict)


class QuietServer(ThreadingHTTPServer):
    """Clients that are killed in the middle of a request are no news."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class FakeCloud:
    """Subclasses answer requests; `faults[what]` holds what goes wrong next."""

    secret = "the-account's-secret-0123456789"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stand_ins = make_stand_ins(folder / "bin")
        self.machines: dict[str, FakeMachine] = {}
        self.every_machine: list[FakeMachine] = []
        self.faults: dict[str, deque[str]] = {"create": deque(), "list": deque(), "destroy": deque()}
        self.requests: list[Request] = []
        self.boots = True
        self.page_size = 1_000
        self.guard = threading.RLock()
        self._server = QuietServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for machine in self.every_machine:
            machine.end()

    def reply(self, request: Request) -> Reply:
        raise NotImplementedError

    def fault(self, what: str) -> str:
        return self.faults[what].popleft() if self.faults[what] else ""

    def add(self, name: str, size: str, region: str, tags: list[str], script: str, boot: bool = True) -> FakeMachine:
        number = str(1000 + len(self.every_machine))
        machine = FakeMachine(self.new_id(number), name, size, region, tuple(tags), script, self.folder / f"m{number}")
        self.machines[machine.id] = machine
        self.every_machine.append(machine)
        if boot and self.boots:
            machine.boot(self.stand_ins)
        return machine

    def new_id(self, number: str) -> str:
        return number

    def remove(self, machine_id: str) -> bool:
        machine = self.machines.pop(machine_id, None)
        if machine is not None:
            machine.end()
        return machine is not None

    def page(self, machines: list[FakeMachine], number: int, size: int) -> tuple[list[FakeMachine], bool]:
        """A page, and whether another follows. With the fault 'twice' pages overlap, as when machines come and go."""
        size = min(size, self.page_size)
        overlap = 1 if self.faults["list"] and self.faults["list"][0] == "twice" else 0
        start = max(0, (number - 1) * size - overlap * (number - 1))
        return machines[start : start + size], start + size < len(machines)


def _handler(cloud: FakeCloud) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {k.lower(): v for k, v in self.headers.items()}
            request = Request(self.command, parts.path, dict(parse_qsl(parts.query)), headers, body)
            with cloud.guard:
                cloud.requests.append(request)
                reply = cloud.reply(request)
            content = reply.body if isinstance(reply.body, bytes) else b""
            if not isinstance(reply.body, bytes) and reply.body is not None:
                content = json.dumps(reply.body).encode()
            self.send_response(reply.status)
            self.send_header("content-type", "application/json")
            for key, value in reply.headers.items():
                self.send_header(key, value)
            if reply.status != 204:
                self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = do_PATCH = answer  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
