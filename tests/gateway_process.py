"""A coordinator with a gateway, for tests: gateway_process.py DATA PORT SETTINGS-JSON. Its own engine is the canned driver.

Settings: server (of ServerSettings), engine, policy (file), tokens (token → owner), url (where nodes reach it), and the
patience of forwarders: silent_s, poll_s, wait_s; look_every_s.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import uvicorn

from passel.gateway.forward import Patience
from passel.gateway.gateway import Gateway, GatewaySettings
from passel.gateway.policy import Engine, Policy, read_policy
from passel.server.app import PasselServer, create_app
from passel.server.canned import CannedDriver
from passel.server.jobs import Job
from passel.server.ports import Task
from passel.server.settings import ServerSettings, TestMode
from passel.server.sockets import uvicorn_config


@dataclass
class Jobs:
    server: list[PasselServer] = field(default_factory=list)

    def job(self, uuid: str) -> Job | None:
        return next((j for j in self.server[0].service.all_tasks() if j.uuid == uuid), None)


@dataclass(frozen=True)
class TestDoor:
    url: str
    __test__ = False

    def url_for(self, owner: str, job: str) -> str:
        return f"{self.url}/?token=of-{owner}" if self.url else ""

    def shut(self, url: str) -> None:
        pass


@dataclass(frozen=True)
class Tokens:
    owners: dict[str, str]

    def owner_of(self, token: str) -> str | None:
        return self.owners.get(token)


async def serve(data: Path, port: int, given: dict) -> None:
    jobs = Jobs()
    patience = Patience(given.get("silent_s", 3.0), given.get("poll_s", 0.1), given.get("wait_s", 0.1))
    policy = read_policy(Path(given["policy"])) if "policy" in given else Policy()
    look_every_s, private = given.get("look_every_s", 0.5), given.get("server", {}).get("allow_private_urls", False)
    settings = GatewaySettings(Engine(given.get("engine", "auto")), policy, patience, look_every_s, private)
    gateway = Gateway(data, settings, jobs, TestDoor(given.get("url", "")))
    canned = CannedDriver(TestMode())

    def command(task: Task, lifeline_fd: int) -> tuple[str, ...]:
        return gateway.command(task, lifeline_fd) or canned(task, lifeline_fd)

    tokens = Tokens(given["tokens"]) if "tokens" in given else None
    usual = ServerSettings(data, **{"parallel_jobs": 30, **given.get("server", {})})
    limited = replace(usual, limits_of=lambda owner: policy.limits(owner, usual.limits))
    server = create_app(limited, command, tokens)
    jobs.server.append(server)
    await gateway.start()
    try:
        await uvicorn.Server(uvicorn_config(server, "127.0.0.1", port)).serve()
    finally:
        await gateway.close()


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])))


if __name__ == "__main__":
    main()
