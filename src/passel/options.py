"""The checked options of a job, and reading them from a command line. The table itself is in option_table.py."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from passel.errors import UsageError
from passel.option_table import (
    BY_NAME,
    LENSES,
    LENSES_LATER,
    SHORT,
    STAGE_OF_ODM,
    SUPPORTED,
    TABLE,
    Option,
    Range,
    Value,
)

_MOST_DIGITS = 18


def _default(name: str) -> Any:
    """The table's default: Options must not state it a second time."""
    return BY_NAME[name].default


@dataclass(frozen=True)
class Options:
    """The supported options, checked.

    split: photos a submodel. split_overlap_m: width of the halo. split_image_groups: ODM's image_groups.txt or None.
    sm_no_align: leave out the joint adjustment of submodels. feature_quality: 'ultra' … 'lowest'.
    orthophoto_resolution_cm, dem_resolution_cm: cell size, None = from the estimated ground sampling distance.
    ignore_gsd: allow cells finer than the photos resolve. dsm: asked for by name (it is always made).
    fast_orthophoto: coarser surface, for a quick map. camera_lens: 'auto', 'perspective' or 'brown'.
    rolling_shutter: rows are exposed one after the other; rolling_shutter_readout_ms: in how long, 0 = found from the photos.
    cameras: '' or the path or the JSON text of a cameras.json. gps_accuracy_m: one sigma for photos that do not tell
    theirs, None = judged from the photos. geo: ODM's geo.txt or None. max_concurrency: cores to use.
    rerun_all: forget earlier work. rerun_from: '' or the stage from which everything is made again. end_with: last
    stage; both are words of STAGES. name: title of the map in the report, '' = the folder's name.
    """

    split: int = _default("split")
    split_overlap_m: float = _default("split-overlap")
    split_image_groups: Path | None = None
    sm_no_align: bool = False
    feature_quality: str = _default("feature-quality")
    orthophoto_resolution_cm: float | None = None
    dem_resolution_cm: float | None = None
    ignore_gsd: bool = False
    dsm: bool = False
    fast_orthophoto: bool = False
    camera_lens: str = _default("camera-lens")
    rolling_shutter: bool = False
    rolling_shutter_readout_ms: float = _default("rolling-shutter-readout")
    cameras: str = ""
    gps_accuracy_m: float | None = None
    geo: Path | None = None
    max_concurrency: int = _default("max-concurrency")
    rerun_all: bool = False
    rerun_from: str = ""
    end_with: str = _default("end-with")
    name: str = ""


@dataclass(frozen=True)
class Parsed:
    """A command line, read.

    options: for the job. output, project_path: folders given, or None. arguments: what was not an option, in order.
    values: the options given, by name. later, harmless: names of the unsupported ones among them, in table order.
    """

    options: Options
    output: Path | None
    project_path: Path | None
    arguments: tuple[str, ...]
    values: Mapping[str, Value]
    later: tuple[str, ...]
    harmless: tuple[str, ...]

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the options given."""
        return tuple(self.values)

    @property
    def server(self) -> str:
        """The address of --cluster or --sm-cluster, '' when the work is to be done here."""
        return str(self.values.get("cluster") or self.values.get("sm-cluster") or "")

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user must hear at the start: a line for each option that comes later, one for all harmless ones."""
        lines = [f"warning: --{n} is not supported yet: {BY_NAME[n].help}" for n in self.later]
        if self.harmless:
            lines.append("note: without effect here: " + ", ".join(f"--{n}" for n in self.harmless))
        return tuple(lines)


def parse_options(arguments: Sequence[str]) -> Parsed:
    """Read `--name value`, `--name=value`, bare `--flag` and positional arguments; the last of repeated options counts.

    Raises UsageError: unknown option, missing value, wrong type or out of range.
    """
    values: dict[str, Value] = {}
    rest: list[str] = []
    queue = list(arguments)
    while queue:
        word = queue.pop(0)
        if word == "--":
            rest += queue
            break
        if not word.startswith("-") or word == "-":
            rest.append(word)
            continue
        name, equals, text = word.removeprefix("--").partition("=")
        option = find_option(name if word.startswith("--") else SHORT.get(name, word))
        if not equals:
            text = _next_value(option, queue)
        values[option.name] = parse_value(option, text)
    unsupported = [o for o in TABLE if o.name in values and values[o.name] != o.default]
    return Parsed(
        _options(values),
        _path(values.get("output")),
        _path(values.get("project-path")),
        tuple(rest),
        values,
        tuple(o.name for o in unsupported if o.status == "later"),
        tuple(o.name for o in unsupported if o.status == "harmless"),
    )


