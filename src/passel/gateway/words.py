"""What nodes and networks say, made fit for people, files and arithmetic."""

from __future__ import annotations

import math
import unicodedata


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
