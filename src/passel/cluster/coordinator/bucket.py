"""The bucket in which a passel's artifacts may be kept: S3, or what speaks like it, through fsspec's `s3fs`.

PREFIX/PASSEL/JOB/DIGEST/SHA256   a file of an artifact, named by its content: copies of a step never write over each other

Only the coordinator has credentials. Workers get addresses that are signed for one object each. All methods block: call them in a
thread. They raise BucketError when the bucket cannot be used, and LostError when it has not got what it should have.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec
from fsspec.asyn import sync

from passel.cluster.wire.bucket import Upload, Uploaded
from passel.errors import StorageError, UsageError
from passel.pipeline.damage import file_sha256
from passel.pipeline.manifest import ArtifactFile, Manifest
from passel.pipeline.store import is_full_disk, storage_error

LIFETIME_S = 6 * 3600
"""Of a signed address: longer than any transfer, and than a clock is wrong."""
PART_BYTES = 64 * 2**20
_SMALLEST_PART_BYTES = 5 * 2**20
_MOST_PARTS = 10_000
_MOST_DELETED = 1000
_CONNECT_S, _READ_S = 5, 30
for _name in ("s3fs", "fsspec", "botocore", "aiobotocore"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # what they say at lower levels names keys


class BucketError(StorageError):
    """The bucket cannot be used now."""


class LostError(StorageError):
    """The bucket has not got what was put there, or not as it was put there."""


@dataclass(frozen=True)
class BucketPlace:
    """Where artifacts are kept. url: s3://BUCKET/PREFIX. endpoint: of the service, '' for Amazon's. owner: names this passel in it."""

    url: str
    endpoint: str
    owner: str


