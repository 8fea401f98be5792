"""Joining from another host: found by mDNS, two coordinators on one network, and a bare computer without any internet."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import passel
from passel.cluster.coordinator.admin_client import AdminClient
from passel.cluster.trust.discovery import Announced, DiscoveryError
from passel.commands.join import _choose
from passel.errors import UsageError
from runs import command
from serving import Running, running, until
from two_hosts import TwoHosts, two_hosts

A = Announced("field", ("https://10.0.0.1:3001",), "a" * 24, passel.__version__)
B = Announced("office", ("https://10.0.0.2:3001",), "b" * 24, passel.__version__)


def test_one_is_taken_two_are_listed_none_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert _choose([A], None) == A
    assert _choose([A, B], lambda question: "2 ") == B
    assert "1  field at https://10.0.0.1:3001" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"2 coordinators: field at https://10\.0\.0\.1:3001 .*, office at https://10"):
        _choose([A, B], None)
    for answer in ("0", "3", "", "x", "²"):
        with pytest.raises(UsageError, match="none of them"):
            _choose([A, B], lambda question, answer=answer: answer)
    with pytest.raises(DiscoveryError, match="no coordinator was found on this network"):
        _choose([], None)


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    with two_hosts() as made:
        yield made


def coordinator_words(data: Path, name: str, port: int) -> list[str]:
    ports = ["--port", str(port), "--workers-port", str(port + 1)]
    return command(["serve", "--data", str(data), "--listen", "0.0.0.0", "--no-worker", "--cluster-name", name, *ports])


def pretend_kit(data: Path) -> None:
    """So that no kit is made, which takes half a minute."""
    (data / "wheels").mkdir(parents=True)
    (data / "wheels" / "SHA256SUMS").write_text(f"0  passel-{passel.__version__}-py3-none-any.whl\n")


def shown_token(coordinator: Running, kind: str) -> str:
    return coordinator.wait_for(rf"{kind}_[a-z2-7]{{24}}_[a-z2-7]{{24}}")[0]


def workers(data: Path) -> set[str]:
    return {w.name for w in AdminClient.here(data).overview().passel.workers}


def test_found_on_the_network_and_told_apart(hosts: TwoHosts, tmp_path: Path) -> None:
    field, office = tmp_path / "field", tmp_path / "office"
    for data in (field, office):
        pretend_kit(data)
    with (
        running(coordinator_words(field, "field", 3000), tmp_path / "field.log", hosts.on_first()) as first,
        running(coordinator_words(office, "office", 4000), tmp_path / "office.log", hosts.on_first()) as second,
    ):
        for coordinator in (first, second):
            coordinator.wait_for("is ready")
        token = shown_token(second, "join")
        assert shown_token(second, "api") in second.said
        assert f"curl -fsS http://10.77.0.1:4000/join | sh -s -- {token}\n" in second.said
        join = command(["join", "--name", "far", "--home", str(tmp_path / "far")])
        with running(join, tmp_path / "both.log", hosts.on_second()) as asked:
            assert asked.process.wait(timeout=120) == 2
            assert re.search(
                r"there are 2 coordinators: field at https://10\.77\.0\.1:3001 .*, office at https", asked.said
            )
        with running(join, tmp_path / "far.log", hosts.on_second(), PASSEL_JOIN_TOKEN=token) as worker:
            worker.wait_for("this computer is 'far' in the passel at https://10.77.0.1:4001")
            until(lambda: workers(office) == {"far"}, "it polls the right one")
        assert workers(field) == set()
    again = tmp_path / "again.log"
    with running(coordinator_words(office, "office", 4000), again, hosts.on_first()) as second:
        second.wait_for("passel token create --join")  # earlier tokens are good, and are not shown again
        assert "join_" not in second.said


@pytest.mark.long
def test_a_bare_computer_joins_with_one_line_and_no_internet(hosts: TwoHosts, tmp_path: Path) -> None:
    """The whole kit is made, fetched and installed: a minute of computing, 2 GB of disk."""
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    data, home = tmp_path / "data", tmp_path / "home"
    home.mkdir()
    with running(coordinator_words(data, "field", 3000), tmp_path / "serve.log", hosts.on_first()) as coordinator:
        token = shown_token(coordinator, "join")
        line = f"curl -fsS http://10.77.0.1:3000/join | sh -s -- {token}"
        assert line in coordinator.said
        bare = {"PATH": os.environ["PATH"], "HOME": str(home)}

        def kit_is_ready() -> bool:
            script = subprocess.run(
                [*hosts.on_second(), "curl", "-fsS", "http://10.77.0.1:3000/join"],
                capture_output=True,
                text=True,
                check=True,
            )
            return "install_passel" in script.stdout

        until(kit_is_ready, "the kit was made", 900)
        log = tmp_path / "bare.log"
        with log.open("wb") as output:
            shell = subprocess.Popen(
                [*hosts.on_second(), "sh", "-c", line],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=bare,
                start_new_session=True,
            )
        try:
            until(lambda: shell.poll() is not None or workers(data), "the bare computer joined", 900)
            assert shell.poll() is None, log.read_text()
        finally:
            os.killpg(shell.pid, signal.SIGKILL)  # the shell, the worker's supervisor; its agent sees their end
            shell.wait(timeout=120)
        installed = home / ".local" / "share" / "passel" / f"software-{passel.__version__}" / "bin" / "python"
        assert (
            str(installed)
            in subprocess.run(
                [installed, "-c", "import sys, passel; print(sys.executable, passel.__file__)"],
                capture_output=True,
                text=True,
                check=True,
                cwd=home,
            ).stdout
        )
