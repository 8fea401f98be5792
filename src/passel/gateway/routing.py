"""Which node gets a task: pure functions over the registry and the open attempts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from passel.gateway.attempt import Attempt
from passel.gateway.node import Node

MOST_DISTINCT_NODES = 3
"""A task that failed on so many nodes is not given to another: it may be what kills them."""
MOST_BLAMED_ATTEMPTS = 6
"""The same where there are fewer nodes."""


@dataclass(frozen=True)
class Need:
    """What a task asks of its node.

    avoided: nodes that had it and lost it; they are taken only when no other fits. above_memory_bytes: so much was not
    enough. most_open: tasks that its owner may have on nodes at once, None = any number. fans_out: it will send tasks of
    its own back here (ODM's split-merge), which need a slot too. is_part: it is such a task, so a Passel's own engine cannot
    make it; one gets it only where there are no other nodes, for it may have some.
    """

    job: str
    round: int
    owner: str
    photos: int
    avoided: frozenset[str] = frozenset()
    above_memory_bytes: int = 0
    most_open: int | None = None
    fans_out: bool = False
    is_part: bool = False


@dataclass(frozen=True)
class Choice:
    """The node, or None and why there is none. hopeless: no node of the registry could ever take it."""

    node: Node | None
    why: str = ""
    hopeless: bool = False


def choose(nodes: Sequence[Node], open_attempts: Sequence[Attempt], need: Need, now_s: float) -> Choice:
    """The node for a task now."""
    if not nodes:
        return Choice(None, "there are no nodes; add one with `passel node add`", hopeless=True)
    if need.is_part:
        nodes = [n for n in nodes if not n.is_passel] or nodes
    fitting = [n for n in nodes if _fits(n, need)]
    if not fitting:
        largest = max(n.seen.max_images or 0 for n in nodes if n.seen is not None)
        return Choice(None, f"{need.photos} photos are more than any node takes (at most {largest})", hopeless=True)
    usable = [n for n in fitting if n.is_online(now_s) and not n.locked]
    if not usable:
        return Choice(None, "no node that could take it is online and unlocked")
    mine = sum(a.owner == need.owner for a in open_attempts)
    if need.most_open is not None and mine >= need.most_open:
        return Choice(None, f"{mine} tasks of this token are on nodes; more are not allowed at once")
    free = [n for n in usable if free_slots(n, open_attempts) > 0]
    if not free:
        return Choice(None, "all nodes are busy")
    if need.fans_out and not _leaves_room(usable, open_attempts):
        return Choice(None, "the last free node is kept for the parts of split tasks")
    fresh = [n for n in free if n.name not in need.avoided] or free
    usual = _usual_seconds(nodes)
    return Choice(min(fresh, key=lambda n: _rank(n, open_attempts, usual)))


def can_fan_out(nodes: Iterable[Node], now_s: float) -> bool:
    """Whether a split task may send its parts back to us: with a single slot they would wait for each other for ever."""
    return sum(n.seen.max_parallel for n in nodes if n.seen is not None and n.is_online(now_s) and not n.locked) > 1


def best(nodes: Sequence[Node], open_attempts: Sequence[Attempt], photos: int, now_s: float) -> Choice:
    """The node that a task of so many photos would get."""
    return choose(nodes, open_attempts, Need("", 0, "", photos), now_s)


def free_slots(node: Node, open_attempts: Sequence[Attempt]) -> int:
    """Tasks that the node could begin now: its queue counts those that others gave it, ours are counted by the book."""
    if node.seen is None:
        return 0
    ours = [a for a in open_attempts if a.node == node.name]
    told = sum(a.committed_s is not None and a.committed_s < node.seen.at_s for a in ours)
    foreign = max(0, node.seen.queue - told)
    return max(1, node.seen.max_parallel) - foreign - len(ours)


def _fits(node: Node, need: Need) -> bool:
    if node.seen is None:
        return True  # nobody knows yet
    enough = node.seen.max_images is None or need.photos <= node.seen.max_images
    return enough and (not need.above_memory_bytes or node.seen.memory_bytes > need.above_memory_bytes)


def _leaves_room(usable: Sequence[Node], open_attempts: Sequence[Attempt]) -> bool:
    names = {n.name for n in usable}
    parents = sum(a.fans_out and a.node in names for a in open_attempts)
    return parents + 1 < sum(n.seen.max_parallel for n in usable if n.seen is not None)


def _usual_seconds(nodes: Sequence[Node]) -> float:
    known = [n.seconds_a_photo for n in nodes if n.seconds_a_photo is not None]
    return median(known) if known else 1.0


def _rank(node: Node, open_attempts: Sequence[Attempt], usual: float) -> tuple[float, float, str]:
    """Small nodes first, so that large ones stay free for what only they can take; then who would be done first."""
    assert node.seen is not None
    limit = float("inf") if node.seen.max_images is None else float(node.seen.max_images)
    load = max(1, node.seen.max_parallel) - free_slots(node, open_attempts)
    return limit, (node.seconds_a_photo or usual) * (1 + load), node.name
