"""Machines that sleep, clocks that jump, and coordinators that change their address: workers are members again by themselves."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from free_ports import free_port
from machines import Drive, Machines, Worker, ip, until
from runs import command
from serving import running
from step_functions import step
from test_faults import begun, finished, marked, plain, runs
from test_join_hosts import coordinator_words, pretend_kit, shown_token, workers
from two_hosts import TwoHosts, two_hosts

LEASE_S = 3.0


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    monkeypatch.setenv("LEASE_S", str(LEASE_S))
    found = Machines(tmp_path)
    found.start_coordinator()
    yield found
    found.close()


def everything_of(worker: Worker) -> list[psutil.Process]:
    own = psutil.Process(worker.process.pid)
    return [own, *own.children(recursive=True)]


def wake(asleep: list[psutil.Process]) -> None:
    for process in asleep:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("late", [False, True], ids=["while the copies run", "when all is over"])
def test_a_laptop_that_sleeps_is_a_member_again_when_it_wakes(machines, tmp_path, late):
    """Its steps run elsewhere meanwhile; what it then finishes a second time harms nobody."""
    steps = [step("add_when_let", n, value=i, marker=str(tmp_path / f"{n}.runs")) for i, n in enumerate(("a0", "a1"))]
    steps.append(step("add", "all", after=tuple(steps), stage="next"))
    sleeper = machines.worker("sleeper")
    until(lambda: "threads" in sleeper.log.read_text())
    drive = Drive(machines, steps)
    until(lambda: runs(tmp_path, "a0") == runs(tmp_path, "a1") == 1)
    agent, asleep = sleeper.agent.pid, everything_of(sleeper)
    try:
        for process in asleep:
            process.send_signal(signal.SIGSTOP)
        machines.worker("awake")
        until(lambda: runs(tmp_path, "a0") == runs(tmp_path, "a1") == 2)
        if late:
            (tmp_path / "go").touch()
            drive.done()
    finally:
        wake(asleep)
    (tmp_path / "go").touch()
    assert drive.sha256s() == plain(steps, tmp_path)
    (tmp_path / "later").mkdir()
    notes = [tmp_path / "later" / str(i) for i in range(4)]  # as many steps as both have threads
    again = Drive(
        machines, [step("add_when_let", n.name, value=i, marker=str(n)) for i, n in enumerate(notes)], "later job"
    )
    until(lambda: all(n.exists() for n in notes))
    (tmp_path / "later" / "go").touch()
    assert again.sha256s()
    assert set(begun(again).values()) == {"sleeper", "awake"}
    assert sleeper.agent.pid == agent, "it was started again"
    assert all(drive.store.verify(s.digest) == [] for s in steps)
    assert sleeper.stop() == 0, "it holds on to what nobody wants"


def test_a_coordinator_that_sleeps_blames_nobody_when_it_wakes(machines, tmp_path):
    """For longer than a lease: what its workers run goes on, and nothing of it is run twice."""
    ones = [machines.worker(n, workers=1) for n in ("one", "two")]
    agents = [w.agent.pid for w in ones]
    steps = marked(tmp_path, 6, 1.0)
    drive = Drive(machines, steps)
    until(lambda: finished(drive, steps) >= 1)
    coordinator = machines.coordinator
    coordinator.send_signal(signal.SIGSTOP)
    time.sleep(4 * LEASE_S)
    coordinator.send_signal(signal.SIGCONT)
    assert drive.sha256s() == plain(steps, tmp_path)
    assert all(runs(tmp_path, s.name) == 1 for s in steps), machines.story()
    assert [w.agent.pid for w in ones] == agents


JUMPING = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long ahead_s(void) {
    char text[32] = {0};
    int file = open(getenv("CLOCK_AHEAD"), O_RDONLY);
    if (file < 0) return 0;
    if (read(file, text, 31) < 0) text[0] = 0;
    close(file);
    return atol(text);
}
int clock_gettime(clockid_t id, struct timespec *t) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, t);
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) t->tv_sec += ahead_s();
    return result;
}
int gettimeofday(struct timeval *restrict t, void *restrict zone) {
    struct timespec now; clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec; t->tv_usec = now.tv_nsec / 1000; return 0;
}
time_t time(time_t *t) { struct timespec now; clock_gettime(CLOCK_REALTIME, &now); if (t) *t = now.tv_sec; return now.tv_sec; }
"""


