"""A passel of real processes for tests: a coordinator, workers, a driver; each may be killed, stopped, or be on a host of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from free_ports import free_port
from passel.cluster.driver.passel_executor import CoordinatorLostError, JobLink, PasselExecutor
from passel.cluster.trust.authority import Authority
from passel.cluster.worker.agent_options import AgentOptions
from passel.pipeline.events import Artifact, Event, Outcome
from passel.pipeline.executor import SerialExecutor, Workplace, ignore_events
from passel.pipeline.step import Step
from passel.pipeline.step_host import HostOptions
from passel.pipeline.store import Store

HERE = Path(__file__).parent
PATIENCE_S = 240.0


@dataclass
class Worker:
    """A worker's supervisor process, its cache, and what it said."""

    name: str
    process: subprocess.Popen[bytes]
    cache: Path
    log: Path

    @property
    def agent(self) -> psutil.Process:
        """The agent under the supervisor; waits until there is one."""
        return until(lambda: next(iter(psutil.Process(self.process.pid).children()), None))

    @property
    def hosts(self) -> list[psutil.Process]:
        """The processes that run its steps."""
        return [p for p in self.agent.children() if "passel.pipeline.host" in _words(p)]

    def kill(self) -> None:
        """As if the machine lost its power: supervisor, agent and hosts at once."""
        for process in (self.process, self.agent):
            process.kill()
        self.process.wait()

    def stop(self, patience_s: float = PATIENCE_S) -> int:
        """Asks it to leave; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(patience_s)


@dataclass
class Machines:
    """All processes of a test, under one folder."""

    root: Path
    host: str = "127.0.0.1"
    port: int = 0
    coordinator: subprocess.Popen[bytes] | None = None
    workers: list[Worker] = field(default_factory=list)

    @property
    def data(self) -> Path:
        return self.root / "data"

    def start_coordinator(self, namespace: str = "") -> None:
        """Starts it, or starts it again on the same port."""
        self.data.mkdir(exist_ok=True)
        self.port = self.port or free_port()
        command = [
            sys.executable,
            "-P",
            str(HERE / "coordinator_process.py"),
            str(self.data),
            self.host,
            str(self.port),
        ]
        with (self.root / "coordinator.log").open("ab") as log:
            self.coordinator = subprocess.Popen(
                _inside(namespace) + command, stdout=subprocess.PIPE, stderr=log, env=_environment()
            )
        assert self.coordinator.stdout is not None
        line = self.coordinator.stdout.readline()
        assert line, (self.root / "coordinator.log").read_text()

    def kill_coordinator(self) -> None:
        assert self.coordinator is not None
        self.coordinator.kill()
        self.coordinator.wait()
        assert self.coordinator.stdout is not None
        self.coordinator.stdout.close()

    def worker(self, name: str, *, namespace: str = "", local: bool = False, **more: object) -> Worker:
        """Starts a worker with an identity of this coordinator. more: fields of AgentOptions, and `environment`, `prefix`."""
        identity = Authority.open(self.data / "ca").issue(self.root / name / "identity", name)
        environment = more.pop("environment", {})
        prefix: list[str] = more.pop("prefix", [])  # type: ignore[assignment]
        usual = {"workers": 2, "memory_mb": 4000, "cache": self.root / name / "cache", "stall_s": 2.0, "wait_s": 2.0}
        fields: dict[str, object] = {**usual, **more}
        url = f"https://{self.host}:{self.port}"
        options = AgentOptions(url, identity.folder, local=local, **fields)  # type: ignore[arg-type]
        command = [sys.executable, "-P", "-m", "passel.cluster.worker.supervisor", *options.words()]
        log = self.root / f"{name}.log"
        with log.open("ab") as file:
            process = subprocess.Popen(
                _inside(namespace) + prefix + command,
                stdout=file,
                stderr=file,
                env=_environment(**environment),  # type: ignore[arg-type]
            )
        started = Worker(name, process, options.cache, log)
        self.workers.append(started)
        return started

    def close(self) -> None:
        for worker in self.workers:
            with suppress(psutil.Error, ProcessLookupError):
                worker.process.kill()
            worker.process.wait()
        if self.coordinator is not None and self.coordinator.poll() is None:
            self.kill_coordinator()

    def story(self) -> str:
        """What everybody said, for a failed test."""
        return "\n".join(f"== {p.name}\n{p.read_text(errors='replace')}" for p in sorted(self.root.glob("*.log")))


class Drive:
    """A driver in a thread: runs steps through the coordinator, and again when the coordinator is lost, as `passel serve` does."""

    def __init__(self, machines: Machines, steps: Sequence[Step], job: str = "job") -> None:
        self._machines, self._steps, self._job = machines, steps, job
        self.events: list[Event] = []
        self.outcomes: dict[str, Outcome] = {}
        self.error: BaseException | None = None
        self.executor: PasselExecutor | None = None
        self.store = Store(machines.root / job / "store")
        self._over = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def done(self, patience_s: float = PATIENCE_S) -> dict[str, Outcome]:
        """Waits for the end. Raises what the run raised."""
        self._thread.join(patience_s)
        assert not self._thread.is_alive(), "the job does not end\n" + self._machines.story()
        if self.error is not None:
            raise self.error
        return self.outcomes

    def sha256s(self) -> dict[str, tuple[str, ...]]:
        """The content of every artifact, by stage and name; all must be there and intact."""
        outcomes = self.done()
        bad = [o for o in outcomes.values() if not isinstance(o, Artifact)]
        assert not bad, f"{bad}\n{self._machines.story()}"
        assert all(self.store.verify(d) == [] for d in outcomes)
        return contents(outcomes)

    def abandon(self) -> None:
        """Ends the thread, whatever it does."""
        self._over = True
        if self.executor is not None:
            self.executor.stop()
        self._thread.join(10)

    def _run(self) -> None:
        workplace = Workplace(self.store, self._machines.root / self._job / "logs")
        link = JobLink(self._machines.data / "driver.sock", self._job)
        while not self._over:
            try:
                with PasselExecutor(workplace, link, lambda capacity: None) as self.executor:
                    self.outcomes = self.executor.run(self._steps, self.events.append)
                return
            except CoordinatorLostError:
                time.sleep(0.1)
            except BaseException as error:
                self.error = error
                return


class Job:
    """A whole survey: the driver's process, started again when it dies or loses the coordinator, as `passel serve` does it."""

    def __init__(self, machines: Machines, photos: Path, output: Path, words: Sequence[str] = ()) -> None:
        options = machines.root / f"{output.name}.options.json"
        options.write_text(json.dumps(list(words)))
        self._command = [
            sys.executable,
            "-P",
            "-m",
            "passel.cluster.driver.driver",
            "--socket",
            str(machines.data / "driver.sock"),
        ]
        self._command += [
            "--job",
            output.name,
            "--photos",
            str(photos),
            "--output",
            str(output),
            "--options",
            str(options),
        ]
        self._machines, self.output = machines, output
        self.process: subprocess.Popen[str] | None = None
        self.last_words = ""
        self._given_up = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def made(self) -> int:
        """Artifacts in the job's store."""
        return sum(1 for _ in (self.output / ".passel" / "store").glob("??/*/manifest.json"))

    def done(self, patience_s: float = 600.0) -> str:
        """Waits for the end; returns the driver's last line."""
        self._thread.join(patience_s)
        assert not self._thread.is_alive(), "the job does not end\n" + self._machines.story()
        return self.last_words

    def give_up(self) -> None:
        """Kills the driver for good."""
        self._given_up = True
        if self.process is not None:
            self.process.kill()
        self._thread.join()

    def _run(self) -> None:
        while not self._given_up:
            with (self._machines.root / "driver.log").open("ab") as log:
                self.process = subprocess.Popen(
                    self._command, stdout=subprocess.PIPE, stderr=log, text=True, env=_environment()
                )
            assert self.process.stdout is not None
            with self.process.stdout as lines:
                for line in lines:
                    self.last_words = line
            if self.process.wait() != CoordinatorLostError.exit_code and self.process.returncode >= 0:
                return
            time.sleep(0.2)


