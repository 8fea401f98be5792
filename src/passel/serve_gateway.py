"""What `serve.py` gives the gateway: the server's jobs, and a way for nodes to send us the parts of a split task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from passel.cluster.tokens import Tokens
from passel.server.jobs import Job
from passel.server.service import JobService

SPLIT_OWNER = "split"
_LIFETIME_S = 7 * 86_400.0


@dataclass(frozen=True)
class GatewayJobs:
    """The gateway's `Jobs`. service: asked for late, for the server is made after the gateway."""

    service: Callable[[], JobService]

    def job(self, uuid: str) -> Job | None:
        """The task, whoever owns it."""
        return next((j for j in self.service().all_tasks() if j.uuid == uuid), None)


@dataclass(frozen=True)
class PublicDoor:
    """The gateway's `Door`. page: the public port's address as nodes reach it, ending in '/'; '' while there is none."""

    tokens: Tokens
    page: Callable[[], str]

    def url_for(self, owner: str, job: str) -> str:
        """With a token of its own for this job, which others may read on the node: never one of the operator's."""
        page = self.page()
        if not page:
            return ""
        return f"{page}?token={self.tokens.create('api', owner or SPLIT_OWNER, _LIFETIME_S)}"
