"""`passel options`: the one table of options, as text."""

from __future__ import annotations

from passel.errors import UsageError
from passel.option_table import HARMLESS, LATER, SUPPORTED
from passel.options import usage_line


def run(words: tuple[str, ...]) -> int:
    """`passel options`: all options, those that have no effect yet or here included."""
    if words:
        raise UsageError(f"passel options takes no arguments: {' '.join(words)}")
    print("Supported:\n" + "\n".join("  " + usage_line(o) for o in SUPPORTED))
    print("\nNot supported yet; a run that is asked for them says so and goes on:")
    print("\n".join(f"  --{o.name}: {o.help}" for o in LATER))
    print("\nAccepted, without effect here:")
    print("\n".join(f"  --{o.name}: {o.help}" for o in HARMLESS))
    return 0
