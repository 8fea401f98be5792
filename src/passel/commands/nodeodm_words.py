"""NodeODM's command line and configuration file, for those who bring theirs to `passel serve`.

Names of flags are read with `_` as with `-`; `--config FILE` may hold the rest as NodeODM's JSON. What means the same here is
taken; what does not is refused with what takes its place, or named and left out where nothing is lost.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from passel.errors import InputError, UsageError

_BUCKET = "results go to the bucket of the fleet file: docs/cloud.md"
_SERVICE = "the system starts it: ExecStart=passel serve … in a systemd unit"
INSTEAD = {
    **dict.fromkeys(("daemon", "deamon", "d"), _SERVICE),
    **dict.fromkeys(("s3-endpoint", "s3-bucket", "s3-access-key", "s3-secret-key"), _BUCKET),
    "powercycle": "`passel --version` shows whether it starts",
    "authorized-ips": "tokens say who may use it (passel token), a firewall says from where",
}
"""NodeODM's settings that are refused when they are on, and what takes their place."""
WITHOUT_EFFECT = frozenset(
    {
        *("odm-path", "log-level", "logger", "instance"),
        *("s3-force-path-style", "s3-signature-version", "s3-acl", "s3-upload-everything", "s3-ignore-ssl"),
    }
)
"""Those that are left out: the engine is a part of Passel, the log goes to standard error."""
_FLAGS = frozenset(
    {"daemon", "deamon", "d", "powercycle", "s3-force-path-style", "s3-upload-everything", "s3-ignore-ssl"}
)
"""Those among both that take no value."""


def in_our_words(words: tuple[str, ...]) -> list[str]:
    """The words in Passel's spelling, those of a --config before the others, so that these win. Raises UsageError, InputError."""
    ours: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        flag, equals, value = word.partition("=")
        name = _kebab(flag.lstrip("-")) if flag.startswith("--") or flag == "-d" else ""
        if name == "config":
            ours[:0] = _words_of(Path(value if equals else _value(queue, flag)))
        elif name in INSTEAD or name in WITHOUT_EFFECT:
            on = "true" if name in _FLAGS and not equals else value if equals else _value(queue, flag)
            _leave_out(name, on)
        elif name:
            ours.append(f"--{name}{equals}{value}")
        else:
            ours.append(word)
    return ours


def _value(queue: list[str], flag: str) -> str:
    if not queue:
        raise UsageError(f"{flag} needs a value")
    return queue.pop(0)


def _leave_out(name: str, value: str) -> None:
    """Raises UsageError when somebody would miss it."""
    if name in INSTEAD and value not in ("", "false", "0"):
        raise UsageError(f"passel serve has no --{name}", todo=INSTEAD[name])
    if name in WITHOUT_EFFECT and value:
        print(f"passel: --{name} has no effect here", file=sys.stderr)


def _words_of(file: Path) -> list[str]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except OSError as e:
        raise InputError(f"the configuration cannot be read: {e.strerror}", str(file), "correct --config") from None
    except (ValueError, RecursionError) as e:
        raise InputError(f"the configuration is no JSON: {e}", str(file), "correct it") from None
    if not isinstance(found, dict):
        raise InputError("the configuration is no JSON object", str(file), 'it looks like {"port": 3000}')
    return [word for key, value in found.items() for word in _of_setting(_kebab(str(key)), value)]


def _of_setting(name: str, value: object) -> Iterator[str]:
    if name in INSTEAD or name in WITHOUT_EFFECT:
        _leave_out(name, json.dumps(value) if value else "")
    elif isinstance(value, bool):
        if value:
            yield f"--{name}"
    elif isinstance(value, str | int | float):
        if value != "":
            yield f"--{name}={value}"
    elif value is not None:
        raise UsageError(f"{name} in the configuration is neither text nor a number", str(value)[:100])


def _kebab(name: str) -> str:
    """`max_images` and `maxImages` → `max-images`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).replace("_", "-").lower()
