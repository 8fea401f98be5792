"""The manifest: what an artifact is made of, how and at what cost. Progress, resume and forecast read it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from passel.pipeline.step import Fact


@dataclass(frozen=True)
class ArtifactFile:
    """One file of an artifact: its path inside the folder (with /), its size and the sha256 (hex) of its content."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Cost:
    """What making an artifact took.

    machine: its name. started: ISO 8601 with the UTC offset. seconds: wall clock. cpu_seconds: user + system,
    with child processes that ended. peak_rss_mb: of the largest process. attempt: 1 for the first try.
    """

    machine: str
    started: str
    seconds: float
    cpu_seconds: float
    peak_rss_mb: float
    attempt: int


@dataclass(frozen=True)
class Manifest:
    """The record kept beside an artifact; `facts` is what the step function returned, sorted by name."""

    digest: str
    stage: str
    name: str
    function: str
    version: int
    files: tuple[ArtifactFile, ...]
    facts: tuple[tuple[str, Fact], ...]
    cost: Cost

    def fact(self, name: str) -> Fact:
        """The fact of this name. Raises KeyError when the step did not return it."""
        return dict(self.facts)[name]

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(f.size_bytes for f in self.files)

    @property
    def machine(self) -> str:
        return self.cost.machine

    @property
    def started(self) -> str:
        return self.cost.started

    @property
    def seconds(self) -> float:
        return self.cost.seconds

    @property
    def cpu_seconds(self) -> float:
        return self.cost.cpu_seconds

    @property
    def peak_rss_mb(self) -> float:
        return self.cost.peak_rss_mb

    @property
    def attempt(self) -> int:
        return self.cost.attempt


def manifest_to_json(manifest: Manifest) -> str:
    """JSON text with a checksum of itself, so that a damaged manifest is recognised."""
    value = asdict(manifest)
    value["facts"] = dict(manifest.facts)
    return json.dumps({"check": _check(value), **value}, indent=1)


def manifest_from_json(text: str) -> Manifest:
    """The manifest written by `manifest_to_json`. Raises ValueError, KeyError or TypeError when it is damaged."""
    value = json.loads(text)
    if value.pop("check") != _check(value):
        raise ValueError("the manifest does not match its checksum")
    files = tuple(ArtifactFile(**f) for f in value.pop("files"))
    facts = tuple(sorted(value.pop("facts").items()))
    return Manifest(files=files, facts=facts, cost=Cost(**value.pop("cost")), **value)


def _check(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
