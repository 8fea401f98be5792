"""Rows of the report from what the earlier rooms left in their artifacts."""

from __future__ import annotations

import json
from pathlib import Path

from passel.align.similarities import Disagreement
from passel.products.report_model import AlignmentRow, FindingRow, Gate
from passel.survey.model import Survey
from passel.survey.submodel import SplitPlan

# What a row tells where that is not "how far submodels are apart at the cameras they share".
_MEANING = {"adjustment": "adjustment (how far it moved the cameras)"}


def alignment_rows(path: Path) -> tuple[AlignmentRow, ...]:
    """The rows of an alignment.json: step → Disagreement, in the order of the steps."""
    steps = json.loads(path.read_text(encoding="utf-8"))
    return tuple(_alignment_row(name, Disagreement(**d)) for name, d in steps.items())


def _alignment_row(step: str, d: Disagreement) -> AlignmentRow:
    return AlignmentRow(
        _MEANING.get(step, step), d.cameras, d.position_median_m, d.position_p95_m, d.rotation_median_deg,
        d.rotation_p95_deg,
    )  # fmt: skip


def gates_of(path: Path) -> tuple[Gate, ...]:
    """The gates of a submodel's verdict.json; their names tell the unit."""
    verdict = json.loads(path.read_text(encoding="utf-8"))
    return tuple(Gate(g["name"], g["value"], g["limit"], "", g["passed"]) for g in verdict["gates"])


def finding_rows(survey: Survey, plan: SplitPlan) -> tuple[FindingRow, ...]:
    """What the input check and the split have to say."""
    found = [FindingRow(f.severity, f.message, f.photos) for f in survey.findings]
    return (*found, *(FindingRow("note", note) for note in plan.notes))
