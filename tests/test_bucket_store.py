"""Artifacts in a bucket, on a real S3 server process and real workers: whatever the bucket does, the results are the same."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from bucket_world import BUCKET, KEY, SECRET, Line, bucket_line
from machines import Drive, Machines, undisturbed, until
from passel.cluster.coordinator.bucket import ArtifactBucket, BucketError, BucketPlace, LostError
from passel.cluster.coordinator.incoming import manifest_of
from passel.cluster.driver.passel_executor import CoordinatorLostError, JobLink, PasselExecutor
from passel.cluster.wire.bucket import Uploaded
from passel.cluster.wire.workers import WireError
from passel.commands.serve import options_of
from passel.errors import UsageError
from passel.pipeline.events import Artifact
from passel.pipeline.executor import Workplace, ignore_events
from passel.pipeline.host import run_step
from passel.pipeline.manifest import Manifest, manifest_to_json
from passel.pipeline.messages import Request
from passel.pipeline.step import Step
from passel.pipeline.store import Store
from passel.serving.bucket import artifact_bucket
from runs import TINY_OPTIONS, command, digests
from serving import running, said, serve_words
from step_functions import step

PART = 5 * 2**20  # S3's smallest
PATIENCE_S = 1800.0  # a survey takes as long as it takes: the machine may be busy


@pytest.fixture(scope="module")
def server() -> Iterator[Line]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        with bucket_line() as line:
            yield line


@pytest.fixture
def line(server: Line) -> Line:
    server.clear()
    return server


@pytest.fixture
def bucket(line: Line) -> Iterator[ArtifactBucket]:
    with closing(ArtifactBucket(BucketPlace(f"s3://{BUCKET}/pre/fix", line.url, "passel-1"), PART)) as made:
        yield made


def made(tmp_path: Path, value: int = 3) -> tuple[Store, Manifest]:
    """An artifact of `value` MB."""
    answer = run_step(Request(step("large_file", value=value), (), tmp_path / "made", tmp_path / "log"))
    return Store(tmp_path / "made"), answer.manifest


def put(url: str, body: bytes) -> str:
    request = urllib.request.Request(url, body, {"Content-Type": "application/octet-stream"}, method="PUT")
    with urllib.request.urlopen(request) as answer:
        return str(answer.headers["ETag"])


def put_all(bucket: ArtifactBucket, store: Store, manifest: Manifest) -> list[Uploaded]:
    """As a worker does it."""
    uploaded = []
    for upload in bucket.plan("job-1", manifest):
        content = (store.path(manifest.digest) / upload.name).read_bytes()
        pieces = [content[n * upload.part_bytes : (n + 1) * upload.part_bytes] for n in range(len(upload.urls))]
        etags = tuple(put(url, piece) for url, piece in zip(upload.urls, pieces, strict=True))
        uploaded.append(Uploaded(upload.name, upload.upload_id, etags))
    return uploaded


# ---- the bucket alone


def test_files_go_there_in_parts_are_proven_fetched_and_removed(bucket, line, tmp_path):
    store, manifest = made(tmp_path, value=12)
    bucket.check()
    with pytest.raises(LostError):
        bucket.take("job-1", manifest, [])
    uploaded = put_all(bucket, store, manifest)
    assert [len(u.etags) for u in uploaded] == [3, 1]
    with pytest.raises(LostError):
        bucket.take("job-1", manifest, [])  # the parts are not put together yet
    bucket.take("job-1", manifest, uploaded)
    bucket.take("job-1", manifest, uploaded)  # the coordinator died before it noted it
    assert bucket.missing("job-1", [manifest]) == []
    assert line.objects() == sorted(f"pre/fix/passel-1/job-1/{manifest.digest}/{f.sha256}" for f in manifest.files)
    large = manifest.files[0]
    content = (store.path(manifest.digest) / large.name).read_bytes()
    with urllib.request.urlopen(bucket.get_address("job-1", manifest.digest, large)) as answer:
        assert answer.read() == content
    bucket.fetch("job-1", manifest.digest, large, tmp_path / "new" / "got")
    assert (tmp_path / "new" / "got").read_bytes() == content
    bucket.plan("job-2", manifest)  # begun, and nobody goes on with it
    assert bucket.jobs() == ["job-1", "job-2"]
    for job in ("job-1", "job-2", "job-2"):
        bucket.remove(job)
    assert bucket.jobs() == line.objects() == []


def test_what_is_damaged_or_gone_is_noticed(bucket, line, tmp_path):
    store, manifest = made(tmp_path)
    bucket.take("job-1", manifest, put_all(bucket, store, manifest))
    large = manifest.files[0]
    key = next(k for k in line.objects() if k.endswith(large.sha256))
    line.client().put_object(Bucket=BUCKET, Key=key, Body=b"x" * large.size_bytes)
    with pytest.raises(LostError, match="damaged"):
        bucket.fetch("job-1", manifest.digest, large, tmp_path / "got")
    line.client().delete_object(Bucket=BUCKET, Key=key)
    with pytest.raises(LostError):
        bucket.fetch("job-1", manifest.digest, large, tmp_path / "got")
    assert bucket.missing("job-1", [manifest]) == [manifest.digest]


def test_bad_addresses_and_refusals_are_told_without_secrets(bucket, line, monkeypatch):
    for url in ("https://x/y", "s3://", "bucket"):
        with pytest.raises(UsageError, match="no address of a bucket"):
            ArtifactBucket(BucketPlace(url, line.url, "p"))
    with (
        closing(ArtifactBucket(BucketPlace("s3://nobody-made-this", line.url, "p"))) as nobodys,
        pytest.raises((BucketError, LostError), match="bucket"),
    ):
        nobodys.check()
    line.fault = lambda request: 403
    with pytest.raises(BucketError, match="refuses") as refused:
        bucket.check()
    monkeypatch.setattr("passel.cluster.coordinator.bucket._CONNECT_S", 1)
    with (
        closing(ArtifactBucket(BucketPlace(f"s3://{BUCKET}", "http://127.0.0.1:9", "p"))) as gone,
        pytest.raises(BucketError, match="cannot be used") as away,
    ):
        gone.check()
    assert not any(word in str(e.value) for e in (refused, away) for word in (SECRET, KEY))


def test_a_bucket_that_asks_to_slow_down_is_asked_again(bucket, line):
    refusals = [503, 503]
    line.fault = lambda request: refusals.pop() if refusals else None
    bucket.check()
    assert not refusals


# ---- the store


def test_artifacts_that_are_away_count_only_where_they_can_be_brought(tmp_path):
    store, manifest = made(tmp_path)
    asked = []
    here = Store(tmp_path / "there")
    here.create()
    there = Store(here.root, asked.append)
    there.commit_away(manifest, "s3://b/x")
    assert (here.find(manifest.digest), there.find(manifest.digest)) == (None, manifest)
    assert there.away_at(manifest.digest) == "s3://b/x"
    assert [m.digest for m in there.away()] == [manifest.digest]
    bring = there.bring_of(manifest.digest)
    assert bring is not None
    bring(manifest.digest)
    assert asked == [manifest.digest]
    with here.aside(manifest.digest) as aside:  # it was made here, or brought
        shutil.copytree(store.path(manifest.digest), aside.files, dirs_exist_ok=True)
        there.commit_received(aside, manifest)
    assert here.find(manifest.digest) == there.find(manifest.digest) == manifest
    assert there.bring_of(manifest.digest) is None
    assert here.verify(manifest.digest) == []
    there.commit_away(manifest, "s3://b/x")  # too late: the first one counts
    assert not there.drop(manifest.digest, only_away=True)
    assert here.has(manifest.digest)


def test_a_lost_artifact_is_forgotten_and_so_are_those_of_stages_to_be_made_again(tmp_path):
    _, manifest = made(tmp_path)
    store = Store(tmp_path / "there", lambda digest: None)
    store.create()
    store.commit_away(manifest, "s3://b/x")
    assert store.drop(manifest.digest, only_away=True)
    assert store.find(manifest.digest) is None
    store.commit_away(manifest, "s3://b/x")
    assert Store(store.root).forget(lambda m: m.stage == "test") == 1
    assert store.find(manifest.digest) is None


# ---- a passel with a bucket


@pytest.fixture
def machines(tmp_path: Path, line: Line, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    monkeypatch.setenv("LEASE_S", "3")
    found = Machines(tmp_path)
    found.data.mkdir()
    (found.data / "bucket").write_text(f"s3://{BUCKET}/pre {line.url}")
    found.start_coordinator()
    with pytest.MonkeyPatch.context() as patch:  # workers have no credentials
        for name in [n for n in os.environ if n.startswith("AWS_")]:
            patch.delenv(name)
        for name in ("one", "two"):
            found.worker(name)
    yield found
    found.close()


def steps_of(folder: Path, seconds: float = 0.0) -> list[Step]:
    """Four that leave 2 to 5 MB each, three that mix them, one over all."""

    def noted(function: str, name: str, **more: object) -> Step:
        return step(function, name, marker=str(folder / f"{name}.runs"), seconds=seconds, **more)

    first = [noted("large_file", f"a{i}", value=2 + i) for i in range(4)]
    pairs = [(0, 1), (2, 3), (0, 3)]
    second = [noted("mix_large", f"b{i}", after=(first[a], first[b]), stage="second") for i, (a, b) in enumerate(pairs)]
    return [*first, *second, noted("mix_large", "all", after=tuple(second), stage="third")]


def contents(drive: Drive) -> dict[str, tuple[str, ...]]:
    """The content of every artifact, wherever its files are; those in the bucket have been looked at by nobody here."""
    found = {}
    for outcome in drive.done().values():
        manifest = outcome.manifest
        found[f"{manifest.stage} {manifest.name}"] = tuple(f.sha256 for f in manifest.files)
    return found


def expected(folder: Path) -> dict[str, tuple[str, ...]]:
    """The same of an undisturbed run on one machine."""
    return undisturbed(steps_of(folder / "plain"), folder / "plain")


def runs(folder: Path, name: str) -> int:
    return len((folder / f"{name}.runs").read_text().split())


def held(drive: Drive) -> int:
    """Bytes in the coordinator's store."""
    return sum(p.stat().st_size for p in drive.store.root.rglob("*") if p.is_file())


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, ...]]:
    return expected(tmp_path_factory.mktemp("truth"))