def contents(outcomes: dict[str, Outcome]) -> dict[str, tuple[str, ...]]:
    """sha256 of all files, by stage and name of the step."""
    found = {}
    for outcome in outcomes.values():
        assert isinstance(outcome, Artifact), outcome
        manifest = outcome.manifest
        found[f"{manifest.stage} {manifest.name}"] = tuple(f.sha256 for f in manifest.files)
    return found


def undisturbed(steps: Sequence[Step], root: Path) -> dict[str, tuple[str, ...]]:
    """The same of a run on this machine alone, one step after the other."""
    workplace = Workplace(Store(root / "serial"), root / "logs", HostOptions((HERE,)))
    with SerialExecutor(workplace) as executor:
        return contents(executor.run(steps, ignore_events))


def until(found: Callable[[], object], patience_s: float = PATIENCE_S) -> object:
    """Waits for something that is true, and returns it."""
    deadline = time.monotonic() + patience_s
    while not (value := found()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return value


@dataclass(frozen=True)
class Network:
    """A bridge with hosts in network namespaces; the coordinator's is `.1`."""

    names: tuple[str, ...]

    @staticmethod
    def possible() -> bool:
        """Whether this process may make network namespaces."""
        if os.geteuid() != 0 or shutil.which("ip") is None:
            return False
        name = f"passel-probe-{os.getpid()}"
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
        if made:
            subprocess.run(["ip", "netns", "del", name], check=False)
        return made

    def cut(self, name: str, down: bool = True) -> None:
        """Pulls or plugs the cable of a host."""
        port = f"p{self.names.index(name)}"
        ip("-n", self.names[0], "link", "set", port, "down" if down else "up")


def network(names: Sequence[str]) -> Iterator[Network]:
    """Hosts with cables to the first one, which is 10.77.0.1 and has a bridge; all are gone afterwards."""
    tag = f"ps{os.getpid()}"
    hosts = tuple(f"{tag}-{name}" for name in names)
    try:
        for host in hosts:
            ip("netns", "add", host)
            ip("-n", host, "link", "set", "lo", "up")
        ip("-n", hosts[0], "link", "add", "br0", "type", "bridge")
        ip("-n", hosts[0], "addr", "add", "10.77.0.1/24", "dev", "br0")
        ip("-n", hosts[0], "link", "set", "br0", "up")
        for number, host in enumerate(hosts[1:], 1):
            ip("-n", hosts[0], "link", "add", f"p{number}", "type", "veth", "peer", "name", "eth0", "netns", host)
            ip("-n", hosts[0], "link", "set", f"p{number}", "master", "br0", "up")
            ip("-n", host, "addr", "add", f"10.77.0.{number + 1}/24", "dev", "eth0")
            ip("-n", host, "link", "set", "eth0", "up")
        yield Network(hosts)
    finally:
        for host in hosts:
            subprocess.run(["ip", "netns", "del", host], capture_output=True, check=False)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _words(process: psutil.Process) -> str:
    """Its command line, '' when it has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _inside(namespace: str) -> list[str]:
    return ["ip", "netns", "exec", namespace] if namespace else []


def _environment(**more: str) -> dict[str, str]:
    """Step functions of the tests can be imported."""
    folders = [str(HERE), *(p for p in (os.environ.get("PYTHONPATH"),) if p)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders), **more}
