"""`passel status`, `passel workers`, `passel drain`: looking after a passel that runs, here or elsewhere."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from passel.cluster.coordinator.admin import Overview
from passel.cluster.coordinator.admin_client import AdminClient
from passel.cluster.coordinator.data_folder import DataFolder
from passel.cluster.coordinator.status import JobStatus, WorkerStatus
from passel.cluster.trust.join import WORKERS_PORT, Unreachable
from passel.cluster.trust.roster import Member, Roster
from passel.cluster.trust.tokens import AccessBook, Tokens
from passel.commands.arguments import (
    CommandParser,
    default_data,
    folder,
    own_command,
    token_of_environment,
    with_data,
)
from passel.commands.table import memory_text, short, table, time_text
from passel.errors import UsageError

_WHERE = """Without options: the passel of this user on this computer. On another computer: --url and an API token.
"""


def status(words: tuple[str, ...]) -> int:
    """What the passel does."""
    parser = _parser("status", "Show what a passel does: workers, steps, jobs, pace, time left.\n" + _WHERE)
    given = parser.parse_args(words)
    seen = _client(given).overview()
    print(json.dumps(asdict(seen), indent=1) if given.json else overview_text(seen, _where(given)))
    return 0


def workers(words: tuple[str, ...]) -> int:
    """The workers; or shut one out."""
    parser = _parser(
        "workers", "List the workers of a passel, or shut one out for good: passel workers revoke NAME\n" + _WHERE
    )
    parser.add_argument("action", nargs="?", choices=("list", "revoke"), default="list")
    parser.add_argument("name", nargs="?", default="", metavar="NAME")
    given = parser.parse_args(words)
    if (given.action == "revoke") != bool(given.name):
        raise UsageError("name the worker to shut out", todo="passel workers revoke NAME")
    if given.action == "revoke":
        return _revoke(given)
    seen = _client(given).overview()
    if given.json:
        print(
            json.dumps(
                {"workers": asdict(seen.passel)["workers"], "members": [asdict(m) for m in seen.members]}, indent=1
            )
        )
    else:
        print(workers_text(seen))
    return 0


def drain(words: tuple[str, ...]) -> int:
    """No new steps for a worker."""
    about = "Give a worker no new steps; what runs there is finished. --undo gives it steps again.\n" + _WHERE
    parser = _parser("drain", about)
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--undo", action="store_true", help="give it steps again")
    given = parser.parse_args(words)
    done = _client(given).drain(given.name, not given.undo)
    print(json.dumps(asdict(done)) if given.json else f"{given.name} {done.text}.")
    return 0


def overview_text(seen: Overview, where: str = "") -> str:
    """The passel in a screenful. where: what further commands need to find it."""
    running = sum(len(w.running) for w in seen.passel.workers)
    waiting = sum(j.waiting for j in seen.passel.jobs)
    lines = [
        f"{seen.name}: Passel {seen.version}, up {time_text(seen.uptime_s)}",
        f"{running} running, {waiting} waiting; {seen.steps_a_minute:g} a minute"
        + (f"; all done in about {time_text(seen.rest_s)}" if seen.rest_s is not None else ""),
        *_nobody_takes_steps(seen, where),
        *(f"! the disk of {w.name} is full: it waits for room" for w in seen.passel.workers if w.state == "full"),
        "",
        workers_text(seen),
        "",
        _jobs_text(seen),
    ]
    return "\n".join(lines)


def _nobody_takes_steps(seen: Overview, where: str) -> list[str]:
    """Why the jobs' steps wait, when there is nobody to give them to."""
    states = {w.state for w in seen.passel.workers} - {"lost"}
    if not seen.passel.jobs or states & {"working", "idle"}:
        return []
    if not states:
        return ["! no worker is connected: the steps wait for one (passel join)"]
    if states == {"draining"}:
        undo = f"{own_command()} drain NAME --undo{where}"
        return [f"! every worker is draining: no new steps begin ({undo} gives one steps again)"]
    return ["! no worker takes steps: those that are not draining have no room"]


