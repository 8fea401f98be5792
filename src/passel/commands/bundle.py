"""`passel bundle`: the field kit, for computers without internet."""

from __future__ import annotations

import sys
from pathlib import Path

from passel.cluster.coordinator.data_folder import DataFolder
from passel.cluster.kit.bundle import SUMS, bundle
from passel.cluster.kit.join_script import Kit, script_beside_kit
from passel.commands.arguments import CommandParser, default_data, folder

_ABOUT = """Make the field kit from what is installed here, without any network: wheels of Passel and all that it needs, for computers
of this kind with this Python. `passel serve` offers it at /join. To carry it on a stick: sh join.sh TOKEN in its folder.
"""


def run(words: tuple[str, ...]) -> int:
    """Make the kit."""
    parser = CommandParser("bundle", _ABOUT)
    default = DataFolder(default_data()).wheels
    parser.add_argument(
        "--output", type=folder, default=default, metavar="DIR", help=f"folder for the kit (default {default})"
    )
    target: Path = parser.parse_args(words).output
    terminal = sys.stderr.isatty()
    wheels = bundle(
        target, lambda line: print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True) if terminal else None
    )
    if terminal:
        print("\r\x1b[K", end="", file=sys.stderr)
    kit = Kit.of(target)
    script = target / "join.sh"
    script.write_text(script_beside_kit(kit), "utf-8")
    script.chmod(0o755)
    size_mb = sum(w.stat().st_size for w in wheels) / 1e6
    print(f"{len(wheels)} wheels, {size_mb:.0f} MB, in {target}")
    print(f"for {', '.join(kit.machines)} with Python {', '.join(kit.pythons)}; digests in {SUMS}")
    return 0
