"""Passel as a client, against real servers: hand over, watch, bring back, and going on after any cut."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from passel import cli
from passel.client import hand_over
from passel.client.hand_over import Desk, order_of, submit
from passel.client.wire import Address, AwayError, RemoteError, Server
from passel.commands.unread import unread_pictures
from passel.errors import InputError, UsageError
from runs import command
from serving import Running, running, said, serve_words, until


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project") / "field" / "images"
    folder.mkdir(parents=True)
    for n in range(5):
        Image.new("RGB", (320, 240), (40 * n, 90, 90)).save(folder / f"p{n}.jpg")
    (folder / "geo.txt").write_text("EPSG:4326\n")
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a server whose tasks end at once."""
    words, port, _ = serve_words(tmp_path / "data", "--test")
    with running(words, tmp_path / "serve.log") as process:
        process.wait_for("is ready")
        yield f"http://127.0.0.1:{port}"


def test_a_run_elsewhere_ends_in_the_same_folders(server: str, photos: Path, tmp_path: Path) -> None:
    project = photos.parent
    done = said("run", "--split", "400", "--project-path", str(project.parent), "--sm-cluster", server, project.name)
    assert done.returncode == 0, done.stderr
    assert f"6 files of {photos} to {server}" in done.stdout
    assert "candidate matches" in done.stdout  # the task's own words
    assert (project / "odm_orthophoto" / "odm_orthophoto.tif").stat().st_size > 0
    assert json.loads(said("tasks", "--server", server, "--json").stdout)[0]["name"] == "field"
    assert not list(project.rglob("*.part"))
    assert not (project / ".passel" / "remote.json").exists()


def test_submit_then_look_and_fetch(server: str, photos: Path, tmp_path: Path) -> None:
    done = said("submit", str(photos), "--server", server, "--split", "100", XDG_DATA_HOME=str(tmp_path / "home"))
    uuid = done.stdout.strip()
    assert re.fullmatch(r"[0-9a-f-]{36}", uuid), done
    assert said("logs", uuid, "-f", "--server", server).returncode == 0
    assert "done" in said("tasks", "--server", server).stdout
    fetched = said("download", uuid, "--server", server, "--output", str(tmp_path / "map"))
    assert fetched.returncode == 0, fetched.stderr
    assert (tmp_path / "map" / "odm_orthophoto" / "odm_orthophoto.tif").is_file()
    late = said("cancel", uuid, "--server", server)
    assert (late.returncode, "nothing to cancel" in late.stderr) == (1, True)
    assert "done" in said("tasks", "--server", server).stdout
    assert said("restart", uuid, "--server", server).stdout == f"{uuid} runs again.\n"
    assert said("remove", uuid, "--server", server).stdout == f"{uuid} is removed.\n"
    gone = said("logs", uuid, "--server", server)
    assert (gone.returncode, "not found" in gone.stderr) == (1, True)


def test_a_task_that_runs_is_cancelled(photos: Path, tmp_path: Path) -> None:
    words, port, _ = serve_words(tmp_path / "data", "--test", "--test-seconds", "600")
    with running(words, tmp_path / "serve.log") as process:
        process.wait_for("is ready")
        server = f"http://127.0.0.1:{port}"
        uuid = said("submit", str(photos), "--server", server, XDG_DATA_HOME=str(tmp_path / "home")).stdout.strip()
        assert said("cancel", uuid, "--server", server).stdout == f"{uuid} is canceled.\n"
        assert said("download", uuid, "--server", server).returncode == 1


def test_pictures_of_other_formats_are_named(tmp_path: Path) -> None:
    for name in ("a.jpg", "A.DNG", "b.dng", "c.heic", "d.webp", "e.bmp", "notes.txt"):
        (tmp_path / name).touch()
    (warning,) = unread_pictures(tmp_path)
    assert "b.dng, c.heic, d.webp and 1 more" in warning  # A.DNG is the raw copy of a.jpg
    for name in ("b.dng", "c.heic", "d.webp", "e.bmp"):
        (tmp_path / name).unlink()
    assert unread_pictures(tmp_path) == ()


