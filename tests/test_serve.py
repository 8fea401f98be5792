"""`passel serve`, `join`, `status`, `workers`, `drain`, `token` as users meet them: real processes."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

import passel
from free_ports import free_port
from passel import cli
from passel.cluster.coordinator.admin_client import AdminClient
from passel.commands.serve import invitation, options_of
from passel.errors import PasselError
from passel.serving.options import Ready, TlsFiles
from passel.serving.public import PublicTls
from runs import command
from serving import all_gone, ask, running, said, serve_words, until


def states(data: Path) -> dict[str, str]:
    """What `passel workers` tells, without the second that a process takes to start."""
    return {w.name: w.state for w in AdminClient.here(data).overview().passel.workers}


def get(url: str) -> object:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)


class Told:
    """What a command says and returns, in this process: as a process of its own it does the same, a second later."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str) -> tuple[int, str, str]:
        code = cli.main(words)
        shown = self._capsys.readouterr()
        return code, shown.out, shown.err


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    return Told(capsys)


def test_one_machine_is_a_whole_passel_and_others_join(tmp_path: Path, told: Told) -> None:
    data, here = tmp_path / "data", socket.gethostname()
    words, port, workers_port = serve_words(data, "--cluster-name", "field")
    with running(words, tmp_path / "serve.log") as coordinator:
        coordinator.wait_for(rf"'field' is ready[\s\S]*http://127\.0\.0\.1:{port}/\n *Only this computer can reach it")
        assert get(f"http://127.0.0.1:{port}/info")["engine"] == "passel"
        until(lambda: states(data).get(here) == "idle", "the local worker came")

        token = said("token", "create", "--data", str(data), "--uses", "1").stdout.strip()
        join = command(["join", f"https://127.0.0.1:{workers_port}", "--name", "second", "--home", str(tmp_path / "w")])
        with running(join, tmp_path / "join.log", PASSEL_JOIN_TOKEN=token) as worker:
            worker.wait_for("this computer is 'second' in the passel at https://127.0.0.1")
            until(lambda: states(data).get("second") == "idle", "the second worker came")
            assert token not in " ".join(w for p in worker.family() for w in p.cmdline())

            here_it_is = ("--data", str(data))
            assert told("drain", "second", *here_it_is) == (0, "second takes no new steps.\n", "")
            assert states(data)["second"] == "draining"
            assert told("drain", "second", "--undo", *here_it_is) == (0, "second takes steps again.\n", "")
            assert states(data)["second"] == "idle"
            code, _, complaint = told("drain", "nobody", *here_it_is)
            assert (code, "no such worker is connected [nobody]" in complaint) == (2, True)

            _, shown, _ = told("status", *here_it_is)
            assert f"field: Passel {passel.__version__}" in shown
            assert "no jobs" in shown

            assert worker.signal(signal.SIGINT) == 0  # it leaves
        with running(join, tmp_path / "again.log") as worker:  # what it kept needs no token
            worker.wait_for("this computer is 'second'")
            until(lambda: states(data).get("second") == "idle", "it came back")
            assert told("workers", "revoke", "second", *here_it_is)[0] == 0
            assert worker.process.wait(timeout=120) != 0
            worker.wait_for("shut out")
        assert "revoked" in told("workers", *here_it_is)[1]
        assert {m["name"]: m["revoked"] for m in ask("workers", "--data", str(data))["members"]}["second"]

        family = coordinator.family()
        assert len(family) >= 3
        assert coordinator.signal(signal.SIGINT) == 0
        assert all_gone(family)
    assert "Jobs that were running go on" in coordinator.said


def test_a_kill_takes_the_children_along_and_the_next_start_goes_on(tmp_path: Path, told: Told) -> None:
    data = tmp_path / "data"
    words, *_ = serve_words(data)
    with running(words, tmp_path / "serve.log") as coordinator:
        coordinator.wait_for("is ready")
        until(lambda: len(states(data)) == 1, "the local worker came")
        assert told("drain", socket.gethostname(), "--data", str(data))[0] == 0
        family = coordinator.family()
        coordinator.kill()
        until(lambda: all_gone(family), "children ended with their parent")
    assert "no coordinator runs with this data folder" in told("status", "--data", str(data))[2]
    with running(words, tmp_path / "again.log") as coordinator:
        coordinator.wait_for("is ready")
        until(
            lambda: list(states(data).values()) == ["draining"], "the local worker came back, and gets no steps still"
        )
        assert coordinator.signal(signal.SIGTERM) == 0


