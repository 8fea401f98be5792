"""Fixtures that several test files share."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from passel.demo.flight import DemoSettings
from passel.demo.truth import DemoTruth
from passel.demo.write import write_demo
from runs import passel

# A shell without job control starts what it puts into the background deaf to Ctrl-C, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_survey(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DemoTruth]:
    """Folder with the 16 photos of the tiny synthetic survey, and their truth."""
    folder = tmp_path_factory.mktemp("tiny")
    truth = write_demo(folder, DemoSettings.tiny())
    return folder / "images", truth


@pytest.fixture(scope="session")
def tiny_map(tiny_survey: tuple[Path, DemoTruth], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The map of the tiny survey, made serially, in two submodels."""
    output = tmp_path_factory.mktemp("serial") / "map"
    done = passel(["run", str(tiny_survey[0]), "--output", str(output), "--split", "9"], serial=True)
    assert done.returncode == 0, done.stderr
    return output
