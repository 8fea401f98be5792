"""The worker agent against the real coordinator, as processes: what it fetches, makes, delivers, and how it ends."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from machines import Drive, Machines, contents, undisturbed, until
from passel.cluster.wire.packed_step import packed_step
from passel.cluster.wire.workers import Assignment, WireError, pack
from passel.cluster.worker.hosts import Hosts, Usage, is_nearly_out, to_be_killed
from passel.cluster.worker.machine import machine_info
from passel.errors import StorageError
from passel.pipeline.events import Artifact, StepFailure
from passel.pipeline.messages import Failed, Request
from passel.pipeline.step import ArtifactInput, FileInput, Step
from passel.pipeline.step_host import HostOptions
from step_functions import Params, step


@pytest.fixture
def machines(tmp_path: Path):
    found = Machines(tmp_path)
    found.start_coordinator()
    yield found
    found.close()


def fan(width: int, **more: object) -> list[Step]:
    """Steps side by side, in pairs, and one over all."""
    first = [step("add", f"a{i}", value=i, **more) for i in range(width)]
    second = [step("add", f"b{i}", after=(a,), stage="second", value=100) for i, a in enumerate(first)]
    return [*first, *second, step("add", "all", after=tuple(second), stage="third")]


def test_two_workers_make_what_one_process_makes_and_leave_politely(machines, tmp_path):
    steps = fan(8, seconds=0.05)
    drive = Drive(machines, steps)
    for name in ("one", "two"):
        machines.worker(name)
    assert drive.sha256s() == undisturbed(steps, tmp_path)
    for worker in machines.workers:
        assert worker.stop() == 0


def test_photos_come_once_under_their_names(machines, tmp_path):
    """Though they are asked for under two keys: by what was seen of the file, and by content."""
    photo = tmp_path / "DJI 1 #2%.JPG"
    photo.write_bytes(os.urandom(200_000))
    by_content = hashlib.sha256(photo.read_bytes()).hexdigest()
    first = photo_step("first", FileInput(str(photo), "5" * 64))
    second = photo_step("second", FileInput(str(photo), by_content), ArtifactInput(first.digest))
    machines.worker("one")
    outcomes = Drive(machines, [first, second]).done()
    assert contents(outcomes) == undisturbed([first, second], tmp_path)
    made, again = (outcomes[s.digest] for s in (first, second))
    assert (made.path / "names.txt").read_text() == photo.name
    assert made.delivery.bytes_in == 200_000
    assert again.delivery.bytes_in == 0  # neither the photo nor the artifact that was made there
    assert made.delivery.bytes_out == 200_000 + len(photo.name)


def test_a_photo_that_is_not_what_the_survey_found_is_not_used(machines, tmp_path):
    photo = tmp_path / "DJI_1.JPG"
    photo.write_bytes(b"now")
    first = photo_step("first", FileInput(str(photo), "5" * 64))
    second = photo_step("second", FileInput(str(photo), hashlib.sha256(b"then").hexdigest()))
    machines.worker("one")
    outcomes = Drive(machines, [first, second]).done()
    assert (outcomes[second.digest].kind, outcomes[second.digest].where) == ("error", photo.name)
    assert "changed" in outcomes[second.digest].message


def test_only_the_files_that_a_step_reads_come(machines):
    """Where the artifact was not made; and once, by content."""
    first = step("add", "first", value=3)
    made_on = machines.worker("one")
    Drive(machines, [first]).done()
    made_on.stop()
    machines.worker("two")
    asked = (("total.txt", "no*"), ("*.bin",), ("sub/*",), ())
    readers = [_reader("list_files", number, first, files) for number, files in enumerate(asked)]
    seen, moved = [], []
    for reader in readers:  # one after the other, so that the first one pays
        outcome = Drive(machines, [first, reader]).done()[reader.digest]
        seen.append((outcome.path / "names.txt").read_text().split())
        moved.append(outcome.delivery.bytes_in)
    assert seen == [["total.txt"], ["sub/bytes.bin"], ["sub/bytes.bin"], ["sub/bytes.bin", "total.txt"]]
    assert moved == [1, 12, 0, 13]


def test_a_file_of_an_artifact_that_rots_in_the_cache_comes_again(machines, tmp_path):
    first = step("large_file", "first", value=1)
    made_on = machines.worker("one")
    Drive(machines, [first]).done()
    made_on.stop()
    cache = machines.worker("two").cache
    for attempt in range(2):
        reader = _reader("copy_parts", attempt, first, ("large.bin",))
        outcome = Drive(machines, [first, reader]).done()[reader.digest]
        assert (outcome.path / "0").stat().st_size == outcome.delivery.bytes_in == 10**6
        (held,) = [p for p in cache.glob("files/??/*") if p.stat().st_size == 10**6]
        held.write_bytes(b"rotten")


def _reader(function: str, version: int, first: Step, files: tuple[str, ...]) -> Step:
    inputs = (("part", ArtifactInput(first.digest, files)),)
    return Step("read", f"{version}", f"step_functions:{function}", version, Params(), inputs, 100)


def photo_step(name: str, *inputs: FileInput | ArtifactInput) -> Step:
    roles = tuple(("photo" if isinstance(i, FileInput) else "part", i) for i in inputs)
    return Step("photos", name, "step_functions:copy_names", 1, Params(), roles, 100)


def test_a_cache_too_small_for_a_step_is_said(machines, tmp_path):
    """As trouble of this worker's storage: another one may have room."""
    photo = tmp_path / "DJI_1.JPG"
    photo.write_bytes(os.urandom(100_000))
    machines.worker("one", cache_gb=0.00005)
    with pytest.raises(StorageError, match="too small"):
        Drive(machines, [photo_step("first", FileInput(str(photo), "5" * 64))]).done()


