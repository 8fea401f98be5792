"""Reading command lines: argparse, with Passel's way of saying what is wrong."""

from __future__ import annotations

import argparse
import math
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from passel.errors import UsageError

_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class CommandParser(argparse.ArgumentParser):
    """One line and exit code 2 for what is wrong; `--help` as usual."""

    def __init__(self, command: str = "", description: str = "", prog: str = "") -> None:
        """command: its words after `passel`. prog: given by argparse for the parts of a command instead."""
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(prog or f"passel {command}", None, description, formatter_class=formatter, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        raise UsageError(f"{self.prog}: {message}", todo=f"`{self.prog} --help` tells more")


def own_command() -> str:
    """`passel` as it was typed, so that what we tell people to type works for them."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m passel"
    found = shutil.which("passel")
    is_found = found is not None and program.exists() and program.samefile(found)
    return shlex.quote(str(program)) if program.name == "passel" and not is_found else "passel"


def with_data(data: Path | None) -> str:
    """What a command needs to find this data folder: '' when it is the usual one."""
    return "" if data is None or data == default_data() else f" --data {shlex.quote(str(data))}"


def token_of_environment(first: str = "PASSEL_TOKEN") -> str:
    """The API token: whoever knows one of its two names need not learn the other. first: counts before the other."""
    return next((t for n in (first, "PASSEL_TOKEN", "PASSEL_API_TOKEN") if (t := os.environ.get(n, ""))), "")


def whole(lowest: int, highest: int | None = None) -> Callable[[str], int]:
    """A reader of whole numbers within bounds."""

    def read(text: str) -> int:
        number = int(text) if re.fullmatch(r"[+-]?[0-9]{1,15}", text) else None
        if number is None or number < lowest or (highest is not None and number > highest):
            bounds = f"{lowest} or more" if highest is None else f"{lowest} to {highest}"
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number, {bounds}")
        return number

    return read


def positive(text: str) -> float:
    """A reader of numbers above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e12:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number


def duration_s(text: str) -> float:
    """Seconds of '90s', '30m', '24h', '7d'; infinity for 'never'."""
    if text == "never":
        return math.inf
    match = re.fullmatch(r"([0-9]{1,9})(s|m|min|h|d|w)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time like 30m, 24h, 7d or never")
    return float(int(match[1]) * _SECONDS[match[2]])


def own_folder() -> Path:
    """Where Passel keeps what belongs to this user: `$XDG_DATA_HOME/passel`, usually `~/.local/share/passel`."""
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "share") / "passel"


def default_data() -> Path:
    """The data folder of `passel serve` when none is named."""
    return own_folder() / "coordinator"


def folder(text: str) -> Path:
    """A reader of folders; nothing is made."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("the folder's name is empty")
    return Path(text).expanduser().absolute()
