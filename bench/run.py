"""Measure speed, memory and accuracy on the demo and on real surveys: `python bench/run.py [SURVEY ...]`.

Every run is the real command line in its own process. Results go to bench/results: a JSON file a survey, and summary.md.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import psutil

import plan
from commands import Command, remembered, run
from passel.errors import PasselError
from results import Check, SurveyResult
from surveys import BENCHES, Bench, costs, dataset_folder
from table import summary

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
PLAN = "plan"
LARGE = "large"  # made by large.py, which takes half an hour


def main() -> int:
    arguments = _arguments()
    chosen = [b for b in BENCHES if not arguments.surveys or any(b.name.startswith(s) for s in arguments.surveys)]
    if not arguments.surveys or PLAN in arguments.surveys:
        print(f"{PLAN}:", flush=True)
        _tell(SurveyResult(PLAN, about(), "", tuple(plan.measure()), ()), arguments.results)
    for bench in chosen:
        _tell(_bench(bench, arguments.out, arguments.measure_only), arguments.results)
    print(f"Written: {arguments.results / 'summary.md'}")
    return 0


def _tell(result: SurveyResult, folder: Path) -> None:
    """Save a result, renew the table of all, print what was reached."""
    result.save(folder)
    every = [folder / f"{name}.json" for name in (PLAN, LARGE, *(b.name for b in BENCHES))]
    table = summary([SurveyResult.load(p) for p in every if p.is_file()])
    (folder / "summary.md").write_text(table, encoding="utf-8")
    for check in result.checks:
        wanted = "" if check.wanted is None else f"(wanted {check.sign} {check.wanted:g}) {check.verdict}"
        print(f"  {check.run}: {check.what}: {check.reached:.4g} {check.unit} {wanted}", flush=True)


def _arguments() -> argparse.Namespace:
    names = ", ".join((PLAN, *(b.name for b in BENCHES)))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("surveys", nargs="*", help=f"which (default: all): {names}; beginnings are enough")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench", help="folder for the maps (kept)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the tables")
    parser.add_argument("--measure-only", action="store_true", help="measure the maps that lie in --out, run nothing")
    arguments = parser.parse_args()
    for s in arguments.surveys:
        if s != PLAN and not any(b.name.startswith(s) for b in BENCHES):
            parser.error(f"unknown survey {s!r}; there are: {names}")
    arguments.out = arguments.out.absolute()
    return arguments


def _bench(bench: Bench, out: Path, measure_only: bool) -> SurveyResult:
    """Run and measure one survey. What cannot be run or measured stands in the table, with the reason."""
    print(f"{bench.name}:", flush=True)
    dataset = dataset_folder(bench.dataset) if bench.dataset else None
    if bench.dataset and dataset is None:
        print("  skipped: dataset not present")
        return SurveyResult(bench.name, about(), "dataset not present", (), ())
    outputs: dict[str, Path] = {}
    commands: dict[str, Command | None] = {}
    failures = []
    for label, words in bench.runs:
        output = out / f"{bench.name}-{label.replace(' ', '')}"
        command = remembered(output) if measure_only else _run(label, words, dataset, output)
        if (command is None or command.exit_code == 0) and (output / "log.json").is_file():
            outputs[label], commands[label] = output, command
        else:
            code = "was not made" if command is None else f"ended with exit code {command.exit_code}"
            failures.append(Check(label, "run", math.nan, note=f"{code}; see {output.name}.log"))
    if not outputs:
        return SurveyResult(bench.name, about(), "", tuple(failures), ())
    found, checks = costs(bench, outputs, commands)
    try:
        checks = bench.measure(outputs, commands, dataset) + checks
    except (LookupError, OSError, ValueError, PasselError) as e:
        failures.append(Check("", "accuracy", math.nan, note=f"could not be measured: {e}"))
    return SurveyResult(bench.name, about(), "", (*failures, *checks), found)


def _run(label: str, words: tuple[str, ...], dataset: Path | None, output: Path) -> Command:
    """From nothing: an earlier map there is removed, or its steps would cost nothing."""
    shutil.rmtree(output, ignore_errors=True)
    source = ("run", str(dataset / "images")) if dataset else ("demo",)
    print(f"  {label} ...", flush=True)
    command = run((*source, "--output", str(output), *words), output)
    print(f"  {label}: {command.wall_s:.0f} s, {command.cpu_s:.0f} CPU s, exit code {command.exit_code}", flush=True)
    return command


def about() -> tuple[tuple[str, str], ...]:
    """Machine, date, commit and Python."""
    commit = _git("rev-parse", "HEAD")
    dirty = " with local changes" if _git("status", "--porcelain", "--untracked-files=no") else ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        ("date", datetime.now().astimezone().isoformat(timespec="minutes")),
        ("commit", (commit[:12] or "unknown") + dirty),
        ("Python", platform.python_version()),
        ("system", f"{platform.system()} {platform.machine()}"),
        ("processor", _processor()),
        ("cores", str(cores)),
        ("memory", f"{psutil.virtual_memory().total / 1e9:.0f} GB"),
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


if __name__ == "__main__":
    sys.exit(main())
