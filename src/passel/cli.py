"""The command line: `passel run`, `passel demo`, `passel options`. The only file that knows everybody.

Expected failures end with one line `passel: error: …` and the error's exit code, never with a traceback; an interrupted
run says how to go on and exits with 130.
"""

from __future__ import annotations

import difflib
import importlib
import math
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import passel
from passel.errors import InputError, Interrupted, PasselError, StorageError, UsageError
from passel.option_table import HARMLESS, LATER, STAGES, SUPPORTED, Option, Range
from passel.options import Options, Parsed, has_json_text, parse_options, parse_value, usage_line
from passel.pipeline.side_files import side_file, with_side_files

if TYPE_CHECKING:
    from passel.pipeline.executor import Executor, Workplace
    from passel.pipeline.run import RunResult

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

# Commands in modules of their own, imported when they are asked for: none of them needs the engine to start.
ELSEWHERE = {
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

DEMO_PHOTOS, DEMO_SPLIT = 63, 20
DEMO_OVERLAP_M = 45.0  # a strip and two photos: the default of 150 m would put nearly every photo into every submodel


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (default: this process's) and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        # File names may hold bytes that the terminal's encoding does not know: show them escaped rather than fail.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if arguments is None:
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
    if first in ELSEWHERE:
        module, _, function = ELSEWHERE[first].partition(":")
        return int(getattr(importlib.import_module(module), function)(rest))
    commands = {"run": _run, "demo": _demo, "options": _list_options}
    if first not in commands:
        near = difflib.get_close_matches(first, [*commands, *ELSEWHERE], n=1)
        todo = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"unknown command {first!r}", todo=todo + "`passel help` lists the commands")
    if {"--help", "-h"} & set(rest):
        print(OVERVIEW + "\nOptions:\n" + "\n".join("  " + usage_line(o) for o in SUPPORTED))
        return 0
    return commands[first](rest)


def _run(words: tuple[str, ...]) -> int:
    parsed = parse_options(words)
    photos, output = _folders(parsed)
    if parsed.server:
        from passel.commands.remote import run_elsewhere

        _check_writable(output)
        return run_elsewhere(parsed, photos, output)
    options = with_side_files(parsed.options, photos, output)
    for notice in (*parsed.notices, *_control_point_notice(parsed, photos, output)):
        print(f"passel: {notice}", file=sys.stderr)
    _check_files_named(options)
    _check_writable(output)
    print(f"passel {passel.__version__}: photos in {photos}, map to {output}", flush=True)
    _tell(_run_job(photos, output, options, ("passel", "run", *words)))
    return 0


def _run_job(photos: Path, output: Path, options: Options, command_line: tuple[str, ...]) -> RunResult:
    # Imported here and below, so that usage errors and help do not wait for the engine.
    from passel.pipeline.run import RunRequest, run_job

    request = RunRequest(photos, output, options, command_line)
    return run_job(request, lambda workplace: _executor(workplace, options.max_concurrency))


def _executor(workplace: Workplace, workers: int) -> Executor:
    """Dask on this machine; for finding faults PASSEL_EXECUTOR=serial (one step at a time) or =inline (in this process)."""
    from passel.cluster.local import LocalDaskExecutor
    from passel.pipeline.executor import SerialExecutor

    wanted = os.environ.get("PASSEL_EXECUTOR", "dask")
    if wanted not in ("dask", "serial", "inline"):
        raise UsageError(f"PASSEL_EXECUTOR={wanted} is not one of: dask, serial, inline")
    if wanted == "dask":
        return LocalDaskExecutor(workplace, workers, _usable_memory_mb())
    return SerialExecutor(workplace, inline=wanted == "inline")


def _usable_memory_mb() -> int:
    """Memory that steps may take together: what is free now, less where a container allows less, with some to spare."""
    import psutil

    limits = [int(psutil.virtual_memory().available)]
    for file in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        text = file.read_text().strip() if file.is_file() else ""
        limits += [int(text)] if text.isdecimal() else []
    return int(0.9 * min(limits) / 1e6)


def _demo(words: tuple[str, ...]) -> int:
    """Write the synthetic survey, map it as any other, and compare the map with the truth."""
    count, rest = _demo_photos(words)
    parsed = parse_options(rest)
    if parsed.arguments or parsed.project_path is not None:
        raise UsageError("passel demo takes no photos: it makes its own", todo="passel demo --output DIR [--photos N]")
    folder = (parsed.output or Path("passel-demo")).absolute()
    _check_writable(folder)
    for notice in parsed.notices:
        print(f"passel: {notice}", file=sys.stderr)
    options = parsed.options
    options = options if "split" in parsed.given else replace(options, split=DEMO_SPLIT)
    options = options if "split-overlap" in parsed.given else replace(options, split_overlap_m=DEMO_OVERLAP_M)

    from passel.demo.accuracy import measure
    from passel.demo.flight import DemoSettings
    from passel.demo.write import write_demo

    strips = max(2, round(math.sqrt(0.7 * count)))  # the flight's proportions: 7 strips of 10
    settings = DemoSettings(strips=strips, photos_per_strip=math.ceil(count / strips))
    made = strips * settings.photos_per_strip
    print(f"passel {passel.__version__}: {made} synthetic photos in {folder / 'images'}, map to {folder}", flush=True)
    truth = write_demo(folder, settings, options.max_concurrency)
    _tell(_run_job(folder / "images", folder, options, ("passel", "demo", *words)))
    if STAGES.index(options.end_with) >= STAGES.index("merge"):
        print(measure(truth, folder).text)
    return 0


def _demo_photos(words: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
    """The value of --photos, which only the demo has, and the other words."""
    option = Option("photos", "int", DEMO_PHOTOS, "synthetic photos to make", Range(6, 100_000), "photos")
    count, rest, queue = DEMO_PHOTOS, [], list(words)
    while queue:
        name, equals, text = queue.pop(0).partition("=")
        if name != "--photos":
            rest.append(name + equals + text)
            continue
        if not equals and not queue:
            raise UsageError("--photos needs a value (whole number of photos)")
        value = parse_value(option, text if equals else queue.pop(0))
        assert isinstance(value, int)
        count = value
    return count, tuple(rest)


def _tell(result: RunResult) -> None:
    print(result.exit_message)
    for hole in result.holes:
        if hole not in result.exit_message:
            print(f"passel: warning: hole in the map: {hole}", file=sys.stderr)


def _folders(parsed: Parsed) -> tuple[Path, Path]:
    """(photos, output) of a run, from either form of the command line; checked, absolute."""
    if len(parsed.arguments) != 1 or not parsed.arguments[0]:
        what = (
            f"too many folders: {' '.join(parsed.arguments)}" if any(parsed.arguments) else "no folder of photos given"
        )
        raise UsageError(what, todo="passel run PHOTOS --output OUT, or passel run --project-path DIR NAME")
    name = parsed.arguments[0]
    if parsed.project_path is not None:
        if parsed.output is not None:
            raise UsageError("--output and --project-path contradict each other", todo="give one of them")
        output = (parsed.project_path / name).absolute()
        photos = output / "images"
    else:
        photos = Path(name).absolute()
        real = photos.resolve()  # '..' and links have no name of their own
        output = (parsed.output or real.parent / (real.name + "_map")).absolute()
    if not photos.is_dir():
        problem = "not a folder" if photos.exists() else "no such folder"
        raise InputError(f"photos cannot be read: {problem}", str(photos), "give the folder that holds the photos")
    if not os.access(photos, os.R_OK | os.X_OK):
        raise InputError("photos cannot be read: permission denied", str(photos), "make the folder readable")
    real_photos, real_output = photos.resolve(), output.resolve()
    if real_output == real_photos or real_photos in real_output.parents:
        raise UsageError("the map would lie among the photos", str(output), "choose an --output outside the photos")
    return photos, output


def _control_point_notice(parsed: Parsed, photos: Path, output: Path) -> tuple[str, ...]:
    found = None if "gcp" in parsed.later else side_file("gcp_list.txt", photos, output)
    if found is None:
        return ()
    return (f"warning: control points are not supported yet: {found} is not used, the map is placed by GPS alone",)


def _check_files_named(options: Options) -> None:
    files = [("geo", options.geo), ("split-image-groups", options.split_image_groups)]
    if options.cameras and not has_json_text(options.cameras):
        files.append(("cameras", Path(options.cameras)))
    for name, path in files:
        if path is not None and not path.is_file():
            raise UsageError(f"--{name}: no such file", str(path))


def _check_writable(output: Path) -> None:
    """The output folder exists (made if need be) and a file can be written there; StorageError otherwise."""
    try:
        str(output).encode("utf-8")
    except UnicodeEncodeError:
        raise StorageError(
            "the output's name is not UTF-8 text", str(output), "choose an --output that libraries can name"
        ) from None
    if output.exists() and not output.is_dir():
        raise StorageError("the output is a file, not a folder", str(output), "choose another --output")
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output) as probe:
            probe.write(b"\0" * 4096)
    except OSError as e:
        raise StorageError(f"the output cannot be written: {e.strerror}", str(output), "choose another --output") from e


def _list_options(words: tuple[str, ...]) -> int:
    if words:
        raise UsageError(f"passel options takes no arguments: {' '.join(words)}")
    print("Supported:\n" + "\n".join("  " + usage_line(o) for o in SUPPORTED))
    print("\nNot supported yet; a run that is asked for them says so and goes on:")
    print("\n".join(f"  --{o.name}: {o.help}" for o in LATER))
    print("\nAccepted, without effect here:")
    print("\n".join(f"  --{o.name}: {o.help}" for o in HARMLESS))
    return 0


def _complain(message: str) -> None:
    print(f"passel: error: {' '.join(message.split())}", file=sys.stderr)


def _stop_like_ctrl_c() -> None:
    """SIGTERM and a closed terminal end a run as Ctrl-C does: children stopped, finished work kept. `nohup` counts."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, interrupt)
