"""NodeODM's API against a real server process, by clients written to what PyODM, CloudODM, WebODM, ClusterODM and
OpenDroneMap's own cluster client were seen to do.
"""

from __future__ import annotations

import asyncio
import io
import json
import socket
import time
import zipfile
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from passel.server.files import _append
from server_world import PHOTO, is_alive, new_uuid, running


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with running(tmp_path_factory.mktemp("api"), parallel_jobs=2) as w:
        yield w


@pytest.fixture
def script(world):
    """Sets what the next drivers do."""

    def write(*lines: str) -> None:
        world.script.write_text("\n".join(lines))

    write()
    return write


def test_info_has_the_types_that_strict_clients_want(world):
    info = world.get("/info")
    assert all(type(info[k]) is int for k in ("taskQueueCount", "totalMemory", "availableMemory", "cpuCores"))
    assert all(part.isdecimal() for part in info["version"].split("."))
    assert tuple(map(int, info["version"].split("."))) >= (1, 4, 0)
    assert info["maxImages"] is None
    assert info["maxParallelTasks"] == 2
    assert info["engine"] == "passel"
    assert len(info["engineVersion"]) <= 32


def test_options_have_nodeodms_five_keys_and_text_defaults(world):
    options = world.get("/options")
    assert all(set(o) == {"name", "type", "value", "domain", "help"} for o in options)
    assert all(type(o["value"]) is str for o in options)
    by_name = {o["name"]: o for o in options}
    assert by_name["dsm"]["value"] == "false"
    assert by_name["split"] == {**by_name["split"], "type": "int", "value": "400", "domain": "positive integer"}
    assert isinstance(by_name["feature-quality"]["domain"], list)
    assert not {"output", "project-path", "gcp", "geo", "rerun-all"} & set(by_name)


def test_auth(world):
    assert set(world.get("/auth/info")) == {"message", "loginUrl", "registerUrl"}
    assert world.post("/auth/login") == {"error": "Not available"}
    assert world.http.get("/info?_debugUnauthorized=1").status_code == 401


def test_a_whole_life(world, script):
    script("say hello", "progress 50", "say error", "progress 10")
    options = [
        {"name": "dsm", "value": "true"},
        {"name": "mesh-size", "value": "12345"},
        {"name": "nonsense", "value": 1},
    ]
    task = world.init(name="My map", options=json.dumps(options), dateCreated="1234567890123")
    assert world.get(f"/task/{task}/info") == {"error": f"{task} not found"}
    assert world.upload(task, ("a.jpg", PHOTO), ("b.jpg", PHOTO + b"b"))["success"] is True
    assert world.commit(task) == {"uuid": task}
    assert world.commit(task) == {"error": "Invalid uuid (not found)"}
    assert world.wait_for(task, 40, 30) == 40
    info = world.info(task)
    assert set(info) == {
        *("uuid", "name", "dateCreated", "processingTime", "status", "options", "imagesCount", "progress"),
    }
    assert info["name"] == "My map"
    assert info["dateCreated"] == 1234567890123
    assert info["status"] == {"code": 40}
    assert info["imagesCount"] == 2
    assert info["progress"] == 100
    assert info["processingTime"] > 0
    assert info["options"] == [
        {"name": "dsm", "value": True},
        {"name": "mesh-size", "value": 12345},
        *({"name": n, "value": True} for n in ("pc-ept", "cog", "gltf")),
    ]
    output = world.get(f"/task/{task}/output")
    assert "hello" in output
    assert "error" not in output, "PyODM takes the very word for an error"
    assert any("nonsense" in line for line in output)
    assert any("--mesh-size" in line for line in output)
    assert world.get(f"/task/{task}/output", line="-1") == output[-1:]
    assert world.get(f"/task/{task}/output", line="abc") == output
    assert world.get(f"/task/{task}/output", line=str(len(output))) == []
    assert world.info(task, with_output="1")["output"] == output[1:]
    assert {"uuid": task} in world.get("/task/list")
    seen = zipfile.ZipFile(io.BytesIO(world.http.get(f"/task/{task}/download/all.zip").content))
    assert seen.testzip() is None
    assert "odm_orthophoto/odm_orthophoto.tif" in seen.namelist()
    assert world.act("cancel", task) == {"success": True}, "canceling what is completed is fine in NodeODM"
    assert world.status(task) == 50
    assert world.info(task)["processingTime"] == -1
    assert world.act("cancel", task) == {"success": True}
    assert world.act("restart", task, options='[{"name":"split","value":"7"}]') == {"success": True}
    assert world.wait_for(task, 40) == 40
    assert world.info(task)["options"][0] == {"name": "split", "value": 7}
    assert world.act("remove", task) == {"success": True}
    assert world.act("remove", task) == {"success": False, "error": f"{task} not found"}
    assert world.get(f"/task/{task}/info") == {"error": f"{task} not found"}
    assert not world.job_folder(task).exists()


