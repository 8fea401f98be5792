"""The worker's cache: bounded, kept over restarts, and never trusting what changed."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from passel.cluster.worker.cache import Cache
from passel.cluster.worker.together import in_thread
from passel.errors import StorageError
from passel.pipeline.host import run_step
from passel.pipeline.manifest import Manifest, manifest_to_json
from passel.pipeline.messages import Done, Request
from passel.pipeline.store import Store
from step_functions import step


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    cache = Cache(tmp_path / "cache", 1000)
    cache.open()
    yield cache
    cache.close()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put(cache: Cache, content: bytes, key: str = "") -> str:
    """Brings content in as a download does; returns its sha256."""
    digest = sha256(content)
    with cache.download(key or digest, len(content)) as part:
        part.write_bytes(content)
        cache.add_file(part, digest, key or digest)
    cache.unpin(digest)
    return digest


def make(cache: Cache, value: int) -> Manifest:
    """An artifact that a step left in the cache's store."""
    done = run_step(Request(step("add", value=value), (), cache.store.root, cache.root / "log"))
    assert isinstance(done, Done)
    cache.made(done.manifest)
    cache.unpin(done.manifest.digest)
    return done.manifest


def reopened(cache: Cache, most_bytes: int = 1000) -> Cache:
    cache.close()
    again = Cache(cache.root, most_bytes)
    again.open()
    return again


def test_a_file_is_found_by_content_and_by_alias(cache):
    alias = "a" * 64
    key = put(cache, b"photo", alias)
    assert cache.pin_file(key).read_bytes() == b"photo"
    assert cache.pin_file(alias, 5) == cache.pin_file(key)
    assert set(cache.take_news().added) == {key, alias}
    assert cache.take_news().added == ()
    assert set(cache.everything().added) == {key, alias}


def test_the_longest_unused_goes_first_and_the_pinned_stays(cache):
    first, second, third = (put(cache, bytes([i]) * 300) for i in range(3))
    cache.pin_file(first)
    cache.take_news()
    fourth = put(cache, b"4" * 300)
    assert cache.size_bytes <= 1000
    assert [cache.has_file(k) for k in (first, second, third, fourth)] == [True, False, True, True]
    assert cache.take_news().removed == (second,)
    cache.unpin(first)
    put(cache, b"5" * 900)
    assert not cache.has_file(first)


def test_too_small_for_what_is_needed_is_said(cache):
    cache.pin_file(put(cache, b"1" * 600))
    with pytest.raises(StorageError, match="too small"), cache.download("b" * 64, 500):
        pass
    assert cache.size_bytes == 600


def test_a_restart_finds_everything_and_the_order_of_use(cache):
    old, new = put(cache, b"1" * 300), put(cache, b"2" * 300, "a" * 64)
    made = make(cache, 7)
    assert cache.pin_file(old)
    again = reopened(cache)
    assert set(again.everything().added) == {old, new, "a" * 64, made.digest}
    assert again.pin_artifact(made.digest) == made
    put(again, b"3" * 400)
    assert again.has_file(old)
    assert not again.has_file("a" * 64)
    again.close()


def test_a_smaller_bound_holds_from_the_start(cache):
    for i in range(3):
        put(cache, bytes([i]) * 300)
    again = reopened(cache, 400)
    assert again.size_bytes == 300
    again.close()


def test_a_broken_download_goes_on_where_it_was_also_after_a_restart(cache):
    with suppress(ConnectionError), cache.download("c" * 64, 10) as part:
        part.write_bytes(b"half")
        raise ConnectionError
    assert cache.size_bytes == 4
    again = reopened(cache)
    with again.download("c" * 64, 10) as part:
        assert part.read_bytes() == b"half"
    again.free(10**9)
    assert not part.exists()
    again.close()


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_changed_file_is_not_used(cache, damage):
    key = put(cache, b"photo")
    spoil(cache.pin_file(key), damage)
    assert cache.pin_file(key) is None
    assert not cache.has_file(key)


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_changed_artifact_is_not_used(cache, damage):
    made = make(cache, 7)
    spoil(cache.store.path(made.digest) / "total.txt", damage)
    assert cache.pin_artifact(made.digest) is None
    assert cache.take_news().removed == (made.digest,)
    assert not cache.store.path(made.digest).exists()


def test_touching_alone_harms_nothing(cache):
    key = put(cache, b"photo")
    os.utime(cache.pin_file(key))
    assert cache.pin_file(key)


def test_damage_that_nobody_sees_is_found_by_verifying(cache):
    alias = "a" * 64
    key, made, good = put(cache, b"photo", alias), make(cache, 7), put(cache, b"good")
    for path in (cache.pin_file(key), cache.store.path(made.digest) / "total.txt"):
        times = path.stat()
        spoil(path, "flip")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert cache.pin_file(alias)
    assert cache.verify([alias, made.digest, good]) == [alias, made.digest]
    assert cache.pin_file(alias) is None
    assert cache.pin_artifact(made.digest) is None