def made_so_far(drive: Drive) -> list[str]:
    """Names of the steps whose artifacts the coordinator knows."""
    return [m.name for m in Store(drive.store.root, lambda digest: None).away()]


def test_artifacts_go_by_the_bucket_and_the_coordinator_has_only_manifests(machines, line, tmp_path, truth):
    drive = Drive(machines, steps_of(tmp_path))
    assert contents(drive) == truth, machines.story()
    assert len(made_so_far(drive)) == 8, machines.story()
    assert held(drive) < 100_000
    put_bytes = sum(2 + i for i in range(4)) * 10**6 + 3 * 2 * 10**6 + 3 * 10**6
    assert put_bytes <= line.bytes_of("PUT") < 1.01 * put_bytes
    assert SECRET not in machines.story()
    assert "X-Amz-Signature" not in machines.story()
    brought = drive.outcomes[steps_of(tmp_path)[-1].digest]
    assert brought.manifest.size_bytes == 3 * 10**6


def test_the_coordinator_is_killed_between_the_bucket_and_its_note(machines, line, tmp_path, truth):
    arrived = threading.Event()

    def note(request: web.Request) -> None:
        if request.method == "PUT" and "X-Amz-Signature" in request.query:
            arrived.set()
            if machines.coordinator.poll() is None:
                machines.coordinator.kill()

    line.fault = note
    drive = Drive(machines, steps_of(tmp_path))
    assert arrived.wait(60)
    line.fault = lambda request: None
    machines.kill_coordinator()
    machines.start_coordinator()
    assert contents(drive) == truth, machines.story()
    assert len(made_so_far(drive)) == 8, machines.story()


