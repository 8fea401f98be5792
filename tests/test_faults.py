"""Whatever fails, the artifacts are those of an undisturbed run and nothing is lost: on real processes, and hosts in network namespaces.

The time after which a silent worker is lost is 3 s here instead of 15 s; the cuts of their full length are `make test-long`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from machines import Drive, Machines, Network, Worker, network, undisturbed, until
from passel.errors import StorageError
from passel.pipeline.events import Artifact, StepDone, StepFailure, StepStarted
from passel.pipeline.step import FileInput, Step
from step_functions import Params, step

LEASE_S = 3.0


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    monkeypatch.setenv("LEASE_S", str(LEASE_S))
    found = Machines(tmp_path)
    found.start_coordinator()
    yield found
    found.close()


def marked(folder: Path, count: int, seconds: float) -> list[Step]:
    """Steps that note every run of theirs, each followed by another, and one over all."""
    first = [step("add", f"a{i}", value=i, seconds=seconds, marker=str(folder / f"a{i}.runs")) for i in range(count)]
    second = [
        step("add", f"b{i}", after=(a,), stage="second", marker=str(folder / f"b{i}.runs")) for i, a in enumerate(first)
    ]
    return [*first, *second, step("add", "all", after=tuple(second), stage="third", marker=str(folder / "all.runs"))]


def plain(steps: Sequence[Step], folder: Path) -> dict[str, tuple[str, ...]]:
    """What an undisturbed run makes of them; the notes of their runs stay out of it."""
    aside = folder / "aside"
    aside.mkdir()
    notes = list(folder.glob("*.runs"))
    for note in notes:
        shutil.copy(note, aside / note.name)
    found = undisturbed(steps, folder)
    for note in notes:
        shutil.copy(aside / note.name, note)
    return found


def runs(folder: Path, name: str) -> int:
    """How often a step was begun."""
    path = folder / f"{name}.runs"
    return len(path.read_text().split()) if path.exists() else 0


def begun(drive: Drive) -> dict[str, str]:
    """Which worker began which step."""
    return {e.step.name: e.worker for e in drive.events if isinstance(e, StepStarted)}


def finished(drive: Drive, steps: Sequence[Step]) -> int:
    return sum(drive.store.has(s.digest) for s in steps)


def test_a_worker_whose_disk_fails(machines, tmp_path):
    """Its steps go to others; alone, it ends the job with the worker named."""
    steps = [step("bad_sector", f"s{i}", value=i) for i in range(4)]
    bad = machines.worker("bad")
    with pytest.raises(StorageError, match=r"The disk fails: Input/output error \(on bad\)"):
        Drive(machines, steps[:1], "alone").done()
    machines.worker("good")
    drive = Drive(machines, steps)
    assert drive.sha256s() == undisturbed(steps, tmp_path)
    assert bad.process.poll() is None


def test_a_worker_that_loses_its_power(machines, tmp_path):
    steps = marked(tmp_path, 8, 0.4)
    workers = [machines.worker(n) for n in ("one", "two")]
    drive = Drive(machines, steps)
    # those that the driver has heard of: what is just being put in place, when its worker dies, may be made again
    until(lambda: sum(isinstance(e, StepDone) for e in drive.events) >= 2 and workers[0].hosts)
    before = {e.step.name: runs(tmp_path, e.step.name) for e in list(drive.events) if isinstance(e, StepDone)}
    workers[0].kill()
    assert drive.sha256s() == plain(steps, tmp_path)
    assert {name: runs(tmp_path, name) for name in before} == before, "a step that was finished was run again"


def test_the_coordinator_is_killed_and_started_again(machines, tmp_path):
    steps = marked(tmp_path, 8, 0.4)
    worker = machines.worker("one")
    drive = Drive(machines, steps)
    until(lambda: finished(drive, steps) >= 2)
    machines.kill_coordinator()
    agent = worker.agent.pid
    machines.start_coordinator()
    assert drive.sha256s() == plain(steps, tmp_path)
    assert all(runs(tmp_path, s.name) == 1 for s in steps), "a step was run again though its worker lived"
    assert worker.agent.pid == agent


def test_coordinator_and_worker_are_killed_together(machines, tmp_path):
    steps = marked(tmp_path, 6, 0.3)
    worker = machines.worker("one")
    drive = Drive(machines, steps)
    until(lambda: finished(drive, steps) >= 2)
    before = [s for s in steps if drive.store.has(s.digest)]
    machines.kill_coordinator()
    worker.kill()
    machines.start_coordinator()
    machines.worker("one")
    assert drive.sha256s() == plain(steps, tmp_path)
    assert all(runs(tmp_path, s.name) == 1 for s in before), "what was finished was run again"


def test_native_code_that_crashes_once(machines, tmp_path):
    steps = [step("abort_once", f"a{i}", value=i, marker=str(tmp_path / f"a{i}.runs")) for i in range(3)]
    machines.worker("one")
    machines.worker("two")
    drive = Drive(machines, steps)
    assert drive.sha256s() == plain(steps, tmp_path)
    assert [runs(tmp_path, s.name) for s in steps] == [2, 2, 2]


def test_native_code_that_always_crashes_fails_alone(machines, tmp_path):
    bad = step("segfault", "bad", marker=str(tmp_path / "bad.runs"))
    steps = [*marked(tmp_path, 3, 0.1), bad, step("add", "needs bad", after=(bad,), stage="second")]
    machines.worker("one")
    machines.worker("two")
    outcomes = Drive(machines, steps).done()
    failed = {s.name: outcomes[s.digest] for s in steps if isinstance(outcomes[s.digest], StepFailure)}
    assert set(failed) == {"bad", "needs bad"}
    assert "SIGSEGV" in failed["bad"].message
    assert runs(tmp_path, "bad") == 3


@pytest.fixture
def small_memory() -> Iterator[Path]:
    """A control group of 900 MB."""
    group = Path(f"/sys/fs/cgroup/memory/passel-test-{os.getpid()}")
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(900 * 10**6))
    except OSError as error:
        pytest.skip(f"no control group of our own: {error}")
    yield group
    until(lambda: not (group / "cgroup.procs").read_text().split())
    group.rmdir()


@pytest.mark.parametrize("seconds", [0.0, 0.05], ids=["at once", "slowly"])
def test_a_step_that_eats_all_memory_goes_and_the_worker_lives(small_memory, machines, tmp_path, seconds):
    """At once: the kernel takes it. Slowly: the agent does, before the kernel takes somebody else."""
    fat = step("grow", "fat", value=3000, seconds=seconds, memory_mb=300, marker=str(tmp_path / "fat.runs"))
    worker = machines.worker("one")
    agent = worker.agent
    for process in (worker.process.pid, agent.pid):
        (small_memory / "cgroup.procs").write_text(str(process))
    steps = [fat, *marked(tmp_path, 2, 0.1)]
    outcomes = Drive(machines, steps).done()
    assert outcomes[fat.digest].kind == "died"
    assert ("declared 300 MB" if seconds else "") in outcomes[fat.digest].message
    assert all(isinstance(outcomes[s.digest], Artifact) for s in steps[1:])
    assert worker.agent.pid == agent.pid, "the agent died, too\n" + machines.story()


def test_a_step_that_kills_every_worker_is_given_up_and_the_passel_lives(machines, tmp_path):
    poison = step("kill_worker", "poison", marker=str(tmp_path / "poison.runs"))
    workers = [machines.worker(f"w{i}") for i in range(2)]
    good = marked(tmp_path, 3, 0.1)
    outcomes = Drive(machines, [poison, *good]).done()
    assert outcomes[poison.digest].kind == "died"
    assert "given up" in outcomes[poison.digest].message
    assert runs(tmp_path, "poison") == 3
    assert all(isinstance(outcomes[s.digest], Artifact) for s in good)
    assert Drive(machines, [step("add", "after")], "next job").sha256s()
    assert all(w.process.poll() is None for w in workers)


def test_an_artifact_that_rots_in_a_cache_is_fetched_again(machines, tmp_path):
    first = [step("add", f"a{i}", value=i) for i in range(2)]
    second = [step("add", f"b{i}", after=(a,), stage="second") for i, a in enumerate(first)]
    worker = machines.worker("one")
    Drive(machines, first).done()
    seen, unseen = (next(worker.cache.glob(f"store/??/{s.digest}/files/total.txt")) for s in first)
    for path in (seen, unseen):
        times = path.stat()
        path.write_text("?")
        if path is unseen:  # as a disk does it, not a person
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    drive = Drive(machines, [*first, *second])
    assert drive.sha256s() == undisturbed([*first, *second], tmp_path)
    assert all(drive.outcomes[s.digest].delivery.bytes_in > 0 for s in second)


def test_a_photo_that_rots_in_a_cache_is_fetched_again(machines, tmp_path):
    photo = tmp_path / "DJI_1.JPG"
    photo.write_bytes(os.urandom(100_000))
    given = ("photo", FileInput(str(photo), hashlib.sha256(photo.read_bytes()).hexdigest()))
    steps = [Step("photos", n, "step_functions:copy_names", 1, Params(value=i), (given,)) for i, n in enumerate("ab")]
    worker = machines.worker("one")
    Drive(machines, steps[:1]).done()
    next(worker.cache.glob("files/??/*")).write_bytes(b"rotten")
    drive = Drive(machines, steps)
    assert drive.sha256s() == undisturbed(steps, tmp_path)
    assert drive.outcomes[steps[1].digest].delivery.bytes_in == 100_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 40 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "passel-test", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk of our own: mounting is not allowed")
    yield folder
    until(lambda: subprocess.run(["umount", folder], capture_output=True, check=False).returncode == 0)


def large(count: int, size_mb: int) -> list[Step]:
    return [step("large_file", f"a{i}", value=size_mb + i) for i in range(count)]


def test_a_worker_gives_up_old_things_when_its_disk_is_full(small_disk, machines, tmp_path):
    steps = large(6, 12)
    worker = machines.worker("one", cache=small_disk / "cache", workers=1)
    assert Drive(machines, steps).sha256s() == undisturbed(steps, tmp_path)
    assert worker.stop() == 0


def test_a_worker_whose_disk_is_too_small_leaves_the_step_to_others(small_disk, machines, tmp_path):
    steps = [step("large_file", "large", value=60, seconds=3.0), *large(2, 5)]
    small = machines.worker("small", cache=small_disk / "cache")
    agent = small.agent.pid
    drive = Drive(machines, steps)
    until(lambda: begun(drive).get("large") == "small")
    machines.worker("big")
    assert drive.sha256s() == undisturbed(steps, tmp_path)
    assert begun(drive)["large"] == "big"
    assert small.agent.pid == agent
    assert small.stop() == 0


def test_the_coordinators_disk_is_full_for_a_while(small_disk, machines, tmp_path):
    """What is finished waits on its worker until there is room."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(30_000_000))
    (small_disk / "job").mkdir()
    (machines.root / "job").symlink_to(small_disk / "job")
    steps = [step("large_file", "a", value=15, marker=str(tmp_path / "a.runs"))]
    worker = machines.worker("one")
    drive = Drive(machines, steps)
    until(lambda: "waiting" in worker.log.read_text())
    ballast.unlink()
    assert drive.sha256s() == plain(steps, tmp_path)
    assert runs(tmp_path, "a") == 1


