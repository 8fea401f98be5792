"""A new SQLite file that several processes open at once."""

from __future__ import annotations

import multiprocessing
import sqlite3
from pathlib import Path

import pytest

from passel.databases import opened_database

SCHEMA = "create table if not exists line (text text not null);"


def _write(path: Path, start, name: str) -> None:
    start.wait()
    database = opened_database(path, SCHEMA, 30.0)
    database.execute("insert into line values (?)", (name,))
    database.close()


def test_processes_that_open_a_new_file_at_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    for turn in range(3):
        path, start = tmp_path / f"{turn}.db", spawn.Barrier(4)
        writers = [spawn.Process(target=_write, args=(path, start, str(i))) for i in range(4)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert [w.exitcode for w in writers] == [0] * 4
        database = opened_database(path, SCHEMA, 30.0)
        assert sorted(t for (t,) in database.execute("select text from line")) == ["0", "1", "2", "3"]
        assert database.execute("pragma journal_mode").fetchone() == ("wal",)
        database.close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_somebody_who_holds_a_new_file_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "held.db"
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("begin exclusive")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        opened_database(path, SCHEMA, 0.2)
    holder.execute("commit")
    opened_database(path, SCHEMA, 0.2).close()
    holder.close()


def test_what_is_no_database_is_said_so_at_once(tmp_path: Path) -> None:
    path = tmp_path / "garbage.db"
    path.write_bytes(b"no database " * 400)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        opened_database(path, SCHEMA, 30.0)


def test_damage_is_told_when_the_file_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "damaged.db"
    database = opened_database(path, SCHEMA + "create table if not exists other (n integer);", 30.0)
    database.executemany("insert into line values (?)", [(f"{n:0500}",) for n in range(100)])
    database.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: 3 * 4096] + bytes(4096) + whole[4 * 4096 :])
    with pytest.raises(sqlite3.DatabaseError, match="damaged"):
        opened_database(path, SCHEMA, 30.0)
