"""The store: commits that are whole or nothing, races, damage, leftovers, full and read-only disks."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from passel.errors import StepError, StorageError
from passel.pipeline.manifest import Cost, Manifest, manifest_from_json, manifest_to_json
from passel.pipeline.step import Step
from passel.pipeline.store import Store
from step_functions import step

COST = Cost("here", "2026-01-01T00:00:00.000+00:00", 1.5, 1.25, 100.0, 1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.create()
    return made


def put(store: Store, what: Step, content: bytes = b"content") -> Manifest:
    with store.aside(what.digest) as aside:
        (aside.files / "deep").mkdir()
        (aside.files / "deep" / "ä.bin").write_bytes(content)
        (aside.files / "empty").write_bytes(b"")
        (aside.scratch / "temporary").write_bytes(b"not kept")
        return store.commit(aside, what, {"b": 2.5, "a": "x"}, COST)


def test_a_commit_is_found_again(store: Store) -> None:
    what = step("add")
    assert not store.has(what.digest)
    manifest = put(store, what)
    assert store.has(what.digest)
    assert store.manifest(what.digest) == manifest
    assert manifest.facts == (("a", "x"), ("b", 2.5))
    assert [(f.name, f.size_bytes) for f in manifest.files] == [("deep/ä.bin", 7), ("empty", 0)]
    assert (store.path(what.digest) / "deep" / "ä.bin").read_bytes() == b"content"
    assert (manifest.machine, manifest.seconds, manifest.cpu_seconds, manifest.attempt) == ("here", 1.5, 1.25, 1)
    assert store.verify(what.digest) == []
    assert list((store.root / "tmp").iterdir()) == []


def test_the_first_commit_wins(store: Store) -> None:
    what = step("add")
    put(store, what, b"first")
    assert put(store, what, b"second").files[0].size_bytes == 5
    assert (store.path(what.digest) / "deep" / "ä.bin").read_bytes() == b"first"


def test_racing_commits_leave_one_whole_artifact(store: Store) -> None:
    what = step("add")
    start = threading.Barrier(8)
    manifests: list[Manifest] = []

    def race(n: int) -> None:
        start.wait()
        manifests.append(put(store, what, bytes(n + 1)))

    threads = [threading.Thread(target=race, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(manifests)) == 1
    assert store.verify(what.digest) == []
    assert list((store.root / "tmp").iterdir()) == []


@pytest.mark.parametrize("damage", ["truncate", "remove", "manifest", "fact", "no manifest"])
def test_a_damaged_artifact_is_missing_and_made_again(store: Store, damage: str) -> None:
    what = step("add")
    put(store, what)
    file, manifest = store.path(what.digest) / "deep" / "ä.bin", store.path(what.digest).parent / "manifest.json"
    if damage == "truncate":
        os.truncate(file, 3)
    elif damage == "remove":
        file.unlink()
    elif damage == "manifest":
        manifest.write_bytes(manifest.read_bytes()[:100])
    elif damage == "fact":
        manifest.write_text(manifest.read_text("utf-8").replace("2.5", "3.5"), "utf-8")
    else:
        manifest.unlink()
    assert not store.has(what.digest)
    with pytest.raises(StorageError, match="damaged"):
        store.manifest(what.digest)
    put(store, what)
    assert store.verify(what.digest) == []
    assert list((store.root / "tmp").iterdir()) == []


def test_verify_finds_changed_bytes(store: Store) -> None:
    what = step("add")
    put(store, what)
    (store.path(what.digest) / "deep" / "ä.bin").write_bytes(b"CONTENT")
    assert store.has(what.digest)
    assert store.verify(what.digest) == ["deep/ä.bin"]


def unreadable(store: Store, what: Step) -> None:
    """An empty file of the artifact becomes one whose first byte the system will not read: a real EIO."""
    file = store.path(what.digest) / "empty"
    file.unlink()
    file.symlink_to("/proc/self/mem")


def test_what_a_disk_no_longer_reads_is_lost(store: Store) -> None:
    what = step("add")
    put(store, what)
    assert store.is_well(what.digest)
    unreadable(store, what)
    assert not store.is_well(what.digest)
    assert store.drop_damaged() == 1
    assert not store.has(what.digest)


def test_a_process_that_may_open_no_more_files_loses_nothing(store: Store) -> None:
    what = step("add")
    put(store, what)
    most, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        with pytest.raises(StorageError, match="Too many open files"):
            store.drop_damaged()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    assert store.drop_damaged() == 0
    assert store.is_well(what.digest)


@pytest.mark.parametrize("damage", ["gone", "a folder", "other content", "longer", "no manifest"])
def test_damaged_artifacts_are_dropped_and_no_others(store: Store, damage: str) -> None:
    what, other = step("add"), step("add", value=2)
    put(store, what)
    put(store, other)
    file = store.path(what.digest) / "deep" / "ä.bin"
    if damage == "no manifest":
        (file.parents[2] / "manifest.json").unlink()
    elif damage in ("gone", "a folder"):
        file.unlink()
        if damage == "a folder":
            file.mkdir()
    else:
        file.write_bytes(b"CONTENT" if damage == "other content" else b"content and more")
    assert not store.is_well(what.digest)
    assert store.drop_damaged() == 1
    assert not store.path(what.digest).parent.exists()
    assert store.is_well(other.digest)


def test_manifest_text_keeps_every_value() -> None:
    facts = (("flag", True), ("n", 3), ("nan", 1e300), ("text", "ü\n"))
    manifest = Manifest("d", "s", "n", "m:f", 2, (), facts, COST)
    assert manifest_from_json(manifest_to_json(manifest)) == manifest


def test_links_are_refused(store: Store) -> None:
    what = step("add")
    with store.aside(what.digest) as aside:
        (aside.files / "link").symlink_to("/etc")
        with pytest.raises(StepError, match="not a plain file"):
            store.commit(aside, what, {}, COST)
    assert not store.has(what.digest)


WRITER = """
import sys, time
from pathlib import Path
from passel.pipeline.store import Store
with Store(Path(sys.argv[1])).aside("d" * 64) as aside:
    (aside.files / "half").write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_only_leftovers_of_dead_writers_are_swept(store: Store) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(store.root)], stdout=subprocess.PIPE) for _ in range(2)
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"writing\n"
        assert store.sweep() == 0
        writers[0].send_signal(signal.SIGKILL)
        writers[0].wait()
        assert store.sweep() == 1
        left = [p for p in (store.root / "tmp").iterdir() if p.is_dir()]
        assert [p.name.split("-")[1] for p in left] == [str(writers[1].pid)]
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()