SKEWED = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *t) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, t);
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) t->tv_sec += 3600;
    return result;
}
int gettimeofday(struct timeval *restrict t, void *restrict zone) {
    struct timespec now; clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec; t->tv_usec = now.tv_nsec / 1000; return 0;
}
time_t time(time_t *t) { struct timespec now; clock_gettime(CLOCK_REALTIME, &now); if (t) *t = now.tv_sec; return now.tv_sec; }
"""


def test_a_clock_that_is_an_hour_off(machines, tmp_path):
    """The worker's whole process tree sees another time: a small library before libc, since libfaketime is seldom there."""
    if shutil.which("gcc") is None:
        pytest.skip("no compiler for the library that turns the clock")
    (tmp_path / "skewed.c").write_text(SKEWED)
    library = tmp_path / "skewed.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "skewed.c", "-ldl"], check=True)
    steps = marked(tmp_path, 4, 0.1)
    machines.worker("ahead", environment={"LD_PRELOAD": str(library)})
    machines.worker("right")
    drive = Drive(machines, steps)
    assert drive.sha256s() == plain(steps, tmp_path)
    assert all(runs(tmp_path, s.name) == 1 for s in steps)
    assert set(begun(drive).values()) == {"ahead", "right"}
    starts = sorted({o.manifest.cost.started[:13] for o in drive.outcomes.values()})
    assert len(starts) > 1, "the clock was not turned"


