"""The exception family. Every error says what happened, where, and what to do; users never see a traceback for these."""

from __future__ import annotations


class PasselError(Exception):
    """An expected failure with a message for the user.

    `what` is one sentence, `where` the file, photo or step it concerns, `todo` what the user can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, where: str = "", todo: str = "") -> None:
        super().__init__(what, where, todo)
        self.what, self.where, self.todo = what, where, todo

    def __str__(self) -> str:
        place = f" [{self.where}]" if self.where else ""
        advice = f" → {self.todo}" if self.todo else ""
        return f"{self.what}{place}{advice}"


class UsageError(PasselError):
    """The command line is wrong: unknown option, value out of range."""

    exit_code = 2


class InputError(PasselError):
    """The photos or side files given cannot make a map."""


class StorageError(PasselError):
    """A folder cannot be read or written, or a disk is full."""


class ReconstructionError(PasselError):
    """Cameras could not be found for the survey or a submodel."""


class StepError(PasselError):
    """A step failed, died or ran past its time limit."""


class Interrupted(PasselError):  # noqa: N818 - the user asked for it, nothing went wrong
    """The user stopped the run; what is finished is kept."""

    exit_code = 130
