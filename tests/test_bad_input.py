"""Difficult input, as users give it: real runs, what they say, how they end, and that nothing made is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from passel import cli
from passel.demo.truth import DemoTruth
from passel.pipeline.store import Store
from runs import PRODUCTS, command, digests, environment_of, made
from runs import passel as run_passel

Survey = tuple[Path, DemoTruth]


def passel(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    done = run_passel([str(w) for w in words], serial=True, **environment)
    assert "Traceback" not in done.stdout + done.stderr
    return done


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The same in this process, steps in a child of it: seconds sooner, where a test has many runs."""
    monkeypatch.setenv("PASSEL_EXECUTOR", "serial")

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        code = cli.main([str(w) for w in words])
        shown = capsys.readouterr()
        assert "Traceback" not in shown.out + shown.err
        return subprocess.CompletedProcess(words, code, shown.out, shown.err)

    return run


def refused(done: subprocess.CompletedProcess[str], code: int = 1) -> str:
    """The one line with which a run has ended."""
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("passel: error:")]
    assert len(errors) == 1, done.stderr
    return errors[0]


def mapped(done: subprocess.CompletedProcess[str], output: Path) -> str:
    """What a run that has made a map said on the way."""
    assert done.returncode == 0, done.stderr
    assert all((output / name).is_file() for name in PRODUCTS)
    return done.stderr


def copied(photos: list[Path], folder: Path) -> Path:
    folder.mkdir(parents=True)
    for photo in photos:
        shutil.copy2(photo, folder / photo.name)
    return folder


def stage(output: Path, name: str) -> dict[str, int]:
    stages = json.loads((output / "log.json").read_text("utf-8"))["stages"]
    return next(s for s in stages if s["stage"] == name)


@pytest.fixture(scope="module")
def shots(tiny_survey: Survey) -> list[Path]:
    return sorted(tiny_survey[0].iterdir())


@pytest.fixture
def three(shots: list[Path], tmp_path: Path) -> Path:
    return copied(shots[:3], tmp_path / "photos")


def opened(shot: Path) -> tuple[Image.Image, Image.Exif]:
    with Image.open(shot) as image:
        image.load()
        return image, image.getexif()


def alien(shot: Path, path: Path, minutes_north: float | None = None) -> Path:
    """A photo with the EXIF of a shot, other ground, and another latitude if so wanted."""
    image, exif = opened(shot)
    if minutes_north is not None:
        exif[0x8825] = {**exif.get_ifd(0x8825), 2: (46.0, minutes_north, 0.0)}
    rough = np.random.default_rng(len(path.name)).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(rough).resize(image.size, Image.Resampling.BICUBIC).save(path, exif=exif, quality=92)
    return path


