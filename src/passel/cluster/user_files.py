"""The user's own files (photos) as a job's steps need them: nobody locks them, so that one may change or go while the map is made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from passel.cluster.wire.workers import InputRef
from passel.errors import PasselError
from passel.pipeline.damage import file_sha256
from passel.pipeline.step import FileInput, Step


class ChangedError(PasselError):
    """A file is not any more what the survey found."""


@dataclass(frozen=True)
class _Seen:
    """A file when a plan first named it. state: size and time of change, None if it could not be read. name: the digest it had."""

    state: tuple[int, int] | None
    name: str


class UserFiles:
    """What a job's driver has seen of them."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def note(self, steps: Iterable[Step]) -> None:
        """To be called with each plan, before its steps run."""
        for step in steps:
            for _, given in step.inputs:
                if isinstance(given, FileInput) and given.path not in self._seen:
                    self._seen[given.path] = _Seen(_state(Path(given.path)), given.sha256)

    def ref(self, role: str, given: FileInput) -> InputRef:
        """The file as an input. One that could never be read is left to the step, which says what that means.

        Raises ChangedError.
        """
        path, seen = Path(given.path), self._seen[given.path]
        state = _state(path)
        if state != seen.state and (state is None or _sha256(path) != given.sha256):
            raise (
                changed(given.path)
                if state
                else ChangedError("A photo is gone", given.path, "put it back and start again")
            )
        # The first plan names a file without having read it; any other digest that it gets later is its content's.
        content = given.sha256 if given.sha256 != seen.name else ""
        return InputRef(
            role, "file", given.sha256, path.name, state[0] if state else 0, path=given.path, sha256=content
        )


def changed(where: str) -> ChangedError:
    """In words that help."""
    return ChangedError("A photo was changed while the map was made", where, "start again: it is read anew")


def _state(path: Path) -> tuple[int, int] | None:
    try:
        with path.open("rb"):
            stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError:
        return ""
