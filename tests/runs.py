"""Running Passel as users do, as a process of its own, for tests of the whole."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PRODUCTS = (
    "odm_orthophoto/odm_orthophoto.tif",
    "odm_dem/dsm.tif",
    "odm_dem/dsm_filled.tif",
    "odm_georeferencing/odm_georeferenced_model.laz",
    "odm_report/shots.geojson",
    "cameras.json",
    "images.json",
)

TINY_OPTIONS = ("--split", "9", "--feature-quality", "lowest")  # of the tiny survey's map: as true, for less


def passel(words: Sequence[str], *, serial: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command line to its end."""
    return subprocess.run(
        command(words),
        env=environment_of(serial, **environment),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def command(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "passel", *words]


def environment_of(serial: bool = False, **more: str) -> dict[str, str]:
    return {**os.environ, **({"PASSEL_EXECUTOR": "serial"} if serial else {}), **more}


def digests(output: Path) -> dict[str, str]:
    """sha256 of every product that must not depend on how the run went."""
    return {name: hashlib.sha256((output / name).read_bytes()).hexdigest() for name in PRODUCTS}


def stopped_when(words: Sequence[str], ready: Callable[[], bool], number: signal.Signals) -> int:
    """Start a run, send it a signal once `ready()`, and return its exit code. It must end in a minute."""
    process = subprocess.Popen(
        command(words),
        env=environment_of(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 600
        while not ready():
            assert process.poll() is None, f"the run ended by itself with {process.returncode}"
            assert time.monotonic() < deadline, "the run never got so far"
            time.sleep(0.05)
        process.send_signal(number)
        return process.wait(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def made(output: Path, stage: str) -> int:
    """How many artifacts of a stage are in the output's store."""
    import json

    count = 0
    for manifest in (output / ".passel" / "store").glob("??/*/manifest.json"):
        try:
            count += json.loads(manifest.read_text("utf-8"))["stage"] == stage
        except (OSError, ValueError):
            continue  # being renamed this very moment
    return count


def left_running(output: Path) -> list[str]:
    """Command lines of processes that still work on an output folder."""
    import psutil

    found = []
    for process in psutil.process_iter(["cmdline", "cwd", "environ"]):
        words = " ".join(process.info["cmdline"] or [])
        try:
            files = [f.path for f in process.open_files()] if "passel" in words else []
        except psutil.Error:
            continue
        if str(output) in words or any(f.startswith(str(output)) for f in files):
            found.append(words)
    return found
