"""The table of options as the API shows it, the check of what clients send, and the words a driver gets.

Clients never name files of the server: options whose value is a path are hidden and refused, and `cameras` takes only
JSON text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

from passel.errors import UsageError
from passel.option_table import BY_NAME, TABLE, Option, Range
from passel.options import has_json_text, parse_value
from passel.server.jobs import GivenOption, JobError, OptionValue

HIDDEN = frozenset({"output", "name", "project-path", "rerun-all", "rerun", "cluster", "sm-cluster", "token"})
"""Options that concern a command line or the server's own disk; paths are hidden too."""
POST_PROCESSING = ("pc-ept", "cog", "gltf")
"""What NodeODM turns on unless told to skip it; its clients look for them in a task's options."""


@dataclass(frozen=True)
class Choice:
    """What a client asked for. options: known ones in the table's order, typed. ignored: unknown names."""

    options: tuple[GivenOption, ...]
    ignored: tuple[str, ...]


def _is_offered(option: Option) -> bool:
    return option.type != "path" and option.name not in HIDDEN


_MEANT = frozenset({"max-concurrency"})
"""Options whose default, said aloud, means something: the cores of this machine are fewer than those of a passel."""
OFFERED = {o.name: o for o in TABLE if _is_offered(o)}


def options_json() -> bytes:
    """The body of GET /options: NodeODM's five keys, all defaults as text."""
    return json.dumps([_row(o) for o in OFFERED.values()], separators=(",", ":")).encode()


def _row(option: Option) -> dict[str, object]:
    prefix = {"later": "Not supported yet: ", "harmless": "No effect: "}.get(option.status, "")
    unit = f" [{option.unit}]" if option.unit else ""
    return {
        "name": option.name,
        "type": option.type,
        "value": _as_text(option),
        "domain": _domain(option),
        "help": f"{prefix}{option.help}{unit}",
    }


def _as_text(option: Option) -> str:
    if isinstance(option.default, bool):
        return "true" if option.default else "false"
    return "" if option.default is None else str(option.default)


def _domain(option: Option) -> str | list[str]:
    if isinstance(option.domain, tuple):
        return list(option.domain)
    if isinstance(option.domain, Range):
        if option.type == "int" and option.domain == Range(1):
            return "positive integer"
        kind = "integer" if option.type == "int" else "float"
        low = f"{kind} {'>' if option.domain.open_low else '>='} {option.domain.low:g}"
        return (
            low if math.isinf(option.domain.high) else f"{kind}: {option.domain.low:g} <= x <= {option.domain.high:g}"
        )
    if option.name in {"cameras", "boundary"}:
        return "json"
    return {"int": "integer", "float": "float", "bool": "bool"}.get(option.type, "string")


def choose(text: str, skip_post_processing: bool, max_concurrency: int) -> Choice:
    """Check the `options` field of a client (JSON list of {name, value}); JobError with NodeODM's wording of errors.

    As in NodeODM: what is not a list counts as no options, and unknown names are not an error.
    """
    try:
        given = json.loads(text) if text.strip() else []
    except (ValueError, RecursionError) as e:
        raise JobError(f"options is not valid JSON: {e}") from None
    rows = (
        [r for r in given if isinstance(r, dict) and isinstance(r.get("name"), str)] if isinstance(given, list) else []
    )
    values: dict[str, OptionValue] = {}
    ignored: dict[str, None] = {}
    errors: list[dict[str, str]] = []
    for row in rows:
        name = row["name"].removeprefix("--")
        option = OFFERED.get(name)
        if option is None:
            ignored[name[:100]] = None
            continue
        try:
            values[name] = _checked(option, row.get("value"))
        except UsageError as e:
            errors.append({"name": name, "error": f"Invalid value {row.get('value')!s:.100} ({e.what:.300})"})
    if errors:
        raise JobError(json.dumps(errors))
    if max_concurrency:
        asked = values.get("max-concurrency", max_concurrency)
        values["max-concurrency"] = min(int(asked), max_concurrency)
    if not skip_post_processing:
        values |= dict.fromkeys(POST_PROCESSING, True)
    return Choice(_in_order(values), tuple(ignored)[:100])


def _in_order(values: dict[str, OptionValue]) -> tuple[GivenOption, ...]:
    """NodeODM's order: the client's options as the table has them, then those of post-processing."""
    first = [n for n in OFFERED if n in values and n not in POST_PROCESSING]
    return tuple(GivenOption(n, values[n]) for n in (*first, *(n for n in POST_PROCESSING if n in values)))


def _checked(option: Option, value: object) -> OptionValue:
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, int | float | str):
        text = str(value)
    elif isinstance(value, dict | list) and option.type == "string":
        text = json.dumps(value)
    else:
        raise UsageError("neither text nor a number")
    if option.type == "int" and isinstance(value, float) and value.is_integer():
        text = str(int(value))  # JavaScript knows no whole numbers
    if not text and option.default in (None, ""):
        return ""  # a form field left empty
    if "\0" in text:
        raise UsageError("it has a NUL character")
    if option.name == "cameras" and not has_json_text(text):
        raise UsageError("it must be the JSON text of a cameras.json")
    checked = parse_value(option, text)
    assert isinstance(checked, bool | int | float | str), "paths are not offered"
    return checked


def words_for_driver(options: Iterable[GivenOption]) -> list[str]:
    """The supported options among them as a command line; defaults and flags that are off are left out."""
    words: list[str] = []
    for given in options:
        option = BY_NAME[given.name]
        is_default = given.value in ("", option.default) and given.name not in _MEANT
        if option.status != "supported" or is_default or given.value is False:
            continue
        words.append(f"--{given.name}" if given.value is True else f"--{given.name}={given.value}")
    return words


def notices(options: Iterable[GivenOption], ignored: Iterable[str]) -> list[str]:
    """Lines that name what the client asked for and will not get."""
    lines = []
    harmless = []
    for given in options:
        option = BY_NAME[given.name]
        if given.name in POST_PROCESSING or given.value in ("", option.default):
            continue
        if option.status == "later":
            lines.append(f"warning: --{given.name} is not supported yet: {option.help}")
        elif option.status == "harmless":
            harmless.append(f"--{given.name}")
    if harmless:
        lines.append("note: without effect here: " + ", ".join(harmless))
    unknown = ", ".join(f"--{n!s}" for n in ignored)
    return [*lines, *([f"warning: unknown options are ignored: {unknown}"] if unknown else [])]
