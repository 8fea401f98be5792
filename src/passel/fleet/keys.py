"""Taking values out of a file the user wrote: typed, with messages that name the key, and nothing silently ignored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from passel.errors import UsageError
from passel.fleet.secret import SAMPLE_WORDS, Secret, read_secret


class Keys:
    """A table of a user's file. Every key is taken once; what is left over is unknown."""

    def __init__(self, table: Mapping[str, object], file: Path, path: str = "") -> None:
        self._table = dict(table)
        self._file = file
        self._path = path
        self._inner: list[Keys] = []

    def where(self, key: str) -> str:
        """The place of a key, for messages."""
        return f"{self._file}: {self._path}{key}"

    def has(self, key: str) -> bool:
        """True when the key is there and not yet taken."""
        return key in self._table

    def text(self, key: str, default: str | None = None) -> str:
        """A text; required when there is no default."""
        value = self._take(key, default)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)  # image numbers are often written without quotes
        if not isinstance(value, str):
            raise self._wrong(key, "a text")
        if value in SAMPLE_WORDS:
            raise UsageError(f"The sample's {value} is still there", self.where(key), "write your own value")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number; required when there is no default."""
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or math.isinf(value):
            raise self._wrong(key, "a number")
        return float(value)

    def optional_number(self, key: str, lowest: float = 0.0) -> float | None:
        """A number, or None when the key is missing or -1 (ClusterODM's word for none)."""
        if not self.has(key):
            return None
        value = self.number(key)
        if value == -1:
            return None
        if value < lowest:
            raise self._wrong(key, f"at least {lowest:g}, or -1 for none")
        return value

    def at_least(self, key: str, lowest: float, default: float) -> float:
        """A number that is not below `lowest`."""
        value = self.number(key, default)
        if value < lowest:
            raise self._wrong(key, f"at least {lowest:g}")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false."""
        value = self._take(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def texts(self, key: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        """A text or a list of texts."""
        value = self._take(key, list(default))
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(v, str) and v for v in values):
            raise self._wrong(key, "a text or a list of texts")
        return tuple(values)

    def secret(self, key: str, required: bool = True) -> Secret:
        """A secret in place or by reference; an empty one when it is missing and not required."""
        if not self.has(key) and not required:
            return Secret("")
        value = read_secret(self._take(key, None), self.where(key), self._file.parent)
        if required and not value:
            raise self._wrong(key, "not empty")
        return value

    def table(self, key: str) -> Keys:
        """A table inside; an empty one when missing."""
        value = self._take(key, {})
        if not isinstance(value, dict):
            raise self._wrong(key, "a table")
        return self._enter(value, f"{key}.")

    def tables(self, key: str) -> list[Keys]:
        """A list of tables; empty when missing."""
        value = self._take(key, [])
        if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
            raise self._wrong(key, "a list of tables")
        return [self._enter(v, f"{key}[{n}].") for n, v in enumerate(value)]

    def unknown(self) -> list[str]:
        """Keys that nobody took, here and in tables inside."""
        own = [f"{self._path}{key}" for key in self._table]
        return own + [name for inner in self._inner for name in inner.unknown()]

    def drop(self, *keys: str) -> list[str]:
        """Takes keys that mean nothing to Passel; returns those that were there."""
        return [f"{self._path}{key}" for key in keys if self._table.pop(key, None) is not None]

    def _enter(self, table: Mapping[str, object], path: str) -> Keys:
        inner = Keys(table, self._file, self._path + path)
        self._inner.append(inner)
        return inner

    def _take(self, key: str, default: object) -> object:
        if key not in self._table and default is None:
            raise UsageError("A key is missing", self.where(key), "add it")
        return self._table.pop(key, default)

    def _wrong(self, key: str, wanted: str) -> UsageError:
        return UsageError(f"The value must be {wanted}", self.where(key), "correct it")
