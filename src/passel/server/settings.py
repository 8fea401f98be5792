"""What the operator decides about the server, as one frozen record; `passel serve` fills it from its flags."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from passel import __version__

API_VERSION = "2.2.4"
"""The version of NodeODM whose API is spoken; clients choose their way of uploading by it."""

MB = 1_000_000
GB = 1_000 * MB


@dataclass(frozen=True)
class TestMode:
    """`--test`: no driver; tasks end at once with small canned products, for authors of clients. As NodeODM's flags.

    seconds: how long a task takes. fail_tasks: all fail. skip_dems, skip_orthophotos: products left out.
    drop_uploads: half of the uploads are answered with HTTP 500.
    """

    __test__ = False  # not a test case, whatever pytest thinks of the name

    seconds: float = 0.0
    fail_tasks: bool = False
    skip_dems: bool = False
    skip_orthophotos: bool = False
    drop_uploads: bool = False


@dataclass(frozen=True)
class Limits:
    """Bounds that keep one client, honest or not, from taking the server down.

    max_images: photos a task, None = any number. max_task_bytes: all of them together, None = any. max_file_bytes: one upload
    or download. max_unzipped_bytes,
    max_zip_members: of a seed.zip or zipurl. max_field_bytes: one form field or JSON body. disk_floor_bytes: free space
    below which no upload is accepted. max_uploads_a_owner: tasks in upload at once. max_tasks_a_owner: waiting or
    running at once. max_connections: open sockets; more are dropped. idle_s: a body that stops arriving is given up.
    wrong_tokens_a_minute: from one address; more are refused unread.
    """

    max_images: int | None = None
    max_task_bytes: int | None = None
    max_file_bytes: int = 200 * GB
    max_unzipped_bytes: int = 500 * GB
    max_zip_members: int = 100_000
    max_field_bytes: int = MB
    max_fields: int = 1000
    disk_floor_bytes: int = GB
    max_uploads_a_owner: int = 1000
    max_tasks_a_owner: int = 100_000
    max_connections: int = 4000
    idle_s: float = 60.0
    wrong_tokens_a_minute: int = 30


@dataclass(frozen=True)
class ServerSettings:
    """data: folder of the database and all jobs. parallel_jobs: drivers at once. cleanup_tasks_after_s,
    cleanup_uploads_after_s: ended tasks and unfinished uploads older than this are removed; 0 = never. webhook: called for
    every task, '' = none; it is the operator's, so it may lead anywhere. max_concurrency: cores a job may ask for, 0 = any.
    max_runtime_s: a task whose driver runs longer fails, 0 = none does. allow_private_urls: zipurl, urls and webhooks of
    clients may point into the local network. buckets: prefixes like s3://surveys/ from which clients may have photos
    fetched with the server's credentials. host_names: public names of this server, so that one without tokens can tell
    them from foreign names that point at it. limits_of: of an owner (a token's name), None = `limits` for all. test: None, or
    canned tasks.
    """

    data: Path
    parallel_jobs: int = 2
    cleanup_tasks_after_s: float = 2880 * 60.0
    cleanup_uploads_after_s: float = 2880 * 60.0
    max_runtime_s: float = 0.0
    webhook: str = ""
    max_concurrency: int = 0
    allow_private_urls: bool = False
    buckets: tuple[str, ...] = ()
    host_names: frozenset[str] = frozenset()
    test: TestMode | None = None
    limits: Limits = field(default_factory=Limits)
    limits_of: Callable[[str], Limits] | None = None
    engine: str = "passel"
    engine_version: str = __version__

    def limits_for(self, owner: str) -> Limits:
        """The limits of an owner."""
        return self.limits if self.limits_of is None else self.limits_of(owner)

    @property
    def jobs(self) -> Path:
        """A folder for each job."""
        return self.data / "jobs"

    @property
    def trash(self) -> Path:
        """Folders being deleted; emptied at every start."""
        return self.data / "trash"