HOLDER = """
import sys, time
from pathlib import Path
from passel.pipeline.store import Store
with Store(Path(sys.argv[1])).run_lock():
    print("locked", flush=True)
    time.sleep(60)
"""


def test_two_runs_at_once_are_refused_and_a_dead_run_holds_nothing(store: Store) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(store.root)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(StorageError, match=f"Another run .*pid {holder.pid}"), store.run_lock():
            pass
    finally:
        holder.kill()
        holder.communicate()
    with store.run_lock():
        pass


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_told_and_what_exists_is_kept(tiny_disk: Path) -> None:
    store = Store(tiny_disk / "store")
    store.create()
    kept, lost = step("add", "kept"), step("add", "lost", value=1)
    put(store, kept, bytes(1000))
    with store.aside(lost.digest) as aside:
        free = os.statvfs(tiny_disk).f_bavail * os.statvfs(tiny_disk).f_bsize
        (tiny_disk / "filler").write_bytes(bytes(free))
        with pytest.raises(StorageError, match="disk is full") as told:
            store.commit(aside, lost, {}, COST)
    assert told.value.where == str(store.root)
    assert "free some space" in told.value.todo
    assert store.verify(kept.digest) == []
    (tiny_disk / "filler").unlink()
    put(store, lost, b"now")
    assert store.has(lost.digest)


def test_a_read_only_disk_is_told(tiny_disk: Path) -> None:
    store = Store(tiny_disk / "store")
    store.create()
    kept = step("add")
    put(store, kept)
    subprocess.run(["mount", "-o", "remount,ro", tiny_disk], check=True)
    with pytest.raises(StorageError, match="read-only disk"):
        store.create()
    assert store.has(kept.digest)


def test_a_file_in_the_way_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be used"):
        Store(tmp_path / "file" / "store").create()
