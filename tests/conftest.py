"""Fixtures that several test files share."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from passel.demo.flight import DemoSettings
from passel.demo.truth import DemoTruth
from passel.demo.write import write_demo
from runs import TINY_OPTIONS, passel

# What a shell without job control puts into the background is deaf to Ctrl-C, and under nohup to a closed terminal; children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


# Where tests run in several processes a file goes to one of them as a whole: long ones first, lest one be alone at the end.
LONG_FILES_FIRST = (
    "bad_input run bucket_store faults client web_browser server_durability cluster_run gateway_forwarding "
    "reconstruct_mapping surface serve gateway_nodes fleet_machines surface_scale driver web_browser_pages agent"
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # a process of pytest-xdist
        rank = {f"test_{name}.py": number for number, name in enumerate(LONG_FILES_FIRST.split())}
        items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: as many processes as this one may use cores; each starts several of its own."""
    return len(os.sched_getaffinity(0))


def made_once(name: str, make: Callable[[Path], object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the first process of a test run fills, and the others wait for. Nobody may change what lies there."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    done = folder.with_suffix(".done")
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def tiny_survey(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DemoTruth]:
    """Folder with the 16 photos of the tiny synthetic survey, and their truth."""
    settings = DemoSettings.tiny()
    folder = made_once("tiny", lambda folder: write_demo(folder, settings), tmp_path_factory)
    return folder / "images", DemoTruth.of(settings)


@pytest.fixture(scope="session")
def tiny_map(tiny_survey: tuple[Path, DemoTruth], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The map of the tiny survey, made serially, in two submodels."""

    def make(output: Path) -> None:
        done = passel(["run", str(tiny_survey[0]), "--output", str(output), *TINY_OPTIONS], serial=True)
        assert done.returncode == 0, done.stderr

    return made_once("tiny-map", make, tmp_path_factory)