def test_artifacts_that_the_bucket_has_lost_are_made_again(machines, line, tmp_path, truth):
    steps = steps_of(tmp_path, seconds=0.5)
    drive = Drive(machines, steps)
    until(lambda: {"a0", "a3"} <= set(made_so_far(drive)))
    for worker in machines.workers:  # what they have in their caches would do
        worker.kill()
        shutil.rmtree(worker.cache)
    damaged, deleted = (
        next(k for k in line.objects() if s.digest in k and line.size(k) > 10**6) for s in (steps[0], steps[3])
    )
    line.client().put_object(Bucket=BUCKET, Key=damaged, Body=b"x" * line.size(damaged))
    line.client().delete_object(Bucket=BUCKET, Key=deleted)
    for name in ("three", "four"):
        machines.worker(name)
    assert contents(drive) == truth, machines.story()
    assert runs(tmp_path, "a0") >= 2
    assert runs(tmp_path, "a3") >= 2


@pytest.mark.parametrize("how", ["stumbles", "refuses", "away"])
def test_a_bucket_in_trouble_costs_nothing_but_time(machines, line, tmp_path, truth, how):
    asked = itertools.count()

    def stumble(request: web.Request) -> int | str | None:
        """Every other request of workers."""
        return (None, 503, None, "cut")[next(asked) % 4] if "X-Amz-Signature" in request.query else None

    if how == "stumbles":
        line.fault = stumble
    elif how == "refuses":
        line.clock_ahead_s = 7 * 3600.0  # every address is over when it is used
    else:
        line.fault = lambda request: "cut"
    drive = Drive(machines, steps_of(tmp_path))
    assert contents(drive) == truth, machines.story()
    assert [runs(tmp_path, s.name) for s in steps_of(tmp_path)] == [1] * 8
    assert bool(made_so_far(drive)) == (how == "stumbles"), machines.story()


