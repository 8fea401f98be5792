"""Whole fleets in real time: boot scripts run, machines report, processes are killed; nothing is left and nothing is told."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from fake_clouds.digitalocean import FakeDigitalOcean
from fake_clouds.headquarters import BEAT, Headquarters
from fake_clouds.hetzner import FakeHetzner
from fake_clouds.metadata import FakeMetadata
from fake_clouds.scaleway import FakeScaleway
from fake_clouds.server import FakeCloud
from passel.fleet.boot import Newcomer, boot_script
from passel.fleet.config import AwsAccount, Boot, FleetConfig, HetznerAccount, Kind, Limits, Size
from passel.fleet.fleet_file import _JOIN
from passel.fleet.ledger import Ledger, Machine, State
from passel.fleet.secret import Secret

TESTS = Path(__file__).parent
KEYS = {"digitalocean": "accessToken", "hetzner": "apiToken", "scaleway": "secretToken"}
FAKES = {"digitalocean": FakeDigitalOcean, "hetzner": FakeHetzner, "scaleway": FakeScaleway}


class Play:
    """A fleet file, a fake cloud (or this computer), and the coordinator's process that can be killed."""

    def __init__(self, folder: Path, provider: str, hq: Headquarters) -> None:
        self.folder, self.provider, self.hq = folder, provider, hq
        (folder / "cloud").mkdir()
        self.cloud: FakeCloud | None = FAKES[provider](folder / "cloud") if provider in FAKES else None
        self.file = folder / "fleet.json"
        self.file.write_text(json.dumps(self._table()))
        self.file.chmod(0o600)
        self.ledger_path = folder / "fleet.db"
        self.log = folder / "coordinator.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._ledger: Ledger | None = None

    def _table(self) -> dict[str, object]:
        table: dict[str, object] = {
            "provider": self.provider,
            "url": self.hq.url,
            "joinCommand": BEAT,
            "photosPerMachine": 100,
            "limit": 4,
            "turn": 0.2,
            "idleTimeout": 1,
            "createGrace": 3,
            "imageSizeMapping": [{"maxImages": 1000, "slug": "machine", "priceHour": 0.5}],
        }
        if self.cloud is not None:
            table |= {KEYS[self.provider]: {"env": "TEST_CLOUD_KEY"}, "endpoint": self.cloud.url, "image": "ubuntu"}
        if self.provider == "ssh":
            table |= {"hosts": ["one", "two", "three"], "createRetries": 3}
            table |= {"sshCommand": f"{TESTS / 'fake_clouds' / 'ssh.sh'} {self.folder / 'cloud'}"}
        if self.provider == "scaleway":
            table |= {"project": "p"}
        return table

    def start(self) -> None:
        environment = os.environ | {"PYTHONPATH": str(TESTS)}
        if self.cloud is not None:
            environment["TEST_CLOUD_KEY"] = self.cloud.secret
        with self.log.open("ab") as log:
            command = [
                sys.executable,
                str(TESTS / "fleet_process.py"),
                str(self.file),
                str(self.ledger_path),
                self.hq.url,
            ]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def book(self) -> list[Machine]:
        if not self.ledger_path.exists():
            return []
        self._ledger = self._ledger or Ledger(self.ledger_path)
        return list(self._ledger.machines())

    def up(self) -> int:
        return sum(m.state is State.UP for m in self.book())

    def until(self, done: Callable[[], bool], limit_s: float = 90.0) -> None:
        end = time.monotonic() + limit_s
        while not done():
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, f"{self.log.read_text()[-3000:]}\n{self.book()}"
            time.sleep(0.1)

    def empty(self) -> bool:
        return bool(self.book()) and not any(m.alive for m in self.book()) and not left_running(self.folder)

    def close(self) -> None:
        if self.process is not None:
            self.kill()
        if self._ledger is not None:
            self._ledger.close()
        if self.cloud is not None:
            self.cloud.close()


