"""What an executor and its host say to each other. Both are on one machine, so the wire is pickle over a pipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from passel.pipeline.manifest import Manifest
from passel.pipeline.step import Step

Kind = str
"""Why a step has no artifact:
'error'   a PasselError: known, the same at every try
'crash'   any other exception: a bug
'died'    the process ended (signal, out of memory)
'timeout' it ran past its limit
'storage' the disk is full: no further step can succeed until there is room
'broken'  the disk fails or is read-only: no further step can succeed on this machine, whatever room there is
'skipped' an input is missing because another step failed
'stopped' the run was interrupted
"""
RETRIED_KINDS = ("died", "timeout")


@dataclass(frozen=True)
class Request:
    """One step to run. paths: its inputs' local paths by role. log: for its prints. attempt: 1 for the first try.

    synced: the artifact must outlive a power cut.
    """

    step: Step
    paths: tuple[tuple[str, Path], ...]
    store: Path
    log: Path
    attempt: int = 1
    synced: bool = True


@dataclass(frozen=True)
class Done:
    """The artifact is in the store. recycle: the host used much or had children, so the next step wants a fresh one."""

    manifest: Manifest
    recycle: bool = False


@dataclass(frozen=True)
class Failed:
    """The step has no artifact. what, where, todo: for the user. detail: traceback, for the log."""

    kind: Kind
    what: str
    where: str = ""
    todo: str = ""
    detail: str = ""
    recycle: bool = True


Answer = Done | Failed
