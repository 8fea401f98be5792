"""Results in a bucket, against moto's S3."""

from __future__ import annotations

import hashlib
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from passel.fleet.config import Results
from passel.fleet.results import BucketError, ResultsBucket
from passel.fleet.secret import Secret

PART = 5 * 2**20  # S3's smallest


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    made = ThreadedMotoServer(port=0, verbose=False)
    made.start()
    host, port = made.get_host_and_port()
    yield f"http://{host}:{port}"
    made.stop()


@pytest.fixture
def results(server: str, request: pytest.FixtureRequest) -> Results:
    name = "b" + hashlib.md5(request.node.name.encode(), usedforsecurity=False).hexdigest()
    made = Results(Secret("key-id"), Secret("the-s3-secret"), server, name, "us-east-1", prefix="surveys")
    _client(made).create_bucket(Bucket=name)
    return made


def _client(results: Results):  # type: ignore[no-untyped-def]
    return boto3.client(
        "s3",
        aws_access_key_id="key-id",
        aws_secret_access_key="the-s3-secret",
        endpoint_url=results.endpoint,
        region_name="us-east-1",
    )


@pytest.fixture
def products(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "report.pdf").write_bytes(b"a small report")
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "ortho.tif").write_bytes(bytes(range(256)) * (11 * 2**12))  # 11 MiB: three parts
    return {"odm_report/report.pdf": tmp_path / "report.pdf", "empty.txt": tmp_path / "empty.txt",
            "odm_orthophoto/odm_orthophoto.tif": tmp_path / "ortho.tif"}  # fmt: skip


def test_sent_checked_and_fetched_by_a_signed_address(results: Results, products: dict[str, Path]) -> None:
    bucket = ResultsBucket(results, PART)
    bucket.check()
    progress: list[int] = []
    stored = bucket.upload("job-1", products, progress.append)
    total = sum(p.stat().st_size for p in products.values())
    assert sum(s.sent_bytes for s in stored) == sum(progress) == total
    for asset, path in products.items():
        address = bucket.address("job-1", asset)
        assert "the-s3-secret" not in address
        with urllib.request.urlopen(address) as answer:
            assert answer.read() == path.read_bytes()
            assert Path(asset).name in answer.headers["content-disposition"]
    grants = _client(results).get_object_acl(Bucket=results.bucket, Key="surveys/job-1/empty.txt")["Grants"]
    assert all("URI" not in g["Grantee"] for g in grants), "private"
    assert sum(s.sent_bytes for s in bucket.upload("job-1", products)) == 0, "twice sends nothing"


def test_a_kill_in_between_is_gone_on_from(results: Results, products: dict[str, Path]) -> None:
    """The parts that arrived are not sent again; an unfinished upload of other content is given up."""
    client, asset = _client(results), "odm_orthophoto/odm_orthophoto.tif"
    key, content = f"surveys/job-1/{asset}", products[asset].read_bytes()
    stale = client.create_multipart_upload(Bucket=results.bucket, Key=key)["UploadId"]
    client.upload_part(Bucket=results.bucket, Key=key, UploadId=stale, PartNumber=1, Body=b"old" * PART)
    begun = client.create_multipart_upload(
        Bucket=results.bucket, Key=key, Metadata={"sha256": hashlib.sha256(content).hexdigest()}
    )["UploadId"]
    client.upload_part(Bucket=results.bucket, Key=key, UploadId=begun, PartNumber=1, Body=content[:PART])
    (stored,) = ResultsBucket(results, PART).upload("job-1", {asset: products[asset]})
    assert stored.sent_bytes == len(content) - PART
    assert "Uploads" not in client.list_multipart_uploads(Bucket=results.bucket)
    assert client.get_object(Bucket=results.bucket, Key=key)["Body"].read() == content


def test_a_changed_file_is_sent_again(results: Results, products: dict[str, Path]) -> None:
    bucket, asset = ResultsBucket(results, PART), "odm_report/report.pdf"
    bucket.upload("job-1", {asset: products[asset]})
    products[asset].write_bytes(b"A small report")
    (stored,) = bucket.upload("job-1", {asset: products[asset]})
    assert stored.sent_bytes == 14
    assert bucket.has("job-1", asset)
    assert not bucket.has("job-1", "other")


def test_what_arrives_damaged_is_noticed(
    results: Results, products: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, asset = ResultsBucket(results, PART), "odm_report/report.pdf"
    bucket.upload("job-1", {asset: products[asset]})
    head = bucket._client.head_object
    monkeypatch.setattr(bucket._client, "head_object", lambda **k: head(**k) | {"ETag": '"damaged"', "Metadata": {}})
    with pytest.raises(BucketError, match="something else than what was sent"):
        bucket.upload("job-1", {asset: products[asset]})


def test_removed_with_everything(results: Results, products: dict[str, Path]) -> None:
    bucket, client = ResultsBucket(results, PART), _client(results)
    bucket.upload("job-1", products)
    bucket.upload("job-10", {"empty.txt": products["empty.txt"]})
    client.create_multipart_upload(Bucket=results.bucket, Key="surveys/job-1/unfinished")
    bucket.remove("job-1")
    bucket.remove("job-1")
    left = [o["Key"] for o in client.list_objects_v2(Bucket=results.bucket)["Contents"]]
    assert left == ["surveys/job-10/empty.txt"]
    assert "Uploads" not in client.list_multipart_uploads(Bucket=results.bucket)


def test_public_results_have_plain_addresses(results: Results, products: dict[str, Path]) -> None:
    bucket = ResultsBucket(replace(results, acl="public-read"), PART)
    bucket.upload("job-1", {"odm_report/report.pdf": products["odm_report/report.pdf"]})
    address = bucket.address("job-1", "odm_report/report.pdf")
    assert "?" not in address
    with urllib.request.urlopen(address) as answer:
        assert answer.read() == b"a small report"


def test_trouble_is_told_without_secrets(results: Results, products: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(BucketError, match="NoSuchBucket") as caught:
        ResultsBucket(replace(results, bucket="nobodys-bucket")).check()
    assert "the-s3-secret" not in str(caught.value)
    with pytest.raises(ClientError):
        _client(results).head_bucket(Bucket="nobodys-bucket")
    with pytest.raises(Exception, match="A product cannot be read"):
        ResultsBucket(results).upload("job-1", {"x": tmp_path / "missing"})
