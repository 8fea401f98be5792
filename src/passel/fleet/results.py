"""Finished products in a bucket: private unless the fleet file says otherwise, sent in parts, resumed, checked by digest.

The bucket itself remembers how far an upload came: after a kill the next attempt finds the parts that are there, sends
only the others, and skips files that are complete.
"""

from __future__ import annotations

import base64
import hashlib
import mimetypes
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from passel.errors import PasselError, StorageError
from passel.fleet.config import Results

_PART_BYTES = 16 * 2**20
_MOST_PARTS = 10_000
_MISSING = {"404", "NoSuchKey", "NotFound", "NoSuchUpload"}


class BucketError(StorageError):
    """The bucket cannot be used, or did not keep what was sent."""


@dataclass(frozen=True)
class Stored:
    """A file in the bucket."""

    key: str
    size_bytes: int
    sha256: str
    sent_bytes: int
    """What had to be sent this time; 0 when it was there already."""


class ResultsBucket:
    """The bucket of a fleet file. Safe to use from several threads and to run again after any failure."""

    def __init__(self, results: Results, part_bytes: int = _PART_BYTES) -> None:
        self._results = results
        self._part_bytes = part_bytes
        endpoint = results.endpoint
        self._endpoint = endpoint if "://" in endpoint else f"https://{endpoint}"
        self._client: Any = boto3.client(
            "s3",
            aws_access_key_id=results.access_key.value or None,
            aws_secret_access_key=results.secret_key.value or None,
            endpoint_url=self._endpoint,
            region_name=results.region or _region_in(endpoint) or "us-east-1",
            verify=results.verify_tls,
            config=Config(
                retries={"total_max_attempts": 5, "mode": "standard"},
                connect_timeout=10,
                read_timeout=120,
                # S3 look-alikes know Content-MD5, which we send ourselves, but not always the newer checksums.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def check(self) -> None:
        """Proves that the bucket can be written and cleaned. Raises BucketError."""
        key = self.key("passel-check", "probe.txt")
        with self._told(key):
            self._client.put_object(Bucket=self._results.bucket, Key=key, Body=b"passel", **self._access())
            self._client.delete_object(Bucket=self._results.bucket, Key=key)

    def key(self, job: str, asset: str) -> str:
        """Where an asset of a job is: PREFIX/JOB/ASSET, as ClusterODM's redirects expect."""
        return "/".join(part for part in (self._results.prefix, job, asset) if part)

    def upload(
        self, job: str, files: Mapping[str, Path], on_bytes: Callable[[int], None] = lambda _: None
    ) -> tuple[Stored, ...]:
        """Sends files (asset name → file) and checks what arrived. Raises BucketError; what is done stays done."""
        return tuple(self._upload_one(self.key(job, asset), path, on_bytes) for asset, path in sorted(files.items()))

    def has(self, job: str, asset: str) -> bool:
        """True when the asset is there in full. Raises BucketError when that cannot be known."""
        return self._head(self.key(job, asset)) is not None

    def address(self, job: str, asset: str, lifetime_s: int = 3600) -> str:
        """Where a client may fetch an asset: signed and for a while, or for ever when results are public."""
        key = self.key(job, asset)
        if self._results.acl.startswith("public-read"):
            return f"{self._endpoint}/{self._results.bucket}/{quote(key)}"
        wanted = {
            "Bucket": self._results.bucket,
            "Key": key,
            "ResponseContentDisposition": f'attachment; filename="{Path(asset).name}"',
        }
        with self._told(key):
            return str(self._client.generate_presigned_url("get_object", Params=wanted, ExpiresIn=lifetime_s))

    def remove(self, job: str) -> None:
        """Removes all assets of a job, and uploads of them that were not finished. May be called again."""
        prefix = self.key(job, "") + "/"
        bucket = self._results.bucket
        with self._told(prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                for found in page.get("Contents", []):
                    self._client.delete_object(Bucket=bucket, Key=found["Key"])
            for upload in self._unfinished(prefix):
                self._client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])

    # --- one file

    def _upload_one(self, key: str, path: Path, on_bytes: Callable[[int], None]) -> Stored:
        file = _measure(path, self._part_bytes)
        there = self._head(key)
        if there is not None and there["Metadata"].get("sha256") == file.sha256 and there["ContentLength"] == file.size:
            on_bytes(file.size)
            return Stored(key, file.size, file.sha256, 0)
        with self._told(key):
            sent = (
                self._send_whole(key, file, on_bytes) if len(file.md5s) <= 1 else self._send_parts(key, file, on_bytes)
            )
        there = self._head(key)
        if there is None or there["ContentLength"] != file.size or not _same(there, file):
            raise BucketError(
                "The bucket holds something else than what was sent", key, "try again, or look at the bucket"
            )
        return Stored(key, file.size, file.sha256, sent)

    def _send_whole(self, key: str, file: _Measured, on_bytes: Callable[[int], None]) -> int:
        body = file.path.read_bytes()
        self._client.put_object(
            Bucket=self._results.bucket,
            Key=key,
            Body=body,
            ContentMD5=base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode(),
            **self._wishes(file),
        )
        on_bytes(len(body))
        return len(body)

    def _send_parts(self, key: str, file: _Measured, on_bytes: Callable[[int], None]) -> int:
        """Goes on with an unfinished upload of the same file when there is one."""
        bucket = self._results.bucket
        upload_id, there = self._resumable(key, file)
        if not upload_id:
            upload_id = self._client.create_multipart_upload(Bucket=bucket, Key=key, **self._wishes(file))["UploadId"]
        sent, parts = 0, []
        for number, md5 in enumerate(file.md5s, 1):
            size = min(file.part_bytes, file.size - (number - 1) * file.part_bytes)
            etag = f'"{md5.hex()}"'
            if there.get(number) != etag:
                answer = self._client.upload_part(
                    Bucket=bucket,
                    Key=key,
                    UploadId=upload_id,
                    PartNumber=number,
                    Body=_part(file, number),
                    ContentMD5=base64.b64encode(md5).decode(),
                )
                etag = answer["ETag"]
                sent += size
            parts.append({"PartNumber": number, "ETag": etag})
            on_bytes(size)
        self._client.complete_multipart_upload(
            Bucket=bucket, Key=key, UploadId=upload_id, MultipartUpload={"Parts": parts}
        )
        return sent

    def _resumable(self, key: str, file: _Measured) -> tuple[str, dict[int, str]]:
        """The unfinished upload whose parts fit this file best, and its parts. Others of the key are given up."""
        bucket = self._results.bucket
        best: tuple[str, dict[int, str]] = ("", {})
        for upload in self._unfinished(key):
            pages = self._client.get_paginator("list_parts").paginate(
                Bucket=bucket, Key=key, UploadId=upload["UploadId"]
            )
            there = {int(p["PartNumber"]): str(p["ETag"]) for page in pages for p in page.get("Parts", [])}
            fits = all(n <= len(file.md5s) and tag == f'"{file.md5s[n - 1].hex()}"' for n, tag in there.items())
            if fits and len(there) > len(best[1]):
                best = (upload["UploadId"], there)
        for upload in self._unfinished(key):
            if upload["UploadId"] != best[0]:
                self._client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload["UploadId"])
        return best

    def _unfinished(self, prefix: str) -> list[Any]:
        pages = self._client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self._results.bucket, Prefix=prefix
        )
        whole = not prefix.endswith("/")
        return [u for page in pages for u in page.get("Uploads", []) if not whole or u["Key"] == prefix]

    def _head(self, key: str) -> Any:
        """What the bucket says of a key, None when it has none."""
        with self._told(key):
            try:
                return self._client.head_object(Bucket=self._results.bucket, Key=key)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in _MISSING:
                    return None
                raise

    def _wishes(self, file: _Measured) -> dict[str, Any]:
        kind = mimetypes.guess_type(file.path.name)[0] or "application/octet-stream"
        return {"Metadata": {"sha256": file.sha256}, "ContentType": kind} | self._access()

    def _access(self) -> dict[str, str]:
        return {} if self._results.acl == "none" else {"ACL": self._results.acl}

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        """Turns the SDK's errors into words without secrets."""
        where = f"{self._results.bucket}/{key}"
        try:
            yield
        except ClientError as error:
            said = error.response.get("Error", {})
            todo = "check the bucket's name, its keys and their rights (s3 in the fleet file), then try again"
            raise BucketError(
                f"The bucket refuses: {said.get('Code')} {said.get('Message', '')}", where, todo
            ) from error
        except BotoCoreError as error:
            todo = "check the endpoint and the network, then try again: what arrived is not sent again"
            raise BucketError(f"The bucket cannot be reached: {type(error).__name__}", where, todo) from error


