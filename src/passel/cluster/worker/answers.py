"""What the coordinator's HTTP answers mean for a worker: go on, wait, give this up, or leave."""

from __future__ import annotations

import aiohttp

from passel.cluster.wire.workers import WireError, WireProblem, decode
from passel.errors import PasselError


class RefusedError(PasselError):
    """The coordinator does not want this worker: wrong version, revoked or foreign certificate. Trying again is of no use."""


class NotThereError(PasselError):
    """The coordinator knows of no such thing: the job is gone, or the photo was taken away."""


class GoneError(PasselError):
    """An artifact that was lost where it was kept: it is being made again, and this step is for later."""


class DamagedError(PasselError):
    """What the coordinator received is not what the manifest says; or what comes from it is not what it said, again and again."""


class Unready(Exception):  # noqa: N818 - not an error, a reason to wait
    """An answer that says: later. after_s: when, if the coordinator said so."""

    def __init__(self, reason: str, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.after_s = after_s


class Astray(Unready):
    """Bytes came that are not those announced."""


class Trouble(Unready):
    """Something went wrong over there that may pass; if it does not, `problem` says what it was."""

    def __init__(self, problem: WireProblem) -> None:
        super().__init__(problem.what)
        self.problem = problem


class AlreadyThere(Exception):  # noqa: N818 - good news
    """409: the artifact exists."""


def named_sha256(response: aiohttp.ClientResponse) -> str:
    """The content's sha256 in the ETag, '' if there is none."""
    etag = response.headers.get("ETag", "").removeprefix("W/").strip('"')
    return etag if len(etag) == 64 else ""


async def raise_for(response: aiohttp.ClientResponse) -> None:
    """Nothing for 2xx; else the exception that the answer means."""
    status = response.status
    if status < 300:
        return
    if status == 409:
        raise AlreadyThere
    problem = await _problem(response)
    if status in (401, 403, 426):
        raise RefusedError(problem.what, problem.where, problem.todo)
    if status == 410:
        raise GoneError(problem.what, problem.where, problem.todo)
    if status == 404:
        raise NotThereError(problem.what, problem.where, problem.todo)
    if status in (400, 422):
        raise DamagedError(problem.what, problem.where, problem.todo)
    if status == 500:
        raise Trouble(problem)
    after_s = response.headers.get("Retry-After", "")
    raise Unready(f"{problem.what} ({status})", float(after_s) if after_s.isdecimal() else 1.0)


async def _problem(response: aiohttp.ClientResponse) -> WireProblem:
    try:
        return decode(WireProblem, await response.read())
    except WireError:
        if response.status == 507:  # to HEAD, which has no body
            return WireProblem("The disk is full", str(response.url))
        return WireProblem(f"The coordinator answers {response.status} {response.reason}", str(response.url))