class ArtifactBucket:
    """The part of a bucket that is this passel's. Safe to use from several threads. Raises UsageError when it cannot be opened."""

    def __init__(self, place: BucketPlace, part_bytes: int = PART_BYTES) -> None:
        scheme, _, path = place.url.partition("://")
        self._bucket, _, prefix = path.strip("/").partition("/")
        if scheme != "s3" or not self._bucket:
            raise UsageError("This is no address of a bucket", place.url, "give it as s3://BUCKET/PREFIX")
        if find_spec("s3fs") is None:
            raise UsageError("The library for S3 is not installed", "s3fs", "install it: pip install 'passel[cloud]'")
        self._root = f"{prefix}/{place.owner}" if prefix else place.owner
        self._part_bytes = max(part_bytes, _SMALLEST_PART_BYTES)
        self._s3: Any = fsspec.filesystem(
            "s3",
            endpoint_url=place.endpoint or None,
            use_listings_cache=False,
            skip_instance_cache=True,
            config_kwargs={
                "signature_version": "s3v4",
                "connect_timeout": _CONNECT_S,
                "read_timeout": _READ_S,
                "retries": {"total_max_attempts": 3, "mode": "standard"},
                # S3 look-alikes do not always know the newer checksums; whoever reads an artifact checks its sha256.
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
            },
        )

    def close(self) -> None:
        """Ends its connections."""
        sync(self._s3.loop, self._s3.s3.close)

    def check(self) -> None:
        """Proves that the bucket can be written, read and cleaned."""
        key = f"{self._root}/passel-check"
        with self._told(key):
            self._s3.call_s3("put_object", Bucket=self._bucket, Key=key, Body=b"passel")
        if self._sizes(key) != {key: 6}:
            raise BucketError("The bucket does not show what was put there", self._said(key), "check the endpoint")
        self._remove_keys([key])

    def url(self, job: str, digest: str) -> str:
        """Where an artifact's files are."""
        return f"s3://{self._bucket}/{self._key(job, digest)}"

    def get_address(self, job: str, digest: str, file: ArtifactFile) -> str:
        """Where a file may be fetched for a while, without credentials."""
        return self._signed(self._key(job, digest, file), "get_object")

    def plan(self, job: str, manifest: Manifest) -> tuple[Upload, ...]:
        """Where the files of an artifact may be put for a while, without credentials."""
        return tuple(self._upload(self._key(job, manifest.digest, f), f) for f in manifest.files)

    def take(self, job: str, manifest: Manifest, uploaded: Sequence[Uploaded]) -> None:
        """Puts parts together and proves that all files of the artifact are there. May be called again."""
        files = {f.name: f for f in manifest.files}
        there = self._sizes(self._key(job, manifest.digest) + "/")
        for done in uploaded:
            file = files.get(done.name)
            if (
                file is None
                or not done.upload_id
                or there.get(self._key(job, manifest.digest, file)) == file.size_bytes
            ):
                continue
            self._join(self._key(job, manifest.digest, file), done)
        self._prove(job, manifest, self._sizes(self._key(job, manifest.digest) + "/"))

    def missing(self, job: str, manifests: Sequence[Manifest]) -> list[str]:
        """The digests of those artifacts of which a file is not there, or not in its size."""
        there = self._sizes(self._key(job) + "/")
        lost = []
        for manifest in manifests:
            try:
                self._prove(job, manifest, there)
            except LostError:
                lost.append(manifest.digest)
        return lost

    def fetch(self, job: str, digest: str, file: ArtifactFile, path: Path) -> None:
        """Brings a file of an artifact here. Raises StorageError, too."""
        key = self._key(job, digest, file)
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._told(key):
            self._s3.get_file(f"{self._bucket}/{key}", str(path))
            sha256 = file_sha256(path)
        if sha256 != file.sha256:
            raise LostError("An object in the bucket is damaged", self._said(key), "it is made again")

    def jobs(self) -> list[str]:
        """The jobs of which there is something, if only an upload that was not finished."""
        found = {key.removeprefix(self._root + "/").partition("/")[0] for key in self._prefixes()}
        found |= {u["Key"].removeprefix(self._root + "/").partition("/")[0] for u in self._unfinished("")}
        return sorted(found)

    def remove(self, job: str) -> None:
        """Removes all of a job. May be called again."""
        for upload in self._unfinished(f"{job}/"):
            with self._told(upload["Key"]):
                self._s3.call_s3(
                    "abort_multipart_upload", Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                )
        self._remove_keys(list(self._sizes(self._key(job) + "/")))

    # ---- keys and objects

    def _key(self, job: str, digest: str = "", file: ArtifactFile | None = None) -> str:
        return "/".join(part for part in (self._root, job, digest, file.sha256 if file else "") if part)

    def _signed(self, key: str, method: str, **more: object) -> str:
        with self._told(key):
            return str(self._s3.sign(f"{self._bucket}/{key}", LIFETIME_S, client_method=method, **more))

    def _upload(self, key: str, file: ArtifactFile) -> Upload:
        part_bytes = self._part_bytes
        while file.size_bytes > part_bytes * _MOST_PARTS:
            part_bytes *= 2
        count = max(1, -(-file.size_bytes // part_bytes))
        if count == 1:
            return Upload(file.name, part_bytes, "", (self._signed(key, "put_object"),))
        with self._told(key):
            upload_id = str(self._s3.call_s3("create_multipart_upload", Bucket=self._bucket, Key=key)["UploadId"])
        numbers = range(1, count + 1)
        urls = tuple(self._signed(key, "upload_part", UploadId=upload_id, PartNumber=n) for n in numbers)
        return Upload(file.name, part_bytes, upload_id, urls)

    def _join(self, key: str, done: Uploaded) -> None:
        parts = [{"PartNumber": n, "ETag": etag} for n, etag in enumerate(done.etags, 1)]
        try:
            with self._told(key):
                self._s3.call_s3(
                    "complete_multipart_upload",
                    Bucket=self._bucket,
                    Key=key,
                    UploadId=done.upload_id,
                    MultipartUpload={"Parts": parts},
                )
        except LostError:  # the same was asked before, or the upload was given up: what is there now tells
            return

    def _prove(self, job: str, manifest: Manifest, there: dict[str, int]) -> None:
        for file in manifest.files:
            key = self._key(job, manifest.digest, file)
            if there.get(key) != file.size_bytes:
                raise LostError("An object is not in the bucket", self._said(key), "it is sent or made again")

    def _sizes(self, prefix: str) -> dict[str, int]:
        """Size of every object below a prefix, by key."""
        return {str(o["Key"]): int(o["Size"]) for page in self._pages(prefix) for o in page.get("Contents", [])}

    def _prefixes(self) -> list[str]:
        pages = self._pages(self._root + "/", Delimiter="/")
        return [str(p["Prefix"]) for page in pages for p in page.get("CommonPrefixes", [])]

    def _pages(self, prefix: str, **more: object) -> Iterator[dict[str, Any]]:
        after: dict[str, object] = {}
        while True:
            with self._told(prefix):
                page = self._s3.call_s3("list_objects_v2", Bucket=self._bucket, Prefix=prefix, **more, **after)
            yield page
            if not page.get("IsTruncated"):
                return
            after = {"ContinuationToken": page["NextContinuationToken"]}

    def _unfinished(self, below: str) -> list[dict[str, Any]]:
        """Uploads in parts that nobody has finished, at most a thousand: what is left comes at the next call."""
        prefix = f"{self._root}/{below}"
        with self._told(prefix):
            found = self._s3.call_s3("list_multipart_uploads", Bucket=self._bucket, Prefix=prefix)
        return list(found.get("Uploads", []))

    def _remove_keys(self, keys: Sequence[str]) -> None:
        for first in range(0, len(keys), _MOST_DELETED):
            some = [{"Key": k} for k in keys[first : first + _MOST_DELETED]]
            with self._told(self._root):
                self._s3.call_s3("delete_objects", Bucket=self._bucket, Delete={"Objects": some, "Quiet": True})

    def _said(self, key: str) -> str:
        return f"s3://{self._bucket}/{key}"

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        """Turns what fsspec and the SDK raise into words without secrets."""
        import aiohttp  # both come with s3fs, which is an option
        from botocore.exceptions import BotoCoreError

        try:
            yield
        except FileNotFoundError as error:
            raise LostError("The bucket has no such thing", self._said(key), "check the bucket's name") from error
        except PermissionError as error:
            todo = "check the keys, their rights and this computer's clock"
            raise BucketError(f"The bucket refuses: {error.strerror or error}", self._said(key), todo) from error
        except (OSError, BotoCoreError, aiohttp.ClientError) as error:
            if is_full_disk(error):  # EIO is what s3fs calls whatever it does not know
                raise storage_error(OSError(error.errno, error.strerror), Path(key)) from error  # type: ignore[union-attr]
            words = f"{type(error).__name__}: {error}"[:300]
            raise BucketError(
                f"The bucket cannot be used: {words}", self._said(key), "check it and the network"
            ) from error
