"""PyODM, OpenDroneMap's own client library, against a real server: canned tasks, and a real map of a small survey."""

from __future__ import annotations

import doctest
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyodm
import pytest
from pyodm.exceptions import NodeResponseError, TaskFailedError
from pyodm.types import TaskStatus
from rasterio.io import MemoryFile

from datasets import dataset
from free_ports import free_port
from server_world import PHOTO, World, running

EXPECTED = {"odm_orthophoto/odm_orthophoto.tif", "odm_dem/dsm.tif", "odm_georeferencing/odm_georeferenced_model.laz"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i in range(3):
        (folder / f"p{i}.jpg").write_bytes(PHOTO + bytes([i]))
    return [str(p) for p in sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def canned(tmp_path_factory):
    with running(tmp_path_factory.mktemp("canned"), test={}) as w:
        yield w


def node(world: World, token: str = "") -> pyodm.Node:
    return pyodm.Node("127.0.0.1", world.port, token)


def test_create_wait_download(canned, photos, tmp_path):
    seen: list[float] = []
    task = node(canned).create_task(photos, {"dsm": True, "orthophoto-resolution": 2.5}, "a map", seen.append)
    task.wait_for_completion(interval=0.1)
    info = task.info(with_output=0)
    assert info.status is TaskStatus.COMPLETED
    assert (info.name, info.images_count, info.progress, info.last_error) == ("a map", 3, 100, "")
    assert info.options[:2] == [{"name": "orthophoto-resolution", "value": 2.5}, {"name": "dsm", "value": True}]
    assert info.output[0].startswith("DJI_0131.JPG")
    assert seen[-1] == 100
    results = task.download_assets(str(tmp_path / "results"))
    assert all((Path(results) / name).stat().st_size > 0 for name in EXPECTED)
    assert json.loads((Path(results) / "log.json").read_text()) == {"canned": True}
    assert task.restart({"dsm": False})
    task.wait_for_completion(interval=0.1)
    assert {"name": "dsm", "value": False} in task.info().options
    assert task.cancel()
    assert task.remove()
    with pytest.raises(NodeResponseError, match="not found"):
        task.info()


def test_a_download_of_many_megabytes_runs_in_parallel_ranges(tmp_path, photos):
    with running(tmp_path) as world:
        task = node(world).create_task(photos)
        task.wait_for_completion(interval=0.1)
        big = world.job_folder(task.uuid) / "output" / "odm_orthophoto" / "odm_orthophoto.tif"
        big.write_bytes(os.urandom(12_000_000))
        task.restart()
        world.script.write_text("say done\nend 0")
        task.wait_for_completion(interval=0.1)
        archive = task.download_zip(str(tmp_path))
        with zipfile.ZipFile(archive) as z:
            assert z.testzip() is None
        assert world.log.read_text().count(" 206 ") >= 2


def test_a_wrong_token_raises_what_webodm_looks_for(tmp_path, photos):
    with running(tmp_path, test={}, tokens={"right": "me"}) as world:
        with pytest.raises(NodeResponseError, match="token does not match"):
            node(world, "wrong").info()
        assert node(world, "right").create_task(photos).info().images_count == 3


def test_flags_of_the_test_mode(tmp_path, photos):
    flags = {"fail_tasks": True, "drop_uploads": True, "seconds": 0.2, "skip_dems": True}
    with running(tmp_path, test=flags) as world:
        task = node(world).create_task(photos, retry_timeout=0, max_retries=60)  # half of the uploads fail
        with pytest.raises(TaskFailedError):
            task.wait_for_completion(interval=0.1)
        assert task.info().last_error == "Cannot process dataset"
        world.stop()
        world.settings["test"] = {"skip_dems": True, "skip_orthophotos": True}
        world.start()
        task.restart()
        task.wait_for_completion(interval=0.1)
        with zipfile.ZipFile(task.download_zip(str(tmp_path))) as z:
            assert not [n for n in z.namelist() if n.startswith(("odm_dem", "odm_orthophoto"))]


def test_pyodms_own_doctests(tmp_path, monkeypatch):
    """All but the facts of the very node that its authors had: its version, engine and first option."""
    images = tmp_path / "examples" / "images"
    images.mkdir(parents=True)
    for i in (1, 2):
        (images / f"image_{i}.jpg").write_bytes(PHOTO + bytes([i]))
    monkeypatch.chdir(tmp_path)
    with running(tmp_path / "world", test={"seconds": 3.0}) as world:
        monkeypatch.setattr(pyodm.api.Node, "url", _to_port(pyodm.api.Node.url, world.port))
        run = 0
        for test in doctest.DocTestFinder().find(pyodm.api, globs=vars(pyodm.api) | vars(pyodm)):
            test.examples = [e for e in test.examples if not _is_about_the_authors_node(e)]
            result = doctest.DocTestRunner(verbose=False).run(test, clear_globs=False)
            assert result.failed == 0, test.name
            run += result.attempted
        assert run >= 10


def _is_about_the_authors_node(example: doctest.Example) -> bool:
    return any(part in example.source for part in ("info().version", "info().engine", "options()[0]"))


def _to_port(url, port):
    return lambda self, *a, **k: url(self, *a, **k).replace("localhost:3000", f"127.0.0.1:{port}")


CHEAP = {"fast-orthophoto": True, "feature-quality": "lowest", "orthophoto-resolution": 20, "dem-resolution": 20}


@pytest.mark.real
@pytest.mark.parametrize(
    "options",
    [pytest.param(CHEAP, id="cheap"), pytest.param({"dsm": True}, id="full", marks=pytest.mark.long)],
)
def test_a_real_flight(tmp_path, options):
    """create → wait → download of brighton_beach, with the real coordinator, worker and engine behind it."""
    photos = sorted((dataset("brighton_beach") / "images").iterdir())
    with made_by_passel(tmp_path, photos, options, "beach") as archive:
        with (
            archive.open("odm_orthophoto/odm_orthophoto.tif") as tif,
            MemoryFile(tif.read()) as memory,
            memory.open() as map_,
        ):
            assert (map_.crs.to_epsg(), map_.count) == (32615, 4)
            covered_m2 = float((map_.read(4) > 0).sum()) * map_.res[0] * map_.res[1]
        assert covered_m2 > 5_000
        stats = json.loads(archive.read("odm_report/stats.json"))
        assert stats["reconstruction_statistics"]["reconstructed_shots_count"] == len(photos) == 18


@pytest.mark.long
def test_a_real_map(tiny_survey, tmp_path):
    """The same of a small synthetic survey, split."""
    photos = sorted(tiny_survey[0].iterdir())
    with made_by_passel(tmp_path, photos, {"split": 9, "feature-quality": "medium"}, "tiny") as archive:
        assert "tiny" in archive.read("odm_report/report.html").decode()


@contextmanager
def made_by_passel(
    folder: Path, photos: list[Path], options: dict[str, object], name: str
) -> Iterator[zipfile.ZipFile]:
    """all.zip of a task that PyODM handed to a `passel serve`."""
    port = free_port()
    words = [sys.executable, "-m", "passel", "serve", "--data", str(folder / "data"), "--port", str(port)]
    words += ["--workers-port", str(free_port())]
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(words, stdout=log, stderr=log)
    world = World(folder / "client")
    try:
        world.http.base_url = f"http://127.0.0.1:{port}"
        world.process, world.log = server, folder / "log"
        world.wait(world._answers)
        task = pyodm.Node("127.0.0.1", port).create_task([str(p) for p in photos], options, name)
        task.wait_for_completion(interval=0.5)
        assert task.info(with_output=0).images_count == len(photos)
        with zipfile.ZipFile(task.download_zip(str(folder))) as archive:
            assert archive.testzip() is None
            assert set(archive.namelist()) >= EXPECTED | {
                "odm_report/report.html",
                "cameras.json",
                "images.json",
                "log.json",
            }
            yield archive
    finally:
        world.http.close()
        server.send_signal(signal.SIGTERM)
        server.wait(60)