def test_folders_without_photos(shots: list[Path], here: Run, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    words = ("run", photos, "--output", tmp_path / "map")
    assert "no such folder" in refused(passel(*words))
    photos.mkdir()
    assert "The folder is empty" in refused(here(*words))
    (photos / "readme.txt").write_text("no photo")
    assert "There are no photos in the folder" in refused(here(*words))
    shutil.copy(shots[0], photos)
    assert "There is only one photo" in refused(here(*words))
    (photos / "other.jpg").write_bytes(b"")
    assert "left out: other.jpg is an empty file" in refused(here(*words))
    (photos / shots[0].name).write_text("no photo")
    assert "None of the 2 files can be used" in refused(passel(*words))


def test_two_photos_without_overlap(shots: list[Path], tmp_path: Path) -> None:
    photos = copied(shots[:1], tmp_path / "photos")
    alien(shots[1], photos / "other.jpg")
    last = refused(passel("run", photos, "--output", tmp_path / "map"))
    assert "The cameras could not be found" in last
    assert "photos must overlap" in last


def test_two_photos_with_overlap_are_a_map(shots: list[Path], tmp_path: Path) -> None:
    photos = copied(shots[:2], tmp_path / "photos")
    output = tmp_path / "map"
    mapped(passel("run", photos, "--output", output), output)


def spoilt(folder: Path, shot: Path) -> list[str]:
    """Files that are no photos, put beside those that are; their names."""
    whole = shot.read_bytes()
    (folder / "cut off.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "noise.jpg").write_bytes(np.random.default_rng(1).bytes(20_000))
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("no photo")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    Image.fromarray(np.full((480, 640), 30_000, np.uint16)).save(folder / "deep.tif")
    Path(os.fsdecode(os.fsencode(folder) + b"/latin\xe9.jpg")).write_bytes(whole)
    names = ["cut off.jpg", "noise.jpg", "empty.jpg", "text.jpg", "gone.jpg", "deep.tif"]
    return names


def test_spoilt_files_are_named_and_strange_names_are_mapped(shots: list[Path], tmp_path: Path) -> None:
    """Among good photos of strange names: the map is made of them. Then one is added, one changed, an artifact damaged."""
    photos, output = tmp_path / "Größe ü 写真  zwei", tmp_path / "Karte é"
    copied(shots[:4], photos)
    os.rename(photos / shots[0].name, photos / "Ärger 写真 %20 #1.JPG")
    os.rename(photos / shots[1].name, photos / f"{'x' * 240}.JPG")
    os.rename(photos / shots[2].name, photos / shots[3].name.lower())
    bad = spoilt(photos, shots[4])
    said = mapped(passel("run", photos, "--output", output), output)
    assert all(name in said for name in bad), said
    assert r"latin\udce9.jpg has a name that is not UTF-8 text" in said
    assert "differ only in upper and lower case" in said
    assert json.loads((output / "images.json").read_text("utf-8"))

    for name in bad:
        (photos / name).unlink()
    shutil.copy2(shots[4], photos / shots[3].name)  # the name stays, the content changes
    shutil.copy2(shots[5], photos)
    damaged = next(output.glob(".passel/store/??/*/files/views.jsonl"))
    damaged.write_text("{}")
    mapped(passel("run", photos, "--output", output), output)
    assert (stage(output, "features")["made"], stage(output, "features")["reused"]) == (2, 3)


def test_other_formats_sizes_and_orientations(shots: list[Path], tmp_path: Path) -> None:
    """PNG, a second size, photos marked as turned, one whose receiver had no fix."""
    photos, output = copied(shots[:2], tmp_path / "photos"), tmp_path / "map"
    for number, shot in enumerate(shots[2:6]):
        image, exif = opened(shot)
        exif[0x112] = (1, 6, 3, 1)[number]
        if number == 3:
            exif[0x8825] = {**exif.get_ifd(0x8825), 2: (0.0, 0.0, 0.0), 4: (0.0, 0.0, 0.0)}
        small = image.resize((600, 450), Image.Resampling.LANCZOS) if number == 2 else image
        small.save(photos / (shot.stem + (".png" if number == 0 else ".jpg")), exif=exif)
    said = mapped(passel("run", photos, "--output", output), output)
    assert "2 cameras, each calibrated by itself" in said
    assert "its GPS says 0, 0" in said
    shown = json.loads((output / "odm_report" / "shots.geojson").read_text("utf-8"))["features"]
    assert len(shown) == 6


def test_each_end_is_where_it_was_asked_for(three: Path, here: Run, tmp_path: Path) -> None:
    """ODM's names and ours, each going on from the last; then the same photos with other options in the same folder."""
    output = tmp_path / "map"
    order = ("survey", "features", "matches", "mapping", "align", "coarse", "tiles", "merge")
    for end, last in (("features", 1), ("mapping", 3), ("opensfm", 4), ("openmvs", 6)):
        done = here("run", three, "--output", output, "--end-with", end)
        assert done.returncode == 0, done.stderr
        assert "as asked: no map was made" in done.stdout
        assert [made(output, s) > 0 for s in order] == [k <= last for k in range(len(order))], end
    mapped(passel("run", three, "--output", output, "--end-with", "odm_orthophoto"), output)
    assert not (output / "odm_report" / "report.html").exists()
    before = digests(output)
    said = mapped(here("run", three, "--output", output, "--orthophoto-resolution", "1"), output)
    assert "is finer than the photos resolve" in said
    assert digests(output) == before
    coarse = ("--fast-orthophoto", "--orthophoto-resolution", "2000", "--dem-resolution", "5000")
    cameras = ("--cameras", output / "cameras.json", "--camera-lens", "perspective", "--sm-no-align")
    for words in (coarse, (*cameras, "--gps-accuracy", "0.5", "--rerun-from", "tiles")):
        mapped(here("run", three, "--output", output, *words), output)
    mapped(passel("run", three, "--output", output, "--rerun-all"), output)
    assert stage(output, "features")["reused"] == 0
    assert digests(output) == before


def test_side_files_with_errors(three: Path, here: Run, tmp_path: Path) -> None:
    output, file = tmp_path / "map", tmp_path / "side.txt"
    names = [p.name for p in sorted(three.iterdir())]
    for option, text, message in (
        ("split-image-groups", f"{names[0]} a\n{names[1]} a\n", f"1 photo has no group: {names[2]}"),
        ("split-image-groups", f"{names[0]} a\n{names[1]} a\n{names[2]} b\n", "Group 'a' has 2 photos: too few"),
        ("split-image-groups", f"{names[0]} a\nother.jpg a\n", "There is no photo 'other.jpg'"),
        ("geo", f"EPSG:4326\n{names[0]} x 46.7 500\n", "A value is not a number"),
        ("geo", "nonsense\n", "not a coordinate system"),
        ("cameras", "nonsense", "The cameras file is not JSON"),
        ("cameras", "[]", "not a table of cameras"),
        ("cameras", "{}", "names no camera"),
    ):
        file.write_text(text)
        assert message in refused(here("run", three, "--output", output, f"--{option}", file, "--end-with", "split"))
    file.write_text("EPSG:4326\n" + "".join(f"{n} 6.{k} 46.7 500\n" for k, n in enumerate(names)))
    done = passel("run", three, "--output", output, "--geo", file, "--end-with", "split", "--dtm", "--gcp", "gcp.txt")
    assert done.returncode == 0
    assert "geo.txt gives the position of 3 of 3 photos" in done.stderr
    assert "--dtm is not supported yet" in done.stderr
    assert "--gcp is not supported yet: control points are not used" in done.stderr


def test_an_output_that_cannot_be_named(three: Path, tmp_path: Path) -> None:
    last = refused(passel("run", three, "--output", os.fsdecode(os.fsencode(tmp_path) + b"/karte\xe9")))
    assert "not UTF-8 text" in last


def test_what_may_not_be_read_or_written(three: Path, tmp_path: Path) -> None:
    """Root, too, may be refused, once it has given up its power over permissions."""
    drop = ["setpriv", "--inh-caps=-all", "--bounding-set=-dac_override,-dac_read_search"]
    if os.geteuid() == 0 and (
        shutil.which("setpriv") is None or subprocess.run([*drop, "true"], check=False).returncode
    ):
        pytest.skip("root reads and writes everything")

    def run(output: Path) -> subprocess.CompletedProcess[str]:
        words = command(["run", str(three), "--output", str(output), "--end-with", "survey"])
        words = [*drop, *words] if os.geteuid() == 0 else words
        return subprocess.run(words, env=environment_of(True), capture_output=True, text=True, check=False, timeout=60)

    shutil.copy(next(three.iterdir()), three / "locked.jpg")
    (three / "locked.jpg").chmod(0)
    done = run(tmp_path / "map")
    assert done.returncode == 0, done.stderr
    assert "locked.jpg cannot be read (Permission denied)" in done.stderr
    (tmp_path / "kept").mkdir(mode=0o555)
    assert "the output cannot be written: Permission denied" in refused(run(tmp_path / "kept" / "map"))
    three.chmod(0)
    assert "photos cannot be read: permission denied" in refused(run(tmp_path / "map"))
    three.chmod(0o755)


def test_two_runs_on_one_output(three: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "map" / ".passel" / "store")
    with store.run_lock():
        last = refused(passel("run", three, "--output", tmp_path / "map"))
    assert "Another run is working on this project" in last


@pytest.fixture
def small_disk(tmp_path: Path):
    """A disk of 2 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(three: Path, small_disk: Path) -> None:
    words = ("run", three, "--output", small_disk / "map")
    assert "The disk is full" in refused(passel(*words))
    kept = made(small_disk / "map", "features")
    assert kept > 0
    subprocess.run(["mount", "-o", "remount,size=400m", str(small_disk)], check=True)
    mapped(passel(*words), small_disk / "map")
    assert stage(small_disk / "map", "features")["reused"] == kept
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert "Read-only file system" in refused(passel(*words))


def test_a_submodel_that_cannot_be_mapped_is_a_hole_that_is_told(shots: list[Path], tmp_path: Path) -> None:
    photos, output = copied(shots[:4], tmp_path / "photos"), tmp_path / "map"
    for number in range(3):
        alien(shots[8 + number], photos / f"other{'x' * number}.jpg", 48.0 + 0.01 * number)
    alien(shots[4], photos / "lone.jpg")
    groups = tmp_path / "groups.txt"
    groups.write_text("".join(f"{p.name} {'b' if 'other' in p.name else 'a'}\n" for p in sorted(photos.iterdir())))
    words = ("run", photos, "--output", output, "--split-image-groups", groups, "--split-overlap", "0")
    done = passel(*words)
    mapped(done, output)
    assert "hole in the map: submodel submodel_000" in done.stderr
    assert "(3 photos: other.jpg, otherx.jpg, otherxx.jpg) could not be mapped" in done.stderr
    assert "4 photos could not be placed and are not in the map: lone.jpg, other.jpg" in done.stderr
    assert "could not be mapped" in (output / "odm_report" / "report.html").read_text("utf-8")
