"""Results of jobs in a bucket: a real server process beside moto's S3, killed and cleaned up on the way."""

from __future__ import annotations

import io
import json
import signal
import socket
import sqlite3
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer

from passel.commands.serve import options_of
from passel.errors import UsageError
from passel.serving.fleet import results_bucket
from server_world import World, running

ORTHO = b"II*\0" + bytes(range(256)) * 400  # what server_driver.py delivers
KEYS = ["all.zip", "odm_dem/dsm.tif", "odm_orthophoto/odm_orthophoto.tif"]


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield boto3.client(
        "s3",
        aws_access_key_id="id",
        aws_secret_access_key="the-secret",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
    )
    server.stop()


@pytest.fixture
def fleet(s3: Any, tmp_path: Path) -> Path:
    """A fleet file of ClusterODM's, whose bucket does not exist yet."""
    keys = {"accessKey": "id", "secretKey": "the-secret", "endpoint": s3.meta.endpoint_url, "bucket": tmp_path.name}
    file = tmp_path / "fleet.json"
    file.write_text(json.dumps({"provider": "local", "s3": keys}))
    file.chmod(0o600)
    return file


def objects(s3: Any, fleet: Path, task: str) -> list[str]:
    """What the bucket holds of a task."""
    bucket = json.loads(fleet.read_text())["s3"]["bucket"]
    found = s3.list_objects_v2(Bucket=bucket, Prefix=f"{task}/").get("Contents", [])
    return [o["Key"].removeprefix(f"{task}/") for o in found]


def sent(world: World, task: str) -> str:
    with sqlite3.connect(world.data / "jobs.sqlite") as base:
        row = base.execute("SELECT body FROM jobs WHERE uuid=?", (task,)).fetchone()
    base.close()
    return str(json.loads(row[0]).get("sent")) if row else "gone"


def cleaned(world: World, task: str) -> bool:
    return not (world.job_folder(task) / "photos").exists()


def fetched(world: World, task: str, asset: str) -> bytes:
    """Through the redirect, as clients do."""
    first = world.http.get(f"/task/{task}/download/{asset}")
    assert first.status_code == 302, first.text
    assert "the-secret" not in first.headers["location"]
    return httpx.get(first.headers["location"], trust_env=False).raise_for_status().content


def test_sent_kept_after_cleaning_and_removed_with_the_task(s3: Any, fleet: Path, tmp_path: Path) -> None:
    s3.create_bucket(Bucket=tmp_path.name)
    with running(tmp_path / "w", fleet=str(fleet)) as world:
        task = world.submit()
        world.wait_for(task, 40)
        world.wait(lambda: sent(world, task) == "done")
        assert objects(s3, fleet, task) == KEYS
        assert not (world.job_folder(task) / "all.zip").exists()
        here = world.http.get(f"/task/{task}/download/all.zip")
        assert here.status_code == 200, "while the files are here they come from here"

        world.stop()
        world.settings["cleanup_tasks_after_s"] = 0.001
        world.start()
        world.wait(lambda: cleaned(world, task))
        assert fetched(world, task, "all.zip") == here.content
        assert fetched(world, task, "orthophoto.tif") == fetched(world, task, KEYS[2]) == ORTHO
        assert "odm_dem/dsm.tif" in zipfile.ZipFile(io.BytesIO(here.content)).namelist()
        for asset in ("dtm.tif", "images.json", f"../{task}/all.zip", "%2e%2e/x"):
            assert world.http.get(f"/task/{task}/download/{asset}").is_redirect is False
        assert world.get(f"/task/{task}/output"), "its output is kept"
        assert "cleaned up" in world.act("restart", task)["error"]
        assert world.status(task) == 40

        assert world.act("remove", task) == {"success": True}
        world.wait(lambda: sent(world, task) == "gone")
        assert objects(s3, fleet, task) == []
        assert not world.job_folder(task).exists()


