"""What a worker and the coordinator say to each other about an artifact that goes into the bucket. JSON, as all of the wire.

POST /v1/jobs/{job}/artifacts/{digest}/bucket  the manifest → BucketPlan; 404 when there is no bucket, or it cannot be used now
PUT to the plan's addresses                    straight into the bucket
POST /v1/jobs/{job}/artifacts/{digest}/kept    BucketCommit; 422 when the bucket has not got all of it: send it to the coordinator
GET  /v1/jobs/{job}/artifacts/{digest}/{name}  307 to a signed address, with the content's sha256 as ETag; with ?here the coordinator
                                               fetches the artifact itself and answers as for any other; 410: lost, made again
POST /v1/jobs/{job}/artifacts/{digest}/here    the coordinator fetches it, for a worker that sees its disk
"""

from __future__ import annotations

from dataclasses import dataclass

from passel.cluster.wire.workers import artifact_path

WORTH_BYTES = 2**20
"""Smaller artifacts go to the coordinator: they cost its link little, and the driver reads many of them."""


@dataclass(frozen=True)
class Upload:
    """Where a file goes: whole with one PUT, or in parts of `part_bytes`. upload_id: of an upload in parts, '' when whole."""

    name: str
    part_bytes: int
    upload_id: str
    urls: tuple[str, ...]


@dataclass(frozen=True)
class BucketPlan:
    """Where an artifact's files go."""

    uploads: tuple[Upload, ...]


@dataclass(frozen=True)
class Uploaded:
    """A file that went there. etags: of its parts, as the bucket answered."""

    name: str
    upload_id: str = ""
    etags: tuple[str, ...] = ()


@dataclass(frozen=True)
class BucketCommit:
    """All files are in the bucket. manifest: its JSON text."""

    manifest: str
    uploaded: tuple[Uploaded, ...]


def plan_path(job: str, digest: str) -> str:
    """POST: where may it go?"""
    return artifact_path(job, digest, "bucket")


def kept_path(job: str, digest: str) -> str:
    """POST: it is there."""
    return artifact_path(job, digest, "kept")


def here_path(job: str, digest: str) -> str:
    """POST: bring it to the coordinator's disk."""
    return artifact_path(job, digest, "here")