def test_beside_the_coordinator_nothing_is_copied(machines, tmp_path):
    photo = tmp_path / "DJI_1.JPG"
    photo.write_bytes(b"photo")
    steps = [photo_step("first", FileInput(str(photo), "5" * 64)), *fan(3)]
    worker = machines.worker("one", local=True)
    drive = Drive(machines, steps)
    assert drive.sha256s() == undisturbed(steps, tmp_path)
    assert all(o.delivery.bytes_in == o.delivery.bytes_out == 0 for o in drive.outcomes.values())
    assert not worker.cache.exists()


def test_failures_come_back_in_words_with_their_log(machines):
    steps = [step(f, f) for f in ("known_error", "bug", "segfault", "leave_link", "numpy_facts")]
    machines.worker("one")
    machines.worker("two")
    outcomes = Drive(machines, steps).done()
    found = {s.name: outcomes[s.digest] for s in steps}
    assert (found["known_error"].kind, found["known_error"].where) == ("error", "DJI_1.JPG")
    assert found["known_error"].attempts == 1
    assert found["bug"].kind == "crash"
    assert "about to fail" in next((machines.root / "job" / "logs").rglob("bug-*.log")).read_text()
    assert found["segfault"].kind == "died"
    assert "SIGSEGV" in found["segfault"].message
    assert found["segfault"].attempts > 1
    assert isinstance(found["leave_link"], StepFailure)
    assert isinstance(found["numpy_facts"], Artifact)


def test_what_is_withdrawn_is_killed(machines, tmp_path):
    worker = machines.worker("one")
    drive = Drive(machines, [step("hang", marker=str(tmp_path / "marker"))])
    child = int(until(lambda: _text(tmp_path / "marker.child")))
    drive.abandon()
    until(lambda: not worker.hosts)
    until(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text())


def test_leaving_finishes_what_runs_and_the_second_signal_does_not(machines, tmp_path):
    slow = step("add", "slow", marker=str(tmp_path / "slow"), seconds=1.0)
    endless = step("hang", "endless", marker=str(tmp_path / "endless"))
    worker = machines.worker("one")
    drive = Drive(machines, [slow, endless])
    until((tmp_path / "slow").exists)
    until((tmp_path / "endless.child").exists)
    worker.process.terminate()
    until(lambda: drive.store.has(slow.digest))
    host = worker.hosts[0]
    assert worker.process.poll() is None
    assert worker.stop() == 130
    until(lambda: not host.is_running())
    drive.abandon()


def test_an_agent_that_dies_is_started_again_and_its_steps_run_again(machines, tmp_path):
    worker = machines.worker("one")
    slow = step("add", "slow", marker=str(tmp_path / "slow"), seconds=0.5)
    drive = Drive(machines, [slow])
    until((tmp_path / "slow").exists)
    worker.agent.kill()
    assert drive.sha256s()
    assert len((tmp_path / "slow").read_text().split()) == 2