@dataclass(frozen=True)
class _Measured:
    path: Path
    size: int
    sha256: str
    part_bytes: int
    md5s: tuple[bytes, ...]
    """Of each part, in order."""


def _measure(path: Path, part_bytes: int) -> _Measured:
    """Reads the file once: its digest and those of its parts. The part size depends on the file's size only."""
    try:
        size = path.stat().st_size
        while size > part_bytes * _MOST_PARTS:
            part_bytes *= 2
        whole, md5s = hashlib.sha256(), []
        with path.open("rb") as file:
            while part := file.read(part_bytes):
                whole.update(part)
                md5s.append(hashlib.md5(part, usedforsecurity=False).digest())
    except OSError as error:
        raise PasselError(f"A product cannot be read: {error.strerror}", str(path), "check the disk") from error
    return _Measured(path, size, whole.hexdigest(), part_bytes, tuple(md5s))


def _part(file: _Measured, number: int) -> bytes:
    with file.path.open("rb") as opened:
        opened.seek((number - 1) * file.part_bytes)
        return opened.read(file.part_bytes)


def _same(there: Mapping[str, Any], file: _Measured) -> bool:
    """Does the bucket's own digest say that it holds this file? Encryption with a managed key hides it; size must do then."""
    if there.get("ServerSideEncryption") == "aws:kms":
        return True
    if len(file.md5s) <= 1:
        expected = (file.md5s[0] if file.md5s else hashlib.md5(b"", usedforsecurity=False).digest()).hex()
    else:
        joined = hashlib.md5(b"".join(file.md5s), usedforsecurity=False).hexdigest()
        expected = f"{joined}-{len(file.md5s)}"
    return str(there.get("ETag", "")).strip('"') == expected


def _region_in(endpoint: str) -> str:
    """s3.us-west-2.amazonaws.com and s3.fr-par.scw.cloud name their region; nyc3.digitaloceanspaces.com needs none."""
    words = endpoint.rpartition("://")[2].split(".")
    return words[1] if len(words) > 3 and words[0] == "s3" else ""
