"""Submodels as data. `split.py` makes them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Submodel:
    """Photos mapped together.

    `core` (each photo of the survey is in exactly one core) and `halo` (neighbours within the overlap).
    """

    name: str
    core: tuple[str, ...]
    halo: tuple[str, ...]

    @property
    def photos(self) -> tuple[str, ...]:
        return tuple(sorted((*self.core, *self.halo)))


@dataclass(frozen=True)
class SplitPlan:
    """The submodels of a survey, in a stable order.

    notes: sentences for the user (islands joined, photos without GPS, …).
    """

    submodels: tuple[Submodel, ...]
    notes: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False), encoding="utf-8")

    @staticmethod
    def load(path: Path) -> SplitPlan:
        d = json.loads(path.read_text(encoding="utf-8"))
        return SplitPlan(
            tuple(Submodel(s["name"], tuple(s["core"]), tuple(s["halo"])) for s in d["submodels"]),
            tuple(d.get("notes", ())),
        )
