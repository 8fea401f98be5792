"""What `serving/` gives the coordinator of `--artifact-store`: the bucket, and the cleaning of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from passel.cluster.coordinator.bucket import ArtifactBucket, BucketError, BucketPlace, LostError
from passel.cluster.coordinator.coordinator import Coordinator
from passel.errors import UsageError
from passel.pipeline.job import Project
from passel.serving.options import ServeOptions

_CLEAN_EVERY_S = 300.0
_log = logging.getLogger("passel.serve")


def artifact_bucket(options: ServeOptions, fingerprint: str) -> ArtifactBucket | None:
    """The bucket of `--artifact-store`, in which each passel has a folder of its own. Raises UsageError when it cannot be meant.

    One that cannot be used now, and may be again, is told and kept: until then artifacts go to the coordinator.
    """
    if not options.artifact_store or options.is_test:
        return None
    place = BucketPlace(options.artifact_store, options.artifact_endpoint, f"passel-{fingerprint[:16]}")
    bucket = ArtifactBucket(place)
    try:
        bucket.check()
    except LostError as error:
        bucket.close()
        raise UsageError(error.what, error.where, "make the bucket, or correct --artifact-store") from error
    except BucketError as error:
        _log.warning("artifacts go to this computer until the bucket can be used: %s", error)
    return bucket


@asynccontextmanager
async def bucket_kept_clean(coordinator: Coordinator, output_of: Callable[[str], Path]) -> AsyncIterator[None]:
    """Until the end of the block: what the bucket holds of jobs that were removed, or cleaned up, goes. output_of: a job's folder."""

    async def keep() -> None:
        while True:
            await coordinator.clean_bucket(lambda job: Project(output_of(job)).store.is_dir())
            await asyncio.sleep(_CLEAN_EVERY_S)

    keeping = asyncio.create_task(keep())
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
