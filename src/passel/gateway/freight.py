"""What a forwarder must know of its job: written by the coordinator into the job's folder, read by the forwarder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from passel.errors import StorageError
from passel.server.api_options import POST_PROCESSING
from passel.server.jobs import GivenOption, Job

FILE = "forward.json"
_MADE_BY_ODM_ALONE = frozenset({"opensfm/reconstruction.json", "odm_orthophoto/odm_orthophoto_cut.tif"})
"""What OpenDroneMap's own split-merge cannot go on without, in its two rounds."""


def is_part(outputs: Iterable[str]) -> bool:
    """Whether a task with these outputs is a submodel of OpenDroneMap's own split-merge: Passel's engine cannot make it."""
    return not _MADE_BY_ODM_ALONE.isdisjoint(outputs)


@dataclass(frozen=True)
class Freight:
    """round: of the job, which a restart by its owner changes. options: all that the client gave, and what the policy made
    of them. most_open: tasks of this owner on nodes at once. door: where the node sends parts of a split task, '' = nowhere.
    remarks: lines for the output.
    """

    job: str
    round: int
    owner: str
    name: str
    options: tuple[GivenOption, ...]
    skip_post_processing: bool
    outputs: tuple[str, ...]
    most_open: int | None = None
    door: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def is_split(self) -> bool:
        """OpenDroneMap would make several tasks of it."""
        return any(o.name == "split" for o in self.options)

    def options_json(self, with_door: bool) -> str:
        """The options as the node reads them. What NodeODM turns on by itself is left to it."""
        left_out = {"sm-cluster", "engine", *(() if self.skip_post_processing else POST_PROCESSING)}
        rows = [{"name": o.name, "value": o.value} for o in self.options if o.name not in left_out]
        if with_door:
            rows.append({"name": "sm-cluster", "value": self.door})
        return json.dumps(rows)

    def write(self, folder: Path) -> None:
        """Into the job's folder, for its owner only: it may hold a token."""
        aside = folder / f"{FILE}.part"
        try:
            fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                json.dump(asdict(self), file)
            aside.rename(folder / FILE)
        except OSError as e:
            raise StorageError(f"The task cannot be forwarded: {e.strerror}", str(aside), "make room") from None


def freight_of(
    job: Job, door: str, most_open: int | None, options: tuple[GivenOption, ...], remarks: tuple[str, ...]
) -> Freight:
    """The freight of a job. The date of its order is the round: a restart sets it to the time of the restart."""
    order = job.order
    return Freight(
        *(job.uuid, order.created_ms, job.owner, order.name, options),
        *(order.skip_post_processing, order.outputs, most_open, door, remarks),
    )


def read_freight(folder: Path) -> Freight:
    """What `write` wrote."""
    try:
        fields = json.loads((folder / FILE).read_text(encoding="utf-8"))
        fields["options"] = tuple(GivenOption(**o) for o in fields["options"])
        for name in ("outputs", "remarks"):
            fields[name] = tuple(fields[name])
        return Freight(**fields)
    except (OSError, ValueError, TypeError, KeyError) as e:
        raise StorageError(f"What is to be forwarded cannot be read: {e}", str(folder / FILE)) from None