def test_with_a_token_the_api_asks_for_it_and_may_be_looked_after_from_afar(
    tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    words, port, workers_port = serve_words(data, "--no-worker", "--token", "hunter2")
    with running(words, tmp_path / "serve.log") as coordinator:
        coordinator.wait_for("is ready")
        assert "hunter2" not in coordinator.said
        assert "Invalid authentication token" in get(f"http://127.0.0.1:{port}/info")["error"]
        assert get(f"http://127.0.0.1:{port}/info?token=hunter2")["engine"] == "passel"

        annas, token = (
            told("token", "create", "--api", *name, "--data", str(data))[1].strip() for name in (("--name", "anna"), ())
        )
        assert get(f"http://127.0.0.1:{port}/info?token={annas}")["engine"] == "passel"
        url = f"https://127.0.0.1:{workers_port}"
        assert ask("status", "--url", url, "--token", token)["passel"]["workers"] == []
        wrong = token[:-1] + ("a" if token[-1] != "a" else "b")
        for shown, words_ in (
            (wrong, "the token is wrong"),
            ("hunter2", "does not say which coordinator"),
            (annas, "does not look after the passel [anna]"),
        ):
            code, _, complaint = told("status", "--url", url, "--token", shown)
            assert (code, words_ in complaint, complaint.count("\n")) == (1, True, 1)
        told("token", "revoke", "anna", "--data", str(data))
        assert "an API token is needed: --token T, or PASSEL_TOKEN" in told("status", "--url", url)[2]
        for name in ("PASSEL_TOKEN", "PASSEL_API_TOKEN"):
            with monkeypatch.context() as patch:
                patch.setenv(name, annas)
                assert "the token is revoked [anna]" in told("status", "--url", url)[2]

        second = said("serve", "--data", str(data), "--port", "0", "--workers-port", "0")
        assert second.returncode == 1
        assert f"another passel serve uses this data folder (process {coordinator.process.pid})" in second.stderr
        for option, taken in (("--port", port), ("--workers-port", workers_port)):
            free = {"--port": "0", "--workers-port": "0", option: str(taken)}
            busy = said("serve", "--data", str(tmp_path / "other"), *(w for pair in free.items() for w in pair))
            assert busy.returncode == 1
            assert f"port {taken} is in use [127.0.0.1:{taken}]" in busy.stderr
            assert busy.stderr.count("passel: error") == 1


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [("size=64k", "the data folder cannot be written: No space left on device"), ("ro", "Read-only file system")],
)
def test_a_disk_that_cannot_hold_the_data(tmp_path: Path, options: str, message: str) -> None:
    with mounted(tmp_path / "disk", options):
        done = said("serve", "--data", str(tmp_path / "disk" / "data"))
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert message in done.stderr


