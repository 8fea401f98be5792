"""What nodes and networks say, made fit for people, files and arithmetic."""

from __future__ import annotations

import math
import os
import socket
import unicodedata

import aiohttp


def plain(value: object, most: int) -> str:
    """Text for one line of a list: as `sound`, and control codes, which a terminal would obey, are blanks."""
    return "".join(" " if unicodedata.category(c) == "Cc" else c for c in sound(value, most))


def sound(value: object, most: int) -> str:
    """Text that can be written to a file: JSON may hold halves of characters, which become '?'."""
    return str(value)[:most].encode("utf-8", "replace").decode("utf-8")


def number_or(instead: float, value: object) -> float:
    """The number; `instead` when it is none that can be counted with. Python reads NaN, Infinity and 400 digits as JSON."""
    try:
        number = float(value) if isinstance(value, int | float) else instead
    except OverflowError:
        return instead
    return number if math.isfinite(number) else instead


def why_silent(error: BaseException) -> str:
    """In words: what the library says names its classes and the system's calls."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, socket.gaierror):
        return "its name leads to no address"
    if isinstance(cause, ConnectionRefusedError):
        return "nothing listens at its address and port"
    if isinstance(cause, ConnectionError | aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError):
        return "the connection broke off"
    if isinstance(cause, TimeoutError):
        return "it was waited for in vain"
    if isinstance(cause, OSError) and (cause.errno or 0) > 0:
        return os.strerror(cause.errno or 0).lower()
    return plain(error, 200) or type(error).__name__