def test_a_bucket_that_refuses_holds_up_nobody_and_is_tried_again_after_kill_9(
    s3: Any, fleet: Path, tmp_path: Path
) -> None:
    with running(tmp_path / "w", fleet=str(fleet), cleanup_tasks_after_s=0.001) as world:
        task = world.submit()
        world.wait_for(task, 40)
        world.wait(lambda: "NoSuchBucket" in world.log.read_text() and sent(world, task) == "begun")
        assert world.http.get(f"/task/{task}/download/orthophoto.tif").content == ORTHO
        gone = world.submit()
        world.wait_for(gone, 40)
        assert world.act("remove", gone) == {"success": True}
        world.kill()
        s3.create_bucket(Bucket=tmp_path.name)
        world.start()
        assert not cleaned(world, task) or sent(world, task) == "done", "never cleaned before it is in the bucket"
        world.wait(lambda: sent(world, task) == "done" and sent(world, gone) == "gone")
        assert objects(s3, fleet, task) == KEYS
        assert objects(s3, fleet, gone) == []
        assert "the-secret" not in world.log.read_text()


def test_what_is_removed_goes_from_the_bucket_though_the_list_of_jobs_was_lost_meanwhile(
    s3: Any, fleet: Path, tmp_path: Path
) -> None:
    s3.create_bucket(Bucket=tmp_path.name)
    with running(tmp_path / "w", fleet=str(fleet)) as world:
        task = world.submit()
        world.wait_for(task, 40)
        world.wait(lambda: sent(world, task) == "done")
        reached = fleet.read_text()
        world.stop()
        fleet.write_text(reached.replace(s3.meta.endpoint_url, "http://127.0.0.1:9"))
        world.start()
        assert world.act("remove", task) == {"success": True}
        assert [path.name for path in world.job_folder(task).iterdir()] == ["job.json"]
        world.kill()
        for file in world.data.glob("jobs.sqlite*"):
            file.unlink()
        fleet.write_text(reached)
        world.start()
        assert world.get("/task/list") == []
        world.wait(lambda: not objects(s3, fleet, task) and sent(world, task) == "gone")
        assert not world.job_folder(task).exists()


def test_a_bucket_that_never_answers_holds_up_neither_tasks_nor_the_end(fleet: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        text = json.loads(fleet.read_text())
        text["s3"]["endpoint"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        fleet.write_text(json.dumps(text))
        with running(tmp_path / "w", fleet=str(fleet)) as world:
            task = world.submit()
            world.wait_for(task, 40)
            assert world.http.get(f"/task/{task}/download/orthophoto.tif").content == ORTHO
            connected, _ = silent.accept()
            with connected:
                world.stop()  # fails when it takes a minute
                assert world.process is not None
                assert world.process.returncode == -signal.SIGTERM  # by itself, and uvicorn tells so


def test_a_second_run_replaces_all_of_the_first(s3: Any, fleet: Path, tmp_path: Path) -> None:
    s3.create_bucket(Bucket=tmp_path.name)
    with running(tmp_path / "w", fleet=str(fleet)) as world:
        task = world.submit()
        world.wait_for(task, 40)
        world.wait(lambda: sent(world, task) == "done")
        s3.put_object(Bucket=tmp_path.name, Key=f"{task}/odm_dem/dtm.tif", Body=b"only the first run made one")
        assert world.act("restart", task) == {"success": True}
        world.wait_for(task, 40)
        world.wait(lambda: sent(world, task) == "done")
        assert objects(s3, fleet, task) == KEYS


def test_jobs_from_before_there_was_a_bucket_are_sent_too(s3: Any, fleet: Path, tmp_path: Path) -> None:
    s3.create_bucket(Bucket=tmp_path.name)
    with running(tmp_path / "w") as world:
        task = world.submit()
        world.wait_for(task, 40)
        world.kill()
        with sqlite3.connect(world.data / "jobs.sqlite") as base:  # as earlier versions wrote it
            base.execute("UPDATE jobs SET body=json_remove(body, '$.sent')")
        base.close()
        world.settings["fleet"] = str(fleet)
        world.start()
        world.wait(lambda: sent(world, task) == "done")
        assert objects(s3, fleet, task) == KEYS


def test_the_fleet_file_says_whether_there_is_a_bucket(fleet: Path, tmp_path: Path) -> None:
    assert options_of(("--autoscale", str(fleet))).fleet == options_of(("--fleet", str(fleet))).fleet == fleet
    assert results_bucket(fleet) is not None
    fleet.write_text(fleet.read_text().replace("http://", "no address "))
    with pytest.raises(UsageError, match="endpoint"):
        results_bucket(fleet)
    fleet.write_text('{"provider": "local"}')
    assert results_bucket(fleet) is None
    with pytest.raises(UsageError):
        results_bucket(tmp_path / "missing.json")
