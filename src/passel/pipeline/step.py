"""The step contract: the one unit of work that every executor runs, on any machine, in the same way."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

Fact = float | int | str | bool


@dataclass(frozen=True)
class FileInput:
    """A file that is not ours (a photo): where it is, and the sha256 of its content, which is all that counts for the digest."""

    path: str
    sha256: str


@dataclass(frozen=True)
class ArtifactInput:
    """The output folder of another step, named by that step's digest.

    files: patterns of the only files in it that are read, () = all. On a worker that has to fetch them, the others are missing;
    for the digest they are nothing new.
    """

    digest: str
    files: tuple[str, ...] = ()

    def reads(self, name: str) -> bool:
        """Whether the step may read the file of this name."""
        return not self.files or any(fnmatchcase(name, pattern) for pattern in self.files)


Input = FileInput | ArtifactInput


@dataclass(frozen=True)
class Step:
    """One unit of work.

    stage: name of its stage ('features', 'tile', …). name: unique in the stage ('x3_y-2').
    function: 'package.module:function' with the signature `StepFunction`. version: raised when the function's result changes.
    params: a frozen dataclass of small values (JSON-able). inputs: (role, input) pairs; a role may repeat, order counts.
    memory_mb, threads: what it needs at most. limit_s: it is killed after so many seconds.
    """

    stage: str
    name: str
    function: str
    version: int
    params: Any
    inputs: tuple[tuple[str, Input], ...]
    memory_mb: int = 500
    threads: int = 1
    limit_s: float = 3600.0

    @cached_property  # a plan asks thousands of times
    def digest(self) -> str:
        """sha256 (hex) over function, version, params and the inputs' digests: equal digests mean equal results."""
        parts = [self.function, self.version, params_as_json(self.params)]
        parts += [(role, i.sha256 if isinstance(i, FileInput) else i.digest) for role, i in self.inputs]
        return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()


@dataclass(frozen=True)
class StepInputs:
    """The local paths of a step's inputs, by role, in the step's order."""

    paths: tuple[tuple[str, Path], ...]

    def one(self, role: str) -> Path:
        found = self.many(role)
        if len(found) != 1:
            raise KeyError(f"{len(found)} inputs with the role {role!r}, expected one")
        return found[0]

    def many(self, role: str) -> list[Path]:
        return [p for r, p in self.paths if r == role]


class StepFunction(Protocol):
    """What a step runs: inputs, its params and an empty folder in; small facts out. What it leaves in the folder is the artifact."""

    def __call__(self, inputs: StepInputs, params: Any, out: Path) -> dict[str, Fact]: ...


def resolve(function: str) -> Callable[..., dict[str, Fact]]:
    """The function that 'package.module:function' names."""
    module, _, name = function.partition(":")
    found: Callable[..., dict[str, Fact]] = getattr(importlib.import_module(module), name)
    return found


def params_as_json(params: Any) -> str:
    """Canonical JSON of a params dataclass."""
    value = asdict(params) if is_dataclass(params) and not isinstance(params, type) else params
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