def test_the_trash_of_somebody_else_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "trash").mkdir()
    (tmp_path / "trash" / "mine.txt").write_text("mine")
    done = said("serve", "--data", str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"this trash is of no passel serve [{tmp_path}/trash]" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["trash"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["serve", "--port", "99999"], 2, "argument --port/-p: '99999' is no whole number, 0 to 65535"),
        (["serve", "--listen", "pc.local"], 2, "--listen 'pc.local' is no address"),
        (["serve", "--data", "/dev/null"], 1, "the data folder is a file"),
        (["serve", "--data", "/tmp/" + "x" * 120], 1, "path is too long for a socket"),
        (["serve", "--port", "3001"], 2, "--port and --workers-port are both 3001"),
        (["serve", "--cluster"], 2, "unrecognized arguments: --cluster"),
        (["join", "--token", "x", "http://pc:3000"], 2, "workers join over https"),
        (["join", "https://127.0.0.1:PORT"], 1, "cannot be reached: nobody listens at this address and port"),
        (["token", "create", "--data", "DATA"], 2, "there is no coordinator's data here"),
        (["token", "create", "--expires", "soon"], 2, "'soon' is no time like 30m, 24h, 7d or never"),
        (["token"], 2, "required: create|list|revoke"),
        (["workers", "revoke"], 2, "name the worker to shut out"),
        (["status", "--data", "DATA"], 1, "no coordinator runs with this data folder"),
        (["status", "--url", "x", "--data", "DATA", "--token", "t"], 2, "contradict each other"),
        (["drain"], 2, "required: NAME"),
        (["serv"], 2, "did you mean serve?"),
    ],
)
def test_a_wrong_command_line_ends_with_one_line(
    tmp_path: Path, told: Told, words: list[str], code: int, message: str
) -> None:
    places = {"DATA": str(tmp_path / "data"), "PORT": str(free_port())}
    for name, value in places.items():
        words = [w.replace(name, value) for w in words]
    ended, shown, complaint = told(*words)
    assert (ended, complaint.count("\n"), shown) == (code, 1, ""), complaint
    assert message in complaint


def ready(*words: str, **more: object) -> Ready:
    options = options_of(words)
    given = {"hosts": ("10.0.0.1", "fd00::1"), "join_token": "", "api_token": "", "kit": True, **more}
    return Ready(options=options, port=3000, workers_port=3001, **given)


def test_the_invitation_says_what_to_type() -> None:
    alone = invitation(ready(hosts=("127.0.0.1",)), terminal=True)
    assert "http://127.0.0.1:3000/" in alone
    assert "passel serve --listen 0.0.0.0" in alone
    assert "join" not in alone
    first = invitation(ready("--listen", "0.0.0.0", join_token="join_x", api_token="api_y", kit=False), terminal=True)
    assert "curl -fsS http://10.0.0.1:3000/join | sh -s -- join_x\n" in first, "nothing stands behind what is copied"
    assert "passel join https://10.0.0.1:3001 --token join_x\n           the first of them in a minute" in first
    assert "           within 7 days; another token:" in first
    assert "or http://[fd00::1]:3000/\n" in first
    assert "with the API token api_y\n" in first
    assert "█" in first  # the QR code
    later = invitation(ready("--listen", "0.0.0.0"), terminal=False)
    assert "█" not in later
    assert "sh -s -- TOKEN\n" in later
    assert "passel token create --join\n" in later
    elsewhere = invitation(ready("--listen", "0.0.0.0", "--data", "/srv/my maps"), terminal=False)
    assert "passel token create --join --data '/srv/my maps'\n" in elsewhere
    assert "passel token create --api --data '/srv/my maps'\n" in elsewhere


