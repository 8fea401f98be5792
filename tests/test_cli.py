"""The command line as users meet it: real processes, their messages and exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest

import passel
from passel import cli
from passel.commands import run
from passel.errors import Interrupted, ReconstructionError


def run_passel(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "passel", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What `passel run` asks of the pipeline, which is not run."""
    seen: list[tuple] = []
    monkeypatch.setattr(run, "run_job_here", lambda *request: seen.append(request))
    monkeypatch.setattr(run, "tell", lambda result: None)
    return seen


def test_version_help_and_options():
    assert run_passel("--version").stdout == f"passel {passel.__version__}\n"
    assert "passel run PHOTOS" in run_passel("help").stdout
    assert "--split-overlap" in run_passel("run", "--help").stdout
    listed = run_passel("options")
    assert listed.returncode == 0
    assert all(f"--{name}" in listed.stdout for name in ("split", "dtm", "mesh-size"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rum"], "unknown command 'rum'"),
        (["run"], "no folder of photos given"),
        (["run", ""], "no folder of photos given"),
        (["run", "/"], "the map would lie among the photos"),
        (["run", "a", "b"], "too many folders: a b"),
        (["run", "photos", "--splt", "4"], "unknown option --splt → did you mean --split?"),
        (["run", "photos", "--split", "none"], "--split 'none' is not a whole number"),
        (["run", "photos", "--output", "photos/map"], "the map would lie among the photos"),
        (["run", "photos", "--output", "photos"], "the map would lie among the photos"),
        (["run", "photos", "--geo", "missing.txt"], "--geo: no such file [missing.txt]"),
        (["run", "x", "--project-path", ".", "--output", "o"], "--output and --project-path contradict each other"),
    ],
)
def test_a_wrong_command_line_ends_with_one_line_and_exit_2(photos, words, message):
    done = run_passel(*words, cwd=photos.parent)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("passel: error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_a_command_the_overview_is_shown_with_exit_2():
    done = run_passel()
    assert (done.returncode, "passel run PHOTOS" in done.stdout) == (2, True)


def test_folders_that_cannot_be_used(photos):
    home = photos.parent
    (home / "file").write_text("text")
    missing = run_passel("run", "nowhere", cwd=home)
    assert (missing.returncode, "no such folder" in missing.stderr) == (1, True)
    not_a_folder = run_passel("run", "file", cwd=home)
    assert "not a folder" in not_a_folder.stderr
    for output, message in [("file", "is a file, not a folder"), ("file/map", "cannot be written: Not a directory")]:
        done = run_passel("run", "photos", "--output", output, cwd=home)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert message in done.stderr


def test_a_reader_that_goes_away_is_no_error():
    done = subprocess.run(
        f'"{sys.executable}" -m passel options | true',
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""


def test_own_form_passes_folders_and_options_on(photos, requests):
    assert cli.main(["run", str(photos), "--output", str(photos.parent / "map"), "--split", "20"]) == 0
    [(given_photos, output, options, command_line)] = requests
    assert (given_photos, output, options.split) == (photos, photos.parent / "map", 20)
    assert command_line[:3] == ("passel", "run", str(photos))
    assert output.is_dir()
    assert list(output.iterdir()) == []


def test_without_output_the_map_goes_beside_the_photos(photos, requests):
    inner = photos / "inner"
    inner.mkdir()
    assert cli.main(["run", str(photos)]) == 0
    assert cli.main(["run", str(inner / "..")]) == 0
    assert [request[1] for request in requests] == [photos.parent / "photos_map"] * 2


def test_odm_form_and_its_side_files(tmp_path, requests, capsys):
    images = tmp_path / "projects" / "Größe ü" / "images"
    images.mkdir(parents=True)
    for name in ("geo.txt", "image_groups.txt", "gcp_list.txt"):
        (images.parent / name).write_text("")
    assert cli.main(["run", "--split", "400", "--project-path", str(tmp_path / "projects"), "Größe ü", "--dtm"]) == 0
    [(photos, output, options, _)] = requests
    assert (photos, output) == (images, images.parent)
    assert (options.geo, options.split_image_groups) == (output / "geo.txt", output / "image_groups.txt")
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "passel: warning: --dtm is not supported yet: no terrain model is made"
    assert said[1].startswith("passel: warning: control points are not supported yet")
    assert "gcp_list.txt" in said[1]


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (
            ReconstructionError("no cameras\nfound", "submodel 1", "add photos"),
            1,
            "no cameras found [submodel 1] → add photos",
        ),
        (Interrupted("Stopped.", "", "go on"), 130, "passel: Stopped. → go on"),
        (KeyboardInterrupt(), 130, "give the same command again to go on"),
        (OSError(28, "No space left on device", "/data/map"), 1, "No space left on device [/data/map]"),
    ],
)
def test_failures_of_a_run_are_told_in_one_line(photos, monkeypatch, capsys, raised, code, message):
    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(run, "run_job_here", fail)
    assert cli.main(["run", str(photos)]) == code
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
