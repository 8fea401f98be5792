"""What a benchmark finds out, as data."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

COMPARE: dict[str, Callable[[float, float], bool]] = {
    "≤": lambda a, b: a <= b,
    "≥": lambda a, b: a >= b,
    "=": lambda a, b: a == b,
}


@dataclass(frozen=True)
class Check:
    """A number that was reached. run: of which command. unit: of both numbers. sign, wanted: what must show, e.g. '≤', 0.8;
    '' and None for numbers that are only told. reached: NaN when it could not be measured; note: why, or how it was.
    """

    run: str
    what: str
    reached: float
    unit: str = ""
    sign: str = ""
    wanted: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """'pass', 'missed', 'not measured', or '' for a number that nobody asked for."""
        if math.isnan(self.reached):
            return "not measured"
        if self.wanted is None:
            return ""
        return "pass" if COMPARE[self.sign](self.reached, self.wanted) else "missed"


@dataclass(frozen=True)
class StageCost:
    """A stage of a run. cpu_s: of its steps and the processes they started. peak_mb: of the largest process of a step."""

    stage: str
    steps: int
    cpu_s: float
    peak_mb: float


@dataclass(frozen=True)
class RunCost:
    """What a run cost. photos: in the survey. command_cpu_s: all of the command (NaN if unknown), of which the stages are a part.

    driver_cpu_s: the command less the stages: planning, scheduling, workers' start, and for the demo rendering and comparing.
    """

    run: str
    photos: int
    wall_s: float
    command_cpu_s: float
    driver_cpu_s: float
    largest_mb: float
    stages: tuple[StageCost, ...]


@dataclass(frozen=True)
class SurveyResult:
    """One survey's benchmark. skipped: why nothing was run, '' if it was. about: machine, date, commit, Python."""

    survey: str
    about: tuple[tuple[str, str], ...]
    skipped: str
    checks: tuple[Check, ...]
    costs: tuple[RunCost, ...]

    def save(self, folder: Path) -> None:
        """Write <survey>.json; numbers that are not known are null."""
        d = asdict(self)
        d["about"] = dict(self.about)
        for row, check in zip(d["checks"], self.checks):
            row["verdict"] = check.verdict
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.survey}.json"
        path.write_text(json.dumps(_known(d), indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")

    @staticmethod
    def load(path: Path) -> SurveyResult:
        d = json.loads(path.read_text(encoding="utf-8"))
        checks = tuple(
            Check(**{**{k: v for k, v in c.items() if k != "verdict"}, "reached": _number(c["reached"])})
            for c in d["checks"]
        )
        costs = []
        for c in d["costs"]:
            stages = tuple(StageCost(**s) for s in c["stages"])
            numbers = {k: _number(c[k]) for k in ("wall_s", "command_cpu_s", "driver_cpu_s", "largest_mb")}
            costs.append(RunCost(**{**c, **numbers, "stages": stages}))
        return SurveyResult(d["survey"], tuple(d["about"].items()), d["skipped"], checks, tuple(costs))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _known(value: Any) -> Any:
    """The same with null for NaN and infinity, which JSON does not have, and no more digits than mean something."""
    if isinstance(value, dict):
        return {k: _known(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_known(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
