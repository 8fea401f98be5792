"""One attempt to get a task done by a node."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    """How far an attempt is. CLAIMED: a slot is kept for it. SENDING: photos go there. COMMITTED: the node has the task.
    ENDED: see its outcome.
    """

    CLAIMED = "claimed"
    SENDING = "sending"
    COMMITTED = "committed"
    ENDED = "ended"


DONE = "done"
"""The outcome of an attempt whose results are here."""


@dataclass(frozen=True)
class Attempt:
    """A line of the book; never deleted while its job is there, so everything that ran is on record.

    round: of the job; a restart by its owner begins another. remote_uuid: the task's on the node. outcome: in words.
    blamed: the node had the task when it failed, so the task may be what kills nodes. lines: of output that were passed on.
    fans_out: it sends tasks of its own back to us. cleaned: nothing of it is left on the node.
    """

    id: int
    job: str
    round: int
    owner: str
    node: str
    remote_uuid: str
    stage: Stage
    photos: int
    claimed_s: float
    committed_s: float | None = None
    ended_s: float | None = None
    outcome: str = ""
    blamed: bool = False
    lines: int = 0
    fans_out: bool = False
    cleaned: bool = False

    @property
    def is_open(self) -> bool:
        """It holds a slot of its node."""
        return self.stage is not Stage.ENDED
