"""Passels that are each other's nodes would hand a task round for ever. So every Passel tells its clients, in a header of /info,
which Passels a task given to it may come to; one that finds itself among those of a node gives that node nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from passel.gateway.node import Node, Seen

MOST_TOLD = 64


def reached(own: str, nodes: Iterable[Node]) -> tuple[str, ...]:
    """Identities of the Passels that a task given to this one (`own`, told first) may come to. Of a node that leads back here only
    its own counts: two that are each other's nodes would keep alive for ever what they once told each other.
    """
    told = {own: None}
    for node in nodes:
        behind = node.seen.passels if node.seen is not None else ()
        told |= dict.fromkeys(behind[:1] if own in behind else behind)
    return tuple(told)[:MOST_TOLD]


def circle(own: str, seen: Seen) -> str:
    """Why the node that says this can get no tasks from us; '' when it can."""
    if own not in seen.passels:
        return ""
    if seen.passels[0] == own:
        return "It is this Passel itself, or one made from a copy of its data folder"
    return "It is a Passel that hands its tasks on to this one: they would go round in a circle"
