"""Work that another computer does: `passel submit`, `tasks`, `logs`, `download`, `cancel`, `remove`, `restart`, and
`passel run … --cluster URL` (or OpenDroneMap's `--sm-cluster URL`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from passel.client.hand_over import Desk, Order, bring_back, hand_over, order_of, submit, watch
from passel.client.wire import COMPLETED, STATES, Address, RemoteError, Server, TaskState
from passel.commands.arguments import CommandParser, folder, own_command, own_folder, token_of_environment
from passel.commands.table import short, table, time_text
from passel.commands.unread import unread_pictures
from passel.errors import InputError, UsageError
from passel.option_table import BY_NAME, Value
from passel.options import Parsed, has_json_text, parse_options

_HERE = "http://127.0.0.1:3000"
_LOCAL = frozenset(
    {"output", "project-path", "name", "cluster", "sm-cluster", "token", "rerun-all", "rerun", "max-concurrency"}
)
"""Options that concern this command line or this computer."""
_SIDE_FILES = ("geo.txt", "image_groups.txt", "gcp_list.txt")
_LINE_EVERY_S = 5.0


class Display:
    """What a person sees of a hand-over: lines, and how far it is; on a terminal the latter stays in one place."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._shown_s, self._shown, self._is_bar = 0.0, "", False

    def say(self, text: str) -> None:
        """A line."""
        self.end()
        print(text, flush=True)

    def bar(self, what: str, done: float, whole: float) -> None:
        """How far it is."""
        percent = 100.0 * done / whole if whole else 0.0
        shown, now_s = f"{what} {percent:.0f} %", time.monotonic()
        is_news = shown != self._shown and (percent >= 100 or now_s - self._shown_s >= self._every_s)
        if not is_news:
            return
        self._shown, self._shown_s = shown, now_s
        print(
            f"\r{shown} \x1b[K" if self._is_terminal else shown, end="" if self._is_terminal else "\n", file=sys.stderr
        )
        sys.stderr.flush()
        self._is_bar = self._is_terminal

    @property
    def _every_s(self) -> float:
        return 0.2 if self._is_terminal else _LINE_EVERY_S

    def end(self) -> None:
        """Leaves the line of the bar."""
        if self._is_bar:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._is_bar = False


def run_elsewhere(parsed: Parsed, photos: Path, output: Path) -> int:
    """`passel run` on another computer: the map ends up in `output` as if it were made here."""
    address = Address.parse(parsed.server, str(parsed.values.get("token", "")) or token_of_environment())
    display = Display()
    desk = Desk(output, display.say, display.bar)
    order = _order(parsed, photos, output)
    display.say(f"{len(order.files)} files of {photos} to {address.url}, map to {output}")
    try:
        with desk.held(), Server(address) as server:
            state = hand_over(server, order, desk)
    except KeyboardInterrupt:
        display.end()
        print("\npassel: stopped watching. A task that has all its photos goes on there; the same command looks at it again "
              f"({own_command()} cancel UUID --server {address.url} ends it).", file=sys.stderr)  # fmt: skip
        return 130
    finally:
        display.end()
    print(f"The map is in {output}, made by {address.url} in {time_text(state.processing_ms / 1000)}")
    return 0


