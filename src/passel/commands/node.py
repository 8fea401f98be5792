"""`passel node`: the gateway's own commands, with this user's data folder."""

from __future__ import annotations

from passel.commands.arguments import default_data
from passel.gateway.commands import node_command


def run(words: tuple[str, ...]) -> int:
    """Pass the words on."""
    return node_command(words, default_data(), lambda text: print(text, flush=True))
