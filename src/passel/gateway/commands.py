"""`passel node …`: what a person asks of the gateway. `cli.py` passes the words on; nothing here prints by itself.

The commands work on the book in the coordinator's data folder, whether the coordinator runs or not, so who may read and
write that folder may use them, and nobody else: there is no port to protect.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from passel.gateway.book import Book
from passel.gateway.desk import NewNode, NodeDesk, NodeFile, NodeLine
from passel.gateway.gateway import book_path
from passel.gateway.nodes_file import autoscaled, read_nodes_file

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
    command, desk = str(given.command), NodeDesk(book)
    if command == "add":
        ca_file = str(given.ca.absolute()) if given.ca else ""
        return add_node(desk, NewNode(given.url, given.token, given.name, ca_file, given.pin, given.max_upload), say)
    if command == "import":
        return import_nodes(book, given.file, say)
    if command == "list":
        return list_nodes(desk.lines(), given.json, book, say)
    if command == "update":
        return list_nodes(asyncio.run(desk.update()), False, book, say)
    if command == "best":
        best = desk.best(given.photos)
        say(best.name or f"None: {best.why}.")
        return 0 if best.name else 1
    name: str = given.node
    if command == "info":
        return tell_node(desk.info(name), say)
    if command == "del":
        desk.delete(name)
        say(f"{name} is out. What it worked on goes to other nodes.")
    else:
        desk.lock(name, command == "lock")
        say(f"{name} {'takes no new tasks; it finishes those it has' if command == 'lock' else 'takes tasks again'}.")
    return 0


def add_node(desk: NodeDesk, new: NewNode, say: Say) -> int:
    """Add a node, and say whether it answers."""
    line = asyncio.run(desk.add(new))
    if not line.trouble:
        say(f"{line.name} is added: {line.engine} {line.engine_version}, {line.max_parallel} tasks at once.")
        return 0
    say(f"{line.name} is added, but gets no tasks yet: {line.trouble}")
    return 1


def import_nodes(book: Book, file: Path, say: Say) -> int:
    """Add the nodes of a nodes.json of ClusterODM."""
    nodes = read_nodes_file(file)
    for node in nodes:
        book.enroll(node)
    say(f"{len(nodes)} nodes are added.")
    if machines := autoscaled(file):
        say(f"{machines} machines of ClusterODM's autoscaler are left out: end them in your provider's console.")
    return list_nodes(asyncio.run(NodeDesk(book).update()), False, book, say)


def list_nodes(lines: Sequence[NodeLine], as_json: bool, book: Book, say: Say) -> int:
    """A line a node; tokens are not shown."""
    if as_json:
        say(json.dumps([asdict(line) for line in lines]))
    elif not lines:
        data = shlex.quote(str(book.path.parent.parent))
        say(f"There are no nodes. Add one: passel node add http://host:3000 --data {data}")
    for line in () if as_json else lines:
        say(_text(line))
    return 0


def tell_node(node: NodeFile, say: Say) -> int:
    """All that is known of a node, and its latest tasks."""
    for name, value in asdict(node.line).items():
        say(f"{name.replace('_', ' '):18} {'-' if value in (None, '') else value}")
    for task in node.tasks:
        began = datetime.fromtimestamp(task.began_s, UTC).isoformat(timespec="seconds")
        say(f"{began} {task.job} {task.photos} photos: {task.outcome}")
    return 0


def _text(line: NodeLine) -> str:
    parts = [f"{line.name:24} {line.state:8}"]
    if line.engine:
        parts.append(f"{line.our_tasks} of ours, queue {line.queue}/{line.max_parallel}")
        parts.append(f"{line.engine} {line.engine_version}, API {line.api_version}")
        parts += [f"at most {line.max_images} photos"] if line.max_images is not None else []
    if line.locked and line.state != "locked":
        parts.append("locked")
    return "  ".join([*parts, *([f"! {line.trouble}"] if line.trouble else [])])


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
    adding.add_argument(
        "--pin", default="", metavar="SHA256", help="of its own TLS certificate, if no authority signed it"
    )
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
