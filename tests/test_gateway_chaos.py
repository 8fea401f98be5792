"""A small round of bench/gateway_chaos.py."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

from gateway_chaos import chaos


def test_every_task_is_done_with_just_its_photos(tmp_path):
    outcome = chaos(tmp_path, tasks=4, kills=4, seed=5)
    assert (outcome.completed, outcome.node_kills + outcome.coordinator_kills) == (4, 4)
    assert outcome.coordinator_kills >= 1
    assert (outcome.wrong_photos, outcome.unrecorded, outcome.left_on_nodes) == (0, 0, 0)
