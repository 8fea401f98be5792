"""A step as it travels: the worker reads its card only; the parameters are unpacked in the process that runs it.

So the agent imports nothing of the engine: its memory stays small, and no native library can take it down.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from typing import Any

from passel.cluster.wire.workers import Assignment, WireError, unpack
from passel.pipeline.step import ArtifactInput, FileInput, Step

_CARD = {(c.__module__, c.__qualname__): c for c in (Step, FileInput, ArtifactInput)}


@dataclass(frozen=True)
class PackedStep(Step):
    """A step whose params are not unpacked (None). Pickled, it becomes the whole step again."""

    blob: bytes = b""

    @property
    def digest(self) -> str:
        """Not known here: it needs the params."""
        raise NotImplementedError("a packed step does not know its digest: its Assignment does")

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self.blob,)


def packed_step(assignment: Assignment) -> PackedStep:
    """The step of an assignment, without its params. Raises WireError when it is damaged."""
    blob = unpack(assignment.step)
    try:
        step = _CardReader(io.BytesIO(blob)).load()
    except (pickle.UnpicklingError, EOFError, TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
        raise WireError(f"A step cannot be read: {error}", f"{assignment.stage} {assignment.name}") from error
    if not isinstance(step, Step):
        raise WireError("What came is no step", f"{assignment.stage} {assignment.name}")
    return PackedStep(
        step.stage,
        step.name,
        step.function,
        step.version,
        None,
        step.inputs,
        step.memory_mb,
        step.threads,
        step.limit_s,
        blob,
    )


class _CardReader(pickle.Unpickler):
    """Knows the classes of a step's card; every other class in the pickle becomes a `_Closed`, and nothing is imported."""

    def find_class(self, module: str, name: str) -> Any:
        return _CARD.get((module, name), _Closed)


class _Closed:
    """Stands for any object of the params."""

    def __new__(cls, *parts: Any, **more: Any) -> _Closed:
        return super().__new__(cls)

    def __init__(self, *parts: Any, **more: Any) -> None:
        """Takes whatever the real class would."""

    def __setstate__(self, state: Any) -> None:
        """As above."""

    def __hash__(self) -> int:
        return id(self)

    def append(self, item: Any) -> None:
        """As a list of the params would."""

    def extend(self, items: Any) -> None:
        """As above."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """As a mapping of the params would."""