def find_option(name: str) -> Option:
    """The row of that name; UsageError with the nearest name if there is none."""
    if name in BY_NAME:
        return BY_NAME[name]
    near = difflib.get_close_matches(name.lower().replace("_", "-").lstrip("-"), BY_NAME, n=1, cutoff=0.6)
    todo = f"did you mean --{near[0]}?" if near else "`passel options` lists them"
    raise UsageError(f"unknown option {name if name.startswith('-') else '--' + name}", todo=todo)


def parse_value(option: Option, text: str) -> Value:
    """The text as the option's type and in its domain; UsageError otherwise."""
    value = _typed(option, text)
    if isinstance(option.domain, Range) and isinstance(value, int | float) and not option.domain.holds(value):
        raise UsageError(f"--{option.name} {text} is out of range: it must be {option.domain}{_unit(option)}")
    if isinstance(option.domain, tuple) and value not in option.domain:
        near = difflib.get_close_matches(text.lower(), option.domain, n=1)
        todo = f"did you mean {near[0]}?" if near else ""
        raise UsageError(f"--{option.name} {text!r} is not one of: {', '.join(option.domain)}", todo=todo)
    if option.name == "camera-lens" and value in LENSES_LATER:
        raise UsageError(f"--camera-lens {text} is not supported yet", todo=f"use one of: {', '.join(LENSES)}")
    if option.name == "cameras" and has_json_text(text):
        _check_json(text)
    return value


def has_json_text(cameras: str) -> bool:
    """Whether the value of --cameras is the JSON itself rather than the path of a file that holds it."""
    return cameras.lstrip().startswith("{")


def _typed(option: Option, text: str) -> Value:
    if option.type == "bool":
        known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if text.lower() not in known:
            raise UsageError(f"--{option.name} {text!r} is neither true nor false")
        return known[text.lower()]
    if option.type == "int":
        if not re.fullmatch(r"[+-]?[0-9]+", text.strip()):
            raise UsageError(f"--{option.name} {text!r} is not a whole number")
        if len(text) > _MOST_DIGITS:
            raise UsageError(f"--{option.name} {text[:_MOST_DIGITS]}… is out of range: it has {len(text)} digits")
        return int(text)
    if option.type == "float":
        try:
            number = float(text)
        except ValueError:
            raise UsageError(f"--{option.name} {text!r} is not a number") from None
        if not math.isfinite(number):
            raise UsageError(f"--{option.name} {text!r} is not a finite number")
        return number
    if not text and option.status == "supported":
        raise UsageError(f"--{option.name} is empty")
    return Path(text) if option.type == "path" else text


def _next_value(option: Option, queue: list[str]) -> str:
    """The value that follows an option's name; a flag has none. Negative numbers are values, other options are not."""
    if option.type == "bool":
        return "true"
    if not queue or (queue[0].startswith("-") and not re.match(r"-[0-9.]", queue[0])):
        raise UsageError(f"--{option.name} needs a value ({_hint(option)})")
    return queue.pop(0)


def _check_json(text: str) -> None:
    try:
        json.loads(text)
    except (ValueError, RecursionError) as e:
        raise UsageError(f"--cameras is not valid JSON: {e}") from None


def _options(values: dict[str, Value]) -> Options:
    """Options from parsed values, whose types the table guarantees."""
    fields = {o.field: values[o.name] for o in SUPPORTED if o.field and o.name in values}
    for stage in ("rerun_from", "end_with"):
        if stage in fields:
            fields[stage] = STAGE_OF_ODM.get(str(fields[stage]), str(fields[stage]))
    return Options(**fields)  # type: ignore[arg-type]


def _path(value: Value) -> Path | None:
    return value if isinstance(value, Path) else None


def _unit(option: Option) -> str:
    return f" {option.unit}" if option.unit else ""


def _hint(option: Option) -> str:
    """What may stand after the option, for messages and help."""
    if isinstance(option.domain, tuple):
        return "|".join(option.domain)
    kind = {"int": "whole number", "float": "number", "path": "path"}.get(option.type, "text")
    return kind + (f" of {option.unit}" if option.unit else "")


def usage_line(option: Option) -> str:
    """`--split N photos  photos a submodel (default 400)` for help texts."""
    value = "" if option.type == "bool" else " " + (_hint(option) if option.type == "enum" else option.type.upper())
    default = "" if option.default in (None, False, "") else f" (default {option.default}{_unit(option)})"
    unit = f" [{option.unit}]" if option.unit and not default else ""
    return f"--{option.name}{value}\n        {option.help}{unit}{default}"
