"""The list of jobs when another version of Passel, another program or a bad disk was at it."""

from __future__ import annotations

import asyncio
import errno
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from passel.databases import database_error
from passel.errors import StorageError
from passel.server import job_store
from passel.server.job_store import Call, JobStore
from passel.server.jobs import Job, Order, State

NAMES = ("first", "second", "third")


def written(file: Path) -> Path:
    """Three done jobs, the first of which owes a call."""

    async def write() -> None:
        store = JobStore(file)
        jobs = [Job(name, "", Order(name, 1), State.COMPLETED, 0) for name in NAMES]
        await store.write(*jobs)
        await store.end(jobs[0], [Call("first", "http://example.org", "{}", 5)])
        store.close()

    asyncio.run(write())
    return file


def change_row(file: Path, uuid: str, change: Callable[[str], str]) -> None:
    with closing(sqlite3.connect(file)) as base:
        (body,) = base.execute("SELECT body FROM jobs WHERE uuid=?", (uuid,)).fetchone()
        base.execute("UPDATE jobs SET body=? WHERE uuid=?", (change(body), uuid))
        base.commit()


def read(file: Path) -> tuple[list[Job], list[str]]:
    """The jobs, and the addresses that are owed a call."""
    store = JobStore(file)
    calls = asyncio.run(store.calls())
    store.close()
    return list(store.all()), [c.url for c in calls]


def with_more(body: str) -> str:
    fields = json.loads(body)
    order = {**fields["order"], "carbon_budget": 7}
    return json.dumps({**fields, "order": order, "mood": "good"})


def in_another_state(body: str) -> str:
    return body.replace('"completed"', '"levitating"')


def test_what_a_later_version_added_is_passed_over(tmp_path):
    file = written(tmp_path / "jobs.sqlite")
    before = read(file)
    change_row(file, "second", with_more)
    assert read(file) == before
    assert not list(tmp_path.glob("*damaged*"))


@pytest.mark.parametrize("change", [in_another_state, lambda body: body[1:], lambda _: "[]", lambda _: '{"order": 5}'])
def test_one_row_that_cannot_be_read_costs_nothing_else(tmp_path, caplog, change):
    file = written(tmp_path / "jobs.sqlite")
    change_row(file, "second", change)
    for _ in range(2):
        jobs, owed = read(file)
        assert [j.uuid for j in jobs] == ["first", "third"]
        assert owed == ["http://example.org"]
    assert "Job second in the list cannot be read" in caplog.text
    change_row(file, "second", lambda body: json.dumps({"kept": change(body)}))  # it is still there, for that version


def told(file: Path) -> str:
    with pytest.raises(StorageError) as refused:
        JobStore(file)
    return str(refused.value)


def test_a_list_that_another_program_holds_is_said_to_be_held(tmp_path, monkeypatch):
    monkeypatch.setattr(job_store, "_PATIENCE_S", 0.1)
    with closing(sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        assert "another program holds it" in told(tmp_path / "jobs.sqlite")


def test_a_folder_that_is_not_there_is_no_matter_of_rights(tmp_path):
    said = told(tmp_path / "nowhere" / "jobs.sqlite")
    assert "No such file or directory" in said
    assert "there is no such folder" in said
    assert "who may" not in said


@pytest.mark.parametrize(
    ("code", "todo"),
    [
        (sqlite3.SQLITE_IOERR | 10 << 8, "check the disk"),
        (sqlite3.SQLITE_FULL, "make room"),
        (sqlite3.SQLITE_CORRUPT, "damaged"),
        (sqlite3.SQLITE_READONLY | 3 << 8, "who may read and write"),
    ],
)
def test_each_sort_of_trouble_has_its_remedy(tmp_path, code, todo):
    error = sqlite3.OperationalError("as SQLite says")
    error.sqlite_errorcode = code
    assert todo in database_error("The list cannot be read", error, tmp_path).todo


def test_trouble_of_the_system_has_its_remedy_too(tmp_path):
    assert "open files" in database_error("It cannot be read", OSError(errno.EMFILE, "Too many"), tmp_path).todo
    assert "make room" in database_error("It cannot be read", OSError(errno.ENOSPC, "No space"), tmp_path).todo


def test_a_row_that_is_no_text_or_too_deep_does_not_stop_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "jobs.sqlite"
    JobStore(file).close()
    bodies = (b"{\xff}", b"[" * 200_000)
    with sqlite3.connect(file) as base:
        for number, body in enumerate(bodies):
            base.execute(
                "INSERT INTO jobs (uuid, state, body) VALUES (?, 'x', CAST(? AS TEXT))", (f"row-{number}", body)
            )
    base.close()
    JobStore(file).close()
    assert "Job row-0 in the list cannot be read" in caplog.text
    assert "Job row-1 in the list cannot be read" in caplog.text
    base = sqlite3.connect(file)
    assert [b for (b,) in base.execute("SELECT CAST(body AS BLOB) FROM jobs ORDER BY seq")] == list(bodies)
    base.close()