def test_the_driver_gets_a_command_line(world, script):
    options = [
        {"name": "split", "value": 12.0},
        {"name": "dsm", "value": False},
        {"name": "feature-quality", "value": "low"},
    ]
    task = world.init(name="-n--x", options=json.dumps(options))
    world.upload(
        task, ("a.jpg", PHOTO), ("geo.txt", b"EPSG:4326\n"), ("gcp_list.txt", b"EPSG:4326\n"), ("c.zip", b"PK")
    )
    world.commit(task)
    world.wait_for(task, 40)
    words = json.loads(world.http.get(f"/task/{task}/download/options_seen.json").content)
    side = world.job_folder(task) / "side"
    assert [w for w in words if not w.startswith("--gcp")] == [
        *("--split=12", "--feature-quality=low", "--name=-n--x", f"--geo={side / 'geo.txt'}"),
    ]
    assert world.info(task)["imagesCount"] == 1
    assert any("c.zip is left out" in line for line in world.get(f"/task/{task}/output"))


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ("{", "not valid JSON"),
        ('[{"name":"split","value":"abc"}]', "Invalid value abc"),
        ('[{"name":"split","value":0}]', "out of range"),
        ('[{"name":"feature-quality","value":"best"}]', "is not one of"),
        ('[{"name":"dsm","value":"perhaps"}]', "neither true nor false"),
        ('[{"name":"cameras","value":"/etc/passwd"}]', "JSON text"),
        ('[{"name":"orthophoto-resolution","value":NaN}]', "finite"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_bad_options(world, options, part):
    answer = world.post("/task/new/init", {"options": options})
    assert part in answer["error"]
    if "Invalid" in answer["error"]:
        assert json.loads(answer["error"])[0].keys() == {"name", "error"}, "a JSON list inside the text"


@pytest.mark.parametrize("options", ["", "{}", "7", '[{"name":"gcp","value":"/etc/passwd"}]', "[1,null,{}]"])
def test_options_that_are_none_are_ignored(world, options):
    task = world.init(options=options, skipPostProcessing="true")
    world.upload(task, ("a.jpg", PHOTO))
    world.commit(task)
    assert world.info(task)["options"] == []
    world.act("remove", task)


def test_an_init_without_body_and_a_name_for_the_nameless(world):
    answer = world.post("/task/new/init")
    world.upload(answer["uuid"], ("a.jpg", PHOTO))
    # ClusterODM's commit: multipart without a boundary and without a body
    headers = {"Content-Type": "multipart/form-data", "Content-Length": "0"}
    assert world.post(f"/task/new/commit/{answer['uuid']}", headers=headers) == {"uuid": answer["uuid"]}
    assert world.info(answer["uuid"])["name"].startswith("Task of 20")
    world.act("remove", answer["uuid"])


def test_uploads_that_cannot_be(world):
    nobody = new_uuid()
    assert world.upload(nobody, ("a.jpg", PHOTO)) == {"error": "Invalid uuid (not found)"}
    assert world.commit(nobody) == {"error": "Invalid uuid (not found)"}
    task = world.init()
    assert world.commit(task) == {"error": "Need at least 1 file."}
    assert world.post(f"/task/new/upload/{task}", {"x": "y"}) == {"error": "Need at least 1 file.", "noRetry": True}
    assert world.post(f"/task/new/upload/{task}", files={"photos": ("a.jpg", PHOTO)}) == {"error": "Unexpected field"}
    assert world.post("/task/new", {"name": "x"}) == {"error": "Need at least 1 file or a zip file url."}
    assert list((world.job_folder(task) / "photos").iterdir()) == []
    assert list((world.job_folder(task) / "incoming").iterdir()) == []
    assert world.act("remove", task)["success"]


def test_a_retried_upload_never_doubles_a_photo_but_two_photos_may_share_a_name(world):
    task = world.init()
    for _ in range(3):
        answer = world.upload(task, ("a.jpg", PHOTO), ("a.jpg", PHOTO), ("a.jpg", PHOTO + b"other"))
        assert [f["name"] for f in answer["files"]] == ["a.jpg", "a_.jpg", "a__.jpg"]
    world.upload(task, ("a.jpg", PHOTO))
    assert world.commit(task) == {"uuid": task}
    assert world.info(task)["imagesCount"] == 3
    world.act("remove", task)


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("../../../etc/cron.d/x.jpg", "x.jpg"),
        ("..\\..\\windows\\y.jpg", "y.jpg"),
        ("/abs/z.jpg", "z.jpg"),
        (".hidden.jpg", "hidden.jpg"),
        ("a\x07b<>:|?*.jpg", "ab.jpg"),
        ("n" * 400 + ".jpg", "n" * 196 + ".jpg"),
        ("Größe 1.jpg", "Größe 1.jpg"),
    ],
)
def test_names_never_leave_the_folder(world, sent, stored):
    task = world.init()
    disposition = f'form-data; name="images"; filename="{sent}"'.replace("\\", "\\\\")
    body = b"--b\r\nContent-Disposition: " + disposition.encode() + b"\r\n\r\n" + PHOTO + b"\r\n--b--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = world.post(f"/task/new/upload/{task}", content=body, headers=headers)
    assert answer["files"][0]["name"] == stored
    assert [p.name for p in (world.job_folder(task) / "photos").iterdir()] == [stored]
    world.act("remove", task)


