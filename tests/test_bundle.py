"""The field kit: wheels made from what is installed, the script, and both over HTTP to a host without any other network."""

from __future__ import annotations

import asyncio
import base64
import csv
import errno
import fcntl
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
import uvicorn

import passel
from passel.cluster.kit import bundle as bundling
from passel.cluster.kit.bundle import BundleError, bundle, is_whole, needed_distributions
from passel.cluster.kit.join_script import Kit, join_script, script_beside_kit
from passel.cluster.kit.kit_server import KitApp
from passel.errors import StorageError
from serving import until

PARTS = ("passel", "segno", "psutil", "markupsafe")  # pure, for any Python 3, for this one only


@pytest.fixture(scope="module")
def small_kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kit of a few distributions: all of them take half a minute."""
    folder = tmp_path_factory.mktemp("kit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundling, "needed_distributions", lambda name: tuple(map(distribution, PARTS)))
        bundle(folder, lambda line: None)
    return folder


def test_all_that_passel_needs_is_known() -> None:
    names = {part.name.lower() for part in needed_distributions("passel")}
    assert {
        "passel",
        "numpy",
        "pycolmap",
        "lazrs",
        "aiohttp",
    } <= names  # lazrs comes by an extra, idna by another's need
    assert not names & {"pytest", "ruff", "boto3"}


def test_a_wheel_tells_the_truth_about_itself(small_kit: Path) -> None:
    for wheel in small_kit.glob("[!p][!i]*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            assert archive.testzip() is None
            info = next(n for n in archive.namelist() if n.endswith(".dist-info/RECORD"))
            rows = list(csv.reader(io.StringIO(archive.read(info).decode())))
            assert {row[0] for row in rows} == set(archive.namelist())
            for name, digest, size in rows:
                content = archive.read(name)
                if name != info:
                    assert int(size) == len(content)
                    expected = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
                    assert digest == f"sha256={expected}"


def test_pip_installs_it_without_any_network(small_kit: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "v")], check=True, timeout=300)
    python, kit = tmp_path / "v" / "bin" / "python", Kit.of(small_kit)
    words = [
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--find-links",
        str(small_kit),
        "passel",
        "psutil",
        "segno",
    ]
    subprocess.run([str(python), str(small_kit / kit.pip / "pip"), *words], check=True, timeout=300)
    said = subprocess.run([str(tmp_path / "v/bin/passel"), "--version"], capture_output=True, text=True, check=True)
    assert said.stdout == f"passel {passel.__version__}\n"
    script = (
        "import psutil, segno, passel, sys; assert passel.__file__.startswith(sys.prefix); print(psutil.cpu_count())"
    )
    subprocess.run([str(python), "-c", script], check=True, capture_output=True, cwd=tmp_path)


def test_made_again_it_is_the_same_and_other_versions_go(small_kit: Path, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "kit"
    shutil.copytree(small_kit, folder)
    psutil = next(folder.glob("psutil-*.whl"))
    foreign = "psutil-9.9-cp36-abi3-macosx_11_0_arm64.whl"  # of a kit for two kinds of machines
    for name in ("passel-0.0.1-py3-none-any.whl", psutil.name.replace(psutil.name.split("-")[1], "99.0"), foreign):
        (folder / name).write_bytes(b"old")
    (folder / "SHA256SUMS").write_text("")  # as when it was killed
    assert not is_whole(folder)
    monkeypatch.setattr(bundling, "needed_distributions", lambda name: tuple(map(distribution, PARTS)))
    bundle(folder, lambda line: None)
    assert is_whole(folder)
    assert {p.name for p in folder.iterdir()} == {p.name for p in small_kit.iterdir()} | {foreign}
    sums = (folder / "SHA256SUMS").read_text().splitlines()
    assert set(sums) > set((small_kit / "SHA256SUMS").read_text().splitlines())


def test_what_a_killed_bundle_left_is_cleared_and_one_that_runs_is_waited_for(
    small_kit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundling, "needed_distributions", lambda name: tuple(map(distribution, PARTS)))
    leftover = small_kit / ".making-abc"
    leftover.write_bytes(b"half a wheel")
    said: list[str] = []
    handle = os.open(small_kit, os.O_RDONLY)  # as another bundle does
    fcntl.flock(handle, fcntl.LOCK_EX)
    second = threading.Thread(target=bundle, args=(small_kit, said.append))
    second.start()
    while not said:
        second.join(0.05)
    assert leftover.exists()
    os.close(handle)
    second.join()
    assert "waiting for it" in said[0]
    assert not list(small_kit.glob(".making-*"))
    assert is_whole(small_kit)


def test_a_share_whose_folders_cannot_be_locked_takes_a_kit(small_kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_nfs(handle: int, operation: int) -> None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(bundling, "needed_distributions", lambda name: tuple(map(distribution, PARTS)))
    monkeypatch.setattr(bundling.fcntl, "flock", of_nfs)
    bundle(small_kit, lambda line: None)
    assert is_whole(small_kit)


def test_what_was_changed_after_its_installation_is_not_passed_on(tmp_path: Path) -> None:
    source = tmp_path / "x.py"
    source.write_text("changed")
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as archive, pytest.raises(BundleError, match="was changed"):
        bundling._add(archive, "x.py", source, "digest-of-the-original")
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as archive, pytest.raises(BundleError, match="is missing"):
        bundling._add(archive, "y.py", tmp_path / "y.py", "")


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = bundling.distribution

    def without_numpy(name: str):
        return real("no-such-distribution" if name == "numpy" else name)

    monkeypatch.setattr(bundling, "distribution", without_numpy)
    with pytest.raises(BundleError, match=r"not installed \[numpy\]"):
        needed_distributions("passel")


def test_somebody_elses_wheels_are_left_alone(tmp_path: Path) -> None:
    wheel = tmp_path / "numpy-1.0-py3-none-any.whl"
    wheel.write_bytes(b"mine")
    with pytest.raises(BundleError, match=r"not of a kit.*choose another folder"):
        bundle(tmp_path, lambda line: None)
    assert [p.name for p in tmp_path.iterdir()] == [wheel.name]


def test_a_full_or_read_only_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot be written.*make room"):
        bundle(tmp_path / "file" / "kit", lambda line: None)


def test_no_kit_no_script(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no whole kit"):
        Kit.of(tmp_path)


@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
def test_the_script_is_understood_by_every_shell(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    kit = Kit("pip-1.whl", ("3.12", "3.11"), ("Linux x86_64",))
    for text in (join_script(kit, "http://h:3000/wheels/", "https://h:3001"), script_beside_kit(kit)):
        (tmp_path / "join.sh").write_text(text)
        subprocess.run([shell, "-n", str(tmp_path / "join.sh")], check=True, timeout=60)
        if shutil.which("shellcheck"):
            subprocess.run(["shellcheck", str(tmp_path / "join.sh")], check=True, timeout=60)


def test_a_computer_of_another_kind_or_python_is_told(tmp_path: Path) -> None:
    for kit, words in (
        (Kit("pip-1.whl", ("3.11",), ("Plan9 mips",)), "the kit is for [Plan9 mips], this computer is ["),
        (Kit("pip-1.whl", ("3.99",), (f"{os.uname().sysname} {os.uname().machine}",)), "install Python 3.99"),
    ):
        script = join_script(kit, "http://127.0.0.1:9/wheels/", "https://127.0.0.1:9")
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        done = subprocess.run(
            ["sh"], input=script, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert words in done.stderr


def test_a_computer_without_home_or_room_is_told(tmp_path: Path) -> None:
    here = f"{os.uname().sysname} {os.uname().machine}"
    minor = f"{sys.version_info[0]}.{sys.version_info[1]}"
    python = tmp_path / f"python{minor}"  # knows its version, and makes no environment
    python.write_text('#!/bin/sh\n[ "$1" = -c ]\n')
    python.chmod(0o755)
    script = join_script(Kit("pip-1.whl", (minor,), (here,)), "http://127.0.0.1:9/wheels/", "https://127.0.0.1:9")
    for home, words in (
        ({}, "there is no home folder: set PASSEL_HOME"),
        ({"HOME": str(tmp_path)}, f"no environment can be made in {tmp_path}/.local/share/passel/software"),
        ({"HOME": str(python)}, "cannot be made: set PASSEL_HOME"),
    ):
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **home}
        done = subprocess.run(
            ["sh"], input=script, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert words in done.stderr
    assert not list(tmp_path.glob(".local/share/passel/*")), "a half environment keeps no room"


def test_what_the_script_has_not_made_is_not_removed(tmp_path: Path) -> None:
    """PASSEL_HOME is the user's to name: perhaps a disk with much room, and photos on it."""
    here = f"{os.uname().sysname} {os.uname().machine}"
    minor = f"{sys.version_info[0]}.{sys.version_info[1]}"
    script = join_script(Kit("pip-1.whl", (minor,), (here,)), "http://127.0.0.1:9/wheels/", "https://127.0.0.1:9")

    def run(home: Path) -> str:
        environment = {"PATH": os.environ["PATH"], "PASSEL_HOME": str(home)}
        done = subprocess.run(
            ["sh"], input=script, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout) == (1, "")
        return done.stderr

    for name in ("photo.jpg", "pyvenv.cfg", ".hidden"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("mine")
        assert "holds something else: set PASSEL_HOME to a new folder" in run(tmp_path / name)
        assert (tmp_path / name / name).read_text() == "mine"
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "pip-1.whl").write_text("an earlier installation, broken since")
    assert "the kit at http://127.0.0.1:9/wheels/ cannot be read" in run(tmp_path / "half")