def test_what_the_driver_reads_is_brought_and_what_is_lost_then_sends_it_round_again(machines, line, tmp_path):
    steps = [step("large_file", name, value=2 + n) for n, name in enumerate(("good", "lost"))]
    place = Workplace(Store(tmp_path / "job" / "store"), tmp_path / "job" / "logs")
    link = JobLink(machines.data / "driver.sock", "job")
    with PasselExecutor(place, link, lambda capacity: None) as executor:
        good, lost = (executor.run(steps, ignore_events)[s.digest] for s in steps)
        assert isinstance(good, Artifact)
        assert isinstance(lost, Artifact)
        assert not (good.folder / "large.bin").exists()
        assert (good.path / "large.bin").stat().st_size == 2 * 10**6
        assert good.path == good.folder
        assert place.store.verify(good.manifest.digest) == []
        for key in (k for k in line.objects() if lost.manifest.digest in k):
            line.client().delete_object(Bucket=BUCKET, Key=key)
        with pytest.raises(CoordinatorLostError):
            _ = lost.path
    with PasselExecutor(place, link, lambda capacity: None) as executor:
        again = executor.run(steps, ignore_events)[steps[1].digest]
        assert isinstance(again, Artifact)
        assert (again.path / "large.bin").stat().st_size == 3 * 10**6
        assert again.folder.exists(), "the job leaves the bucket alone now"


def test_names_that_would_lead_elsewhere_are_refused(tmp_path):
    _, manifest = made(tmp_path)
    for sha256 in ("../" * 20 + "x", "A" * 64, ""):
        bad = replace(manifest, files=(replace(manifest.files[0], sha256=sha256),))
        with pytest.raises(WireError):
            manifest_of(manifest_to_json(bad).encode(), manifest.digest)


def test_the_command_line_says_what_is_wrong(line, tmp_path, caplog):
    def bucket_of(url: str, endpoint: str) -> ArtifactBucket | None:
        words = ("--data", str(tmp_path), "--artifact-store", url, "--artifact-store-endpoint", endpoint)
        return artifact_bucket(options_of(words), "f" * 64)

    assert bucket_of("", "") is None
    for url in ("/folder", "s3://nobody-made-this"):
        with pytest.raises(UsageError, match="bucket"):
            bucket_of(url, line.url)
    line.fault = lambda request: 403
    kept = bucket_of(f"s3://{BUCKET}", line.url)
    assert kept is not None
    kept.close()
    assert "until the bucket can be used" in caplog.text
    assert SECRET not in caplog.text


# ---- all of it, as users start it


def test_a_survey_with_the_bucket_is_the_same_map_and_what_it_left_there_goes_with_the_task(
    line, tmp_path, tiny_survey, tiny_map
):
    bucket = ["--artifact-store", f"s3://{BUCKET}/pre", "--artifact-store-endpoint", line.url]
    words, port, workers_port = serve_words(tmp_path / "data", *bucket)
    address = f"http://127.0.0.1:{port}"
    join = command(["join", f"https://127.0.0.1:{workers_port}", "--name", "second", "--home", str(tmp_path / "w")])
    with running(words, tmp_path / "serve.log") as serve:
        serve.wait_for("ready")
        token = said("token", "create", "--join", "--data", str(tmp_path / "data")).stdout.split()[0]
        with running(join, tmp_path / "join.log", PASSEL_JOIN_TOKEN=token) as worker:
            worker.wait_for("threads")
            run = ["run", str(tiny_survey[0]), "--output", str(tmp_path / "map"), *TINY_OPTIONS, "--cluster", address]
            done = subprocess.run(command(run), capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert done.returncode == 0, done.stderr
        (job,) = (tmp_path / "data" / "jobs").iterdir()
        assert digests(job / "output") == digests(tiny_map)
        assert line.objects()
        assert not any(SECRET in p.read_text() for p in tmp_path.glob("*.log"))
        httpx.post(f"{address}/task/remove", json={"uuid": job.name}, trust_env=False).raise_for_status()
        serve.kill()
    with running(words, tmp_path / "again.log"):
        until(lambda: not line.objects())
