"""Tokens and the roster on a real SQLite file: wrong, expired, revoked, used up, repeated, and after a restart."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from passel.cluster.trust.roster import Roster
from passel.cluster.trust.tokens import AccessBook, Throttle, TokenRefused, Tokens, fingerprint_in
from passel.errors import StorageError, UsageError

FINGERPRINT = "abcdefghijklmnopqrstuvwx"


class Clock:
    now_s = 1e9

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def book(tmp_path: Path, clock: Clock) -> AccessBook:
    return AccessBook(tmp_path / "access.db", clock)


@pytest.fixture
def tokens(book: AccessBook) -> Tokens:
    return Tokens(book, FINGERPRINT)


@pytest.fixture
def roster(book: AccessBook, tokens: Tokens) -> Roster:
    return Roster(book, tokens)


def test_a_token_opens_what_it_was_made_for(tokens: Tokens) -> None:
    join, api = tokens.create("join"), tokens.create("api", "web odm")
    assert tokens.check("api", api).name == "web odm"
    assert tokens.check("join", join).kind == "join"
    for kind, text in (("join", api), ("api", join), ("api", api + "x"), ("api", ""), ("api", "\ud800")):
        with pytest.raises(TokenRefused, match="the token is wrong"):
            tokens.check(kind, text)


def test_a_token_names_its_coordinator(tokens: Tokens) -> None:
    assert fingerprint_in(tokens.create("join")) == FINGERPRINT
    assert [fingerprint_in(text) for text in ("", "secret", "join_short_x", "join_" + FINGERPRINT)] == [""] * 4


def test_expired_revoked_and_used_up(tokens: Tokens, roster: Roster, clock: Clock) -> None:
    short = tokens.create("api", expires_in_s=60)
    once = tokens.create("join", uses_allowed=1)
    tokens.check("api", short)
    clock.now_s += 60
    with pytest.raises(TokenRefused, match="expired"):
        tokens.check("api", short)
    roster.admit(once, "a", "key-a")
    with pytest.raises(TokenRefused, match="used up"):
        roster.admit(once, "b", "key-b")
    gone = tokens.create("api", "gone")
    tokens.revoke("gone")
    with pytest.raises(TokenRefused, match=r"revoked \[gone\] → on the coordinator: passel token create --api"):
        tokens.check("api", gone)
    assert not tokens.usable("api")
    assert not tokens.usable("join")


def test_revoking_by_id_and_by_name(tokens: Tokens) -> None:
    tokens.create("api", "twin")
    tokens.create("api", "twin")
    with pytest.raises(UsageError, match="2 tokens have that name"):
        tokens.revoke("twin")
    first, second = tokens.list()
    assert tokens.revoke(first.id) == first
    assert tokens.revoke("twin") == second
    with pytest.raises(UsageError, match="no such token"):
        tokens.revoke("nothing")


def test_own_tokens_of_the_user(tokens: Tokens) -> None:
    tokens.adopt("api", "hunter2", "--token")
    assert tokens.check("api", "hunter2").name == "--token"
    tokens.revoke("--token")
    tokens.adopt("api", "hunter2", "--token")  # asked for again
    tokens.check("api", "hunter2")


def test_nothing_secret_is_on_the_disk(tokens: Tokens, book: AccessBook) -> None:
    secret = tokens.create("join").split("_")[2]
    book.close()
    for file in book.path.parent.iterdir():
        assert secret.encode() not in file.read_bytes()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_another_process_revokes_and_it_counts_at_once(tokens: Tokens, book: AccessBook) -> None:
    text = tokens.create("api", "shared")
    tokens.check("api", text)
    script = (
        "import sys; from pathlib import Path; from passel.cluster.trust.tokens import *;"
        f"Tokens(AccessBook(Path(sys.argv[1])), {FINGERPRINT!r}).revoke('shared')"
    )
    subprocess.run([sys.executable, "-c", script, str(book.path)], check=True, timeout=120)
    with pytest.raises(TokenRefused, match="revoked"):
        tokens.check("api", text)


def test_names_are_given_once(tokens: Tokens, roster: Roster) -> None:
    token = tokens.create("join")
    names = [
        roster.admit(token, host, f"key-{n}") for n, host in enumerate(["pc", "pc", "a b/ü\n", "", "x" * 300, "pc"])
    ]
    assert names == ["pc", "pc-2", "a-b", "worker", "x" * 48, "pc-3"]
    assert [m.name for m in roster.members()] == names
    assert roster.enlist("pc", "own key") == roster.enlist("pc", "own key") == "pc-4"


def test_a_lost_answer_costs_no_use(tokens: Tokens, roster: Roster) -> None:
    once, other = tokens.create("join", uses_allowed=1), tokens.create("join", "other")
    assert [roster.admit(once, "pc", "key") for _ in range(3)] == ["pc"] * 3
    assert roster.admit(other, "renamed", "key") == "pc"
    with pytest.raises(TokenRefused, match="wrong"):
        roster.admit("join_x", "pc", "key")
    assert [(t.name, t.uses) for t in tokens.list()] == [("join", 1), ("other", 0)]


def test_a_revoked_worker_stays_out(tokens: Tokens, roster: Roster) -> None:
    token = tokens.create("join")
    name = roster.admit(token, "pc", "key")
    assert roster.is_member(name)
    roster.revoke(name)
    assert not roster.is_member(name)
    with pytest.raises(TokenRefused, match="this machine was revoked"):
        roster.admit(token, "pc", "key")
    assert roster.admit(token, "pc", "another key") == "pc-2"
    with pytest.raises(UsageError, match=r"no such worker \[nobody\] → known: pc, pc-2"):
        roster.revoke("nobody")
    assert not roster.is_member("nobody")


def test_everything_survives_a_restart(tokens: Tokens, roster: Roster, book: AccessBook, clock: Clock) -> None:
    text = tokens.create("join")
    roster.admit(text, "pc", "key")
    book.close()
    again = AccessBook(book.path, clock)
    assert Tokens(again, FINGERPRINT).check("join", text).uses == 1
    assert Roster(again, Tokens(again, FINGERPRINT)).is_member("pc")


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "access.db").write_text("garbage " * 1000)
    with pytest.raises(StorageError, match=r"access\.db"):
        AccessBook(tmp_path / "access.db")
    with pytest.raises(StorageError, match="cannot be read or written"):
        AccessBook(tmp_path / "missing" / "access.db")


def test_a_database_that_breaks_later_is_told(tokens: Tokens, book: AccessBook) -> None:
    with sqlite3.connect(book.path) as other:
        other.execute("DROP TABLE tokens")
    other.close()
    with pytest.raises(StorageError, match="no such table"):
        tokens.list()


def test_guessing_is_slowed_down_by_address() -> None:
    clock = Clock()
    throttle = Throttle(allowed=3, window_s=60, clock=clock)
    for _ in range(3):
        assert not throttle.must_wait("10.0.0.1")
        throttle.wrong("10.0.0.1")
    assert throttle.must_wait("10.0.0.1")
    assert not throttle.must_wait("10.0.0.2")
    clock.now_s += 61
    assert not throttle.must_wait("10.0.0.1")


def test_renewed_is_only_what_still_opens_something(tokens: Tokens, clock: Clock) -> None:
    text = tokens.create("join", "web page", expires_in_s=100)
    clock.now_s += 60
    assert tokens.renew("join", text, 100)
    clock.now_s += 60
    assert tokens.check("join", text).name == "web page"
    assert len(tokens.list()) == 1
    tokens.revoke("web page")
    assert not tokens.renew("join", text, 100)
    assert not tokens.usable("join")
    late = tokens.create("join", expires_in_s=10)
    clock.now_s += 11
    assert not tokens.renew("join", late, 100)
    assert not tokens.renew("join", "join_unknown", 100)
