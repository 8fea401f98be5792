"""The step that inspects a batch of photos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from passel.errors import StepError
from passel.pipeline.step import Fact, StepInputs
from passel.survey.facts import PhotoFacts, Refusal, load_facts, save_facts
from passel.survey.inspect import inspect_photo

_FILE = "photos.json"


@dataclass(frozen=True)
class InspectParams:
    """names: the photos' file names, in the order of the inputs with the role 'photo'."""

    names: tuple[str, ...]


def inspect_batch(inputs: StepInputs, params: InspectParams, out: Path) -> dict[str, Fact]:
    """Inspect some photos (role 'photo', about 50): `photos.json` with their facts and refusals."""
    paths = inputs.many("photo")
    if len(paths) != len(params.names):
        raise StepError(
            f"{len(paths)} photos for {len(params.names)} names", "inspect", "report this as a bug in Passel"
        )
    found = [inspect_photo(path, name) for path, name in zip(paths, params.names, strict=True)]
    facts = [f for f in found if isinstance(f, PhotoFacts)]
    refusals = [f for f in found if isinstance(f, Refusal)]
    save_facts(out / _FILE, facts, refusals)
    return {"photos": len(facts), "refused": len(refusals)}


def load_batch(folder: Path) -> tuple[tuple[PhotoFacts, ...], tuple[Refusal, ...]]:
    """What `inspect_batch` left in its artifact folder: (facts, refusals)."""
    return load_facts(folder / _FILE)