@pytest.mark.parametrize("name", ["..", "/", "...", "a/.."])
def test_names_that_are_none(world, name):
    task = world.init()
    assert "cannot be used" in world.upload(task, (name, PHOTO)).get("error", "")
    world.act("remove", task)


def test_set_uuid(world):
    chosen = new_uuid().upper()
    headers = {"set-uuid": chosen}
    assert world.post("/task/new/init", headers=headers) == {"uuid": chosen.lower()}
    assert world.post("/task/new/init", headers=headers) == {"uuid": chosen.lower()}, "an upload may be begun again"
    world.upload(chosen, ("a.jpg", PHOTO))
    world.commit(chosen)
    assert world.post("/task/new/init", headers=headers) == {"error": f"Invalid set-uuid: {chosen}"}
    world.act("remove", chosen)
    for hostile in ("../../x", "0" * 36, "nonsense", "' OR 1=1 --"):
        assert "Invalid set-uuid" in world.post("/task/new/init", headers={"set-uuid": hostile})["error"]


@pytest.mark.parametrize("uuid", ["__proto__", "constructor", "%00", "x" * 5000, "null", "{}"])
def test_uuids_that_are_none(world, uuid):
    for path in ("info", "output", "download/all.zip"):
        assert "not found" in world.get(f"/task/{uuid}/{path}")["error"]
    for action in ("cancel", "remove", "restart"):
        assert world.act(action, uuid)["success"] is False


def test_actions_take_json_too(world):
    task = world.submit()
    assert world.post("/task/cancel", json={"uuid": task}) == {"success": True}
    assert world.post("/task/remove", json={"uuid": task}) == {"success": True}


def test_cloudodms_single_request_has_files_first_and_fields_last(world):
    parts = [
        b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n' + PHOTO + b"\r\n",
        b'--b\r\nContent-Disposition: form-data; name="images"; filename="b.jpg"\r\n\r\n' + PHOTO * 2 + b"\r\n",
        b'--b\r\nContent-Disposition: form-data; name="options"\r\n\r\n[{"name":"split","value":"9"}]\r\n--b--\r\n',
    ]
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    task = world.post("/task/new", content=iter(parts), headers=headers)["uuid"]  # an iterator: sent chunked
    info = world.info(task)
    assert info["status"]["code"] in {10, 20, 40}
    assert info["options"][0] == {"name": "split", "value": 9}
    assert info["imagesCount"] == 2
    world.act("remove", task)


def test_a_request_that_fails_leaves_no_task(world):
    before = len(list((world.data / "jobs").iterdir()))
    assert "error" in world.post("/task/new", {"options": "{"}, files={"images": ("a.jpg", PHOTO)})
    assert len(list((world.data / "jobs").iterdir())) == before


