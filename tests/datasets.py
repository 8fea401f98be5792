"""Real datasets beside the repository, for tests marked `real`."""

from __future__ import annotations

from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2] / "shared" / "datasets"


def dataset(name: str) -> Path:
    """The folder of a dataset ('brighton_beach', 'seneca_half'); skips the test with a reason when it is not there."""
    folder = _ROOT / name
    if not folder.is_dir():
        pytest.skip(f"the dataset {name} is not in ../shared/datasets")
    return folder
