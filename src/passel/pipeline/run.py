"""A job from photos to map: inspect, split, find cameras, make ground tiles, merge, report."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self
from zipfile import BadZipFile

import passel
from passel.errors import Interrupted, PasselError
from passel.option_table import STAGES
from passel.options import Options
from passel.pipeline.damage import says_gone
from passel.pipeline.events import Event, OnEvent
from passel.pipeline.executor import Executor, Workplace
from passel.pipeline.find_cameras import CamerasFound, find_cameras
from passel.pipeline.job import Job, Project, run_all
from passel.pipeline.make_products import make_products, report
from passel.pipeline.progress import Progress
from passel.pipeline.run_log import RunLog
from passel.pipeline.step import FileInput, Step
from passel.pipeline.steps.survey import InspectParams, load_batch
from passel.pipeline.store import Store, is_full_disk, storage_error
from passel.products.layout import Layout, write_text
from passel.products.plan_picture import plan_picture
from passel.survey.assemble import DEFAULT_GPS_SIGMA_M, assemble_survey, overlap_reach_m
from passel.survey.cameras_file import read_cameras_file
from passel.survey.describe import describe_survey
from passel.survey.geo_file import read_geo_file
from passel.survey.image_groups import plan_from_image_groups
from passel.survey.inspect import list_photos, photos_in_folders, with_writable_names
from passel.survey.model import Survey
from passel.survey.plan_map import plan_geojson
from passel.survey.split import split_survey
from passel.survey.submodel import SplitPlan

PHOTOS_A_BATCH = 40
_UNREADABLE = (ValueError, LookupError, TypeError, EOFError, OSError, BadZipFile)
"""What reading a damaged file may raise."""


@dataclass(frozen=True)
class RunRequest:
    """What to run: a folder of photos, an output folder, checked options, and the words the user typed."""

    photos: Path
    output: Path
    options: Options
    command_line: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunResult:
    """A finished run. exit_message: the last words for the user. holes: what the map lacks, in words."""

    output: Path
    exit_message: str
    holes: tuple[str, ...]


MakeExecutor = Callable[[Workplace], Executor]


@dataclass(frozen=True)
class _Run:
    """What the parts of a run share."""

    request: RunRequest
    project: Project
    layout: Layout
    executor: Executor
    progress: Watcher
    log: RunLog
    on_event: OnEvent


class Watcher(Protocol):
    """Who is told how a run goes: a person's terminal, or the server that started it. Called from any thread."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __call__(self, event: Event) -> None: ...

    def say(self, text: str) -> None:
        """A line for people."""


def run_job(request: RunRequest, make_executor: MakeExecutor, watcher: Watcher | None = None) -> RunResult:
    """Make the map. What is in the output's store already is not made again. Raises PasselError.

    watcher: by default a display on the terminal.
    """
    project = Project(request.output)
    store = Store(project.store)
    with store.run_lock():
        _forget(project, store, request.options)
        settings = {**asdict(request.options), "command": request.command_line}
        log = RunLog(Layout(request.output).log, settings, passel.__version__)
        executor = make_executor(Workplace(store, project.logs))
        try:
            with watcher or Progress(request.output, request.options.max_concurrency) as progress:

                def on_event(event: Event) -> None:
                    progress(event)
                    log(event)

                run = _Run(request, project, Layout(request.output), executor, progress, log, on_event)
                result = _run_on_sound_artifacts(run, store)
        except Interrupted:
            log.close("interrupted")
            raise
        except PasselError as e:
            log.close(f"failed: {e}")
            raise
        except OSError as e:
            log.close(f"failed: {e}")
            raise storage_error(e, request.output) from e
        finally:
            executor.close()
        log.close("done")
    return result


def _forget(project: Project, store: Store, options: Options) -> None:
    """--rerun-all and --rerun-from: earlier work goes before anything starts."""
    if options.rerun_all:
        for path in (project.logs, *(p for p in project.store.iterdir() if p.is_dir())):
            shutil.rmtree(path, ignore_errors=True)
    elif options.rerun_from:
        gone = set(STAGES[STAGES.index(options.rerun_from) :])
        store.forget(lambda manifest: manifest.stage in gone)