def left_running(folder: Path) -> list[str]:
    """Processes of machines whose home is in this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            home = process.environ().get("PASSEL_MACHINE_HOME", "")
        except (psutil.Error, OSError):
            continue
        if home.startswith(str(folder)) and process.status() != psutil.STATUS_ZOMBIE:
            found.append(f"{process.pid} {process.name()}")
    return found


@pytest.fixture
def hq() -> Iterator[Headquarters]:
    made = Headquarters()
    yield made
    made.close()


@pytest.fixture
def play(request: pytest.FixtureRequest, tmp_path: Path, hq: Headquarters) -> Iterator[Play]:
    made = Play(tmp_path, request.param, hq)
    yield made
    made.close()


@pytest.mark.parametrize("play", ["local", "ssh", "digitalocean", "scaleway"], indirect=True)
def test_grows_works_and_is_gone_although_killed(play: Play) -> None:
    if play.cloud is not None:
        play.cloud.faults["create"].extend(["429"] if play.provider == "scaleway" else ["500 after", "429"])
        play.cloud.faults["list"].extend(["500", "twice"])
    play.hq.photos = 250
    play.start()
    play.until(lambda: len(play.book()) >= 1)
    play.kill()
    play.start()
    play.until(lambda: play.up() == 3)
    play.kill()
    play.start()
    if play.cloud is not None:
        play.cloud.faults["destroy"].append("500 after")
    play.hq.photos = 0
    play.until(lambda: any(m.state is State.DRAINING or not m.alive for m in play.book()))
    play.kill()
    play.start()
    play.until(play.empty)
    if play.cloud is not None:
        assert not play.cloud.machines
        assert len(play.cloud.every_machine) <= 4, "no machine was made twice"
    assert {m.name for m in play.book() if m.joined_s} <= play.hq.forgotten


@pytest.mark.parametrize("play", ["digitalocean"], indirect=True)
def test_secrets_are_nowhere(play: Play) -> None:
    assert play.cloud is not None
    play.hq.photos = 150
    play.start()
    play.until(lambda: play.up() == 2)
    secrets = [play.cloud.secret, *play.hq.every_token]
    shown = [" ".join(cmdline(p)) for p in psutil.process_iter()]
    play.hq.photos = 0
    play.until(play.empty)
    play.kill()
    books = b"".join(path.read_bytes() for path in play.folder.glob("fleet.db*"))
    for secret in secrets:
        assert not any(secret in line for line in shown), "in the list of processes"
        assert secret.encode() not in books
        assert secret not in play.log.read_text()
    for machine in play.cloud.every_machine:
        assert play.cloud.secret not in machine.script
        assert [t for t in play.hq.every_token if t in machine.script] == [
            t for t in play.hq.every_token if t.endswith(machine.name)
        ], "a machine knows its own token only"
    assert play.ledger_path.stat().st_mode & 0o077 == 0


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def config(url: str, kind: Kind = Kind.WORKER, **limits: float) -> FleetConfig:
    return FleetConfig(
        provider="hetzner",
        kind=kind,
        account=HetznerAccount(Secret("t"), "image"),
        regions=("fsn1",),
        sizes=(Size("cpx41", 1000),),
        limits=Limits(**limits),  # type: ignore[arg-type]
        boot=Boot(url=url, join_command=BEAT, docker_gpu=True, data_folder="/mnt/data"),
    )


def boot(cloud: FakeCloud, setup: FleetConfig, token: str = "one-time") -> Path:
    """Boots a machine in the cloud; returns the folder where it leaves its traces."""
    script = boot_script(Newcomer("passel-f-1", "f", token), setup)
    return cloud.add("passel-f-1", "cpx41", "fsn1", [], script).home


def appears(path: Path) -> str:
    for _ in range(600):
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear: {(path.parent / 'console').read_text()}")


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[FakeCloud]:
    made = FakeHetzner(tmp_path)
    yield made
    made.close()


def test_the_dead_man_switches_off_a_machine_without_coordinator(cloud: FakeCloud, hq: Headquarters) -> None:
    hq.tokens["passel-f-1"] = "one-time"
    home = boot(cloud, config(hq.url, dead_man_s=3.0))
    appears(home / "swapped-on")
    while "passel-f-1" not in hq.heard:
        time.sleep(0.05)
    assert not (home / "switched-off").exists()
    hq.close()
    assert "shutdown -h now" in appears(home / "switched-off")


def test_the_dead_man_switches_off_a_machine_that_is_too_old(cloud: FakeCloud, hq: Headquarters) -> None:
    home = boot(cloud, config(hq.url, dead_man_s=3600.0 / 360, runtime_s=1.0, drain_s=-600.0))
    assert "shutdown -h now" in appears(home / "switched-off")


def test_a_node_gets_its_token_by_a_file(cloud: FakeCloud, hq: Headquarters) -> None:
    home = boot(cloud, config(hq.url, Kind.NODE), "the-node's token")
    words = appears(home / "docker").split("\n")
    assert words[:2] == ["run", "-d"]
    assert "opendronemap/nodeodm" in words
    assert words[words.index("--gpus") + 1] == "all"
    assert "/mnt/data:/var/www/data" in words
    assert json.loads((home / "node.json").read_text())["token"] == "the-node's token"
    assert not any("the-node's token" in word for word in words)
    assert (home / "node.json").stat().st_mode & 0o077 == 0


WORKER = """#!/bin/sh
trap 'echo "$PASSEL_MACHINE" >>"$PASSEL_MACHINE_HOME/finished"; exit 0' TERM
echo "$$" >>"$PASSEL_MACHINE_HOME/joined"
while :; do sleep 0.2; done
"""


def test_a_spot_machine_hears_that_it_is_taken_back_and_leaves_in_order(cloud: FakeCloud, hq: Headquarters) -> None:
    """Its worker is asked to finish, once, and not started again; another machine's worker on this computer is left alone."""
    metadata = FakeMetadata()
    (cloud.stand_ins / "passel").write_text(WORKER)
    (cloud.stand_ins / "passel").chmod(0o755)
    watching = f"export PASSEL_METADATA_URL={metadata.url}"
    joining = Boot(url=hq.url, join_command='passel join --name "$PASSEL_MACHINE"', setup_command=watching)
    usual = dataclasses.replace(config(hq.url), boot=joining)
    account = AwsAccount(Secret(""), Secret(""), "sg-1", "ami-1", spot=True)
    neighbour_script = boot_script(Newcomer("passel-f-2", "f", "t"), usual)
    neighbour = cloud.add("passel-f-2", "cpx41", "fsn1", [], neighbour_script).home
    home = boot(cloud, dataclasses.replace(usual, provider="aws", account=account))
    appears(home / "joined")
    appears(neighbour / "joined")
    while not metadata.asked:
        time.sleep(0.05)
    assert not (home / "leaving").exists()
    metadata.notice = '{"action": "terminate", "time": "2026-11-22T17:00:00Z"}'
    assert "shutdown -h now" in appears(home / "switched-off")
    assert (home / "finished").read_text() == "passel-f-1\n"
    assert len((home / "joined").read_text().split()) == 1
    assert not (neighbour / "finished").exists()
    metadata.close()


@pytest.mark.parametrize("provider", ["aws", "digitalocean", "hetzner", "scaleway"])
@pytest.mark.parametrize("kind", list(Kind))
def test_boot_scripts_are_small_enough_for_every_cloud(provider: str, kind: Kind) -> None:
    """EC2 takes 16 KB of user-data, the least of the four. The values that a person chooses are long here."""
    account = AwsAccount(Secret(""), Secret(""), "sg-1", "ami-1", spot=True) if provider == "aws" else None
    setup = config("https://a-rather-long-name.of-a-coordinator.example.org:3000", kind, runtime_s=86_400.0)
    long = dataclasses.replace(setup.boot, setup_command="# a person's own words\n" * 100, join_command=_JOIN)
    setup = dataclasses.replace(setup, provider=provider, boot=long, account=account or setup.account)
    script = boot_script(Newcomer("passel-0123abcd-6a0123456789ab-0123abcd", "0123abcd", "x" * 200), setup)
    assert len(script.encode()) < 16_384 / 2
    checked = subprocess.run(["/bin/sh", "-n"], input=script.encode(), check=False, capture_output=True)
    assert (checked.returncode, checked.stderr) == (0, b"")
