"""Artifacts of which the coordinator has only the manifest: their files are in a bucket, and come here when somebody here reads them.

The truth is in the job's store (`Store.commit_away`): written after the bucket has proven that it has all files, so a death at
any moment leaves at worst objects that nobody refers to, and those go with their job.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar
from weakref import WeakValueDictionary

from passel.cluster.coordinator.bucket import ArtifactBucket, BucketError, LostError
from passel.cluster.full_disk import FullDisk
from passel.cluster.wire.bucket import BucketCommit, BucketPlan
from passel.errors import PasselError
from passel.pipeline.manifest import ArtifactFile, Manifest
from passel.pipeline.store import Store

_AT_ONCE = 8
_REST_S = 30.0
"""After trouble with the bucket new artifacts go to the coordinator for so long."""
_log = logging.getLogger("passel.coordinator")
Result = TypeVar("Result")


class NoBucketError(PasselError):
    """Send it to the coordinator: there is no bucket, or it is not used for this job, or not now."""


class Away:
    """For one event loop. bucket: None when none is used; what earlier runs left in one is then lost.

    on_lost(job, digest) is called when an artifact has to be made again.
    """

    def __init__(self, bucket: ArtifactBucket | None, on_lost: Callable[[str, str], None]) -> None:
        self._bucket, self._on_lost = bucket, on_lost
        self._threads = ThreadPoolExecutor(_AT_ONCE, "bucket") if bucket is not None else None
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._distrusted: set[str] = set()
        self._rests_until_s = 0.0

    @property
    def in_use(self) -> bool:
        return self._bucket is not None

    def has_lost(self, job: str) -> bool:
        """Whether the bucket has lost something of this job."""
        return job in self._distrusted

    def close(self) -> None:
        """Waits for nothing: what is under way is done again at the next start."""
        if self._threads is not None and self._bucket is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._bucket.close()

    async def plan(self, job: str, manifest: Manifest) -> BucketPlan:
        """Where the files of an artifact may be put. Raises NoBucketError."""
        if self._bucket is None or self.has_lost(job) or time.monotonic() < self._rests_until_s:
            raise NoBucketError("No bucket is used now", job)
        try:
            return BucketPlan(await self._aside(partial(self._bucket.plan, job, manifest)))
        except (BucketError, LostError) as error:
            raise self._resting(error) from error

    async def take(self, job: str, store: Store, manifest: Manifest, commit: BucketCommit) -> None:
        """Notes an artifact that was put into the bucket. Raises LostError when it is not there, NoBucketError, StorageError."""
        if self._bucket is None:
            raise NoBucketError("No bucket is used now", job)
        try:
            await self._aside(partial(self._bucket.take, job, manifest, commit.uploaded))
        except BucketError as error:
            raise self._resting(error) from error
        await asyncio.to_thread(store.commit_away, manifest, self._bucket.url(job, manifest.digest))

    async def address(self, job: str, digest: str, file: ArtifactFile, kept_at: str) -> str:
        """A signed address of a file, '' when it is not in the bucket that is used now."""
        if self._bucket is None or self._bucket.url(job, digest) != kept_at:
            return ""
        return await self._aside(partial(self._bucket.get_address, job, digest, file))

    async def bring(self, job: str, store: Store, disk: FullDisk, digest: str) -> None:
        """Fetches the files into the store, if they are not here. Raises LostError, BucketError, StorageError.

        disk: the store's. While it is full nothing is fetched: a bucket's bytes cost money, and would come again and again.
        """
        async with self._locks.setdefault((job, digest), asyncio.Lock()):
            kept_at = await asyncio.to_thread(store.away_at, digest)
            if not kept_at:
                return
            try:
                await self._fetch(job, store, disk, digest, kept_at)
            except LostError as error:
                await self._lost(job, store, digest, error)
                raise

    async def remove_unwanted(self, is_wanted: Callable[[str], bool]) -> None:
        """Removes what is in the bucket of jobs that are no more. is_wanted: whether a job still has a store."""
        if self._bucket is None:
            return
        try:
            for job in await self._aside(self._bucket.jobs):
                if not is_wanted(job):
                    await self._aside(partial(self._bucket.remove, job))
                    _log.info("job %s: its artifacts are removed from the bucket", job)
        except (BucketError, LostError) as error:
            _log.warning("what is no longer needed stays in the bucket for now: %s", error)

    async def _fetch(self, job: str, store: Store, disk: FullDisk, digest: str, kept_at: str) -> None:
        bucket = self._bucket
        if bucket is None or bucket.url(job, digest) != kept_at:
            raise LostError("An artifact is in a bucket that is not used now", kept_at, "it is made again")
        manifest = store.manifest(digest)

        def fetch() -> None:
            with store.aside(digest) as aside:
                for file in manifest.files:
                    bucket.fetch(job, digest, file, aside.files / file.name)
                store.commit_received(aside, manifest)

        with disk.watched(manifest.size_bytes):
            await self._aside(fetch)

    async def _lost(self, job: str, store: Store, digest: str, error: LostError) -> None:
        """The artifact is forgotten, with all others of the job that are not there, and new ones of the job stay here."""
        _log.warning("job %s: %s; its artifacts stay with the coordinator from now on", job, error)
        self._distrusted.add(job)
        others = [m for m in await asyncio.to_thread(store.away) if m.digest != digest]
        gone = [digest]
        try:
            if self._bucket is not None:
                gone += await self._aside(partial(self._bucket.missing, job, others))
        except BucketError as trouble:
            _log.warning("job %s: whether more is lost is not known: %s", job, trouble)
        for one in gone:
            await asyncio.to_thread(store.drop, one, True)
            self._on_lost(job, one)

    def _resting(self, error: PasselError) -> NoBucketError:
        if time.monotonic() > self._rests_until_s:
            _log.warning("artifacts go to the coordinator for a while: %s", error)
        self._rests_until_s = time.monotonic() + _REST_S
        return NoBucketError(error.what, error.where, error.todo)

    async def _aside(self, work: Callable[[], Result]) -> Result:
        """In the threads for the bucket: a slow one must not hold up those that read disks."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
