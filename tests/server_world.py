"""A real server process for tests, and small clients for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from free_ports import free_port

PATIENCE_S = 240.0
PHOTO = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 20 + b"\xff\xd9"


class World:
    """A data folder, a port, and the server on it, which can be killed and started again."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.data, self.port = folder, folder / "data", free_port()
        self.script = folder / "script.txt"
        self.script.touch()
        self.settings = {"script": str(self.script), **settings}
        self.log = folder / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=PATIENCE_S, trust_env=False)

    def start(self) -> None:
        script = Path(__file__).with_name("server_process.py")
        words = [sys.executable, str(script), str(self.data), str(self.port), json.dumps(self.settings)]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log)
        self.wait(self._answers)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            self.http.get("/auth/info")
        except httpx.TransportError:
            return False
        return True

    def kill(self) -> None:
        """kill -9, as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(PATIENCE_S)

    def wait(self, condition: Any) -> Any:
        """What `condition` returns when it is true at last."""
        end_s = time.monotonic() + PATIENCE_S
        while not (result := condition()):
            assert time.monotonic() < end_s, self.log.read_text()
            time.sleep(0.02)
        return result

    # --- a client in NodeODM's manner ---

    def get(self, path: str, **params: Any) -> Any:
        response = self.http.get(path, params=params)
        assert response.status_code == 200, (path, response.status_code, response.text)
        return response.json()

    def post(self, path: str, data: Any = None, files: Any = None, **more: Any) -> Any:
        response = self.http.post(path, data=data, files=files, **more)
        assert response.status_code == 200, (path, response.status_code, response.text)
        return response.json()

    def init(self, token: str = "", **fields: str) -> str:
        answer = self.post("/task/new/init", {"name": "test", **fields}, params={"token": token})
        assert "uuid" in answer, answer
        return str(answer["uuid"])

    def upload(self, task: str, *photos: tuple[str, bytes], token: str = "") -> Any:
        files = [("images", photo) for photo in photos]
        return self.post(f"/task/new/upload/{task}", files=files, params={"token": token})

    def commit(self, task: str, token: str = "") -> Any:
        return self.post(f"/task/new/commit/{task}", params={"token": token})

    def submit(self, token: str = "", **fields: str) -> str:
        task = self.init(token, **fields)
        assert self.upload(task, ("a.jpg", PHOTO), ("b.jpg", PHOTO + b"b"), token=token)["success"]
        assert self.commit(task, token) == {"uuid": task}
        return task

    def info(self, task: str, **params: Any) -> Any:
        return self.get(f"/task/{task}/info", **params)

    def status(self, task: str, token: str = "") -> int:
        return int(self.info(task, token=token)["status"]["code"])

    def wait_for(self, task: str, *codes: int, token: str = "") -> int:
        return int(self.wait(lambda: (s := self.status(task, token)) in codes and s))

    def act(self, action: str, task: str, token: str = "", **fields: str) -> Any:
        return self.post(f"/task/{action}", {"uuid": task, **fields}, params={"token": token})

    def job_folder(self, task: str) -> Path:
        return self.data / "jobs" / task

    def driver_pid(self, task: str) -> int:
        file = self.job_folder(task) / "driver.pid"
        return int(self.wait(lambda: file.exists() and file.read_text()))


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextmanager
def running(folder: Path, **settings: Any) -> Iterator[World]:
    world = World(folder, **settings)
    try:
        world.start()
        yield world
    finally:
        world.stop()
        world.http.close()


def new_uuid() -> str:
    return str(uuid.uuid4())


def rss_mb(pid: int) -> float:
    """Resident memory of a process now."""
    with open(f"/proc/{pid}/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