def submit_photos(words: tuple[str, ...]) -> int:
    """`passel submit PHOTOS --server URL [options of passel run]`."""
    if {"--help", "-h"} & set(words):
        print("usage: passel submit PHOTOS --server URL [--token T] [options of passel run]\n\n"
              "Hand photos to a Passel and return at once; the answer is the task's uuid.")  # fmt: skip
        return 0
    own, rest = _split_words(words)
    parsed = parse_options(rest)
    if len(parsed.arguments) != 1:
        raise UsageError("name one folder of photos", todo="passel submit PHOTOS --server URL")
    photos = Path(parsed.arguments[0]).absolute()
    if not photos.is_dir():
        raise InputError("photos cannot be read: no such folder", str(photos), "give the folder that holds the photos")
    display = Display()
    # Not beside the photos: they may lie on a card that is locked.
    state = own_folder() / "submitted" / hashlib.sha256(str(photos).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    desk = Desk(state, lambda text: print(text, file=sys.stderr), display.bar)
    try:
        with desk.held(), _server(own) as server:
            note = submit(server, _order(parsed, photos, photos), desk)
    finally:
        display.end()
    desk.forget()
    print(note.uuid)
    return 0


def tasks(words: tuple[str, ...]) -> int:
    """`passel tasks`: all tasks of this token."""
    parser = _parser("tasks", "List the tasks of a server.")
    parser.add_argument("--json", action="store_true", help="for programs")
    given = parser.parse_args(words)
    with _server(given) as server:
        found = [server.task(uuid) for uuid in server.tasks()]
    if given.json:
        print(json.dumps([{k: v for k, v in asdict(t).items() if k != "lines"} for t in found], indent=1))
        return 0
    rows = [[t.uuid, short(t.name), _state(t), str(t.images), _day(t.created_ms)] for t in found]
    print(table(["task", "name", "state", "photos", "made"], rows) if rows else "no tasks")
    return 0


def logs(words: tuple[str, ...]) -> int:
    """`passel logs UUID [-f]`."""
    parser = _parser("logs", "Show what a task says.", uuid=True)
    parser.add_argument("-f", "--follow", action="store_true", help="until it ends")
    given = parser.parse_args(words)
    with _server(given) as server:
        if not given.follow:
            print("\n".join(server.task(given.uuid, 0).lines))
            return 0
        state = watch(server, given.uuid, Desk(Path(), lambda text: print(text, flush=True), lambda *_: None))
    print(f"passel: the task is {STATES.get(state.code, '?')}", file=sys.stderr)
    return 0 if state.code == COMPLETED else 1


def download(words: tuple[str, ...]) -> int:
    """`passel download UUID [--output DIR]`."""
    parser = _parser("download", "Bring the map of a task here. A download that was cut off goes on.", uuid=True)
    parser.add_argument("--output", type=folder, metavar="DIR", help="folder for the map (default: the task's uuid)")
    given = parser.parse_args(words)
    display = Display()
    output = given.output or Path(given.uuid).absolute()
    with _server(given) as server:
        state = server.task(given.uuid)
        if state.code != COMPLETED:
            word = STATES.get(state.code, "?")
            raise RemoteError(f"the task is {word}", given.uuid, f"`{_again('logs -f', given)}` waits for it")
        try:
            bring_back(server, given.uuid, Desk(output, display.say, display.bar))
        finally:
            display.end()
    print(f"The map is in {output}")
    return 0


def cancel(words: tuple[str, ...]) -> int:
    """`passel cancel UUID`. A map that is done stays one: NodeODM's cancel would take it out of reach."""
    given = _parser("cancel", "Stop a task. What is finished is kept.", uuid=True).parse_args(words)
    with _server(given) as server:
        if server.task(given.uuid).code == COMPLETED:
            raise RemoteError(
                "the task is done: nothing to cancel", given.uuid, f"{_again('remove', given)} deletes it"
            )
        server.act("cancel", given.uuid)
    print(f"{given.uuid} is canceled.")
    return 0


def remove(words: tuple[str, ...]) -> int:
    """`passel remove UUID`."""
    return _act("remove", "Delete a task and all its files on the server.", words, "is removed")


def restart(words: tuple[str, ...]) -> int:
    """`passel restart UUID`."""
    return _act("restart", "Run a task again; what still holds is not made again.", words, "runs again")


def _act(action: str, about: str, words: tuple[str, ...], done: str) -> int:
    given = _parser(action, about, uuid=True).parse_args(words)
    with _server(given) as server:
        server.act(action, given.uuid)
    print(f"{given.uuid} {done}.")
    return 0


def _parser(command: str, about: str, uuid: bool = False) -> CommandParser:
    parser = CommandParser(command, about)
    if uuid:
        parser.add_argument("uuid", metavar="UUID", help="the task, as `passel tasks` lists it")
    parser.add_argument("--server", default=_HERE, metavar="URL", help=f"a Passel or NodeODM (default {_HERE})")
    parser.add_argument("--token", default="", metavar="T", help="API token (default: $PASSEL_TOKEN)")
    return parser


def _again(command: str, given: argparse.Namespace) -> str:
    """Another command about the same task, as it can be typed here."""
    elsewhere = f" --server {Address.parse(given.server, '').url}" if given.server != _HERE else ""
    return f"{own_command()} {command} {given.uuid}{elsewhere}"


def _server(given: argparse.Namespace) -> Server:
    return Server(Address.parse(given.server, given.token or token_of_environment()))


def _split_words(words: tuple[str, ...]) -> tuple[argparse.Namespace, tuple[str, ...]]:
    """--server and --token of `passel submit`, and the words of `passel run`."""
    given, rest, queue = argparse.Namespace(server=_HERE, token=""), [], list(words)
    while queue:
        name, equals, text = queue.pop(0).partition("=")
        if name not in ("--server", "--token"):
            rest.append(name + equals + text)
            continue
        if not equals and not queue:
            raise UsageError(f"{name} needs a value")
        setattr(given, name[2:], text if equals else queue.pop(0))
    return given, tuple(rest)


def _order(parsed: Parsed, photos: Path, output: Path) -> Order:
    """The photos and side files, and the options that mean something there."""
    from passel.pipeline.side_files import side_file
    from passel.survey.inspect import list_photos  # the engine's idea of what a photo is

    side = {name: found for name in _SIDE_FILES if (found := side_file(name, photos, output))}
    for option, name in (("geo", "geo.txt"), ("split-image-groups", "image_groups.txt"), ("gcp", "gcp_list.txt")):
        path = parsed.values.get(option)
        if isinstance(path, Path):
            if path.name != name:
                raise InputError(f"a server takes this file by the name {name}", str(path), "rename it")
            side[name] = path
    options = [{"name": n, "value": _sent_value(n, v)} for n, v in parsed.values.items() if _is_sent(n)]
    title = str(parsed.values.get("name") or (photos.parent.name if photos.name == "images" else photos.name))
    for notice in unread_pictures(photos):
        print(f"passel: {notice}", file=sys.stderr)
    return order_of(title, list_photos(photos), list(side.values()), options)


def _is_sent(name: str) -> bool:
    return name not in _LOCAL and (BY_NAME[name].type != "path" or name == "cameras")


def _sent_value(name: str, value: Value) -> bool | int | float | str:
    if name == "cameras" and not has_json_text(str(value)):
        try:
            return Path(str(value)).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise UsageError(f"--cameras: the file cannot be read ({e})", str(value)) from None
    return value if isinstance(value, bool | int | float | str) else str(value)


def _state(task: TaskState) -> str:
    word = STATES.get(task.code, "?")
    return f"{word} {task.progress:.0f} %" if word == "running" else word


def _day(created_ms: int) -> str:
    return datetime.fromtimestamp(created_ms / 1000).strftime("%Y-%m-%d %H:%M") if created_ms else ""
