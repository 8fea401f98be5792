"""The whole job on a small synthetic survey: it makes the map, the same map, whatever happens on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import rasterio

from passel.demo.accuracy import measure
from passel.demo.truth import DemoTruth
from runs import TINY_OPTIONS, digests, left_running, made, passel, stopped_when
from serving import until


def test_the_map_is_true(tiny_survey: tuple[Path, DemoTruth], tiny_map: Path) -> None:
    """After the 7-parameter fit, for 16 photos with 1 m GPS fix place, heading and size only so well."""
    found = measure(tiny_survey[1], tiny_map)
    cameras = next(c for c in found.cameras if c.fit == "similarity")
    surface = next(s for s in found.surface if s.fit == "similarity")
    marks = next(m for m in found.marks if m.fit == "similarity")
    assert cameras.photos == len(tiny_survey[1].shots), found.text
    assert cameras.rmse_m < 2.0 * found.gsd_m, found.text
    assert surface.nmad_m < 1.5 * found.gsd_m, found.text
    assert surface.complete > 0.97, found.text
    assert marks.rmse_m < 1.5 * found.gsd_m, found.text


def test_the_folder_is_odms(tiny_map: Path) -> None:
    for name in (
        "odm_orthophoto/odm_orthophoto.tif",
        "odm_dem/dsm.tif",
        "odm_georeferencing/odm_georeferenced_model.laz",
        "odm_report/report.html",
        "odm_report/stats.json",
        "odm_report/shots.geojson",
        "odm_report/submodels.png",
        "odm_report/submodels.geojson",
        "odm_report/first_look.png",
        "cameras.json",
        "images.json",
        "log.json",
    ):
        assert (tiny_map / name).stat().st_size > 100, name
    log = json.loads((tiny_map / "log.json").read_text("utf-8"))
    assert log["state"] == "done"
    assert all(s["failed"] == 0 for s in log["stages"])


def test_rasters_lie_on_the_same_ground(tiny_map: Path) -> None:
    with rasterio.open(tiny_map / "odm_orthophoto/odm_orthophoto.tif") as ortho:
        assert ortho.count == 4
        shown = float((ortho.read(4) > 0).mean())
        box = ortho.bounds
        assert ortho.crs.to_epsg() == 32632
    with rasterio.open(tiny_map / "odm_dem/dsm.tif") as dsm:
        heights = dsm.read(1, masked=True)
        assert abs(dsm.bounds.left - box.left) < 15.0  # the DSM ends where two photos see the ground
        assert abs(dsm.bounds.top - box.top) < 15.0
    assert shown > 0.3
    assert np.ma.count(heights) > 0.3 * heights.size
    assert 480 < float(heights.min()) < float(heights.max()) < 600


def test_the_same_pixels_with_two_workers(tiny_survey: tuple[Path, DemoTruth], tiny_map: Path, tmp_path: Path) -> None:
    output = tmp_path / "map"
    done = passel(["run", str(tiny_survey[0]), "--output", str(output), *TINY_OPTIONS, "--max-concurrency", "2"])
    assert done.returncode == 0, done.stderr
    assert digests(output) == digests(tiny_map)


def test_killed_and_started_again(tiny_survey: tuple[Path, DemoTruth], tiny_map: Path, tmp_path: Path) -> None:
    """kill -9 in the middle of the features and again in the tiles; what was finished is not made again."""
    output = tmp_path / "map"
    words = ["run", str(tiny_survey[0]), "--output", str(output), *TINY_OPTIONS, "--max-concurrency", "4"]
    assert stopped_when(words, lambda: made(output, "features") >= 3, signal.SIGKILL) == -signal.SIGKILL
    assert stopped_when(words, lambda: made(output, "coarse") >= 2, signal.SIGKILL) == -signal.SIGKILL
    until(lambda: left_running(output) == [], "the children of a run that was killed end")
    before = made(output, "features")
    done = passel(words)
    assert done.returncode == 0, done.stderr
    assert digests(output) == digests(tiny_map)
    stages = {s["stage"]: s for s in json.loads((output / "log.json").read_text("utf-8"))["stages"]}
    assert stages["features"]["reused"] == before == len(tiny_survey[1].shots)
    assert stages["coarse"]["reused"] >= 2


def test_stopped_by_the_user(tiny_survey: tuple[Path, DemoTruth], tmp_path: Path) -> None:
    output = tmp_path / "map"
    words = ["run", str(tiny_survey[0]), "--output", str(output)]
    assert stopped_when(words, lambda: made(output, "features") >= 2, signal.SIGINT) == 130
    assert left_running(output) == []
    assert json.loads((output / "log.json").read_text("utf-8"))["state"] == "interrupted"


def test_a_second_run_makes_nothing(tiny_survey: tuple[Path, DemoTruth], tiny_map: Path, tmp_path: Path) -> None:
    """But products that somebody has deleted are there again."""
    output = tmp_path / "map"
    shutil.copytree(tiny_map, output, symlinks=True)
    before = digests(output)
    (output / "odm_orthophoto/odm_orthophoto.tif").unlink()
    (output / "cameras.json").unlink()
    shutil.rmtree(output / "odm_dem")
    shutil.rmtree(output / "odm_report")
    done = passel(["run", str(tiny_survey[0]), "--output", str(output), *TINY_OPTIONS], serial=True)
    assert done.returncode == 0, done.stderr
    stages = json.loads((output / "log.json").read_text("utf-8"))["stages"]
    assert all(s["made"] == 0 for s in stages), stages
    assert digests(output) == before
    assert (output / "odm_report/report.html").stat().st_size > 100


def test_artifacts_that_rotted_on_the_disk_are_made_again(
    tiny_survey: tuple[Path, DemoTruth], tiny_map: Path, tmp_path: Path
) -> None:
    """As a disk does it: sizes and times stay. The run itself reads these, when it plans."""
    output = tmp_path / "map"
    shutil.copytree(tiny_map, output, symlinks=True)
    before, rotted = digests(output), 0
    for manifest in (output / ".passel" / "store").glob("??/*/manifest.json"):
        if json.loads(manifest.read_text("utf-8"))["stage"] in ("survey", "align"):
            rotted += 1
            for file in (manifest.parent / "files").iterdir():
                times = file.stat()
                file.write_bytes(bytes(b ^ 0x80 for b in file.read_bytes()))
                os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    done = passel(["run", str(tiny_survey[0]), "--output", str(output), *TINY_OPTIONS], serial=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert said.index("what was made is read again") < said.index(f"{rotted} artifacts were damaged on the disk")
    assert digests(output) == before