@pytest.fixture
def lan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Machines, Network]]:
    """A coordinator and two workers, each on a host of its own."""
    if not Network.possible():
        pytest.skip("no network namespaces: this needs root on Linux")
    monkeypatch.setenv("LEASE_S", str(LEASE_S))
    for net in network(("hub", "one", "two")):
        machines = Machines(tmp_path, host="10.77.0.1")
        machines.start_coordinator(net.names[0])
        try:
            yield machines, net
        finally:
            machines.close()


def two_workers(machines: Machines, net: Network) -> Worker:
    """Starts them; returns the one whose cable is pulled."""
    one, _ = (machines.worker(n, namespace=net.names[i], workers=2) for i, n in enumerate(("one", "two"), 1))
    return one


def test_a_cut_shorter_than_the_lease_costs_nothing(lan, tmp_path):
    machines, net = lan
    steps = marked(tmp_path, 6, 0.5)
    two_workers(machines, net)
    drive = Drive(machines, steps)
    until(lambda: "one" in begun(drive).values())
    net.cut(net.names[1])
    time.sleep(LEASE_S / 3)
    net.cut(net.names[1], down=False)
    assert drive.sha256s() == plain(steps, tmp_path)
    assert all(runs(tmp_path, s.name) == 1 for s in steps)


