"""Where an array lies: its lattice and window, written beside it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from passel.geo.grid import Grid, Window


def save_place(grid: Grid, window: Window, path: Path) -> None:
    """Write a lattice and a window of it as JSON."""
    path.write_text(json.dumps({"grid": asdict(grid), "window": asdict(window)}), encoding="utf-8")


def load_place(path: Path) -> tuple[Grid, Window]:
    """What `save_place` wrote."""
    head = json.loads(path.read_text(encoding="utf-8"))
    return Grid(head["grid"]["resolution_m"], tuple(head["grid"]["offset_m"])), Window(**head["window"])