def test_nothing_outlives_a_killed_worker(machines, tmp_path):
    worker = machines.worker("one")
    drive = Drive(machines, [step("hang", marker=str(tmp_path / "marker"))])
    until((tmp_path / "marker.child").exists)
    agent, host = worker.agent, worker.hosts[0]
    worker.process.kill()
    until(lambda: not agent.is_running() and not host.is_running())
    drive.abandon()


def test_a_worker_that_is_not_wanted_says_why_and_ends(machines):
    (machines.data / "shut-out").write_text("one")
    worker = machines.worker("one")
    assert worker.process.wait(60) == 3
    assert "shut out" in worker.log.read_text()


def test_a_second_agent_of_the_same_identity_takes_over(machines, tmp_path):
    first = machines.worker("one")
    until(lambda: "threads" in first.log.read_text())
    assert Drive(machines, [step("add")]).done()
    machines.worker("one", cache=tmp_path / "other")
    assert first.process.wait(60) == 3
    assert "Another" in first.log.read_text()


def test_a_cache_in_use_is_said(machines, tmp_path):
    first = machines.worker("one")
    until((first.cache / "lock").exists)
    second = machines.worker("two", cache=first.cache)
    assert second.process.wait(60) == 3
    assert "Another worker uses this cache" in second.log.read_text()


def test_a_cache_that_cannot_be_made_is_said_with_what_to_give_instead(machines, tmp_path):
    (tmp_path / "file").write_text("mine")
    worker = machines.worker("one", cache=tmp_path / "file")
    assert worker.process.wait(60) == 3
    assert "make room and make it writable, or choose another --cache" in worker.log.read_text()


def test_who_goes_when_memory_runs_out():
    small, fat, fattest = Usage("a", 500, 400), Usage("b", 500, 900), Usage("c", 8000, 9000)
    assert not is_nearly_out(5000, 16_000)
    assert is_nearly_out(200, 16_000)
    assert is_nearly_out(8000, 256_000)
    assert to_be_killed([small, fat, fattest]) == fat
    assert to_be_killed([small, fattest]) is None


def test_a_step_ended_for_its_memory_says_so(tmp_path):
    async def go():
        hosts = Hosts(1, HostOptions((Path(__file__).parent,)))
        request = Request(step("grow", value=300, seconds=0.2, memory_mb=50), (), tmp_path / "store", tmp_path / "log")
        work = asyncio.create_task(hosts.run("t", request))
        while not (found := [u for u in hosts.usages() if u.used_mb > 80]):
            await asyncio.sleep(0.05)
        hosts.kill(found[0])
        answer = await work
        hosts.close()
        return answer

    answer = asyncio.run(go())
    assert isinstance(answer, Failed)
    assert answer.kind == "died"
    assert "declared 50 MB" in answer.what


def test_a_packed_step_is_read_without_its_parameters():
    whole = step("add", value=3, after=(step("add"),), threads=2, memory_mb=123)
    packed = packed_step(assignment(pickle.dumps(whole)))
    assert (packed.threads, packed.memory_mb, packed.limit_s, packed.params) == (2, 123, 3600.0, None)
    assert pickle.loads(pickle.dumps(packed)) == whole


@pytest.mark.parametrize("blob", [b"", b"garbage", pickle.dumps("text"), pickle.dumps(step("add"))[:-9]])
def test_a_damaged_step_is_said(blob):
    with pytest.raises(WireError):
        packed_step(assignment(blob))


def assignment(blob: bytes) -> Assignment:
    return Assignment("t", "j", "d" * 64, "test", "a", 1, 500, 1, pack(blob))


def test_this_machine_is_described(tmp_path):
    info = machine_info(tmp_path)
    assert 1 <= info.cpus <= (os.cpu_count() or 1)
    assert 0 < info.free_memory_mb <= info.memory_mb
    assert info.disk_free_mb > 0


def test_a_wrong_command_line_is_said():
    words = [sys.executable, "-m", "passel.cluster.worker.agent_process", "--url", "https://x"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--identity" in done.stderr


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
