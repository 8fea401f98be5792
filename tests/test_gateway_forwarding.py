"""The gateway with real processes: nodes that die, forget, double and cancel; a coordinator that is killed."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

from pyodm import Node as PyNode

from gateway_world import Fake, Front, PasselNode, digests, photos, running, submit


def product(front: Front, task: str) -> dict[str, str]:
    """Digests of the photos that the map was made of, as the node wrote them into the results."""
    packed = front.http.get(f"/task/{task}/download/all.zip").content
    with zipfile.ZipFile(io.BytesIO(packed)) as zipped:
        return json.loads(zipped.read("odm_orthophoto/odm_orthophoto.tif")[4:])


def outcomes(front: Front, task: str) -> list[str]:
    return [a.outcome for a in front.attempts(task)]


def has_begun(node: Fake, count: int = 1) -> bool:
    return len(node.journal("began")) >= count


def test_nodes_die_and_the_coordinator_too(tmp_path):
    """One task meets a node that dies, a coordinator that dies while photos are sent, and one that dies while a node works."""
    keep = tmp_path / "keep"
    keep.touch()
    a = Fake(tmp_path / "a", keep=str(keep), max_images=100)
    b = Fake(tmp_path / "b", keep=str(keep), upload_seconds=0.3)
    files = photos("x", 12)
    with running(tmp_path / "front", a, b, silent_s=1.0) as front:
        front.online(a, b)
        task = submit(front, files)
        front.wait(lambda: has_begun(a))  # the smaller one
        a.kill()
        front.wait(lambda: 3 <= len(list(b.folder.glob("task-*/*"))) < 12)
        front.kill()
        front.start()
        # Photos that were on their way are doubled on such a node: it is taken back, and sent anew.
        front.wait(lambda: any(r["digests"] == digests(files) for r in b.journal("began")))
        assert front.status(task) == 20
        front.kill()
        front.start()
        keep.unlink()
        assert front.wait_for(task, 40, 30) == 40
        (row,) = b.journal("completed")
        assert row["digests"] == digests(files) == product(front, task)
        assert sum(r["digests"] == digests(files) for r in b.journal("began")) == 1
        first, *_, last = front.attempts(task)
        assert (first.node, first.blamed, last.outcome) == (f"127.0.0.1:{a.port}", True, "done")
        # The first node comes back with nothing; what the book says was left there is settled.
        a.start()
        a.ready()
        front.wait(lambda: all(at.cleaned for at in front.attempts(task)))


def test_a_node_that_comes_back_with_the_task_has_it_again(tmp_path):
    """It is away for less than anybody's patience; nothing runs twice."""
    node = PasselNode(tmp_path / "node", seconds=2.0)
    with running(tmp_path / "front", node, silent_s=60.0) as front:
        front.online(node)
        task = submit(front, photos("x", 3))
        front.wait(lambda: node.get(f"/task/{task}/info").get("status", {}).get("code") == 20)
        node.kill()
        front.wait(lambda: any("waiting for it" in line for line in front.info(task, with_output=0)["output"]))
        node.start()
        assert front.wait_for(task, 40, 30) == 40
        assert outcomes(front, task) == ["done"]


def test_doubled_photos_unclear_commits_and_failures(tmp_path):
    """A node that hangs up after it stored a photo would have it twice: such a task is taken back and sent anew."""
    doubling = Fake(tmp_path / "doubling", drop=7, doubt=1)
    files = photos("x", 8)
    with running(tmp_path / "front", doubling) as front:
        front.online(doubling)
        task = submit(front, files)
        assert front.wait_for(task, 40, 30) == 40
        assert product(front, task) == digests(files)
        assert outcomes(front, task) == ["sent anew", "done"]


def test_what_a_node_says_about_a_failure_reaches_the_client(tmp_path):
    small = Fake(tmp_path / "small", max_images=100, fail="Not enough memory")
    large = Fake(tmp_path / "large", memory=64 << 30, fail="Cannot process dataset")
    with running(tmp_path / "front", small, large) as front:
        front.online(small, large)
        task = submit(front, photos("x", 2))
        assert front.wait_for(task, 40, 30) == 30
        assert "Cannot process dataset [node 127.0.0.1" in front.info(task)["status"]["errorMessage"]
        assert [a.node for a in front.attempts(task)] == [f"127.0.0.1:{n.port}" for n in (small, large)]


