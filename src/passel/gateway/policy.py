"""The policy file: what each token may do, in the words of ClusterODM's cloud providers.

    {"default": {"engine": "auto"},
     "tokens": {"club": {"engine": "odm", "maxImages": 500, "maxSizeMb": 8000, "maxConcurrentTasks": 2,
                         "options": {"pc-quality": {"value": "medium"}, "split": {"remove": true},
                                     "feature-quality": {"assure": true, "value": "high"},
                                     "orthophoto-resolution": {"between": {"min": 2, "max": 100}}}}}}

Names are those of `passel token create --name`. What a token does not say, the default says.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from passel.errors import UsageError
from passel.option_table import BY_NAME
from passel.options import parse_value
from passel.server.jobs import GivenOption, OptionValue
from passel.server.settings import MB, Limits

_PARTS = "parts of "


class Engine(StrEnum):
    """Who makes the map. AUTO: a free node, else idle workers of our own, else the next node that is free; Passel's own
    engine when no node could take it.
    """

    PASSEL = "passel"
    ODM = "odm"
    AUTO = "auto"


@dataclass(frozen=True)
class OptionRule:
    """What happens to an option. remove: it is dropped. value: it gets this. assure: also when the client did not give it.
    low, high: bounds of a number. none_is: the number that stands for no bound, such as -1, and becomes `high`.
    """

    remove: bool = False
    value: OptionValue | None = None
    assure: bool = False
    low: float | None = None
    high: float | None = None
    none_is: float | None = None


@dataclass(frozen=True)
class Allowance:
    """What a token may do. None = no bound; engine None = as the task or the server says."""

    engine: Engine | None = None
    max_images: int | None = None
    max_size_mb: int | None = None
    most_tasks: int | None = None
    options: tuple[tuple[str, OptionRule], ...] = ()


@dataclass(frozen=True)
class Policy:
    """All of them."""

    default: Allowance = field(default_factory=Allowance)
    tokens: tuple[tuple[str, Allowance], ...] = ()

    def of(self, owner: str) -> Allowance:
        """The allowance of a token's name. Parts of a split task are no tasks of their own: their whole would wait for them."""
        allowance = dict(self.tokens).get(owner.removeprefix(_PARTS), self.default)
        return replace(allowance, most_tasks=None) if owner.startswith(_PARTS) else allowance

    def limits(self, owner: str, usual: Limits) -> Limits:
        """What the server must hold the owner to, so that what is not allowed is refused before it is sent."""
        allowance = self.of(owner)
        size = None if allowance.max_size_mb is None else allowance.max_size_mb * MB
        return replace(
            usual,
            max_images=_lower(usual.max_images, allowance.max_images),
            max_task_bytes=_lower(usual.max_task_bytes, size),
            max_file_bytes=usual.max_file_bytes if size is None else min(usual.max_file_bytes, size),
            max_tasks_a_owner=_lower(usual.max_tasks_a_owner, allowance.most_tasks) or usual.max_tasks_a_owner,
        )


def parts_owner(owner: str) -> str:
    """The name under which nodes send the parts of an owner's split task."""
    return owner if owner.startswith(_PARTS) else f"{_PARTS}{owner or 'a task'}"


def _lower(a: int | None, b: int | None) -> int | None:
    return min((x for x in (a, b) if x is not None), default=None)


def read_policy(file: Path) -> Policy:
    """UsageError names what is wrong in the file."""
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UsageError(f"The policy file cannot be read: {e}", str(file)) from None
    top = _record(said, file, "", {"default", "tokens"})
    default = _allowance(top.get("default", {}), file, "default", Allowance())
    tokens = _record(top.get("tokens", {}), file, "tokens", None)
    return Policy(default, tuple((n, _allowance(t, file, f"tokens.{n}", default)) for n, t in tokens.items()))


def ruled(options: tuple[GivenOption, ...], allowance: Allowance) -> tuple[tuple[GivenOption, ...], tuple[str, ...]]:
    """The options as the policy lets them through, and what to tell about it."""
    rules, told, kept = dict(allowance.options), [], []
    for given in options:
        rule = rules.get(given.name)
        if rule is not None and rule.remove:
            told.append(f"warning: --{given.name} is not allowed for this token and left out")
            continue
        value = given.value if rule is None else _bounded(rule, given.value)
        if value != given.value:
            told.append(f"warning: --{given.name} is {value} for this token, not {given.value}")
        kept.append(GivenOption(given.name, value))
    names = {o.name for o in options}
    for name, rule in rules.items():
        if rule.assure and rule.value is not None and name not in names:
            kept.append(GivenOption(name, rule.value))
    return tuple(kept), tuple(told)


def _bounded(rule: OptionRule, value: OptionValue) -> OptionValue:
    if rule.value is not None:
        return rule.value
    if isinstance(value, bool | str):
        return value
    if rule.high is not None and value == rule.none_is:
        return type(value)(rule.high)
    low = value if rule.low is None else max(value, type(value)(rule.low))
    return low if rule.high is None else min(low, type(value)(rule.high))


def _allowance(said: object, file: Path, where: str, default: Allowance) -> Allowance:
    rows = _record(said, file, where, {"engine", "maxImages", "maxSizeMb", "maxConcurrentTasks", "options"})
    engine = rows.get("engine", default.engine)
    if engine is not None and engine not in set(Engine):
        raise UsageError(f"{where}.engine is not passel, odm or auto", str(file))
    options = _record(rows.get("options", {}), file, f"{where}.options", None)
    rules = tuple((n, _rule(n, r, file, f"{where}.options.{n}")) for n, r in options.items())
    return Allowance(
        None if engine is None else Engine(engine),
        _count(rows, "maxImages", file, where, default.max_images),
        _count(rows, "maxSizeMb", file, where, default.max_size_mb),
        _count(rows, "maxConcurrentTasks", file, where, default.most_tasks),
        rules or default.options,
    )


def _rule(name: str, said: object, file: Path, where: str) -> OptionRule:
    rows = _record(said, file, where, {"remove", "value", "assure", "between"})
    option = BY_NAME.get(name)
    if option is None:
        raise UsageError(f"{where}: there is no such option", str(file), "`passel run --help` lists them")
    value: OptionValue | None = None
    if rows.get("value") is not None:
        text = rows["value"]
        checked = parse_value(option, str(text).lower() if isinstance(text, bool) else str(text))
        if not isinstance(checked, bool | int | float | str):
            raise UsageError(f"{where}.value: a path cannot be given here", str(file))
        value = checked
    between = _record(rows.get("between", {}), file, f"{where}.between", {"min", "max", "max_if_equal_to"})
    low, high, none_is = (
        _number(between.get(k), file, f"{where}.between.{k}") for k in ("min", "max", "max_if_equal_to")
    )
    return OptionRule(rows.get("remove") is True, value, rows.get("assure") is True, low, high, none_is)


def _record(said: object, file: Path, where: str, known: set[str] | None) -> dict[str, Any]:
    if not isinstance(said, dict):
        raise UsageError(f"{where or 'The policy'} must be a record {{…}}", str(file))
    strange = sorted(set(said) - known) if known is not None else []
    if strange:
        raise UsageError(f"{where or 'The policy'} does not know {', '.join(strange)}", str(file))
    return said


def _count(rows: dict[str, Any], key: str, file: Path, where: str, default: int | None) -> int | None:
    value = rows.get(key, default)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise UsageError(f"{where}.{key} must be a whole number, 1 or more", str(file))
    return value


def _number(value: object, file: Path, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{where} must be a number", str(file))
    return float(value)