def test_two_on_one_computer_at_once_and_one_that_was_killed(tmp_path: Path) -> None:
    """`curl … | sh` typed twice, or by many jobs of a computing centre that share a home."""
    here, minor = f"{os.uname().sysname} {os.uname().machine}", f"{sys.version_info[0]}.{sys.version_info[1]}"
    software, go = tmp_path / "software", tmp_path / "go"
    kit = tmp_path / "kit"
    (kit / "pip-1.whl").mkdir(parents=True)
    python = tmp_path / f"python{minor}"  # makes environments of itself, in which pip waits for its sign
    python.write_text(f"""#!/bin/sh
case "$*" in
  *" venv "*) mkdir -p "$4/bin"; cp "$0" "$4/bin/python" ;;
  *pip-1.whl/pip*) echo installs >>"{tmp_path}/said"; while ! [ -e "{go}" ]; do sleep 0.1; done; touch "$(dirname "$0")/ready" ;;
  *--version) [ -e "$(dirname "$0")/ready" ] && echo "passel {passel.__version__}" ;;
  *"passel join"*) echo joined; exit 0 ;;
  "- "*) mkdir -p "$3" && touch "$3/pip" ;;
  *) exec {sys.executable} "$@" ;;
esac
""")
    python.chmod(0o755)
    script = tmp_path / "join.sh"
    script.write_text(join_script(Kit("pip-1.whl", (minor,), (here,)), f"{kit}/", "https://127.0.0.1:9"))
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PASSEL_HOME": str(software)}

    def begun() -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sh", str(script)], env=environment, stdout=subprocess.PIPE, start_new_session=True)

    def said(times: int) -> None:
        until(
            lambda: (tmp_path / "said").exists() and len((tmp_path / "said").read_text().split()) == times, "pip runs"
        )

    killed = begun()
    said(1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    two = [begun(), begun()]
    said(3)
    stopped = begun()
    said(4)
    os.killpg(stopped.pid, signal.SIGTERM)
    assert (stopped.communicate()[0], stopped.returncode) == (b"", 1)
    go.touch()
    assert [p.communicate(timeout=60)[0] for p in two] == [b"joined\n"] * 2
    assert [p.name for p in tmp_path.glob("software*")] == ["software"], "nobody's half installation is left"
    assert sorted(p.name for p in software.iterdir()) == ["bin", "pip-1.whl"]


async def nothing_else(scope, receive, send) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 418, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def kit_url(small_kit: Path) -> Iterator[str]:
    """The kit on a real server."""
    server = uvicorn.Server(
        uvicorn.Config(KitApp(small_kit, 3001, nothing_else), port=0, log_level="error", lifespan="off")
    )
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    while not server.started:
        thread.join(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def fetch(url: str, **headers: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as e:
        return e.code, e.read()


def test_the_kit_over_http(kit_url: str, small_kit: Path) -> None:
    status, page = fetch(kit_url + "/wheels/")
    assert status == 200
    for wheel in small_kit.glob("*.whl"):
        assert f'href="{wheel.name}#sha256={hashlib.sha256(wheel.read_bytes()).hexdigest()}"' in page.decode()
        assert fetch(f"{kit_url}/wheels/{wheel.name}") == (200, wheel.read_bytes())
    for bad in ("x.whl", "..%2f..%2fetc%2fpasswd", "SHA256SUMS", "%2e%2e/x.whl", "a%0ab.whl"):
        assert fetch(f"{kit_url}/wheels/{bad}")[0] == 404
    assert fetch(kit_url + "/info")[0] == 418
    assert fetch(kit_url + "/joining")[0] == 418


def test_the_script_over_http_names_the_address_that_was_asked(kit_url: str) -> None:
    status, script = fetch(kit_url + "/join", Host="field-1.local:3000")
    assert status == 200
    assert b"kit=http://field-1.local:3000/wheels/\ncoordinator=https://field-1.local:3001\n" in script
    assert b"coordinator='https://[fd00::1]:3001'" in fetch(kit_url + "/join", Host="[fd00::1]:3000")[1]
    for evil in ("x'; reboot; '", "$(reboot)", "a b", "user@host", ""):
        status, script = fetch(kit_url + "/join", Host=evil)
        assert status == 400
        assert b"reboot" not in script


def test_without_a_kit_the_script_says_so(tmp_path: Path) -> None:
    sent: list[dict] = []

    async def send(message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/join", "scheme": "http", "headers": [(b"host", b"h:3000")]}
    asyncio.run(KitApp(tmp_path, 3001, nothing_else)(scope, None, send))
    done = subprocess.run(["sh"], input=sent[1]["body"], capture_output=True, timeout=60, check=False)
    assert (done.returncode, b"no kit yet" in done.stderr) == (1, True)