def test_cancel_and_restart_reach_the_node(tmp_path):
    keep = tmp_path / "keep"
    keep.touch()
    node = Fake(tmp_path / "node", keep=str(keep))
    with running(tmp_path / "front", node, url="http://front:3000") as front:
        front.online(node)
        task = submit(front, photos("x", 2), options='[{"name": "split", "value": 50}, {"name": "dsm", "value": true}]')
        front.wait(lambda: has_begun(node))
        # With one slot, the parts of a split task could never come back to it.
        assert any("works on all parts" in line for line in front.info(task, with_output=0)["output"])
        assert front.act("cancel", task) == {"success": True}
        front.wait(lambda: node.get("/task/list") == [])
        keep.unlink()
        front.act("restart", task, options='[{"name": "dtm", "value": true}]')
        assert front.wait_for(task, 40, 30) == 40
        began = node.journal("began")
        assert [r["uuid"] == task for r in began] == [True, False]
        front.wait(lambda: all(a.cleaned for a in front.attempts(task)))
        front.act("remove", task)
        assert node.get("/task/list") == []


def test_the_exact_calls_of_opendronemaps_split_merge(tmp_path):
    """opendm/remote.py: seed.zip, touch files, outputs, RUNNING after the commit, three lines of output, remove at the end."""
    node = Fake(tmp_path / "node", seconds=0.3, slots=2)
    project = tmp_path / "submodel"
    stop = "opensfm/split_merge_stop_at_reconstruction.txt"
    seed_names = ["opensfm/exif/a.json", "opensfm/camera_models.json", stop, "opensfm/matches/empty"]
    files = photos("x", 4)
    project.mkdir()
    for name, content in files.items():
        (project / name).write_bytes(content)
    (project / "gcp_list.txt").write_text("EPSG:4326\n")
    with zipfile.ZipFile(project / "seed.zip", "w") as zipped:
        for name in seed_names:
            zipped.writestr(name, "" if name.endswith(("empty", "txt")) else "{}")
    outputs = ["opensfm/features", "opensfm/reconstruction.json", "odm_report"]
    options = {"split": 100, "matcher-neighbors": 8, "dsm": True, "orthophoto-resolution": 5.0}
    with running(tmp_path / "front", node, url="http://front:3000") as front:
        front.online(node)
        client = PyNode("127.0.0.1", front.port)
        assert client.info().max_parallel_tasks > 0
        sent = [str(p) for p in sorted(project.iterdir())]
        task = client.create_task(sent, options, outputs=outputs, skip_post_processing=True)
        assert task.info().status.value in {20, 40}
        task.wait_for_completion(interval=0.2)
        assert len(task.info(with_output=-3).output) == 3
        task.download_assets(str(tmp_path / "back"))
        assert (tmp_path / "back" / "opensfm" / "features" / "empty").read_bytes() == b""
        fields = json.loads((tmp_path / "back" / "odm_report" / "fields.json").read_text())
        told = {o["name"]: o["value"] for o in json.loads(fields["options"])}
        assert told == {**options, "sm-cluster": "http://front:3000/?token=of-"}
        assert fields["skipPostProcessing"] == "true"
        assert json.loads(fields["outputs"]) == outputs
        seed = json.loads((tmp_path / "back" / "odm_report" / "seed.json").read_text())
        assert set(seed_names) <= set(seed)
        assert set(node.journal("began")[0]["digests"]) == {*files, "gcp_list.txt", "seed.zip"}
        assert task.remove()


def test_liars_are_isolated_and_named(tmp_path):
    liars = {
        "html": Fake(tmp_path / "html", lie="html", max_images=50),
        "json": Fake(tmp_path / "json", lie="json", max_images=50),
        "huge": Fake(tmp_path / "huge", lie="huge", max_images=50),
        "late": Fake(tmp_path / "late", lie="huge", lie_at="task", max_images=50),
        "zip": Fake(tmp_path / "zip", lie="html", lie_at="zip", max_images=50),
        "token": Fake(tmp_path / "token", token="secret", max_images=50),
    }
    honest = Fake(tmp_path / "honest")
    with running(tmp_path / "front", *liars.values(), honest, silent_s=1.0) as front:
        front.online(honest, liars["late"], liars["zip"])
        files = photos("x", 3)
        task = submit(front, files)
        assert front.wait_for(task, 40, 30) == 40
        assert product(front, task) == digests(files)
        assert front.attempts(task)[-1].node == f"127.0.0.1:{honest.port}"

        def troubles() -> dict[str, str]:
            book = front.book
            found = {name: book.node(liar.url).trouble for name, liar in liars.items()}
            book.close()
            return found

        front.wait(lambda: all(troubles().values()))
        told = troubles()
        assert "no JSON but" in told["html"]
        assert "is no text" in told["json"]
        assert "larger than" in told["huge"]
        assert "larger than" in told["late"]
        assert "results cannot be used" in told["zip"]
        assert "token" in told["token"]