def test_outputs_replace_what_all_zip_holds_and_cannot_leave_the_project(world, script):
    outputs = ["odm_dem", "../../jobs.sqlite", "/etc/passwd", "opensfm/empty", "missing", "images.json", "images.json"]
    seed = io.BytesIO()
    with zipfile.ZipFile(seed, "w") as z:
        z.writestr("opensfm/empty/", b"")
        z.writestr("opensfm/split_merge_stop_at_reconstruction.txt", b"")
        z.writestr(".passel/store/evil", b"x")
    task = world.init(outputs=json.dumps(outputs), skipPostProcessing="true")
    world.upload(task, ("a.jpg", PHOTO), ("seed.zip", seed.getvalue()), ("gcp_list.txt", b"x"))
    world.commit(task)
    assert world.wait_for(task, 40, 30) == 40
    assert world.info(task)["imagesCount"] == 1
    folder = world.job_folder(task) / "output"
    assert (folder / "opensfm" / "split_merge_stop_at_reconstruction.txt").is_file()
    assert not (folder / ".passel" / "store" / "evil").exists()
    names = zipfile.ZipFile(io.BytesIO(world.http.get(f"/task/{task}/download/all.zip").content)).namelist()
    assert names == ["odm_dem/", "odm_dem/dsm.tif", "opensfm/empty/", "images.json"]


def test_a_seed_that_reaches_out_fails_the_task_with_its_reason(world):
    for name in ("../../evil.txt", "/tmp/evil.txt", "a/../../evil"):
        seed = io.BytesIO()
        with zipfile.ZipFile(seed, "w") as z:
            z.writestr(name, b"x")
        task = world.init()
        world.upload(task, ("a.jpg", PHOTO), ("seed.zip", seed.getvalue()))
        world.commit(task)
        world.wait_for(task, 30)
        assert "unsafe name" in world.info(task)["status"]["errorMessage"]
        assert not list(world.data.rglob("evil*"))


def test_opendronemaps_own_client_sees_a_running_task_with_three_lines(world, script, tmp_path):
    script(f"wait {tmp_path / 'go'}")
    task = world.submit()
    for _ in range(20):
        assert world.status(task) == 20, "it takes a task that waits away again"
    world.wait(lambda: len(world.info(task, with_output="-3")["output"]) >= 3)
    assert world.status(task) == 20
    (tmp_path / "go").touch()
    world.wait_for(task, 40)


def test_more_tasks_than_may_run_wait_in_the_queue(world, script, tmp_path):
    script(f"wait {tmp_path / 'go'}")
    tasks = [world.submit() for _ in range(3)]
    world.wait(lambda: [world.status(t) for t in tasks] == [20, 20, 10])
    assert world.get("/info")["taskQueueCount"] == 3
    assert world.act("restart", tasks[2]) == {"success": False, "error": "Task cannot be restarted"}
    world.act("cancel", tasks[0])
    world.wait_for(tasks[2], 20)
    (tmp_path / "go").touch()
    world.wait_for(tasks[2], 40)


def test_cancel_ends_the_driver_and_all_it_started_even_when_deaf(world, script):
    script("deaf", "child", "say here", "wait /nowhere")
    task = world.submit()
    pid = world.driver_pid(task)
    world.wait(lambda: "here" in world.get(f"/task/{task}/output"))
    begun = time.monotonic()
    assert world.act("cancel", task) == {"success": True}
    assert time.monotonic() - begun < 60, "the grace is one second; the rest is this busy machine"
    assert not is_alive(pid)
    assert world.status(task) == 50
    assert world.get(f"/task/{task}/download/all.zip") == {"error": "Asset not ready"}


def test_failures_carry_what_the_driver_said(world, script):
    script("say trying", "end 1 The photos do not overlap")
    task = world.submit()
    assert world.wait_for(task, 30, 40) == 30
    assert world.info(task)["status"] == {"code": 30, "errorMessage": "The photos do not overlap → try again"}
    assert world.get(f"/task/{task}/output")[-1].startswith("error: The photos")


def test_a_driver_that_dies_without_a_word_goes_on(world, script, tmp_path):
    script(f"once {tmp_path / 'died'}", "say second life")
    task = world.submit()
    assert world.wait_for(task, 30, 40) == 40
    assert "second life" in world.get(f"/task/{task}/output")
    script("die 9")
    task = world.submit()
    assert world.wait_for(task, 30, 40) == 30
    assert "without a word" in world.info(task)["status"]["errorMessage"]


