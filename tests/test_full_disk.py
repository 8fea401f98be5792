"""A full disk where the jobs are: the job waits, says so, and goes on by itself when there is room. On small disks of our own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from machines import Machines, contents, undisturbed, until
from passel.cluster.coordinator.away import Away
from passel.cluster.driver.passel_executor import JobLink, PasselExecutor
from passel.cluster.full_disk import FullDisk
from passel.cluster.wire.drivers import Capacity
from passel.errors import StorageError
from passel.pipeline.events import Artifact, Outcome
from passel.pipeline.executor import Workplace, ignore_events
from passel.pipeline.host import run_step
from passel.pipeline.manifest import ArtifactFile
from passel.pipeline.messages import Request
from passel.pipeline.store import Store, storage_errors
from passel_world import Passel
from step_functions import step

_DISK_MB = 240


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MB}m", "passel-test", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk of our own: mounting is not allowed")
    yield folder
    until(lambda: subprocess.run(["umount", folder], capture_output=True, check=False).returncode == 0)


def fill(disk: Path, left_mb: int) -> Path:
    """Somebody else's file."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, (_DISK_MB - left_mb) * 2**20)
    return ballast


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    found = Machines(tmp_path)
    found.start_coordinator()
    yield found
    found.close()


def test_the_coordinators_own_worker_waits_for_room_however_the_step_meets_the_full_disk(machines, disk, tmp_path):
    """In plain words, with a library that dies of it, and with one that blames something else."""
    functions = ("large_file", "fill_disk_and_die", "fill_disk_and_blame")
    steps = [step(f, f, value=60) for f in functions]
    steps.append(step("count_files", "all", after=tuple(steps), stage="next"))
    ballast = fill(disk, 50)
    (disk / "job").mkdir()
    (tmp_path / "job").symlink_to(disk / "job")
    worker = machines.worker("own", local=True, workers=1)
    heard: list[Capacity] = []
    done: dict[str, Outcome] = {}

    def drive() -> None:
        workplace = Workplace(Store(tmp_path / "job" / "store"), tmp_path / "job" / "logs")
        link = JobLink(machines.data / "driver.sock", "job")
        with PasselExecutor(workplace, link, heard.append) as executor:
            done.update(executor.run(steps, ignore_events))

    thread = threading.Thread(target=drive, daemon=True)
    thread.start()
    until(lambda: any(not c.takes_artifacts for c in heard))
    assert "is full" in worker.log.read_text()
    assert not list((tmp_path / "job" / "store" / "tmp").glob("*/files/*")), "what a dead process left fills the disk"
    ballast.unlink()
    thread.join(60)
    assert contents(done) == undisturbed(steps, tmp_path), machines.story()
    assert heard[-1].takes_artifacts


def test_what_only_other_machines_made_does_not_wait_for_room_for_ever(disk, tmp_path, monkeypatch):
    """The coordinator's disk takes nothing, and nobody makes room: the run ends in clear words, and the worker is free again."""
    monkeypatch.setenv("NO_ROOM_S", "2")
    machines = Machines(tmp_path)
    try:
        machines.start_coordinator()
        ballast = fill(disk, 30)
        worker = machines.worker("far", workers=1)
        workplace = Workplace(Store(disk / "job" / "store"), tmp_path / "logs")
        link = JobLink(machines.data / "driver.sock", "job")
        with (
            pytest.raises(StorageError, match=r"The disk is full.*free some space"),
            PasselExecutor(workplace, link, lambda capacity: None) as executor,
        ):
            executor.run([step("large_file", value=60)], ignore_events)
        ballast.unlink()
        with PasselExecutor(workplace, link, lambda capacity: None) as executor:
            done = executor.run([step("large_file", value=60)], ignore_events)
        assert all(isinstance(o, Artifact) for o in done.values()), machines.story()
        assert worker.log.read_text().count("waiting: The disk is full") == 1
    finally:
        machines.close()


