"""Artifacts that are damaged on the coordinator's disk while a job runs are made again: nobody waits for what never comes."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from machines import Drive, Machines, undisturbed, until
from passel.cluster.wire.workers import InputRef, artifact_path
from passel.cluster.worker.answers import DamagedError, GoneError, NotThereError
from passel.cluster.worker.workplace import _are_well
from passel.errors import PasselError
from passel.pipeline.events import StepDone, StepFailure
from passel.pipeline.host import run_step
from passel.pipeline.messages import Request
from passel.pipeline.step import FileInput, Step
from passel.pipeline.store import Store
from step_functions import Params, step
from test_store import put, unreadable
from transfer_world import data_plane, no_fault


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    monkeypatch.setenv("LEASE_S", "3")
    found = Machines(tmp_path)
    found.start_coordinator()
    yield found
    found.close()


def remove(file: Path) -> None:
    file.unlink()


def cut_short(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def turn_bits(file: Path) -> None:
    """As a disk does it: size and times stay."""
    times = file.stat()
    file.write_bytes(bytes(b ^ 0x80 for b in file.read_bytes()))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def change_digits(file: Path) -> None:
    """What is in it is still what a step can read; size and times stay."""
    times = file.stat()
    file.write_text("7654321")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def remove_all(file: Path) -> None:
    """As somebody does who makes room."""
    shutil.rmtree(file.parent.parent)


@pytest.mark.parametrize(
    ("damage", "local"),
    [
        *((remove, False), (cut_short, False), (turn_bits, False), (change_digits, False)),
        *((remove_all, True), (cut_short, True), (turn_bits, True), (change_digits, True)),
    ],
)
def test_what_rots_on_the_coordinators_disk_is_made_again(
    machines: Machines, tmp_path: Path, damage: Callable[[Path], None], local: bool
) -> None:
    first = step("add", "first", value=1234567)
    gate = step("add", "gate", value=2, seconds=2.0, marker=str(tmp_path / "gate.runs"))
    steps = [first, gate, step("add", "last", after=(first, gate), stage="second")]
    maker = machines.worker("maker")
    drive = Drive(machines, steps)
    until(lambda: StepDone in map(type, drive.events) and (tmp_path / "gate.runs").exists())
    maker.kill()  # what it has in its cache is of no use to others
    damage(drive.store.path(first.digest) / "total.txt")
    machines.worker("other", local=local)
    assert drive.sha256s() == undisturbed(steps, tmp_path)


def test_a_photo_that_rots_after_it_was_first_sent_is_said(machines: Machines, tmp_path: Path) -> None:
    photo = tmp_path / "DJI_1.JPG"
    photo.write_bytes(os.urandom(10_000))
    given = ("photo", FileInput(str(photo), hashlib.sha256(photo.read_bytes()).hexdigest()))
    steps = [Step("photos", n, "step_functions:copy_names", 1, Params(value=i), (given,)) for i, n in enumerate("ab")]
    first = machines.worker("first")
    Drive(machines, steps[:1]).done()
    first.kill()
    turn_bits(photo)
    machines.worker("second")
    outcomes = Drive(machines, steps[1:]).done()
    failure = outcomes[steps[1].digest]
    assert isinstance(failure, StepFailure)
    assert failure.where == "DJI_1.JPG"


def test_a_disk_that_damages_again_and_again_is_named(tmp_path: Path) -> None:
    made = run_step(Request(step("add", value=12), (), tmp_path / "here", tmp_path / "log")).manifest
    root, said = tmp_path / "there", []

    async def go() -> None:
        async with data_plane(root, no_fault) as (link, store):
            for _ in range(4):
                await link.send_artifact("j", made, Store(tmp_path / "here").path(made.digest))
                await link.doubt("j", made.digest)
                turn_bits(store.path(made.digest) / "total.txt")
                try:
                    await link.fetch(artifact_path("j", made.digest, "total.txt"), tmp_path / "part")
                except DamagedError as error:
                    said.append(error)
                try:
                    await link.doubt("j", made.digest)
                except PasselError as error:
                    said.append(error)

    asyncio.run(go())
    assert [type(e) for e in said] == [DamagedError, GoneError] * 3 + [DamagedError, NotThereError]
    assert "again and again" in str(said[-1])
    assert str(root) in str(said[-1])


def test_what_was_served_and_then_removed_is_taken_again(tmp_path: Path) -> None:
    made = run_step(Request(step("add", value=12), (), tmp_path / "here", tmp_path / "log")).manifest
    sent = Store(tmp_path / "here").path(made.digest)

    async def go() -> None:
        async with data_plane(tmp_path / "there", no_fault) as (link, store):
            await link.send_artifact("j", made, sent)
            await link.fetch(artifact_path("j", made.digest, "total.txt"), tmp_path / "part")
            remove_all(store.path(made.digest) / "total.txt")
            await link.send_artifact("j", made, sent)
            assert store.find(made.digest) is not None
            assert not store.verify(made.digest)

    asyncio.run(go())


def test_many_who_meet_one_loss_count_it_once(tmp_path: Path) -> None:
    made = run_step(Request(step("add", value=12), (), tmp_path / "here", tmp_path / "log")).manifest
    sent = Store(tmp_path / "here").path(made.digest)

    async def go() -> None:
        async with data_plane(tmp_path / "there", no_fault) as (link, store):
            for _ in range(2):
                await link.send_artifact("j", made, sent)
                await link.doubt("j", made.digest)
                cut_short(store.path(made.digest) / "total.txt")
                met = await asyncio.gather(*(link.doubt("j", made.digest) for _ in range(4)), return_exceptions=True)
                assert [type(e) for e in met] == [GoneError] * 4
            await link.send_artifact("j", made, sent)
            await link.doubt("j", made.digest)

    asyncio.run(go())


def test_what_the_coordinators_disk_no_longer_reads_is_made_again(tmp_path: Path) -> None:
    what = step("add")

    async def go() -> None:
        async with data_plane(tmp_path / "there", no_fault) as (link, store):
            put(store, what)
            unreadable(store, what)
            with pytest.raises(GoneError):
                await link.doubt("j", what.digest)
            assert not store.has(what.digest)

    asyncio.run(go())


def test_a_local_worker_reports_as_lost_only_what_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path) -> str:  # rights, which root has all of
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    store, what = Store(tmp_path), step("add")
    store.create()
    manifest = put(store, what)
    given = [InputRef("terms", "artifact", what.digest, files=manifest.files)], [("terms", store.path(what.digest))]
    assert _are_well(*given, {})
    monkeypatch.setattr("passel.cluster.worker.workplace.file_sha256", forbidden)
    assert _are_well(*given, {}), "the step meets the error, and says it"
    monkeypatch.undo()
    turn_bits(store.path(what.digest) / "deep" / "ä.bin")
    assert not _are_well(*given, {})
    unreadable(store, what)
    assert not _are_well(*given, {})