def test_a_driver_that_gets_on_may_die_often(world, script, tmp_path):
    script(*(line for i in range(5) for line in (f"step t{i}", f"once {tmp_path / f'died{i}'}")))
    assert world.wait_for(world.submit(), 30, 40) == 40


def test_a_child_that_holds_the_output_open_does_not_hold_up_the_end(world, script):
    script("child")
    assert world.wait_for(world.submit(), 30, 40) == 40


def test_downloads_ranges_and_conditions(world, script):
    task = world.submit()
    world.wait_for(task, 40)
    url = f"/task/{task}/download/all.zip"
    whole = world.http.get(url)
    etag = whole.headers["etag"]
    assert whole.headers["content-type"] == "application/zip"
    assert whole.headers["content-disposition"] == "attachment; filename=all.zip"
    assert whole.headers["accept-ranges"] == "bytes"
    assert int(whole.headers["content-length"]) == len(whole.content)
    size = len(whole.content)
    joined = b""
    for start in range(0, size, 9973):
        part = world.http.get(url, headers={"Range": f"bytes={start}-{start + 9972}", "If-Range": etag})
        assert part.status_code == 206
        assert part.headers["content-range"] == f"bytes {start}-{min(start + 9972, size - 1)}/{size}"
        joined += part.content
    assert joined == whole.content
    assert world.http.get(url, headers={"Range": "bytes=-10"}).content == whole.content[-10:]
    assert world.http.get(url, headers={"Range": f"bytes={size}-"}).status_code == 416
    assert world.http.get(url, headers={"Range": "bytes=0-1,5-6"}).status_code == 200
    assert world.http.get(url, headers={"Range": "bytes=0-1", "If-Range": '"old"'}).status_code == 200
    assert world.http.get(url, headers={"If-None-Match": etag}).status_code == 304
    head = world.http.head(url)
    assert (head.headers["content-length"], head.content) == (str(size), b"")
    ortho = world.http.get(f"/task/{task}/download/orthophoto.tif")
    assert ortho.headers["content-type"] == "image/tiff"
    assert world.http.get(f"/task/{task}/download/odm_dem/dsm.tif").content == b"II*\0 dsm"
    for bad in ("nothing.zip", "..%2f..%2fjobs.sqlite", ".passel", "%2fetc%2fpasswd", "odm_dem", "../options.json"):
        answer = world.http.get(f"/task/{task}/download/{bad}")
        assert "error" in answer.json(), bad


def test_resumable_uploads(world):
    task = world.init()
    photo = PHOTO * 50
    url = f"/task/new/upload/{task}/big%20one.jpg"
    assert world.http.head(url).headers["upload-offset"] == "0"

    def put(start: int, end: int) -> object:
        headers = {"Content-Range": f"bytes {start}-{end - 1}/{len(photo)}"}
        return world.http.put(url, content=photo[start:end], headers=headers)

    assert put(0, 1000).json() == {"success": True, "offset": 1000, "complete": False}
    assert put(500, 2000).status_code == 409, "there is no hole and no overlap"
    assert put(500, 2000).headers["upload-offset"] == "1000"
    with socket.create_connection(("127.0.0.1", world.port)) as line:  # the line breaks in the middle of a piece
        head = f"PUT {url} HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\nContent-Range: bytes 1000-5999/{len(photo)}\r\n\r\n"
        line.sendall(head.encode() + photo[1000:3000])
        line.settimeout(0.3)

        def ended() -> bool:  # it hangs, and only the client knows: a later request ends it
            put(900, 1000)
            with suppress(TimeoutError):
                return b"sent by another request" in line.recv(2000)
            return False

        world.wait(ended)
    have = int(world.http.head(url).headers["upload-offset"])
    assert have in {1000, 3000}
    while True:
        answer = put(have, len(photo))
        if answer.json().get("complete"):
            break
        have = int(world.http.head(url).headers["upload-offset"])
    assert (world.job_folder(task) / "photos" / "big one.jpg").read_bytes() == photo
    assert world.http.head(url).headers["upload-complete"] == "?1"
    whole = f"/task/new/upload/{task}/b.jpg"
    world.http.put(whole, content=b"another b", headers={"Content-Range": "bytes 0-8/2000"})
    assert world.http.put(whole, content=PHOTO).json()["complete"] is True, "the first byte begins anew"
    assert (world.job_folder(task) / "photos" / "b.jpg").read_bytes() == PHOTO
    assert world.commit(task) == {"uuid": task}
    assert world.info(task)["imagesCount"] == 2
    world.act("remove", task)


