"""A copy of each job in its own folder, `job.json`: from these a list of jobs that was damaged, lost or set back is made again."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from passel.server.folders import UUID_FORM
from passel.server.jobs import GivenOption, Job, Order, Sent, State

NOTE = "job.json"
NOT_A_NOTE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading something else raises."""
_log = logging.getLogger("passel.server")


@dataclass(frozen=True)
class Note:
    """A job as it was once. revision: counts all changes of all jobs, so of two notes of a job the newer one is known."""

    job: Job
    revision: int

    def text(self) -> str:
        """As JSON."""
        return json.dumps({**asdict(self.job), "revision": self.revision}, separators=(",", ":"))

    @staticmethod
    def of_text(text: str) -> Note:
        """The note that `text` wrote, or another version of Passel did. Raises one of NOT_A_NOTE for what is none."""
        fields: dict[str, Any] = json.loads(text)
        revision = int(fields.get("revision", 0))  # earlier versions did not count
        order = _known(Order, fields["order"])
        order |= {name: tuple(order[name]) for name in ("ignored", "outputs", "urls")}
        order["options"] = tuple(GivenOption(o["name"], o["value"]) for o in order["options"])
        sent = Sent(fields.get("sent", Sent.NO))  # earlier versions knew no bucket
        state = State(fields["state"])
        return Note(Job(**{**_known(Job, fields), "order": Order(**order), "state": state, "sent": sent}), revision)


def _known(kind: type[Job | Order], fields: dict[str, Any]) -> dict[str, Any]:
    """Without what later versions have added."""
    return {name: value for name, value in fields.items() if name in kind.__dataclass_fields__}


def write_note(jobs: Path, note: Note) -> None:
    """Replace the note in the job's folder. It is a copy: where it cannot be written, or the folder is gone, nothing is said."""
    file = jobs / note.job.uuid / NOTE
    aside = file.with_suffix(".part")
    with suppress(OSError):
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as text:
            text.write(note.text())
        aside.replace(file)


def notes_in(jobs: Path) -> Iterator[Note]:
    """The notes in all folders of jobs; what is none is left out, and told."""
    for file in sorted(jobs.glob(f"*/{NOTE}")):
        if not UUID_FORM.fullmatch(file.parent.name):
            continue
        try:
            note = Note.of_text(file.read_text("utf-8"))
        except (OSError, *NOT_A_NOTE) as e:
            _log.warning("%s cannot be read: %s", file, e)
            continue
        if note.job.uuid == file.parent.name:  # else the folder is somebody's copy
            yield note
