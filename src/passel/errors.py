"""The exception family. Every error says what happened, where, and what to do; users never see a traceback for these."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator

_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN)
_BROKE = (errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED)


class PasselError(Exception):
    """An expected failure with a message for the user.

    `what` is one sentence, `where` the file, photo or step it concerns, `todo` what the user can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, where: str = "", todo: str = "") -> None:
        super().__init__(what, where, todo)
        self.what, self.where, self.todo = what, where, todo

    def __str__(self) -> str:
        place = f" [{self.where}]" if self.where else ""
        advice = f" → {self.todo}" if self.todo else ""
        return f"{self.what}{place}{advice}"


class UsageError(PasselError):
    """The command line is wrong: unknown option, value out of range."""

    exit_code = 2


class InputError(PasselError):
    """The photos or side files given cannot make a map."""


class StorageError(PasselError):
    """A folder cannot be read or written, or a disk is full."""


class ReconstructionError(PasselError):
    """Cameras could not be found for the survey or a submodel."""


class StepError(PasselError):
    """A step failed, died or ran past its time limit."""


class Interrupted(PasselError):  # noqa: N818 - the user asked for it, nothing went wrong
    """The user stopped the run; what is finished is kept."""

    exit_code = 130


def network_reason(error: BaseException) -> str:
    """Why nobody could be talked to, in words for people: what libraries say names their classes and the system's calls."""
    import ssl  # loads long, for processes that talk to nobody

    if isinstance(error, PasselError):
        return error.what
    for met in _from_the_root(error):
        if isinstance(met, ssl.SSLCertVerificationError):
            return f"its certificate is not believed here ({met.verify_message})"
        if isinstance(met, ssl.SSLError):
            return "it does not speak TLS as we do"
        if isinstance(met, socket.gaierror):
            return "its name leads to no address"
        if isinstance(met, TimeoutError):
            return "it does not answer"
        if isinstance(met, OSError) and (number := _number_of(met)):
            return _reason_of(number)
    return "the connection broke off"


def _from_the_root(error: BaseException) -> Iterator[BaseException]:
    """The error behind all others first."""
    chain: list[BaseException] = []
    met: BaseException | None = error
    while met is not None and met not in chain:
        chain.append(met)
        inner = getattr(met, "os_error", None)  # aiohttp's way of wrapping
        met = inner if isinstance(inner, BaseException) else met.__cause__ or met.__context__
    return reversed(chain)


def _number_of(error: OSError) -> int:
    """Of a host with several addresses, all of which fail, asyncio tells in text only."""
    said = re.search(r"\[Errno (\d+)\]", str(error))
    return max(0, error.errno or (int(said[1]) if said else 0))


def _reason_of(number: int) -> str:
    if number == errno.ECONNREFUSED:
        return "nobody listens at this address and port"
    if number in _NO_WAY:
        return "there is no way to it from here"
    if number in _BROKE:
        return "the connection broke off"
    return "it does not answer" if number == errno.ETIMEDOUT else os.strerror(number).lower()
