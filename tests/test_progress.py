"""What a person sees of a run that grows, and that a run goes on when nobody sees it any more."""

from __future__ import annotations

import os
import pty
from io import StringIO
from pathlib import Path

import pytest

from passel.pipeline.events import StepDone, StepsPlanned
from passel.pipeline.manifest import Cost, Manifest
from passel.pipeline.progress import Progress
from passel.pipeline.step import Step
from passel.pipeline.steps.products import MergeParams


def test_a_stage_that_grows_is_complete_once(tmp_path: Path) -> None:
    """The coarse stage is planned in two parts: the ground first, and what follows from it."""
    ground, surface, tile = (
        Step(stage, name, f"x:{name}", 1, MergeParams(), ())
        for stage, name in (("coarse", "ground"), ("coarse", "mosaic"), ("tiles", "x0_y0"))
    )
    out = StringIO()
    with Progress(tmp_path, workers=1, stream=out, lines_every_s=0.0) as progress:
        for step in (ground, surface, tile):
            progress(StepsPlanned((step,)))
            progress(StepDone(step, manifest_of(step), reused=False))
    complete = [line.split(" done")[0] for line in out.getvalue().splitlines() if " done" in line]
    assert complete == ["coarse 2/2", "tiles 1/1"]


def manifest_of(step: Step) -> Manifest:
    cost = Cost("machine", "2026-01-01T00:00:00+00:00", 1.0, 1.0, 100.0, 1)
    return Manifest(step.digest, step.stage, step.name, step.function, step.version, (), (), cost)


@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_a_run_goes_on_when_its_reader_is_gone(kind: str, tmp_path: Path) -> None:
    reader, writer = os.pipe() if kind == "pipe" else pty.openpty()
    with os.fdopen(writer, "w", buffering=1) as stream:
        with Progress(tmp_path, 1, stream) as progress:
            progress.say("before")
            seen = b""
            while b"before" not in seen:
                seen += os.read(reader, 4096)
            os.close(reader)
            progress.say("after")
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, writer)  # closing writes what the stream still holds
        os.close(nowhere)
