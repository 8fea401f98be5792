"""The command line: which command is whose, and how one ends.

Expected failures end with one line `passel: error: …` and the error's exit code, never with a traceback; an interrupted
run says how to go on and exits with 130.
"""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import passel
from passel.collector import look_seldom
from passel.errors import Interrupted, PasselError, StorageError, UsageError
from passel.option_table import SUPPORTED
from passel.options import usage_line

OVERVIEW = f"""passel {passel.__version__}: thousands of drone photos into one seamless map

  passel run PHOTOS [--output OUT]                 map the photos of a folder
  passel run --project-path DIR NAME               OpenDroneMap's form: photos in DIR/NAME/images, map in DIR/NAME
  passel demo [--output DIR] [--photos N]          map a synthetic survey and compare with its truth
  passel options                                   all options, also those of OpenDroneMap that have no effect yet

  passel run … --cluster URL                       let a Passel elsewhere do it, and bring the map back
  passel submit PHOTOS --server URL                hand photos over and return; then:
  passel tasks | logs -f | download | cancel | remove | restart UUID

  passel serve [--listen 0.0.0.0]                  take photos over the network, let other computers help; --help: more
  passel join [URL] --token TOKEN                  help a coordinator, found on the local network or at URL
  passel status | workers | drain NAME             what a passel does; give a worker no more steps
  passel token create | list | revoke              who may join and who may submit photos
  passel node add | list | lock …                  NodeODM machines that work for this coordinator
  passel fleet check | list | drain | spend …      machines in the cloud that come and go with the work
  passel bundle                                    all that a bare computer needs to join, for the field

  passel help | passel --version

A run that was stopped goes on where it was when the same command is given again.
"""

# Imported when they are asked for, so that help and usage errors wait for nothing.
COMMANDS = {
    "run": "passel.commands.run:run",
    "demo": "passel.commands.demo:run",
    "options": "passel.commands.options:run",
    "serve": "passel.commands.serve:run",
    "join": "passel.commands.join:run",
    "token": "passel.commands.tokens:run",
    "status": "passel.commands.watch:status",
    "workers": "passel.commands.watch:workers",
    "drain": "passel.commands.watch:drain",
    "bundle": "passel.commands.bundle:run",
    "fleet": "passel.commands.fleet:run",
    "node": "passel.commands.node:run",
    "submit": "passel.commands.remote:submit_photos",
    "tasks": "passel.commands.remote:tasks",
    "logs": "passel.commands.remote:logs",
    "download": "passel.commands.remote:download",
    "cancel": "passel.commands.remote:cancel",
    "remove": "passel.commands.remote:remove",
    "restart": "passel.commands.remote:restart",
}
OF_THE_ENGINE = ("run", "demo", "options")  # their help is the table of options; the others tell their own


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (default: this process's) and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        # File names may hold bytes that the terminal's encoding does not know: show them escaped rather than fail.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if arguments is None:
        look_seldom()
        _stop_like_ctrl_c()
    words = tuple(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _command(words)
        sys.stdout.flush()
        return code
    except Interrupted as e:
        print(f"\npassel: {e}", file=sys.stderr)
        return e.exit_code
    except PasselError as e:
        _complain(str(e))
        return e.exit_code
    except KeyboardInterrupt:
        print("\npassel: stopped. What is finished is kept: give the same command again to go on.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains when it flushes
        return 1
    except OSError as e:
        # A full disk, a folder taken away, a missing permission: the system's own words are the clearest.
        _complain(
            str(StorageError(e.strerror or str(e), str(e.filename or ""), "repair it and give the command again"))
        )
        return 1


def _command(words: tuple[str, ...]) -> int:
    if not words or words[0] in ("help", "--help", "-h"):
        print(OVERVIEW, end="")
        return 0 if words else UsageError.exit_code
    first, rest = words[0], words[1:]
    if first in ("--version", "-V", "version"):
        print(f"passel {passel.__version__}")
        return 0
    if first not in COMMANDS:
        near = difflib.get_close_matches(first, COMMANDS, n=1)
        todo = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"unknown command {first!r}", todo=todo + "`passel help` lists the commands")
    if first in OF_THE_ENGINE and {"--help", "-h"} & set(rest):
        print(OVERVIEW + "\nOptions:\n" + "\n".join("  " + usage_line(o) for o in SUPPORTED))
        return 0
    module, _, function = COMMANDS[first].partition(":")
    return int(getattr(importlib.import_module(module), function)(rest))


def _complain(message: str) -> None:
    print(f"passel: error: {' '.join(message.split())}", file=sys.stderr)


def _stop_like_ctrl_c() -> None:
    """SIGTERM and a closed terminal end a run as Ctrl-C does: children stopped, finished work kept. `nohup` counts."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, interrupt)