def _run_on_sound_artifacts(run: _Run, store: Store) -> RunResult:
    """The run; again when what it reads itself was damaged on the disk since it was made. (What steps read is the executors' matter.)"""
    while True:
        try:
            return _run(run)
        except _UNREADABLE as error:
            if is_full_disk(error) or (isinstance(error, OSError) and error.errno and not says_gone(error)):
                raise
            run.progress.say(
                f"! Something failed ({error!r:.200}): what was made is read again, for the disk may have damaged it"
            )
            if not (damaged := store.drop_damaged()):
                raise
            run.progress.say(f"! {damaged} artifacts were damaged on the disk [{store.root}]: they are made again")


def _run(run: _Run) -> RunResult:
    started_s = time.monotonic()
    survey = _survey(run)
    run.progress.say(describe_survey(survey))
    job = Job.of(survey, run.request.options, run.project)
    if job.ends_with("survey"):
        return _ended(run)
    split = _split(run, survey)
    if job.ends_with("split"):
        return _ended(run)
    cameras = find_cameras(job, split, run.executor, run.on_event)
    if cameras is None:
        return _ended(run)
    for note in cameras.notes:
        run.progress.say(f"! {note}")
    if job.ends_with("align"):
        return _ended(run, cameras.holes)
    made = make_products(job, cameras, run.layout, run.executor, run.on_event)
    if made is None:
        return _ended(run, cameras.holes)
    for note in made.notes:
        run.progress.say(f"! {note}")
    holes = (*cameras.holes, *made.lost_tiles)
    if not job.ends_with("merge"):
        report(job, split, cameras, made, run.layout, run.log, time.monotonic() - started_s)
    return RunResult(run.request.output, _last_words(run, job, cameras), holes)


def _ended(run: _Run, holes: tuple[str, ...] = ()) -> RunResult:
    words = f"Ended after the stage {run.request.options.end_with!r}, as asked: no map was made."
    return RunResult(run.request.output, words, holes)


def _survey(run: _Run) -> Survey:
    """Inspect every photo (in steps, by file time and size, so that a second run reads nothing) and put the survey together."""
    paths, misnamed = with_writable_names(list_photos(run.request.photos))
    batches = [paths[i : i + PHOTOS_A_BATCH] for i in range(0, len(paths), PHOTOS_A_BATCH)]
    steps = [
        Step(
            "survey", f"photos_{number:05d}", "passel.pipeline.steps.survey:inspect_batch", 4,
            InspectParams(tuple(p.name for p in batch)), tuple(("photo", _seen_file(p)) for p in batch), memory_mb=300,
        )
        for number, batch in enumerate(batches)
    ]  # fmt: skip
    done = run_all(run.executor, steps, run.on_event)
    found = [load_batch(done[s.digest].path) for s in steps]
    options = run.request.options
    accuracy = options.gps_accuracy_m
    return assemble_survey(
        [f for facts, _ in found for f in facts],
        [*misnamed, *photos_in_folders(paths[0].parent), *(r for _, refusals in found for r in refusals)],
        paths,
        read_geo_file(options.geo) if options.geo else (),
        read_cameras_file(options.cameras) if options.cameras else (),
        DEFAULT_GPS_SIGMA_M if accuracy is None else (accuracy, 2.0 * accuracy),
    )


def _seen_file(path: Path) -> FileInput:
    """A photo that nobody has read yet: known by name, size and time of change."""
    try:
        stat = path.stat()
        seen = f"{path.absolute()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_mode}"
    except OSError:
        seen = f"{path.absolute()}|unreadable"
    return FileInput(str(path.absolute()), hashlib.sha256(seen.encode("utf-8", "surrogateescape")).hexdigest())


def _split(run: _Run, survey: Survey) -> SplitPlan:
    options = run.request.options
    reach_m = overlap_reach_m(survey)
    if options.split_image_groups:
        plan = plan_from_image_groups(survey, options.split_image_groups, options.split_overlap_m, reach_m)
    else:
        plan = split_survey(survey, options.split, options.split_overlap_m, reach_m)
    for note in plan.notes:
        run.progress.say(note)
    if survey.frame.is_georeferenced:
        write_text(run.layout.plan_geojson, plan_geojson(survey, plan))
        plan_picture(survey, plan, run.layout.plan_picture)
    return plan


def _last_words(run: _Run, job: Job, cameras: CamerasFound) -> str:
    placed = int(cameras.adjusted.manifest.fact("photos"))
    words = f"The map is in {run.request.output} ({placed} of {len(job.survey.photos)} photos placed)"
    return words if job.ends_with("merge") else f"{words}; open {run.layout.report_page}"
