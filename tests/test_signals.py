"""Signals that reach a run while it is clearing up."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

CLEARING = """
import os, signal, sys
from passel.cli import _stop_like_ctrl_c
from passel.errors import Interrupted
from passel.pipeline.executor import ending_on_signals

class Slow:
    def stop(self):
        os.kill(os.getpid(), int(sys.argv[1]))
        print("cleared", flush=True)

_stop_like_ctrl_c()
try:
    with ending_on_signals(Slow()):
        os.kill(os.getpid(), int(sys.argv[1]))
except Interrupted:
    print("told", flush=True)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_second_signal_does_not_cut_the_clearing_up_short(name: str) -> None:
    """A closed terminal is told twice: by the shell and by the kernel."""
    command = [sys.executable, "-c", CLEARING, str(int(signal.Signals[name]))]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.stdout == "cleared\ntold\n", run.stderr
