"""Looking after a passel: what runs where and how fast, draining and revoking workers.

Over the unix socket `admin.sock` in the coordinator's data folder, whose mode is the permission, or over the workers' port
with an API token of the operator's (one without a name of its own).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web

from passel import __version__
from passel.cluster.coordinator.status import PasselStatus
from passel.cluster.trust.admit import problem, small_body
from passel.cluster.trust.roster import Member
from passel.cluster.trust.tokens import OWN_NAME, Throttle, TokenRefused, Tokens
from passel.cluster.wire.workers import WireError, decode, encode
from passel.errors import PasselError, UsageError

OVERVIEW_PATH = "/v1/admin/overview"
DRAIN_PATH = "/v1/admin/drain"
REVOKE_PATH = "/v1/admin/revoke"
SOCKET = "admin.sock"


@dataclass(frozen=True)
class JobLine:
    """A job that is not over. state: as in server/jobs.py. progress: percent. rest_s: forecast, None = not known yet."""

    uuid: str
    name: str
    state: str
    photos: int
    progress: float
    rest_s: float | None


@dataclass(frozen=True)
class Overview:
    """A passel at a moment. steps_a_minute: over the last minutes. rest_s: until all jobs are done, None = not known."""

    name: str
    version: str
    uptime_s: float
    steps_a_minute: float
    rest_s: float | None
    jobs: tuple[JobLine, ...]
    passel: PasselStatus
    members: tuple[Member, ...]


@dataclass(frozen=True)
class DrainOrder:
    """drained: True = no new steps for this worker, False = again some."""

    worker: str
    drained: bool


@dataclass(frozen=True)
class RevokeOrder:
    """Shut this worker out for good."""

    worker: str


@dataclass(frozen=True)
class Done:
    """The order was carried out."""

    text: str


class Passel(Protocol):
    """What the API looks at and gives orders to."""

    def overview(self) -> Overview:
        """This moment."""
        ...

    def drain(self, worker: str, drained: bool) -> bool:
        """Whether there is such a worker."""
        ...

    def revoke(self, worker: str) -> None:
        """Raises UsageError if there is no such worker."""
        ...


class AdminApi:
    """The routes. tokens: those that open it; None where the socket's permissions have decided already."""

    def __init__(self, passel: Passel, tokens: Tokens | None, throttle: Throttle) -> None:
        self._passel, self._tokens, self._throttle = passel, tokens, throttle

    def routes(self) -> list[web.RouteDef]:
        """For the application that listens."""
        return [
            web.get(OVERVIEW_PATH, self._overview),
            web.post(DRAIN_PATH, self._drain),
            web.post(REVOKE_PATH, self._revoke),
        ]

    async def _overview(self, request: web.Request) -> web.Response:
        return self._refusal(request) or _json(self._passel.overview())

    async def _drain(self, request: web.Request) -> web.Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        try:
            order = decode(DrainOrder, await small_body(request))
        except WireError as e:
            return problem(400, e)
        if not self._passel.drain(order.worker, order.drained):
            return problem(404, UsageError("no such worker is connected", order.worker, "`passel workers` lists them"))
        return _json(Done("takes no new steps" if order.drained else "takes steps again"))

    async def _revoke(self, request: web.Request) -> web.Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        try:
            order = decode(RevokeOrder, await small_body(request))
            self._passel.revoke(order.worker)
        except WireError as e:
            return problem(400, e)
        except UsageError as e:
            return problem(404, e)
        return _json(Done("is shut out"))

    def _refusal(self, request: web.Request) -> web.Response | None:
        """None if the request may pass."""
        if self._tokens is None:
            return None
        address = request.remote or ""
        if self._throttle.must_wait(address):
            return problem(429, TokenRefused("too many wrong tokens from this address", address, "wait a minute"))
        shown = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        try:
            token = self._tokens.check("api", shown)
        except TokenRefused as e:
            self._throttle.wrong(address)
            return problem(401, e)
        except PasselError as e:
            return problem(500, e)
        if token.name != OWN_NAME:  # somebody's who submits photos: other people's tasks are not theirs to see
            todo = "on the coordinator: passel token create --api, without a name"
            return problem(403, TokenRefused("this token does not look after the passel", token.name, todo))
        return None


class Pace:
    """How many steps are finished a minute, from a count that is looked at now and then."""

    def __init__(self, window_s: float = 180.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._window_s, self._clock = window_s, clock
        self._seen: deque[tuple[float, int]] = deque()

    def look(self, count: int) -> None:
        """The count of this moment. One that is smaller than before (a worker was forgotten) begins anew."""
        now_s = self._clock()
        if self._seen and count < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((now_s, count))
        while self._seen[0][0] < now_s - self._window_s:
            self._seen.popleft()

    def a_minute(self) -> float:
        """Steps a minute over the window, 0 before two looks."""
        if len(self._seen) < 2 or self._seen[-1][0] <= self._seen[0][0]:
            return 0.0
        (first_s, first), (last_s, last) = self._seen[0], self._seen[-1]
        return round(60.0 * (last - first) / (last_s - first_s), 1)


def overview_of(
    name: str, uptime_s: float, pace: Pace, jobs: tuple[JobLine, ...], passel: PasselStatus, members: tuple[Member, ...]
) -> Overview:
    """Put it together. Jobs share the machines, so the last one's end is the end of all."""
    rests = [j.rest_s for j in jobs]
    known = [r for r in rests if r is not None]
    rest_s = max(known) if known and len(known) == len(rests) else None
    return Overview(name, __version__, round(uptime_s, 1), pace.a_minute(), rest_s, jobs, passel, members)


def _json(record: Overview | Done) -> web.Response:
    return web.Response(body=encode(record), content_type="application/json")
