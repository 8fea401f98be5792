"""Which job is next, and which are due for removal: pure functions over all jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from passel.server.jobs import ENDED, Job, State


def next_job(jobs: Iterable[Job], last_start: Mapping[str, int], busy: frozenset[str] = frozenset()) -> Job | None:
    """The queued job that starts now.

    Owners with fewer running jobs go first, so that nobody waits behind another's hundred jobs; among equals the one who
    started longest ago (`last_start`: owner → a number that rises with each start). Within an owner: priority, then age.
    A job that a crash cut off goes on before the owner's others. busy: jobs that something works on already.
    """
    jobs = list(jobs)
    running = Counter(j.owner for j in jobs if j.state in {State.RUNNING, State.ZIPPING} or j.uuid in busy)
    waiting = [(i, j) for i, j in enumerate(jobs) if j.state is State.QUEUED and j.uuid not in busy]
    if not waiting:
        return None

    def rank(entry: tuple[int, Job]) -> tuple[int, int, int, bool, int]:
        i, j = entry
        return running[j.owner], last_start.get(j.owner, -1), -j.order.priority, j.started_ms is None, i

    return min(waiting, key=rank)[1]


def expired(jobs: Iterable[Job], now_ms: int, tasks_s: float, uploads_s: float) -> list[Job]:
    """Ended tasks and unfinished uploads that nobody touched for longer than these times (0 = kept for ever)."""

    def is_old(job: Job) -> bool:
        keep_s = uploads_s if job.state is State.UPLOADING else tasks_s if job.state in ENDED else 0
        return bool(keep_s) and now_ms - job.touched_ms > 1000 * keep_s

    return [j for j in jobs if is_old(j)]