def test_a_driver_that_cannot_write_waits_says_so_and_begins_again(disk, tmp_path, tiny_survey):
    ballast = fill(disk, 0)
    place = Passel(tmp_path)
    try:
        place.coordinator()
        place.worker("w", "--workers", "1")
        driver = place.driver(tiny_survey[0], disk / "map", "--end-with", "split")
        assert driver.stdout is not None
        said = []
        while not said or "waiting until there is room" not in said[-1]:
            said.append(driver.stdout.readline())
            assert said[-1], said
        assert "The disk is full" in said[-1]
        ballast.unlink()
        last = json.loads(driver.stdout.read().splitlines()[-1])
        assert (last["event"], last["code"]) == ("end", 0)
        assert json.loads((disk / "map" / "log.json").read_text("utf-8"))["state"] == "done"
    finally:
        place.close()


def write(path: Path, size_mb: int) -> None:
    """All of it or nothing."""
    with storage_errors(path.parent):
        try:
            path.write_bytes(bytes(size_mb * 2**20))
        except OSError:
            path.unlink()
            raise


def test_what_found_no_room_is_not_tried_again_before_there_is_some(disk):
    ballast = fill(disk, 10)
    full = FullDisk(disk)
    tries = []
    for _ in range(2):
        with pytest.raises(StorageError, match="The disk is full"), full.watched(20 * 2**20):
            tries.append(write(disk / "part", 20))
    assert not tries
    assert full.is_full
    write(disk / "small", 1)
    ballast.unlink()
    with full.watched(20 * 2**20):
        write(disk / "part", 20)
    assert not full.is_full


class CountingBucket:
    """A bucket that is a folder."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.fetched: list[str] = []

    def url(self, job: str, digest: str) -> str:
        return f"s3://b/{job}"

    def fetch(self, job: str, digest: str, file: ArtifactFile, path: Path) -> None:
        self.fetched.append(file.name)
        with storage_errors(path):
            shutil.copyfile(self.store.path(digest) / file.name, path)

    def close(self) -> None:
        pass


def test_a_full_disk_is_not_filled_from_the_bucket_again_and_again(disk, tmp_path):
    manifest = run_step(Request(step("large_file", value=30), (), tmp_path / "made", tmp_path / "log")).manifest
    bucket = CountingBucket(Store(tmp_path / "made"))
    store = Store(disk / "store", lambda digest: None)
    store.create()
    store.commit_away(manifest, bucket.url("job", manifest.digest))
    full, away = FullDisk(store.root), Away(bucket, lambda job, digest: None)

    def bring() -> None:
        asyncio.run(away.bring("job", store, full, manifest.digest))

    ballast = fill(disk, 20)
    for _ in range(3):
        with pytest.raises(StorageError, match="The disk is full"):
            bring()
    assert bucket.fetched == ["large.bin"]
    ballast.unlink()
    bring()
    assert store.verify(manifest.digest) == []
    bring()
    assert bucket.fetched == ["large.bin", "large.bin", "ok"], "it is here"
    away.close()


def test_what_one_job_needed_does_not_stop_those_after_it_for_ever(tmp_path, monkeypatch):
    full = FullDisk(tmp_path)
    full.note(10**18)
    assert full.is_full
    monkeypatch.setattr("passel.cluster.full_disk._FORGOTTEN_S", 0.0)
    assert not full.is_full


def test_how_long_a_disk_is_full_and_that_it_is_said_once(tmp_path, monkeypatch, caplog):
    now_s = 1000.0
    monkeypatch.setattr("passel.cluster.full_disk.time.monotonic", lambda: now_s)
    full = FullDisk(tmp_path)
    assert full.full_s == 0.0
    full.note(10**18)
    now_s += 30.0
    full._full_below_bytes = 0  # as when room came, and went again
    full.note(10**18)
    now_s += 30.0
    assert full.full_s == 60.0
    assert len(caplog.records) == 1
    full._full_below_bytes = 0
    now_s += 61.0
    assert full.full_s == 0.0
    full.note(10**18)
    assert full.full_s == 0.0
    assert len(caplog.records) == 2


def test_a_disk_that_takes_something_between_refusals_is_not_full_all_the_time(tmp_path, monkeypatch):
    now_s = 1000.0
    monkeypatch.setattr("passel.cluster.full_disk.time.monotonic", lambda: now_s)
    full = FullDisk(tmp_path)
    full.note(10**18)
    now_s += 30.0
    full._full_below_bytes = 0  # as when room came
    with full.watched(1):
        pass
    full.note(10**18)
    now_s += 20.0
    assert full.full_s == 20.0