def workers_text(seen: Overview) -> str:
    """A line for each worker, and for those that joined but are away."""
    rows = [_worker_row(w) for w in seen.passel.workers]
    here = {w.name for w in seen.passel.workers}
    rows += [_member_row(m) for m in seen.members if m.name not in here]
    if not rows:
        return "no workers yet: passel join"
    heads = ("worker", "state", "steps", "cores", "memory for steps", "free disk", "done", "now")
    return table(heads, rows)


def _worker_row(worker: WorkerStatus) -> tuple[str, ...]:
    now = [f"{r.stage} {r.name} ({time_text(r.seconds) if r.seconds is not None else r.phase})" for r in worker.running]
    shown = ", ".join(now[:2]) + (f" and {len(now) - 2} more" if len(now) > 2 else "")
    return (
        worker.name,
        worker.state,
        str(len(worker.running)),
        f"{worker.used_threads} of {worker.slots.cpus}",
        f"{memory_text(worker.used_memory_mb)} of {memory_text(worker.slots.memory_mb)}",
        memory_text(worker.machine.disk_free_mb),
        str(worker.steps_done),
        shown,
    )


def _member_row(member: Member) -> tuple[str, ...]:
    joined = datetime.fromtimestamp(member.joined_s).strftime("joined %Y-%m-%d")
    return (member.name, "revoked" if member.revoked else "away", "", "", "", "", "", joined)


def _jobs_text(seen: Overview) -> str:
    if not seen.jobs:
        return "no jobs"
    live = {j.job: j for j in seen.passel.jobs}
    rows = [
        (
            short(j.name) or j.uuid, j.state, str(j.photos), f"{j.progress:g} %", time_text(j.rest_s) if j.rest_s is not None else "",
            _queue_text(live.get(j.uuid)),
        )
        for j in seen.jobs
    ]  # fmt: skip
    return table(("job", "state", "photos", "progress", "left", "steps"), rows)


def _queue_text(job: JobStatus | None) -> str:
    if job is None:
        return ""
    queue = ", ".join(f"{q.stage} {q.waiting}" for q in job.queue)
    return f"{job.made} made, {job.running} run" + (f", waiting: {queue}" if queue else "")


def _revoke(given: argparse.Namespace) -> int:
    """Through the coordinator, so that it counts at once; in its files when it does not run."""
    try:
        _client(given).revoke(given.name)
    except Unreachable:
        paths = DataFolder(given.data or default_data())
        if given.url or not paths.access.is_file():
            raise
        book = AccessBook(paths.access)
        try:
            Roster(book, Tokens(book, "")).revoke(given.name)
        finally:
            book.close()
    print(f"{given.name} is shut out for good.")
    return 0


def _where(given: argparse.Namespace) -> str:
    return f" --url {given.url}" if given.url else with_data(given.data)


def _client(given: argparse.Namespace) -> AdminClient:
    if given.url:
        if given.data is not None:
            raise UsageError("--url and --data contradict each other", todo="give one of them")
        if given.url.startswith("http://"):
            todo = f"give the workers' port: --url https://{urlsplit(given.url).hostname or 'HOST'}:{WORKERS_PORT}"
            raise UsageError("this is the address for browsers and clients", given.url, todo)
        return AdminClient.at(given.url, given.token or token_of_environment("PASSEL_API_TOKEN"))
    data: Path = given.data or default_data()
    return AdminClient.here(data)


def _parser(command: str, about: str) -> argparse.ArgumentParser:
    parser = CommandParser(command, about)
    parser.add_argument("--data", type=folder, metavar="DIR", help="data folder of a coordinator on this computer")
    parser.add_argument("--url", default="", metavar="URL", help="workers' port of a coordinator: https://HOST:3001")
    parser.add_argument("--token", default="", metavar="T", help="with --url: an API token, or in PASSEL_TOKEN")
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser
