"""`passel node …`: what a person asks of the gateway. `cli.py` passes the words on; nothing here prints by itself.

The commands work on the book in the coordinator's data folder, whether the coordinator runs or not, so who may read and
write that folder may use them, and nobody else: there is no port to protect.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from passel.gateway.attempt import Attempt
from passel.gateway.book import Book, found_node
from passel.gateway.gateway import book_path
from passel.gateway.monitor import look, look_at_all
from passel.gateway.node import Node, node_at
from passel.gateway.nodes_file import read_nodes_file
from passel.gateway.routing import best, free_slots

Say = Callable[[str], None]


def node_command(words: Sequence[str], data: Path, say: Say) -> int:
    """Runs one command; `data` is the coordinator's data folder unless the words name one. Raises PasselError."""
    given = _parser().parse_args(list(words))
    book = Book(book_path(given.data or data))
    try:
        return _run(given, book, say)
    finally:
        book.close()


def _run(given: argparse.Namespace, book: Book, say: Say) -> int:
    command: str = given.command
    if command == "add":
        node = node_at(given.url, given.token, given.name)
        ca_file = str(given.ca.absolute()) if given.ca else ""
        return add_node(book, replace(node, ca_file=ca_file, max_upload_mb_s=given.max_upload), say)
    if command == "import":
        return import_nodes(book, given.file, say)
    if command == "list":
        return list_nodes(book, given.json, say)
    if command == "update":
        asyncio.run(look_at_all(book, book.nodes()))
        return list_nodes(book, False, say)
    if command == "best":
        choice = best(book.nodes(), book.open_attempts(), given.photos, book.now_s())
        say(choice.node.name if choice.node is not None else f"None: {choice.why}.")
        return 0 if choice.node is not None else 1
    node = found_node(book, given.node)
    if command == "info":
        return tell_node(book, node, say)
    if command == "del":
        book.delete(node.name)
        say(f"{node.name} is out. What it worked on goes to other nodes.")
    else:
        book.change(node.name, lambda n: replace(n, locked=command == "lock"))
        say(
            f"{node.name} {'takes no new tasks; it finishes those it has' if command == 'lock' else 'takes tasks again'}."
        )
    return 0


def add_node(book: Book, node: Node, say: Say) -> int:
    """Add a node, and say whether it answers."""
    book.add(node)
    if asyncio.run(look(book, node)):
        known = found_node(book, node.name).seen
        assert known is not None
        say(f"{node.name} is added: {known.engine} {known.engine_version}, {known.max_parallel} tasks at once.")
        return 0
    say(f"{node.name} is added, but gets no tasks yet: {found_node(book, node.name).trouble}")
    return 1


def import_nodes(book: Book, file: Path, say: Say) -> int:
    """Add the nodes of a nodes.json of ClusterODM."""
    nodes = read_nodes_file(file)
    for node in nodes:
        book.add(node)
    asyncio.run(look_at_all(book, nodes))
    say(f"{len(nodes)} nodes are added.")
    return list_nodes(book, False, say)


def list_nodes(book: Book, as_json: bool, say: Say) -> int:
    """A line a node; tokens are not shown."""
    nodes, attempts, now_s = book.nodes(), book.open_attempts(), book.now_s()
    if as_json:
        say(json.dumps([_public(n, attempts, now_s) for n in nodes]))
    elif not nodes:
        say("There are no nodes. Add one: passel node add http://host:3000")
    for node in () if as_json else nodes:
        say(_line(node, attempts, now_s))
    return 0


def tell_node(book: Book, node: Node, say: Say) -> int:
    """All that is known of a node, and its latest tasks."""
    rows = _public(node, book.open_attempts(), book.now_s())
    for name, value in rows.items():
        say(f"{name.replace('_', ' '):18} {'-' if value in (None, '') else value}")
    for attempt in [a for a in book.history(1000) if a.node == node.name][:10]:
        began = datetime.fromtimestamp(attempt.claimed_s, UTC).isoformat(timespec="seconds")
        say(f"{began} {attempt.job} {attempt.photos} photos: {attempt.outcome or attempt.stage.value}")
    return 0


def _public(node: Node, attempts: Sequence[Attempt], now_s: float) -> dict[str, object]:
    seen = {} if node.seen is None else asdict(node.seen)
    seen.pop("at_s", None)
    return {
        "name": node.name,
        "url": node.url,
        "state": _state(node, now_s),
        "trouble": node.trouble,
        "has_token": bool(node.token),
        "our_tasks": sum(a.node == node.name for a in attempts),
        "free_slots": max(0, free_slots(node, attempts)),
        "seconds_a_photo": node.seconds_a_photo,
        "max_upload_mb_s": node.max_upload_mb_s,
        **seen,
    }


def _state(node: Node, now_s: float) -> str:
    if node.is_isolated(now_s):
        return "isolated"
    return ("locked" if node.locked else "online") if node.is_online(now_s) else "offline"


def _line(node: Node, attempts: Sequence[Attempt], now_s: float) -> str:
    parts = [f"{node.name:24} {_state(node, now_s):8}"]
    if node.seen is not None:
        ours, most = sum(a.node == node.name for a in attempts), node.seen.max_images
        parts.append(f"{ours} of ours, queue {node.seen.queue}/{node.seen.max_parallel}")
        parts.append(f"{node.seen.engine} {node.seen.engine_version}, API {node.seen.api_version}")
        parts += [f"at most {most} photos"] if most is not None else []
    if node.locked and not node.is_online(now_s):
        parts.append("locked")
    return "  ".join([*parts, *([f"! {node.trouble}"] if node.trouble else [])])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="passel node", description="NodeODM machines that work for this server.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, about: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about, description=about)
        added.add_argument("--data", type=Path, help="the coordinator's data folder")
        return added

    adding = command("add", "Add a node; the same name again changes its address and token.")
    adding.add_argument("url", help="http://host:3000, https://host, or host:port")
    adding.add_argument("--token", default="", help="the token that the node asks for")
    adding.add_argument("--name", default="", help="a name for it (its address)")
    adding.add_argument("--ca", type=Path, help="file with the authority of its TLS certificate, if it is your own")
    adding.add_argument("--max-upload", type=float, default=0.0, metavar="MB/S", help="for each task (no limit)")
    command("import", "Add the nodes of a ClusterODM's nodes.json.").add_argument("file", type=Path)
    command("list", "All nodes.").add_argument("--json", action="store_true", help="as JSON")
    command("update", "Ask all nodes now how they are, also those that are isolated.")
    command("best", "The node that a task of so many photos would get now.").add_argument("photos", type=int)
    for name, about in (
        ("del", "Take a node out; what it works on goes to others."),
        ("info", "All that is known of a node, and its latest tasks."),
        ("lock", "Give it no new tasks."),
        ("unlock", "Give it tasks again."),
    ):
        command(name, about).add_argument("node", help="name or address")
    return parser
