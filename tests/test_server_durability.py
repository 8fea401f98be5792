"""kill -9 at any moment: what was acknowledged is there after the restart, and goes on."""

from __future__ import annotations

import io
import json
import random
import shutil
import socket
import sqlite3
import subprocess
import threading
import zipfile
from contextlib import closing, suppress
from pathlib import Path

import pytest

from server_world import PATIENCE_S, PHOTO, World, is_alive, running


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with running(tmp_path_factory.mktemp("durable")) as w:
        yield w


@pytest.fixture
def world(shared):
    """A server without tasks, with drivers that end at once."""
    shared.script.write_text("")
    for row in shared.get("/task/list"):
        shared.act("remove", row["uuid"])
    return shared


def set_state(world: World, task: str, state: str) -> None:
    """As if the server had died in that state."""
    with closing(sqlite3.connect(world.data / "jobs.sqlite")) as base:
        (text,) = base.execute("SELECT body FROM jobs WHERE uuid=?", (task,)).fetchone()
        body = json.dumps(json.loads(text) | {"state": state})
        base.execute("UPDATE jobs SET state=?, body=? WHERE uuid=?", (state, body, task))
        base.commit()


def again(world: World) -> None:
    world.kill()
    world.start()


def test_acknowledged_photos_survive_and_unfinished_ones_leave_no_trace(world):
    task = world.init(name="kept")
    world.upload(task, ("a.jpg", PHOTO))
    with socket.create_connection(("127.0.0.1", world.port)) as line:
        head = f"POST /task/new/upload/{task} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n"
        part = '--b\r\nContent-Disposition: form-data; name="images"; filename="half.jpg"\r\n\r\n'
        line.sendall((head + "Content-Type: multipart/form-data; boundary=b\r\n\r\n" + part).encode() + PHOTO)
        world.wait(lambda: list((world.job_folder(task) / "incoming").iterdir()))
        again(world)
    assert list((world.job_folder(task) / "incoming").iterdir()) == []
    world.upload(task, ("a.jpg", PHOTO))  # the client never saw the answer and sends it again
    assert world.commit(task) == {"uuid": task}
    assert world.info(task)["imagesCount"] == 1
    assert world.info(task)["name"] == "kept"
    assert world.wait_for(task, 40) == 40


def test_a_piecewise_upload_goes_on_after_the_servers_death(world):
    task = world.init()
    url = f"/task/new/upload/{task}/a.jpg"
    world.http.put(url, content=PHOTO[:3000], headers={"Content-Range": f"bytes 0-2999/{len(PHOTO)}"})
    again(world)
    assert world.http.head(url).headers["upload-offset"] == "3000"
    rest = {"Content-Range": f"bytes 3000-{len(PHOTO) - 1}/{len(PHOTO)}"}
    assert world.http.put(url, content=PHOTO[3000:], headers=rest).json()["complete"]


def test_a_committed_job_is_prepared_again(world, tmp_path):
    seed = io.BytesIO()
    with zipfile.ZipFile(seed, "w", zipfile.ZIP_DEFLATED) as z:
        for i in range(400):
            z.writestr(f"opensfm/exif/{i}.json", b"{}" * 100)
    task = world.init()
    world.upload(task, ("a.jpg", PHOTO), ("seed.zip", seed.getvalue()), ("geo.txt", b"x"))
    world.commit(task)
    again(world)
    assert world.wait_for(task, 40, 30) == 40
    assert world.info(task)["imagesCount"] == 1
    assert len(list((world.job_folder(task) / "output" / "opensfm" / "exif").iterdir())) == 400
    assert (world.job_folder(task) / "side" / "geo.txt").exists()


def test_a_running_job_goes_on_and_its_driver_dies_with_the_server(world, tmp_path):
    world.script.write_text(f"say one\nprogress 40\nwait {tmp_path / 'go'}")
    task = world.submit()
    pid = world.driver_pid(task)
    world.wait(lambda: "one" in world.get(f"/task/{task}/output"))
    lines = world.get(f"/task/{task}/output")
    queued = [world.submit() for _ in range(3)]
    world.kill()
    world.wait(lambda: not is_alive(pid))
    world.start()
    assert world.status(task) in {10, 20}
    assert world.get(f"/task/{task}/output")[: len(lines)] == lines, "numbers of lines once told hold"
    assert [row["uuid"] for row in world.get("/task/list")] == [task, *queued]
    (tmp_path / "go").touch()
    for t in (task, *queued):
        assert world.wait_for(t, 40, 30) == 40


def test_packing_is_done_again(world, tmp_path):
    task = world.submit()
    world.wait_for(task, 40)
    before = world.http.get(f"/task/{task}/download/all.zip").content
    world.stop()
    packed = world.job_folder(task) / "packed"
    (packed / "plan.json").unlink()  # as if it died while it packed: the state is what the next lines set
    (packed / "plan.json.part").write_text('[{"name"')
    set_state(world, task, "zipping")
    world.start()
    assert world.wait_for(task, 40) == 40
    assert (
        zipfile.ZipFile(io.BytesIO(before)).namelist()
        == zipfile.ZipFile(io.BytesIO(world.http.get(f"/task/{task}/download/all.zip").content)).namelist()
    )