def test_clocks_that_jump_while_steps_run(machines, tmp_path, monkeypatch):
    """Of everybody, the coordinator as well: a month ahead, then a day back, as when a field computer first meets a time server."""
    if shutil.which("gcc") is None:
        pytest.skip("no compiler for the library that turns the clock")
    (tmp_path / "jumping.c").write_text(JUMPING)
    library, clock = tmp_path / "jumping.so", tmp_path / "ahead"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "jumping.c", "-ldl"], check=True)
    clock.write_text("0")
    machines.kill_coordinator()
    with monkeypatch.context() as patch:
        patch.setenv("LD_PRELOAD", str(library))
        patch.setenv("CLOCK_AHEAD", str(clock))
        machines.start_coordinator()
        ones = [machines.worker(n, workers=1) for n in ("one", "two")]
    agents = [w.agent.pid for w in ones]
    steps = marked(tmp_path, 6, 0.5)
    drive = Drive(machines, steps)
    for done, ahead_s in ((1, 30 * 86_400), (4, -86_400), (8, 0)):
        until(lambda done=done: finished(drive, steps) >= done)
        clock.write_text(str(ahead_s))
    assert drive.sha256s() == plain(steps, tmp_path)
    assert all(runs(tmp_path, s.name) == 1 for s in steps), machines.story()
    assert [w.agent.pid for w in ones] == agents
    started = {o.manifest.cost.started[:7] for o in drive.outcomes.values()}
    assert len(started) > 1, "the clock was not turned"


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    with two_hosts() as made:
        yield made


def test_a_coordinator_whose_name_leads_elsewhere_is_followed(hosts, tmp_path, monkeypatch):
    """As with DNS: the worker's address is a name, and the name gets another address while steps run."""
    monkeypatch.setenv("LEASE_S", str(LEASE_S))
    names = Path("/etc/netns", hosts.second)
    names.mkdir(parents=True)
    (names / "hosts").write_text("10.77.0.1 hub.field\n")
    machines = Machines(tmp_path, host="0.0.0.0", port=free_port())
    try:
        machines.start_coordinator(hosts.first)
        machines.host = "hub.field"
        far = machines.worker("far", namespace=hosts.second)
        steps = marked(tmp_path, 6, 0.5)
        drive = Drive(machines, steps)
        until(lambda: finished(drive, steps) >= 2)
        agent = far.agent.pid
        move(hosts, "10.77.0.1", "10.77.0.9")
        (names / "hosts").write_text("10.77.0.9 hub.field\n")
        assert drive.sha256s() == plain(steps, tmp_path)
        assert far.agent.pid == agent
    finally:
        machines.close()
        shutil.rmtree(names)


def move(hosts: TwoHosts, old: str, new: str) -> None:
    """The first host has another address now."""
    ip("-n", hosts.first, "addr", "add", f"{new}/24", "dev", "pa0")
    ip("-n", hosts.first, "addr", "del", f"{old}/24", "dev", "pa0")
    ip("-n", hosts.first, "addr", "replace", f"{new}/24", "dev", "pa0")


def test_a_coordinator_that_gets_another_address_is_found_again(hosts, tmp_path):
    """As with DHCP: nothing on the coordinator is started again, and the worker was given a number."""
    pretend_kit(tmp_path)
    with running(coordinator_words(tmp_path, "field", 3000), tmp_path / "serve.log", hosts.on_first()) as coordinator:
        coordinator.wait_for("is ready")
        join = command(["join", "https://10.77.0.1:3001", "--name", "far", "--home", str(tmp_path / "far")])
        token = shown_token(coordinator, "join")
        with running(join, tmp_path / "far.log", hosts.on_second(), PASSEL_JOIN_TOKEN=token) as worker:
            until(lambda: workers(tmp_path) == {"far"})
            family = {p.pid for p in worker.family()}
            move(hosts, "10.77.0.1", "10.77.0.9")
            worker.wait_for("the coordinator says that it is at https://10.77.0.9:3001")
            worker.wait_for("https://10.77.0.9:3001 answers again")
            assert {p.pid for p in worker.family()} == family
            assert worker.signal(signal.SIGINT) == 0
        coordinator.wait_for(r"has another address now[^~]*passel join https://10\.77\.0\.9:3001 --token TOKEN")
        page = f"http://127.0.0.1:3000/ui/api/passel?token={shown_token(coordinator, 'api')}"
        ask = f"import urllib.request; print(urllib.request.urlopen({page!r}).read().decode())"
        told = subprocess.run(
            [*hosts.on_first(), sys.executable, "-c", ask], capture_output=True, text=True, check=True
        )
        assert all("10.77.0.9" in line for line in json.loads(told.stdout)["join_lines"])
        again = command(["join", "--home", str(tmp_path / "far"), "https://10.77.0.9:3001"])
        with running(again, tmp_path / "again.log", hosts.on_second()) as worker:
            worker.wait_for("this computer is 'far'")
