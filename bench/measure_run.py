"""What a finished run tells of itself: costs from log.json, the adjusted scene and the ground tiles from its store."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from commands import Command
from passel.align.whole import reprojection_errors
from passel.pipeline.store import Store
from passel.products.report_facts import gps_residuals
from passel.products.stats import gps_summary
from passel.reconstruct.scene import Scene
from passel.survey.model import Survey
from results import Check, RunCost, StageCost

F64 = NDArray[np.float64]
MOST_PROCESS_MB = 2500.0  # issue 2: peak RSS of a process ≤ 2.5 GB
MOST_CPU_S = 10.0  # a photo, in all


@dataclass(frozen=True)
class LoggedStep:
    """A step of a run's log.json that ended well, in this run or an earlier one that it took over."""

    stage: str
    name: str
    digest: str
    cpu_s: float
    peak_mb: float


def steps_of(output: Path) -> tuple[LoggedStep, ...]:
    """The steps that made what is in an output folder. Raises FileNotFoundError without a log."""
    log = json.loads((output / "log.json").read_text(encoding="utf-8"))
    steps = {  # by digest: a step that was asked for twice was made once
        s["digest"]: LoggedStep(s["stage"], s["name"], s["digest"], s["cpu_seconds"], s["peak_rss_mb"])
        for s in log["steps"]
        if s["state"] in ("made", "reused")
    }
    return tuple(steps.values())


def artifact(output: Path, digest: str) -> Path:
    """The folder of a step's files."""
    return Store(output / ".passel" / "store").path(digest)


def survey_of(output: Path) -> Survey:
    return Survey.load(output / ".passel" / "survey.json")


def scene_of(output: Path) -> Scene:
    """The adjusted scene: the one the log names last. Raises LookupError when the run did not come so far."""
    found = [s for s in steps_of(output) if (s.stage, s.name) == ("align", "adjustment")]
    if not found:
        raise LookupError(f"no adjusted cameras in {output}")
    return Scene.load(artifact(output, found[-1].digest))


def cost_of(run: str, output: Path, command: Command | None) -> RunCost:
    """What the run took; steps taken over from an earlier run count with what they took then."""
    steps = steps_of(output)
    stages = []
    for stage in dict.fromkeys(s.stage for s in steps):
        some = [s for s in steps if s.stage == stage]
        stages.append(StageCost(stage, len(some), sum(s.cpu_s for s in some), max(s.peak_mb for s in some)))
    in_stages = sum(s.cpu_s for s in stages)
    total = command.cpu_s if command else math.nan
    largest = max([s.peak_mb for s in stages] + ([command.largest_mb] if command else []))
    wall = command.wall_s if command else math.nan
    return RunCost(run, len(survey_of(output).photos), wall, total, total - in_stages, largest, tuple(stages))


def cost_checks(cost: RunCost, with_cpu: bool) -> list[Check]:
    """Memory, and time a photo where it is asked for."""
    checks = [Check(cost.run, "largest process, peak RSS", cost.largest_mb, "MB", "≤", MOST_PROCESS_MB)]
    if with_cpu:
        known = not math.isnan(cost.command_cpu_s)
        used = cost.command_cpu_s if known else sum(s.cpu_s for s in cost.stages)
        note = "the whole command" if known else "stages only: the command was not measured"
        checks.append(Check(cost.run, "CPU a photo, in all", used / cost.photos, "s", "≤", MOST_CPU_S, note))
    return checks


def block_checks(run: str, output: Path, least_photos: int, most_px: float, full_size: float = 1.0) -> list[Check]:
    """Photos in the frame and reprojection. full_size: pixels of the photo as taken in one pixel of the file."""
    scene = scene_of(output)
    error = full_size * reprojection_errors(scene)
    note = f"root mean square {np.sqrt((error**2).mean()):.3f} px"
    return [
        Check(run, "photos in one frame", len(scene.photos), "", "≥", least_photos),
        Check(run, "reprojection, mean at full size", float(error.mean()), "px", "≤", most_px, note),
    ]


def gps_rms_m(output: Path) -> float:
    """Root mean square distance in space between cameras and their GPS, NaN without GPS."""
    summary = gps_summary(gps_residuals(survey_of(output), scene_of(output)))
    return summary.rms_3d_m if summary else math.nan