def test_a_removal_is_finished(world):
    task = world.submit()
    world.wait_for(task, 40)
    world.stop()
    set_state(world, task, "removing")
    (world.data / "trash" / "old").mkdir()
    world.start()
    assert world.get("/task/list") == []
    assert not world.job_folder(task).exists()
    assert list((world.data / "trash").iterdir()) == []


def list_files(world: World) -> list[Path]:
    return sorted(world.data.glob("jobs.sqlite*"))


def spoil(file: Path) -> None:
    """As a stray `cp` or `dd` does it: the same file, another content."""
    with open(file, "r+b") as f:
        f.write(random.Random(1).randbytes(file.stat().st_size))


def three_tasks(world: World) -> tuple[dict[str, int], str]:
    """States of an ended task, a failed one and a canceled one, in the list's order; an upload that is not finished."""
    done = world.submit(name="done")
    world.wait_for(done, 40)
    world.script.write_text("end 1 broken")
    failed = world.submit(name="failed")
    world.wait_for(failed, 30)
    canceled = world.submit(name="canceled")
    world.wait_for(canceled, 30)
    world.act("cancel", canceled)
    world.script.write_text("")
    upload = world.init(name="half")
    world.upload(upload, ("a.jpg", PHOTO))
    return {done: 40, failed: 30, canceled: 50}, upload


def all_there(world: World, tasks: dict[str, int], upload: str) -> None:
    assert [row["uuid"] for row in world.get("/task/list")] == list(tasks)
    assert {task: world.status(task) for task in tasks} == tasks
    world.upload(upload, ("b.jpg", PHOTO + b"b"))
    assert world.commit(upload) == {"uuid": upload}
    assert world.wait_for(upload, 40) == 40
    assert world.info(upload)["imagesCount"] == 2
    assert world.info(upload)["name"] == "half"


@pytest.mark.parametrize("damage", ["spoilt", "gone", "empty", "garbled row"])
def test_a_list_of_jobs_that_was_damaged_is_made_again_from_their_folders(world, damage):
    tasks, upload = three_tasks(world)
    world.stop()
    if damage == "garbled row":
        with closing(sqlite3.connect(world.data / "jobs.sqlite")) as base:
            base.execute("UPDATE jobs SET body='{' || body")
            base.commit()
    for file in list_files(world):
        if damage == "spoilt":
            spoil(file)
        elif damage == "gone":
            file.unlink()
        elif damage == "empty":
            file.write_bytes(b"")
    jobs = len(list(world.data.rglob("job.json")))  # those of tests before, too
    assert jobs >= 4
    world.start()
    all_there(world, tasks, upload)
    assert f"{jobs} jobs were taken from their folders" in world.log.read_text()
    if damage == "spoilt":
        (kept,) = world.data.glob("jobs.sqlite.damaged-*")
        assert f"it is kept as {kept}" in world.log.read_text()
        kept.unlink()


@pytest.mark.parametrize("damage", ["spoilt", "gone", "another"])
def test_a_list_of_jobs_that_is_damaged_while_the_server_runs_loses_nothing(world, damage):
    tasks, upload = three_tasks(world)
    for file in list_files(world):
        if damage == "spoilt":
            spoil(file)
        else:
            file.unlink()
    if damage == "another":
        (world.data / "jobs.sqlite").write_bytes(b"no database " * 999)
    last = world.submit(name="last")
    world.wait_for(last, 40)
    again(world)
    all_there(world, {**tasks, last: 40}, upload)


def test_a_list_of_jobs_from_an_older_backup_takes_what_is_newer_from_the_folders(world, tmp_path):
    early = world.init(name="early")
    world.stop()
    for file in list_files(world):
        shutil.copy(file, tmp_path / file.name)
    world.start()
    world.upload(early, ("a.jpg", PHOTO))
    world.commit(early)
    world.wait_for(early, 40)
    tasks, upload = three_tasks(world)
    world.kill()
    for file in list_files(world):
        file.unlink()
    for file in tmp_path.iterdir():
        shutil.copy(file, world.data / file.name)
    world.start()
    all_there(world, {early: 40, **tasks}, upload)


def test_folders_of_no_job_stay_when_they_hold_something(world):
    """Photos and maps may be wanted yet. Only what a dead `create` left goes."""
    mine = world.job_folder("11234567-89ab-4def-8123-456789abcdef")
    left = world.job_folder("01234567-89ab-4def-8123-456789abcdef")
    for folder in (mine, left):
        (folder / "photos").mkdir(parents=True)
    (mine / "photos" / "a.jpg").write_bytes(PHOTO)
    (mine / "job.json").write_text("{}")
    again(world)
    assert world.get("/task/list") == []
    assert (mine / "photos" / "a.jpg").read_bytes() == PHOTO
    assert f"{mine} is of no task in the list and stays" in world.log.read_text()
    assert not left.exists()
    answer = world.post("/task/new/init", {"name": "mine now"}, headers={"set-uuid": mine.name})
    assert "Invalid set-uuid" in answer["error"], "nobody gets another's photos by its number"
    shutil.rmtree(mine)


