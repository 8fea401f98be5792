"""`passel token create | list | revoke`: works on the data folder, whether or not the coordinator runs."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from passel.cluster.coordinator.data_folder import DataFolder
from passel.cluster.trust.authority import Authority
from passel.cluster.trust.tokens import AccessBook, Kind, Token, Tokens
from passel.commands.arguments import CommandParser, default_data, duration_s, folder, whole
from passel.commands.table import table
from passel.errors import UsageError

_ABOUT = """Tokens let computers join (--join) or programs submit photos and look (--api). A token is shown once, when it is made.
"""
_JOIN_EXPIRES_S = 86_400.0


def run(words: tuple[str, ...]) -> int:
    """Create, list or revoke."""
    given = _parser().parse_args(words)
    with open_tokens(given.data or default_data()) as tokens:
        if given.action == "create":
            return _create(given, tokens)
        if given.action == "revoke":
            gone = tokens.revoke(given.token)
            print(f"The token {gone.name} ({gone.id}) opens nothing any more.")
            return 0
        return _list(tokens.list(), given.json)


@contextmanager
def open_tokens(data: Path) -> Iterator[Tokens]:
    """The tokens of a data folder that `passel serve` has made. Raises UsageError."""
    paths = DataFolder(data)
    if not paths.access.is_file():
        raise UsageError(
            "there is no coordinator's data here", str(data), "say where with --data DIR, or start `passel serve`"
        )
    book = AccessBook(paths.access)
    try:
        yield Tokens(book, Authority.open(paths.identity).fingerprint)
    finally:
        book.close()


def _create(given: argparse.Namespace, tokens: Tokens) -> int:
    kind: Kind = "api" if given.api else "join"
    asked_s: float = given.expires or {"join": _JOIN_EXPIRES_S, "api": math.inf}[kind]
    expires_in_s = asked_s if math.isfinite(asked_s) else None
    if kind == "api" and given.uses is not None:
        raise UsageError("--uses counts computers that join", todo="leave it out, or make a --join token")
    print(tokens.create(kind, given.name, expires_in_s, given.uses))
    until = "for ever" if expires_in_s is None else f"until {_date(time.time() + expires_in_s)}"
    todo = "passel join --token TOKEN" if kind == "join" else "clients give it as their token"
    print(f"passel: good {until}; {todo}", file=sys.stderr)
    return 0


def _list(tokens: tuple[Token, ...], as_json: bool) -> int:
    now_s = time.time()
    if as_json:
        print(json.dumps([{**asdict(t), "trouble": t.trouble(now_s)} for t in tokens], indent=1))
        return 0
    rows = [
        (
            t.id, t.kind, t.name, _date(t.created_s), "never" if t.expires_s is None else _date(t.expires_s),
            f"{t.uses}" if t.uses_allowed is None else f"{t.uses} of {t.uses_allowed}", t.trouble(now_s) or "good",
        )
        for t in tokens
    ]  # fmt: skip
    print(table(("id", "kind", "name", "made", "expires", "uses", "state"), rows))
    return 0


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser("token", _ABOUT)
    parser.add_argument("--data", type=folder, metavar="DIR", help="the coordinator's data folder")
    actions = parser.add_subparsers(dest="action", required=True, metavar="create|list|revoke")
    create = actions.add_parser("create", help="make a token and show it")
    kind = create.add_mutually_exclusive_group()
    kind.add_argument("--join", action="store_true", help="for computers that join (default)")
    kind.add_argument("--api", action="store_true", help="for programs that submit photos, and for people who look")
    create.add_argument("--name", default="", help="whose it is; API tokens of one name see the same tasks")
    expires = "30m, 24h, 7d or never (default: 24h for --join, never for --api)"
    create.add_argument("--expires", type=duration_s, metavar="TIME", help=expires)
    create.add_argument(
        "--uses", type=whole(1), metavar="N", help="so many computers may join with it (default: any number)"
    )
    listing = actions.add_parser("list", help="all tokens, without their secrets")
    listing.add_argument("--json", action="store_true", help="for programs")
    actions.add_parser("revoke", help="make a token useless").add_argument("token", metavar="ID|NAME")
    for action in actions.choices.values():
        action.add_argument(
            "--data", type=folder, default=argparse.SUPPRESS, metavar="DIR", help="the coordinator's data folder"
        )
    return parser