def test_what_a_token_may_do(tmp_path):
    """Who makes its maps is its policy's to say, then the task's, then the server's."""
    policy = tmp_path / "policy.json"
    tokens = {"big": {"engine": "odm"}, "own": {"engine": "passel"}, "free": {}}
    policy.write_text(json.dumps({"tokens": tokens}))
    node = Fake(tmp_path / "node")
    owners = {f"{name}-token": name for name in tokens}
    asked = [("big", "passel"), ("own", "odm"), ("free", "passel"), ("free", "odm"), ("free", "auto")]
    with running(tmp_path / "front", node, policy=str(policy), tokens=owners, engine="passel") as front:
        front.online(node)
        ran = []
        for name, engine in asked:
            token, before = f"{name}-token", len(node.journal("completed"))
            options = json.dumps([{"name": "engine", "value": engine}])
            task = submit(front, photos(f"{name}-{engine}", 2), token, options=options)
            assert front.wait_for(task, 40, 30, token=token) == 40
            ran.append(len(node.journal("completed")) - before)
        assert ran == [1, 0, 0, 1, 0]
        row = next(o for o in front.get("/options", token="free-token") if o["name"] == "engine")
        assert row["domain"] == ["auto", "passel", "odm"]


def test_what_a_token_may_not_do_is_refused_while_it_is_sent(tmp_path):
    policy, keep = tmp_path / "policy.json", tmp_path / "keep"
    keep.touch()
    allowed = {"small": {"maxImages": 2, "maxSizeMb": 1, "maxConcurrentTasks": 1}}
    policy.write_text(json.dumps({"tokens": allowed}))
    node = Fake(tmp_path / "node", keep=str(keep))
    owners = {"t": "small", "u": "anybody"}
    with running(tmp_path / "front", node, policy=str(policy), tokens=owners, engine="odm") as front:
        front.online(node)
        assert front.get("/info", token="t")["maxImages"] == 2
        task = front.init("t")
        files = list(photos("x", 3).items())
        assert front.upload(task, *files[:2], ("gcp_list.txt", b"EPSG:4326"), token="t")["success"]
        assert "Max images count exceeded" in front.upload(task, files[2], token="t")["error"]
        large = front.init("t")
        half = ("half.jpg", b"1" * 600_000)
        assert front.upload(large, half, token="t")["success"]
        again = front.upload(large, ("other.jpg", b"2" * 600_000), token="t")["error"]
        assert "1 MB a task are allowed" in again
        assert "too large" in front.upload(large, ("huge.jpg", b"3" * 1_100_000), token="t")["error"]
        assert front.commit(task, "t") == {"uuid": task}
        refused = front.http.post("/task/new/init", params={"token": "t"}, files={"name": (None, "x")}).json()["error"]
        assert "1 tasks wait or run" in refused
        assert submit(front, photos("y", 3), "u")
        keep.unlink()
        assert front.wait_for(task, 40, 30, token="t") == 40


def test_nodes_never_needed(tmp_path: Path):
    """Without nodes the server tells the truth and works by itself; with --engine odm it says what is missing."""
    with running(tmp_path / "front") as front:
        assert front.get("/info")["engine"] == "passel"
        assert len(front.get("/options")) > 50
        assert front.wait_for(submit(front, photos("x", 1)), 40, 30) == 40
    with running(tmp_path / "odm", engine="odm") as front:
        task = submit(front, photos("x", 1))
        assert front.wait_for(task, 40, 30) == 30
        assert "there are no nodes; add one with `passel node add`" in front.info(task)["status"]["errorMessage"]
