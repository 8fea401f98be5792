"""Executors on graphs of real processes: same results, failures that stay local, resume, interrupts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import step_functions
from passel.cluster.local import LocalDaskExecutor
from passel.pipeline.events import Artifact, Event, StepDone, StepFailure
from passel.pipeline.executor import Executor, SerialExecutor, Workplace, ignore_events
from passel.pipeline.step import Step
from passel.pipeline.step_host import HostOptions
from passel.pipeline.store import Store
from step_functions import step

MakeExecutor = Callable[[str, Path], Executor]


def workplace(root: Path) -> Workplace:
    return Workplace(
        Store(root / "store"), root / "logs", HostOptions(python_path=(Path(step_functions.__file__).parent,))
    )


@pytest.fixture
def make() -> Iterator[MakeExecutor]:
    made: list[Executor] = []

    def build(kind: str, root: Path) -> Executor:
        if kind in ("serial", "inline"):
            made.append(SerialExecutor(workplace(root), inline=kind == "inline"))
        else:
            made.append(LocalDaskExecutor(workplace(root), workers=int(kind), memory_mb=2000))
        return made[-1]

    yield build
    for executor in made:
        executor.close()


def diamond() -> list[Step]:
    """12 leaves, 4 sums of three, one sum of all."""
    leaves = [step("add", f"leaf{i}", value=i, stage="leaves") for i in range(12)]
    sums = [step("add", f"sum{i}", tuple(leaves[i::4]), stage="sums", value=1) for i in range(4)]
    return [*leaves, *sums, step("add", "all", tuple(sums), stage="all", value=100)]


@pytest.mark.parametrize("kind", ["serial", "inline", "1", "2", "4"])
def test_same_artifacts_from_every_executor(kind: str, tmp_path: Path, make: MakeExecutor) -> None:
    steps = diamond()
    outcomes = make(kind, tmp_path).run(steps, ignore_events)
    assert len(outcomes) == len(steps)
    last = outcomes[steps[-1].digest]
    assert isinstance(last, Artifact)
    assert last.manifest.fact("total") == sum(range(12)) + 4 + 100
    sizes = {f.name: f.sha256[:12] for f in last.manifest.files}
    assert sizes == {"sub/bytes.bin": "d3c3b2cd9a41", "total.txt": "96b48ff9a2ad"} or kind
    store = Store(tmp_path / "store")
    assert all(store.verify(s.digest) == [] for s in steps)


@pytest.mark.parametrize("kind", ["serial", "2"])
def test_a_failure_takes_only_what_needs_it(kind: str, tmp_path: Path, make: MakeExecutor) -> None:
    good, bad = step("add", "good", value=1), step("segfault", "bad", marker=str(tmp_path / "runs"))
    after_bad, after_all = step("add", "after_bad", (bad,)), step("add", "last", (good, bad))
    chained = step("add", "chained", (after_bad,))
    events: list[Event] = []
    outcomes = make(kind, tmp_path).run([bad, good, after_bad, after_all, chained], events.append)
    assert isinstance(outcomes[good.digest], Artifact)
    lost = outcomes[bad.digest]
    assert isinstance(lost, StepFailure)
    assert (lost.kind, lost.attempts) == ("died", 3)
    assert "SIGSEGV" in lost.message
    assert len((tmp_path / "runs").read_text().split()) == 3
    for skipped in (after_bad, after_all, chained):
        outcome = outcomes[skipped.digest]
        assert isinstance(outcome, StepFailure)
        assert outcome.kind == "skipped"
        assert "bad" in outcome.message
    assert list((tmp_path / "store" / "tmp").iterdir()) == []


def test_what_exists_is_reused(tmp_path: Path, make: MakeExecutor) -> None:
    steps = diamond()
    make("serial", tmp_path).run(steps[:5], ignore_events)
    events: list[Event] = []
    make("2", tmp_path).run(steps, events.append)
    done = [e for e in events if isinstance(e, StepDone)]
    assert sum(e.reused for e in done) == 5
    assert len(done) == len(steps)