def quiet_desk(output: Path) -> Desk:
    return Desk(output, lambda text: None, lambda *_: None)


def test_no_photo_is_sent_twice_after_the_client_died(server: str, photos: Path, tmp_path: Path) -> None:
    class DiesAfterThree(Server):
        sent = 0

        def send_piece(self, *arguments: object) -> None:  # type: ignore[override]
            DiesAfterThree.sent += 1
            if DiesAfterThree.sent > 3:
                raise KeyboardInterrupt
            super().send_piece(*arguments)  # type: ignore[arg-type]

    order = order_of("field", sorted(photos.glob("*.jpg")), [], [])
    desk = quiet_desk(tmp_path)
    with DiesAfterThree(Address.parse(server)) as first, pytest.raises(KeyboardInterrupt):
        submit(first, order, desk)

    names: list[str] = []

    class Counts(Server):
        def send_piece(self, uuid: str, path: Path, *more: object) -> None:  # type: ignore[override]
            names.append(path.name)
            super().send_piece(uuid, path, *more)  # type: ignore[arg-type]

    with Counts(Address.parse(server)) as again:
        note = submit(again, order, desk)
        assert len(names) == 2
        assert again.task(note.uuid).images == 5
        assert submit(again, order, desk) == note  # submitted already: nothing happens


def test_photos_that_go_away_while_they_are_sent_are_told_and_the_rest_is_sent_later(
    server: str, photos: Path, tmp_path: Path
) -> None:
    """The card was pulled."""
    card = tmp_path / "card"
    shutil.copytree(photos, card)

    class CardIsPulled(Server):
        def send_piece(self, uuid: str, path: Path, *more: object) -> None:  # type: ignore[override]
            if path.name == "p3.jpg":
                card.rename(tmp_path / "drawer")
            super().send_piece(uuid, path, *more)  # type: ignore[arg-type]

    order = order_of("field", sorted(card.glob("*.jpg")), [], [])
    with CardIsPulled(Address.parse(server)) as there:
        with pytest.raises(InputError, match=r"cannot be read any more.*p\d.jpg.*sends only what has not arrived"):
            submit(there, order, quiet_desk(tmp_path))
        (tmp_path / "drawer").rename(card)
    with Server(Address.parse(server)) as again:
        assert again.task(submit(again, order, quiet_desk(tmp_path)).uuid).images == 5


def test_a_commit_that_is_refused_says_why_and_one_whose_answer_was_lost_counts(
    server: str, photos: Path, tmp_path: Path
) -> None:
    class Refuses(Server):
        def commit(self, uuid: str) -> None:
            raise RemoteError("the server refuses: 3 tasks wait or run")

    class LosesTheAnswer(Server):
        def commit(self, uuid: str) -> None:
            super().commit(uuid)
            super().commit(uuid)  # as after a break: by now there is no such upload

    order = order_of("field", sorted(photos.glob("*.jpg")), [], [])
    with Refuses(Address.parse(server)) as there, pytest.raises(RemoteError, match="3 tasks wait or run"):
        submit(there, order, quiet_desk(tmp_path))
    with LosesTheAnswer(Address.parse(server)) as there:
        assert submit(there, order, quiet_desk(tmp_path)).committed


