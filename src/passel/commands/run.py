"""`passel run`: a job on this machine from its command line, and what `passel demo` shares with it."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import passel
from passel.commands.unread import unread_pictures
from passel.errors import InputError, StorageError, UsageError
from passel.options import Options, Parsed, has_json_text, parse_options
from passel.pipeline.side_files import side_file, with_side_files

if TYPE_CHECKING:
    from passel.pipeline.executor import Executor, Workplace
    from passel.pipeline.run import RunResult


def run(words: tuple[str, ...]) -> int:
    """`passel run`: map the photos of a folder, here or (`--cluster`) by a Passel elsewhere; returns the exit code."""
    parsed = parse_options(words)
    photos, output = _folders(parsed)
    if parsed.server:
        from passel.commands.remote import run_elsewhere

        check_writable(output)
        return run_elsewhere(parsed, photos, output)
    if "token" in parsed.values:
        raise UsageError("--token is for the server of --cluster", todo="leave it out, or say --cluster URL")
    options = with_side_files(parsed.options, photos, output)
    for notice in (*parsed.notices, *_control_point_notice(parsed, photos, output)):
        print(f"passel: {notice}", file=sys.stderr)
    _check_files_named(options)
    check_writable(output)
    for notice in unread_pictures(photos):
        print(f"passel: {notice}", file=sys.stderr)
    print(f"passel {passel.__version__}: photos in {photos}, map to {output}", flush=True)
    tell(run_job_here(photos, output, options, ("passel", "run", *words)))
    return 0


def run_job_here(photos: Path, output: Path, options: Options, command_line: tuple[str, ...]) -> RunResult:
    """Run a job on this machine, however its steps are executed."""
    # Imported here and below, so that usage errors and help do not wait for the engine.
    from passel.pipeline.run import RunRequest, run_job

    request = RunRequest(photos, output, options, command_line)
    return run_job(request, lambda workplace: _executor(workplace, options.max_concurrency))


def tell(result: RunResult) -> None:
    """How a run ended, and the holes that its message does not name."""
    print(result.exit_message)
    for hole in result.holes:
        if hole not in result.exit_message:
            print(f"passel: warning: hole in the map: {hole}", file=sys.stderr)


def check_writable(output: Path) -> None:
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


def _executor(workplace: Workplace, workers: int) -> Executor:
    """Dask on this machine; for finding faults PASSEL_EXECUTOR=serial (one step at a time) or =inline (in this process)."""
    from passel.cluster.local import LocalDaskExecutor
    from passel.cluster.worker.machine import memory_for_steps_mb
    from passel.pipeline.executor import SerialExecutor

    wanted = os.environ.get("PASSEL_EXECUTOR", "dask")
    if wanted not in ("dask", "serial", "inline"):
        raise UsageError(f"PASSEL_EXECUTOR={wanted} is not one of: dask, serial, inline")
    if wanted == "dask":
        return LocalDaskExecutor(workplace, workers, memory_for_steps_mb())
    return SerialExecutor(workplace, inline=wanted == "inline")


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