def test_kills_at_random_moments_lose_nothing_that_was_acknowledged(tmp_path):
    """A client submits tasks with retries while the server is killed again and again."""
    chance = random.Random(1)
    with running(tmp_path, parallel_jobs=1) as world:
        acknowledged: list[str] = []
        stop = threading.Event()

        def keep_submitting() -> None:
            client = World(tmp_path / "client")
            client.http.base_url = f"http://127.0.0.1:{world.port}"
            while not stop.wait(0.05):
                try:
                    task = client.init()
                    client.upload(task, ("a.jpg", PHOTO))
                    client.commit(task)
                    acknowledged.append(task)
                except OSError:
                    continue
                except Exception as e:  # httpx's errors are many; all of them mean: not acknowledged
                    if not type(e).__module__.startswith("httpx"):
                        raise
            client.http.close()

        thread = threading.Thread(target=keep_submitting)
        thread.start()
        for _ in range(3):
            stop.wait(chance.uniform(0.0, 0.8))
            again(world)
        stop.wait(0.3)
        stop.set()
        thread.join()
        assert acknowledged
        listed = {row["uuid"] for row in world.get("/task/list")}
        assert set(acknowledged) <= listed
        for task in acknowledged[-5:]:
            assert world.wait_for(task, 40, 30) == 40
            assert world.info(task)["imagesCount"] == 1


def test_a_polite_stop_ends_drivers_and_the_job_goes_on(world, tmp_path):
    world.script.write_text(f"wait {tmp_path / 'go'}")
    task = world.submit()
    pid = world.driver_pid(task)
    world.stop()
    assert not is_alive(pid)
    (tmp_path / "go").touch()
    world.start()
    assert world.wait_for(task, 40) == 40


def fill(file: Path) -> None:
    """To the last byte."""
    with suppress(OSError), open(file, "wb", buffering=0) as f:
        while True:
            f.write(b"\0" * 4096)


def test_a_full_disk_is_told_and_nothing_is_acknowledged(tmp_path):
    tmp_path = tmp_path / "w"
    small = tmp_path / "data"
    small.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        with running(tmp_path, limits={"disk_floor_bytes": 500_000}) as world:
            task = world.init()
            assert world.upload(task, ("a.jpg", PHOTO))["success"]
            answer = world.upload(task, ("big.jpg", b"x" * 9_000_000))
            assert "full" in answer["error"] or "No space" in answer["error"]
            filler = small / "filler"
            filler.write_bytes(b"\0" * (shutil.disk_usage(small).free - 400_000))
            assert "full" in world.upload(task, ("b.jpg", PHOTO))["error"]
            assert "full" in world.post("/task/new/init")["error"]
            assert world.get("/info")["taskQueueCount"] == 0, "it still answers"
            filler.unlink()
            assert world.commit(task) == {"uuid": task}
            assert world.wait_for(task, 40, 30) == 40
            assert world.info(task)["imagesCount"] == 1
            fill(small / "filler")
            assert world.act("remove", task) == {"success": True}, "one must be able to make room"
            assert not world.job_folder(task).exists()
            assert world.get("/task/list") == []
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_old_tasks_and_uploads_are_removed(tmp_path):
    with running(tmp_path) as world:
        task, upload = world.submit(), world.init()
        world.wait_for(task, 40)
        world.stop()
        world.settings |= {"cleanup_tasks_after_s": 0.01, "cleanup_uploads_after_s": 0.01}
        world.start()
        world.wait(lambda: world.get("/task/list") == [])
        world.wait(lambda: not Path(world.job_folder(upload)).exists())


def test_webhooks_survive_a_restart_and_are_tried_again(tmp_path):
    heard: list[dict[str, object]] = []
    with running(tmp_path, allow_private_urls=True) as world, socket.create_server(("127.0.0.1", 0)) as ear:
        ear.settimeout(PATIENCE_S)
        url = f"http://127.0.0.1:{ear.getsockname()[1]}/hook?key=secret"
        task = world.submit(webhook=url)
        world.wait_for(task, 40)
        line, _ = ear.accept()
        read_request(line)
        line.sendall(b"HTTP/1.1 500 no\r\nContent-Length: 0\r\n\r\n")
        line.close()
        again(world)
        line, _ = ear.accept()
        heard.append(json.loads(read_request(line)))
        line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        line.close()
        assert heard[0]["uuid"] == task
        assert heard[0]["status"] == {"code": 40}
        assert {i["filename"] for i in heard[0]["images"]} == {"a.jpg", "b.jpg"}  # type: ignore[attr-defined]
        assert "secret" not in world.log.read_text()


def read_request(line: socket.socket) -> bytes:
    """The body of a request."""
    with line.makefile("rb") as f:
        length = 0
        while header := f.readline().strip():
            if header.lower().startswith(b"content-length:"):
                length = int(header.split(b":")[1])
        return f.read(length)
