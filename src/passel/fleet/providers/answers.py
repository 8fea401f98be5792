"""Turns what clouds answer into the five ways in which they refuse, with no secret in the words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from passel.fleet.machine import BusyError, NoCapacityError, ProviderError, RefusedError, UncertainError

_NO_CAPACITY = re.compile(
    r"capacity|out_of_stock|out of stock|resource_unavailable|placement|not available in|currently unavailable"
    r"|sold out|spotmaxprice|maxspotinstancecount|instancelimitexceeded|vcpulimitexceeded|^unsupported",
    re.IGNORECASE,
)
_BUSY = re.compile(r"throttl|requestlimitexceeded|rate_limit|too_many_requests", re.IGNORECASE)
_LONGEST = 300


@dataclass(frozen=True)
class Answer:
    """An error as a cloud gave it."""

    cloud: str
    doing: str
    """What was asked, for people: 'create a machine'."""
    status: int | None
    """HTTP's status, None when there was no answer."""
    code: str = ""
    """The cloud's own short word."""
    message: str = ""
    retry_after: str = ""


class Response(Protocol):
    """What the SDKs' HTTP libraries have in common."""

    status_code: int
    headers: Mapping[str, str]

    def json(self) -> object:
        """The body. Raises ValueError when it is none."""


def spoken(cloud: str, doing: str, response: Response, code_field: str) -> Answer:
    """An error as the cloud's API told it, or a proxy on the way. code_field: where its own short word stands."""
    try:
        said = response.json()
    except ValueError:
        said = {}
    said = said if isinstance(said, dict) else {}
    return Answer(
        cloud=cloud,
        doing=doing,
        status=response.status_code,
        code=str(said.get(code_field, "")),
        message=str(said.get("message", "")),
        retry_after=response.headers.get("retry-after", ""),
    )


def problem(answer: Answer) -> ProviderError:
    """The error to raise."""
    words = " ".join(w for w in (answer.code, answer.message) if w)[:_LONGEST] or f"status {answer.status}"
    what = f"{answer.cloud} could not {answer.doing}: {words}"
    if answer.status is None:
        return UncertainError(what, todo="it is tried again")
    if answer.status == 429 or _BUSY.search(answer.code):
        return BusyError(what, todo="it is tried again later", wait_s=_seconds(answer.retry_after))
    if _NO_CAPACITY.search(answer.code) or _NO_CAPACITY.search(answer.message):
        return NoCapacityError(what, todo="the next region is tried")
    if answer.status >= 500:
        return UncertainError(what, todo="it is tried again")
    todo = "check key, size, image and quota"
    return RefusedError(what, todo="check the key to the account" if answer.status in {401, 403} else todo)


def _seconds(text: str) -> float:
    return min(600.0, float(text)) if re.fullmatch(r"\d+(\.\d+)?", text) else 0.0
