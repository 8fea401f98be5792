"""Runs a server for tests: server_process.py DATA PORT SETTINGS-JSON. Its driver is server_driver.py, or with `test` the canned
one; with `tokens` (token → owner) it asks for them; with `fleet` (a file) results go to its bucket.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from passel.server.app import create_app
from passel.server.ports import Task
from passel.server.settings import Limits, ServerSettings, TestMode
from passel.server.sockets import uvicorn_config
from passel.serving.fleet import results_bucket


@dataclass(frozen=True)
class Scripted:
    script: str

    def __call__(self, task: Task, lifeline_fd: int) -> tuple[str, ...]:
        words = self.script, task.uuid, str(task.photos), str(task.output), str(task.options), str(lifeline_fd)
        return sys.executable, str(Path(__file__).with_name("server_driver.py")), *words


@dataclass(frozen=True)
class Tokens:
    owners: dict[str, str]

    def owner_of(self, token: str) -> str | None:
        return self.owners.get(token)


def main() -> None:
    data, port, text = sys.argv[1:]
    given = json.loads(text)
    logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
    tokens = given.pop("tokens", None)
    script = given.pop("script", "")
    fleet = given.pop("fleet", None)
    test = given.pop("test", None)
    settings = ServerSettings(
        Path(data),
        test=None if test is None else TestMode(**test),
        limits=Limits(**given.pop("limits", {})),
        **given,
    )
    checker = None if tokens is None else Tokens(tokens)
    bucket = None if fleet is None else results_bucket(Path(fleet))
    server = create_app(settings, Scripted(script), checker, results=bucket)
    uvicorn.Server(uvicorn_config(server, "127.0.0.1", int(port))).run()


if __name__ == "__main__":
    main()
