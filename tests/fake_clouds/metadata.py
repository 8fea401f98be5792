"""EC2's metadata service of one machine, version 2: a session by PUT, and a spot notice once there is one."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler

from fake_clouds.server import QuietServer

_SESSION = "a-session-of-this-machine"


class FakeMetadata:
    """`notice`: what instance-action says; '' = 404, as long as the machine is not taken back. `asked`: how often it was."""

    def __init__(self) -> None:
        self.notice, self.asked = "", 0
        self._server = QuietServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(service: FakeMetadata) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def do_PUT(self) -> None:
            timed = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "").isdecimal()
            good = self.path == "/latest/api/token" and timed
            self.answer(200 if good else 400, _SESSION if good else "")

        def do_GET(self) -> None:
            if self.headers.get("X-aws-ec2-metadata-token") != _SESSION:
                self.answer(401, "")
                return
            service.asked += 1
            there = self.path == "/latest/meta-data/spot/instance-action" and service.notice
            self.answer(200 if there else 404, service.notice if there else "")

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
