"""The benchmark as a table to read: bench/results/summary.md."""

from __future__ import annotations

import math
from collections.abc import Sequence

from results import Check, RunCost, SurveyResult


def summary(results: Sequence[SurveyResult]) -> str:
    """Markdown: what must show beside what was reached, then costs by stage, then where and when it was measured."""
    lines = [
        "# Benchmark", "",
        "Made by `make bench`. Wanted: what issue 2 asks for; rows without a wish are told for comparison.", "",
        "| survey | run | number | wanted | reached | | how |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for r in results:
        if r.skipped:
            lines.append(f"| {r.survey} | | | | | skipped | {r.skipped} |")
        lines += [_check_row(r.survey, c) for c in r.checks]
    lines += ["", "## CPU seconds a photo and peak memory of a process, by stage", ""]
    lines += [
        "| survey | run | photos | stage | steps | CPU s a photo | peak RSS MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        for cost in r.costs:
            lines += _cost_rows(r.survey, cost)
    lines += [
        "",
        "A stage's CPU time is that of its steps with the processes they started, from log.json. The command's is user and system time",
        "of the command and all processes it started and waited for (wait4), so the driver's row also holds planning, scheduling, the",
        "workers' start and, for the demo, rendering the photos and comparing the map with the truth. Peak RSS: the largest process.",
        "", "## Where and when", "",
    ]  # fmt: skip
    for r in results:
        lines.append(f"- {r.survey}: " + "; ".join(f"{k} {v}" for k, v in r.about))
    return "\n".join(lines) + "\n"


def _check_row(survey: str, c: Check) -> str:
    wanted = "" if c.wanted is None else f"{c.sign} {c.wanted:g} {c.unit}".strip()
    reached = "–" if math.isnan(c.reached) else f"{_digits(c.reached)} {c.unit}".strip()
    verdict = {"missed": "**missed**", "not measured": "**not measured**" if c.wanted is not None else "not measured"}
    how = c.note.replace("|", "\\|").replace("\n", " ")
    return f"| {survey} | {c.run} | {c.what} | {wanted} | {reached} | {verdict.get(c.verdict, c.verdict)} | {how} |"


def _cost_rows(survey: str, cost: RunCost) -> list[str]:
    head = f"| {survey} | {cost.run} | {cost.photos} |"
    rows = [f"{head} {s.stage} | {s.steps} | {s.cpu_s / cost.photos:.2f} | {s.peak_mb:.0f} |" for s in cost.stages]
    if math.isnan(cost.command_cpu_s):
        in_all = sum(s.cpu_s for s in cost.stages)
        return [*rows, f"{head} all stages (the command was not measured) | | {in_all / cost.photos:.2f} | |"]
    per_photo = cost.driver_cpu_s / cost.photos
    whole = f"**whole command, {cost.wall_s:.0f} s wall**"
    return [
        *rows,
        f"{head} driver | | {per_photo:.2f} | |",
        f"{head} {whole} | | **{cost.command_cpu_s / cost.photos:.2f}** | {cost.largest_mb:.0f} |",
    ]


def _digits(value: float) -> str:
    if value == round(value) and abs(value) < 1e6:
        return f"{value:.0f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
