"""Secrets: given in place, by a file or by an environment variable; never shown."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from passel.errors import UsageError

SAMPLE_WORDS = frozenset({"CHANGEME!", "CHANGEME"})
"""What ClusterODM's samples have where a user's own values belong."""


@dataclass(frozen=True)
class Secret:
    """A value that shows itself only to who asks for `value`."""

    value: str = field(repr=False)

    def __str__(self) -> str:
        return "(secret)"

    def __bool__(self) -> bool:
        return bool(self.value)


def read_secret(given: object, where: str, folder: Path) -> Secret:
    """A secret from 'text', {'env': NAME} or {'file': PATH}; relative paths are relative to `folder`. Raises UsageError."""
    if isinstance(given, str):
        value = given
    elif isinstance(given, dict) and set(given) == {"env"}:
        value = _from_environment(str(given["env"]), where)
    elif isinstance(given, dict) and set(given) == {"file"}:
        value = _from_file(folder / str(given["file"]), where)
    else:
        raise UsageError("A secret is not understood", where, 'write a text, {"env": "NAME"} or {"file": "PATH"}')
    if value in SAMPLE_WORDS:
        raise UsageError(f"The sample's {value} is still there", where, "write your own value")
    return Secret(value)


def _from_environment(name: str, where: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise UsageError(f"The environment variable {name} is not set", where, "set it before starting Passel")
    return value


def _from_file(path: Path, where: str) -> str:
    try:
        value = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"The secret's file cannot be read: {path}", where, "check the path and who may read it"
        ) from error
    if not value:
        raise UsageError(f"The secret's file is empty: {path}", where, "put the secret into it")
    return value