def test_what_arrived_before_the_line_broke_is_kept(tmp_path):
    async def broken() -> AsyncIterator[bytes]:
        yield b"abc"
        raise ConnectionResetError

    with open(tmp_path / "part", "wb") as file, pytest.raises(ConnectionResetError):
        asyncio.run(_append(file.fileno(), broken(), 10))
    assert (tmp_path / "part").read_bytes() == b"abc"


def test_an_upload_that_breaks_off_is_not_acknowledged_and_leaves_nothing(world):
    task = world.init()
    with socket.create_connection(("127.0.0.1", world.port)) as line:
        head = f"POST /task/new/upload/{task} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n"
        part = '--b\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n'
        line.sendall((head + "Content-Type: multipart/form-data; boundary=b\r\n\r\n" + part).encode() + PHOTO)
        world.wait(lambda: list((world.job_folder(task) / "incoming").iterdir()))
    world.wait(lambda: not list((world.job_folder(task) / "incoming").iterdir()))
    assert world.commit(task) == {"error": "Need at least 1 file."}
    world.act("remove", task)


def test_unknown_paths_and_methods(world):
    assert world.http.get("/nothing/here").json() == {"error": "Cannot handle /nothing/here"}
    assert world.http.get("/nothing/here").status_code == 404
    assert world.http.delete("/info").status_code == 405
    assert "/task/new/upload/{uuid}" in world.get("/openapi.json")["paths"]
    assert world.get("/swagger.json")["info"]["title"] == "Passel"


def test_head_and_a_slash_at_the_end_as_nodeodms_web_framework_takes_them(world, script):
    task = world.init()
    for path in ("/info", "/info/", "/options", "/task/list/", "/auth/info/"):
        got, head = world.http.get(path), world.http.head(path)
        assert (got.status_code, head.status_code, head.content) == (200, 200, b"")
        assert "error" not in got.json()
        assert abs(int(head.headers["content-length"]) - len(got.content)) < 10  # free memory has more or fewer digits
    assert world.http.post(f"/task/new/upload/{task}/", files=[("images", ("a.jpg", PHOTO))]).json()["success"]
    assert world.http.post(f"/task/new/commit/{task}/").json() == {"uuid": task}
    assert world.http.head(f"/task/{task}/info/").status_code == 200


def test_an_empty_file_field_of_a_web_form_is_no_file(world):
    task = world.init(outputs="null")
    edge = b'--e\r\nContent-Disposition: form-data; name="images"; filename="%s"\r\n\r\n%s\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=e"}

    def upload(*parts: tuple[bytes, bytes]) -> dict[str, object]:
        body = b"".join(edge % part for part in parts) + b"--e--\r\n"
        return world.http.post(f"/task/new/upload/{task}", content=body, headers=kind).json()

    assert upload((b"", b"")) == {"error": "Need at least 1 file.", "noRetry": True}
    assert [f["name"] for f in upload((b"", b""), (b"a.jpg", PHOTO))["files"]] == ["a.jpg"]
    assert "cannot be used" in upload((b"", b"bytes"))["error"]


def test_names_that_old_clients_send_in_the_extended_form(world):
    task = world.init()
    head = b'--e\r\nContent-Disposition: form-data; name="images"; %s\r\n\r\nbytes\r\n--e--\r\n'

    def name(parameter: bytes) -> str:
        kind = {"Content-Type": "multipart/form-data; boundary=e"}
        answer = world.http.post(f"/task/new/upload/{task}", content=head % parameter, headers=kind).json()
        return answer["files"][0]["name"]

    assert name(b"filename*=utf-8''%C3%9Cber%20See.jpg") == "Über See.jpg"
    assert name(b"filename*=ISO-8859-1'en'%DCber.jpg") == "Über.jpg"
    assert name(b"filename*=UTF-8''..%2F..%2Fx.jpg") == "x.jpg"
    assert name(b"filename=\"plain.jpg\"; filename*=utf-8''other.jpg") == "plain.jpg"
