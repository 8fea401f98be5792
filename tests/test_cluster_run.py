"""A whole survey on several machines: the same map as on one, also when machines and the coordinator die on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from machines import Job, Machines, until
from runs import TINY_OPTIONS, digests

PATIENCE_S = 1800.0  # it takes as long as it takes: the machine may be busy


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    found = Machines(tmp_path)
    found.start_coordinator()
    yield found
    found.close()


def test_two_machines_make_the_same_map_though_everything_dies_once(machines, tmp_path, tiny_survey, tiny_map):
    first, second = machines.worker("one"), machines.worker("two")
    job = Job(machines, tiny_survey[0], tmp_path / "map", TINY_OPTIONS)
    until(lambda: job.made() >= 4, PATIENCE_S)
    first.kill()
    until(lambda: job.made() >= 12, PATIENCE_S)
    machines.kill_coordinator()
    machines.worker("one")
    machines.start_coordinator()
    until(lambda: job.made() >= 20, PATIENCE_S)
    second.agent.kill()
    until(lambda: job.made() >= 26, PATIENCE_S)
    job.process.kill()
    end = json.loads(job.done(PATIENCE_S))
    assert (end["event"], end["code"]) == ("end", 0), machines.story()
    assert digests(tmp_path / "map") == digests(tiny_map)
    log = json.loads((tmp_path / "map" / "log.json").read_text("utf-8"))
    assert log["state"] == "done"
