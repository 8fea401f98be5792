"""`passel join`: this computer becomes a worker, until Ctrl-C. What it kept from an earlier time needs no token."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import passel
from passel.cluster.trust.discovery import Announced, DiscoveryError, find_coordinators
from passel.cluster.trust.identity import Identity
from passel.cluster.trust.join import (
    Coordinator,
    Unreachable,
    join,
    kept_identity,
    kept_url,
    meet,
    remember_url,
    workers_url,
)
from passel.cluster.trust.tokens import TokenRefused, fingerprint_in
from passel.cluster.worker.agent_options import AgentOptions, tell_on_stderr
from passel.cluster.worker.supervisor import Supervisor
from passel.commands.arguments import CommandParser, folder, own_folder, positive, whole
from passel.errors import PasselError, UsageError

_ABOUT = """Make this computer a worker of a passel. Without URL the coordinator is looked for on the local network.

The token is needed once (`passel token create --join` on the coordinator; here --token, or PASSEL_JOIN_TOKEN so that it does
not show in the list of processes). Ctrl-C: what runs is finished, then this computer leaves; Ctrl-C again: at once.
"""
Ask = Callable[[str], str]


def run(words: tuple[str, ...]) -> int:
    """Work until told to leave."""
    given = _parser().parse_args(words)
    token = given.token or os.environ.pop("PASSEL_JOIN_TOKEN", "")
    home: Path = given.home or own_folder() / "worker"
    url, identity = find_and_join(given.url, token, home, given.name)
    print(f"passel {passel.__version__}: this computer is {identity.name!r} in the passel at {url}", flush=True)
    tell_on_stderr()
    options = AgentOptions(
        url, identity.folder, given.cache or home / "cache", given.cache_gb, given.workers, given.memory
    )
    return Supervisor(options).run()


def find_and_join(url: str, token: str, home: Path, name: str) -> tuple[str, Identity]:
    """The address to poll and the identity to use. Raises PasselError."""
    kept = _kept(home, fingerprint_in(token))
    if url:
        wanted = workers_url(url)
        try:
            coordinator = meet(wanted)  # another one may be there by now
        except Unreachable:
            if wanted not in kept:
                raise
            return wanted, kept[wanted]  # it is away: the worker waits for it
    else:
        found = _look(token)
        if not found and len(kept) == 1:
            return next(iter(kept.items()))
        coordinator = _meet_any(_choose(found, _ask_at_terminal()))
    identity = kept_identity(coordinator, home)
    if identity is None:
        if not token:
            new = ", for it is another coordinator than before" if coordinator.url in kept else ""
            todo = "on the coordinator: passel token create --join; here: --token TOKEN"
            raise TokenRefused(f"a join token is needed{new}", coordinator.url, todo)
        identity = join(coordinator, token, home, name)
    remember_url(identity, coordinator.url)
    return coordinator.url, identity


def _kept(home: Path, fingerprint: str) -> dict[str, Identity]:
    """Identities from earlier times by the address where their coordinator was; of one authority, if given."""
    identities = [Identity(f) for f in sorted(home.glob("*")) if fingerprint in ("", f.name)]
    return {url: i for i in identities if i.is_complete and (url := kept_url(i))}


def _look(token: str) -> tuple[Announced, ...]:
    print("passel: looking for a coordinator on this network …", file=sys.stderr, flush=True)
    return find_coordinators(fingerprint=fingerprint_in(token))


def _choose(found: Sequence[Announced], ask: Ask | None) -> Announced:
    """The only coordinator, or the one that the user chooses; UsageError when nobody can be asked."""
    if not found:
        raise DiscoveryError(
            "no coordinator was found on this network",
            todo="is `passel serve --listen 0.0.0.0` running? Else give its address: passel join https://HOST:3001",
        )
    if len(found) == 1:
        return found[0]
    named = [f"{f.name} at {f.urls[0]} (Passel {f.version})" for f in found]
    if ask is None:
        raise UsageError(
            f"there are {len(found)} coordinators: {', '.join(named)}", todo="passel join URL, with one of them"
        )
    for number, text in enumerate(named, 1):
        print(f"  {number}  {text}")
    answer = ask(f"Join which one? 1 … {len(found)}: ").strip()
    if not answer.isdecimal() or not 1 <= int(answer) <= len(found):
        raise UsageError(f"{answer!r} is none of them", todo="passel join URL")
    return found[int(answer) - 1]


def _ask_at_terminal() -> Ask | None:
    def ask(question: str) -> str:
        try:
            return input(question)
        except EOFError:
            return ""

    return ask if sys.stdin is not None and sys.stdin.isatty() else None


def _meet_any(found: Announced) -> Coordinator:
    """A coordinator may have addresses that this computer cannot reach: the first that answers."""
    trouble: PasselError | None = None
    for url in found.urls:
        try:
            return meet(url)
        except Unreachable as e:
            trouble = trouble or e
    assert trouble is not None  # it has an address, or it would not have been found
    raise trouble


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser("join", _ABOUT)
    add = parser.add_argument
    add("url", nargs="?", default="", metavar="URL", help="the coordinator's workers' port: https://HOST:3001")
    add("--token", default="", metavar="T", help="a join token")
    add("--name", default=socket.gethostname(), metavar="NAME", help="name in the passel (default: this computer's)")
    add("--home", type=folder, metavar="DIR", help=f"where the identity is kept (default {own_folder() / 'worker'})")
    add("--cache", type=folder, metavar="DIR", help="where photos and artifacts are kept (default: in --home)")
    add("--cache-gb", type=positive, metavar="N", help="largest size of the cache (default: half of the free disk)")
    add("--workers", type=whole(1), metavar="N", help="cores to use (default: all)")
    add("--memory", type=whole(100), metavar="MB", help="memory that steps may take (default: nearly all that is free)")
    return parser