def test_a_cut_longer_than_the_lease_runs_steps_twice_and_both_are_right(lan, tmp_path):
    """The cut-off worker finishes its copy and delivers it when the cable is back: nobody minds."""
    machines, net = lan
    steps = marked(tmp_path, 2, 2.0)
    one = two_workers(machines, net)
    until(lambda: "threads" in one.log.read_text())
    drive = Drive(machines, steps)
    until(lambda: "one" in begun(drive).values())
    net.cut(net.names[1])
    mine = [n for n, w in begun(drive).items() if w == "one"]
    expected = drive.sha256s()
    assert expected == plain(steps, tmp_path)
    assert all(runs(tmp_path, n) == 2 for n in mine)
    net.cut(net.names[1], down=False)
    until(lambda: "answers again" in one.log.read_text())
    after = [step("add", f"after{i}", value=i, seconds=0.5) for i in range(4)]
    again = Drive(machines, after, "next job")
    assert again.sha256s()
    assert set(begun(again).values()) == {"one", "two"}, "the worker is not back"
    assert drive.sha256s() == expected
    assert one.stop() == 0, "it holds on to what nobody wants"


def test_a_cut_for_ever(lan, tmp_path):
    machines, net = lan
    steps = marked(tmp_path, 6, 0.5)
    two_workers(machines, net)
    drive = Drive(machines, steps)
    until(lambda: "one" in begun(drive).values())
    net.cut(net.names[1])
    assert drive.sha256s() == plain(steps, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("seconds", [10, 60])
def test_cuts_of_full_length(lan, tmp_path, monkeypatch, seconds):
    """With the real lease of 15 s: after 10 s nothing was run twice; after 60 s the worker is back and works."""
    machines, net = lan
    machines.kill_coordinator()
    monkeypatch.delenv("LEASE_S")
    machines.start_coordinator(net.names[0])
    steps = marked(tmp_path, 80 if seconds > 30 else 30, 2.0)
    two_workers(machines, net)
    drive = Drive(machines, steps)
    until(lambda: "one" in begun(drive).values())
    net.cut(net.names[1])
    time.sleep(seconds)
    before = len([w for w in begun(drive).values() if w == "one"])
    net.cut(net.names[1], down=False)
    drive.done(300)
    assert drive.sha256s() == plain(steps, tmp_path)
    assert len([w for w in begun(drive).values() if w == "one"]) > before
    if seconds < 15:
        assert all(runs(tmp_path, s.name) == 1 for s in steps)


def test_disk_trouble_at_the_start_is_said(small_disk, machines, tmp_path):
    (small_disk / "full").write_bytes(bytes(39_900_000))
    subprocess.run(["cp", "/dev/zero", small_disk / "rest"], capture_output=True, check=False)
    worker = machines.worker("one", cache=small_disk / "cache")
    assert worker.process.wait(60) == 3
    assert "disk is full" in worker.log.read_text()