def spoil(path: Path, damage: str) -> None:
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-1] + (b"" if damage == "cut" else bytes([content[-1] ^ 1])))


def test_a_fetched_artifact_is_as_good_as_a_made_one(cache, tmp_path):
    other = Cache(tmp_path / "other", 10_000)
    other.open()
    made = make(other, 7)
    parts = []
    for number, file in enumerate(made.files):
        part = cache.root / "partial" / str(number)
        part.write_bytes((other.store.path(made.digest) / file.name).read_bytes())
        parts.append(part)
    for _ in range(2):  # twice: as when two steps have fetched it
        copies = [p.read_bytes() for p in parts]
        assert cache.add_artifact(manifest_to_json(made), parts) == made
        for part, copy in zip(parts, copies):
            part.write_bytes(copy)
    assert cache.pin_artifact(made.digest) == made
    assert Store(cache.root / "store").verify(made.digest) == []
    other.close()


def test_steps_see_files_under_their_own_names(cache):
    keys = [put(cache, b"one"), put(cache, b"two")]
    files = [cache.pin_file(k) for k in keys]
    with cache.view([(files[0], "DJI_1.JPG"), (files[1], "DJI_1.JPG"), (files[1], "../../etc/x")]) as paths:
        assert [p.name for p in paths] == ["DJI_1.JPG", "DJI_1.JPG", "x"]
        assert [p.read_bytes() for p in paths] == [b"one", b"two", b"two"]
        assert all(cache.root in p.parents for p in paths)
    assert list((cache.root / "views").iterdir()) == []


def test_copies_hold_nobody_up_and_a_step_that_is_cancelled_meanwhile_leaves_none(cache, monkeypatch):
    """On a disk without links, where a view of many photos takes its time."""
    path = cache.pin_file(put(cache, b"photo"))
    begun, may_go_on = threading.Event(), threading.Event()

    def link(*paths: Path) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    def copy(source: Path, place: Path) -> None:
        begun.set()
        assert may_go_on.wait(60)
        place.write_bytes(source.read_bytes())

    async def see() -> bytes:
        async with in_thread(cache.view([(path, "x.jpg")])) as paths:
            return paths[0].read_bytes()

    async def go() -> None:
        cancelled = asyncio.create_task(see())
        while not begun.is_set():
            await asyncio.sleep(0.01)  # here it would stand still
        cancelled.cancel()
        may_go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert list((cache.root / "views").iterdir()) == []
        assert await see() == b"photo"

    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(shutil, "copyfile", copy)
    asyncio.run(go())
    assert list((cache.root / "views").iterdir()) == []


@pytest.mark.parametrize("name", ["logs", "views", "files/ab", "store/ab", "aliases", "partial"])
def test_a_folder_of_somebody_else_is_refused_and_left_alone(tmp_path, name):
    """All of what is unknown in these would be removed: `passel join --cache ~/flights`, where there happen to be logs."""
    theirs = tmp_path / "flights" / name / "mine.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    with pytest.raises(
        StorageError, match=f"holds {name.partition('/')[0]}, which no worker has made.*--cache of its own"
    ):
        Cache(tmp_path / "flights", 1000).open()
    assert [p for p in (tmp_path / "flights").rglob("*") if p.is_file()] == [theirs]
    (tmp_path / "disk" / "lost+found").mkdir(parents=True)  # in itself a new disk is fine
    new = Cache(tmp_path / "disk", 1000)
    new.open()
    new.close()
    new.open()
    new.close()


def test_one_folder_has_one_agent(cache):
    with pytest.raises(StorageError, match="Another worker"):
        Cache(cache.root, 1000).open()
    cache.close()
    again = Cache(cache.root, 1000)
    again.open()
    again.close()


def test_garbage_in_the_folder_is_no_entry(cache):
    (cache.root / "files" / "ab").mkdir()
    (cache.root / "files" / "ab" / "notes.txt").write_text("mine")
    (cache.root / "aliases" / ("a" * 64)).symlink_to("b" * 64)
    (cache.root / "store" / "ab" / ("ab" * 32)).mkdir(parents=True)
    again = reopened(cache)
    assert again.everything().added == ()
    again.close()


def test_a_killed_agent_leaves_a_cache_that_opens(tmp_path):
    """kill -9 amid a download, a view and a pin."""
    code = (
        "import os, signal\nfrom pathlib import Path\nfrom passel.cluster.worker.cache import Cache\n"
        f"cache = Cache(Path({str(tmp_path)!r}), 1000); cache.open()\n"
        "part = cache.download('d' * 64, 100).__enter__(); part.write_bytes(b'half')\n"
        "cache.view([(part, 'x.jpg')]).__enter__()\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    cache = Cache(tmp_path, 1000)
    cache.open()
    assert cache.size_bytes == 4
    assert list((tmp_path / "views").iterdir()) == []
    cache.close()