def test_a_second_command_for_the_same_output_is_told_so(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "map"
    with quiet_desk(output).held():
        done = said("run", str(photos), "--output", str(output), "--cluster", "http://127.0.0.1:9")
        assert (done.returncode, "Traceback" in done.stderr) == (1, False)
        assert f"another passel command hands over the same photos, or waits for their map [{output}]" in done.stderr
    with quiet_desk(output).held():
        pass  # let go at the end


def test_other_options_or_photos_are_another_task(server: str, photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.glob("*.jpg"))
    desk = quiet_desk(tmp_path)
    with Server(Address.parse(server)) as there:
        first = submit(there, order_of("field", files, [], []), desk)
        other_options = submit(there, order_of("field", files, [], [{"name": "split", "value": 9}]), desk)
        other_photos = submit(there, order_of("field", files[1:], [], [{"name": "split", "value": 9}]), desk)
        assert len({first.uuid, other_options.uuid, other_photos.uuid}) == 3
        assert [there.task(note.uuid).images for note in (first, other_options, other_photos)] == [5, 5, 4]


def test_an_address_where_nobody_is_is_not_waited_for_long(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hand_over, "FIRST_PATIENCE_S", 0.0)
    order = order_of("field", sorted(photos.glob("*.jpg")), [], [])
    with Server(Address.parse("http://127.0.0.1:9")) as nobody, pytest.raises(AwayError, match="cannot be reached"):
        submit(nobody, order, quiet_desk(tmp_path))


def test_a_server_that_dies_is_waited_for(photos: Path, tmp_path: Path) -> None:
    words, port, _ = serve_words(tmp_path / "data", "--test", "--test-seconds", "4")
    run = command(["run", str(photos), "--output", str(tmp_path / "map"), "--cluster", f"127.0.0.1:{port}"])
    with running(words, tmp_path / "serve.log") as process:
        process.wait_for("is ready")
        client = Running(run, tmp_path / "client.log")
        note = tmp_path / "map" / ".passel" / "remote.json"
        until(lambda: note.exists() and json.loads(note.read_text())["committed"], "all photos are there")
        process.signal(signal.SIGKILL)
    client.wait_for("cannot be reached: .*; trying again")
    with running(words, tmp_path / "again.log"):
        client.wait_for("the server is there again")
        assert client.process.wait(timeout=120) == 0, client.said
    assert (tmp_path / "map" / "odm_orthophoto" / "odm_orthophoto.tif").is_file()


class Plain(BaseHTTPRequestHandler):
    """Something else that listens."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>hello</html>")

    def log_message(self, *_: object) -> None:
        pass


def test_what_is_no_server_is_said(capsys: pytest.CaptureFixture[str], photos: Path, tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Plain) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        words = ["run", str(photos), "--output", str(tmp_path), "--cluster", f"http://127.0.0.1:{other.server_port}"]
        assert cli.main(words) == 1
        other.shutdown()
    assert "this is no Passel or NodeODM server" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "url", "token"),
    [
        ("host", "http://host:3000", ""),
        ("http://host:3001/?token=abc", "http://host:3001", "abc"),
        ("https://host/odm/", "https://host/odm", ""),
        ("[::1]:4000", "http://[::1]:4000", ""),
    ],
)
def test_addresses(text: str, url: str, token: str) -> None:
    assert Address.parse(text) == Address(url, token)


@pytest.mark.parametrize("text", ["", "ftp://host", "http://host:99999", "http://"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError):
        Address.parse(text)


def test_names_must_differ(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="same name"):
        order_of("x", [tmp_path / "a" / "p.jpg", tmp_path / "b" / "p.jpg"], [], [])


def test_a_wrong_token_is_said(photos: Path, tmp_path: Path) -> None:
    words, port, _ = serve_words(tmp_path / "data", "--test", "--token", "right")
    with running(words, tmp_path / "serve.log") as process:
        process.wait_for("is ready")
        with (
            Server(Address.parse(f"127.0.0.1:{port}", "wrong")) as server,
            pytest.raises(RemoteError, match="token create --api"),
        ):
            server.tasks()
        with Server(Address.parse(f"127.0.0.1:{port}/?token=right")) as server:
            assert server.tasks() == []
        done = subprocess.run(
            command(["tasks", "--server", f"127.0.0.1:{port}", "--token", "right"]), capture_output=True, check=True
        )
        assert done.stdout == b"no tasks\n"
        elsewhere = ["run", str(photos), "--output", str(tmp_path / "map"), "--cluster", f"http://127.0.0.1:{port}"]
        assert said(*elsewhere, "--token", "wrong").returncode == 1
        assert said(*elsewhere, "--token", "right").returncode == 0
        assert (tmp_path / "map" / "odm_orthophoto" / "odm_orthophoto.tif").is_file()
        alone = said("run", str(photos), "--output", str(tmp_path / "here"), "--token", "right")
        assert (alone.returncode, "--token is for the server of --cluster" in alone.stderr) == (2, True)
