"""Artifacts on their way in: however their bytes are cut, they end in the right files; only one request at a time has a say."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from coordinator_world import made
from passel.cluster.coordinator.incoming import Incoming, MismatchError, OvertakenError, Package, Sender
from passel.errors import StorageError
from passel.pipeline.store import Store
from step_functions import step

STEP = step("add", "made_elsewhere", value=3)
SENDER = Sender("j", STEP.digest, "w")
FILES = {"a": b"", "b/c": os.urandom(5000), "b/d": b"", "e": b"e", "f": os.urandom(3000), "g": b""}
CONTENT = b"".join(FILES.values())
MANIFEST = made(STEP, FILES)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.create()
    return store


def cut(content: bytes, seed: int) -> list[list[bytes]]:
    """The content in blocks and lists of blocks of any length."""
    chance, pieces = random.Random(seed), []
    while content:
        pieces.append([])
        for _ in range(chance.randint(1, 4)):
            size = chance.choice((1, 7, 900, 6000))
            pieces[-1] += [content[:size]] if content else []
            content = content[size:]
    return pieces


def come(package: Package, owner: str, content: bytes, start: int = 0) -> None:
    """A request begins, and so much of it comes."""
    assert package.begin(owner, MANIFEST, start)
    package.write(owner, [content])


@pytest.mark.parametrize("seed", range(20))
def test_however_the_bytes_are_cut_they_end_in_the_right_files(store, seed):
    incoming = Incoming()
    package = incoming.package(SENDER, store)
    pieces = cut(CONTENT, seed)
    half = sum(len(block) for blocks in pieces[: len(pieces) // 2] for block in blocks)
    assert package.begin("first", MANIFEST, 0)
    for blocks in pieces[: len(pieces) // 2]:
        package.write("first", blocks)
    assert incoming.received_bytes(SENDER) == half
    assert package.begin("second", MANIFEST, half)
    for blocks in pieces[len(pieces) // 2 :]:
        package.write("second", blocks)
    incoming.commit(SENDER, package, "second")
    assert store.manifest(STEP.digest) == MANIFEST
    assert {n: (store.path(STEP.digest) / n).read_bytes() for n in FILES} == FILES
    assert list((store.root / "tmp").iterdir()) == []
    assert incoming.received_bytes(SENDER) is None


def test_an_artifact_without_files_or_content(store):
    for number, files in enumerate(({}, {"empty": b""})):
        manifest = made(step("add", f"s{number}"), files)
        incoming, sender = Incoming(), Sender("j", manifest.digest, "w")
        package = incoming.package(sender, store)
        assert package.begin("one", manifest, 0)
        incoming.commit(sender, package, "one")
        assert store.verify(manifest.digest) == []


def test_who_was_overtaken_has_no_say(store):
    incoming = Incoming()
    package = incoming.package(SENDER, store)
    come(package, "old", CONTENT[:100])
    assert package.begin("new", MANIFEST, 100)
    with pytest.raises(OvertakenError):
        package.write("old", [CONTENT[100:200]])
    package.write("new", [CONTENT[100:]])
    with pytest.raises(OvertakenError):
        incoming.commit(SENDER, package, "old")
    package.check("new")
    with pytest.raises(OvertakenError, match="put in place"):  # its answer was lost, and the disk takes its time
        package.begin("newer", MANIFEST, len(CONTENT))
    package.commit()
    assert store.verify(STEP.digest) == []


def test_what_a_broken_request_held_in_memory_has_not_to_come_again(store):
    incoming, held = Incoming(), []
    package = incoming.package(SENDER, store)
    assert package.begin("old", MANIFEST, 0, held)
    held += [CONTENT[:100], CONTENT[100:5500]]  # and then its link is cut, or merely silent
    assert incoming.received_bytes(SENDER) == 5500
    held.append(CONTENT[5500:6000])  # came after the answer to the question: it would be there twice
    with pytest.raises(OvertakenError):
        package.write("old", held)
    held = [CONTENT[5500:5600]]
    assert package.begin("new", MANIFEST, 5500, held)
    assert package.begin("newer", MANIFEST, 5600)  # nobody asked
    package.write("newer", [CONTENT[5600:]])
    incoming.commit(SENDER, package, "newer")
    assert store.verify(STEP.digest) == []


def test_a_request_that_is_being_put_in_place_is_not_disturbed_by_a_question(store):
    incoming = Incoming()
    package = incoming.package(SENDER, store)
    come(package, "one", CONTENT)
    package.check("one")
    assert incoming.received_bytes(SENDER) == len(CONTENT)
    package.commit()
    assert store.verify(STEP.digest) == []


def test_what_is_wrong_comes_again_and_what_lacks_is_no_artifact(store):
    incoming = Incoming()
    package = incoming.package(SENDER, store)
    wrong = bytearray(CONTENT)
    wrong[5000] ^= 1  # in 'e'
    come(package, "one", bytes(wrong))
    with pytest.raises(MismatchError, match="1 files"):
        incoming.commit(SENDER, package, "one")
    assert package.received_bytes == 5000
    with pytest.raises(MismatchError):
        incoming.commit(SENDER, package, "one")  # nothing has come meanwhile
    come(package, "two", CONTENT[5000:], 5000)
    incoming.commit(SENDER, package, "two")
    assert store.verify(STEP.digest) == []


def test_nothing_is_written_after_the_end_of_a_job(store):
    incoming = Incoming()
    package = incoming.package(SENDER, store)
    assert package.begin("one", MANIFEST, 0)
    incoming.forget("j")
    with pytest.raises(OvertakenError):
        package.write("one", [CONTENT])
    with pytest.raises(OvertakenError):
        incoming.commit(SENDER, package, "one")
    assert list((store.root / "tmp").iterdir()) == []
    assert not store.has(STEP.digest)


def test_a_disk_that_refuses_says_so(store):
    package = Package(store, STEP.digest)
    come(package, "one", CONTENT[:10])
    shutil.rmtree(store.root / "tmp")
    with pytest.raises(StorageError):
        package.write("one", [CONTENT[10:]])