def certificate(folder: Path) -> tuple[str, str]:
    """Made for localhost, by itself: (certificate, key)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    made = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1)
    )
    made = made.add_extension(names, critical=False)
    pem, secret = folder / "cert.pem", folder / "key.pem"
    pem.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return str(pem), str(secret)


def test_https_on_the_public_port(tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    pem, key = certificate(tmp_path)
    words, port, _ = serve_words(
        tmp_path / "data", "--test", "--tls-cert", pem, "--tls-key", key, "--host-name", "localhost"
    )
    url = f"https://localhost:{port}"
    with running(words, tmp_path / "serve.log") as server:
        server.wait_for(f"open +{url}/\n")
        code, _, complaint = told("tasks", "--server", url)
        assert (code, "certificate" in complaint.lower()) == (1, True), complaint
        monkeypatch.setenv("SSL_CERT_FILE", pem)
        assert told("tasks", "--server", url)[:2] == (0, "no tasks\n")
        assert told("tasks", "--server", f"http://localhost:{port}")[0] == 1
    lines = invitation(ready("--listen", "0.0.0.0", "--tls-cert", pem, "--tls-key", key, join_token="join_x"), False)
    assert "curl -fsS https://10.0.0.1:3000/join" in lines


def test_a_renewed_certificate_is_taken_up_and_a_broken_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pem, key = certificate(tmp_path)
    tls = PublicTls(TlsFiles(Path(pem), Path(key)))
    caplog.set_level("INFO")
    tls.follow()
    Path(pem).write_text("half of a")
    tls.follow()
    assert "the certificate cannot be used" in caplog.text
    certificate(tmp_path)
    tls.follow()
    assert "has a new certificate" in caplog.text
    Path(key).unlink()
    with pytest.raises(PasselError, match="No such file"):
        PublicTls(TlsFiles(Path(pem), Path(key)))


def test_nodeodms_own_words_are_understood(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(
            {
                **{"port": 4000, "maxImages": 900, "parallelQueueProcessing": 3, "s3Bucket": "", "powercycle": False},
                **{
                    "token": "",
                    "cleanupTasksAfter": 60,
                    "odm_path": "/code",
                    "logger": {"level": "info"},
                    "test": False,
                },
            }
        )
    )
    flags = "--cleanup_uploads_after 30 --max_concurrency=4 --webhook http://10.0.0.9/done --max_runtime -1 -p 3999"
    options = options_of(("--config", str(config), *flags.split(), "--log_level", "debug"))
    assert (options.port, options.server.parallel_jobs, options.server.limits.max_images) == (3999, 3, 900)
    server = options.server
    assert (server.cleanup_tasks_after_s, server.cleanup_uploads_after_s, server.max_runtime_s) == (3600, 1800, 0)
    assert (server.max_concurrency, server.webhook, server.test) == (4, "http://10.0.0.9/done", None)
    assert capsys.readouterr().err.count("has no effect here") == 3
    assert options_of(("-q", "5")).server.parallel_jobs == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--s3_bucket maps", "passel serve has no --s3-bucket → results go to the bucket of the fleet file"),
        ("-d", "passel serve has no --d → the system starts it"),
        ("--config /nowhere.json", "the configuration cannot be read: No such file"),
        ("--config", "--config needs a value"),
        ("--bucket /photos", "is no bucket, like s3://"),
        ("--bucket file:///etc", "is no bucket, like s3://"),
        ("--webhook ftp://x", "Invalid URL"),
        ("--host-name a/b", "is no name of a host"),
        ("--tls-cert x.pem", "belong together"),
    ],
)
def test_what_is_not_understood_says_what_takes_its_place(words: str, message: str) -> None:
    with pytest.raises(PasselError) as refused:
        options_of(tuple(words.split()))
    assert message in str(refused.value)


def test_an_address_of_another_machine(tmp_path: Path) -> None:
    done = said("serve", "--listen", "192.0.2.77", "--data", str(tmp_path / "data"), "--no-worker")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "this machine does not have that address [192.0.2.77]" in done.stderr


def test_tokens_are_listed_without_their_secrets(tmp_path: Path, told: Told) -> None:
    from passel.cluster.coordinator.data_folder import DataFolder
    from passel.cluster.trust.authority import Authority
    from passel.cluster.trust.tokens import AccessBook

    paths = DataFolder(tmp_path / "data")
    paths.prepare()
    Authority.open(paths.identity)
    AccessBook(paths.access).close()
    where = ("--data", str(paths.root))
    code, token, hint = told("token", "create", *where, "--name", "field", "--expires", "7d", "--uses", "3")
    assert (code, token[:5]) == (0, "join_")
    assert "passel join --token TOKEN" in hint
    _, listed, _ = told("token", "list", *where)
    assert token.strip() not in listed
    assert "0 of 3  good" in listed

    def rows() -> list[dict]:
        return json.loads(told("token", "list", "--json", *where)[1])

    [row] = rows()
    assert (row["name"], row["kind"], row["trouble"]) == ("field", "join", "")
    assert "opens nothing any more" in told("token", "revoke", row["id"], *where)[1]
    assert rows()[0]["trouble"] == "revoked"
    assert "no such token" in told("token", "revoke", "nothing", *where)[2]
    assert "--uses counts computers" in told("token", "create", "--api", "--uses", "1", *where)[2]
