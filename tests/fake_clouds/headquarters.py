"""Stands in for the coordinator: machines report here over HTTP, and a fleet in another process asks here."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler

from fake_clouds.server import QuietServer
from passel.fleet.ports import Demand, JobDemand, WorkerSeen

BEAT = 'while curl -fsS -o /dev/null --data-binary @"$PASSEL_TOKEN_FILE" "$PASSEL_URL/beat/$PASSEL_MACHINE"; do sleep 0.3; done'
"""The join command of tests: the machine reports until it is turned away. The token is in no argument."""
_HEARD_S = 4.0


class Headquarters:
    """Implements the fleet's `Coordinator`; workers are busy while there are photos."""

    def __init__(self) -> None:
        self.photos = 0
        self.tokens: dict[str, str] = {}
        self.heard: dict[str, float] = {}
        self.drained: set[str] = set()
        self.forgotten: set[str] = set()
        self.every_token: list[str] = []
        self._server = QuietServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def beat(self, machine: str, token: str) -> bool:
        """True when the machine may work: a token joins once, and who has joined is known."""
        if machine not in self.heard and self.tokens.pop(machine, None) != token:
            return False
        self.heard[machine] = time.monotonic()
        return machine not in self.forgotten

    def demand(self) -> Demand:
        return Demand((JobDemand("job", self.photos, 0),) if self.photos else ())

    def workers(self) -> tuple[WorkerSeen, ...]:
        late = time.monotonic() - _HEARD_S
        names = [name for name, heard in list(self.heard.items()) if heard > late]
        return tuple(WorkerSeen(n, bool(self.photos) and n not in self.drained, n in self.drained) for n in names)

    def drain(self, worker: str, on: bool) -> None:
        (self.drained.add if on else self.drained.discard)(worker)

    def mint_join_token(self, machine: str, lifetime_s: float) -> str:
        token = f"join_{len(self.every_token)}_secret_of_{machine}"
        self.every_token.append(token)
        self.tokens[machine] = token
        return token

    def forget(self, worker: str) -> None:
        self.forgotten.add(worker)
        self.tokens.pop(worker, None)


class Line:
    """The same, from another process."""

    def __init__(self, url: str) -> None:
        self._url = url

    def _ask(self, call: str, *words: object) -> object:
        request = urllib.request.Request(f"{self._url}/call/{call}", json.dumps(words).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def demand(self) -> Demand:
        return Demand(tuple(JobDemand(**job) for job in self._ask("demand")["jobs"]))  # type: ignore[index]

    def workers(self) -> tuple[WorkerSeen, ...]:
        return tuple(WorkerSeen(**worker) for worker in self._ask("workers"))  # type: ignore[attr-defined]

    def drain(self, worker: str, on: bool) -> None:
        self._ask("drain", worker, on)

    def mint_join_token(self, machine: str, lifetime_s: float) -> str:
        return str(self._ask("mint_join_token", machine, lifetime_s))

    def forget(self, worker: str) -> None:
        self._ask("forget", worker)


def _handler(headquarters: Headquarters) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(200 if self.path == "/auth/info" else 404, {})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            _, kind, name = self.path.split("/")
            if kind == "beat":
                self._reply(200 if headquarters.beat(name, body.decode()) else 401, {})
                return
            result = getattr(headquarters, name)(*json.loads(body))
            if isinstance(result, Demand):
                result = asdict(result)
            elif isinstance(result, tuple):
                result = [asdict(worker) for worker in result]
            self._reply(200, result)

        def _reply(self, status: int, body: object) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
