"""A coordinator's fleet in a process of its own, to be killed: `fleet_process.py FLEET_FILE LEDGER HEADQUARTERS_URL`."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from fake_clouds.headquarters import Line
from passel.fleet.fleet_file import read_fleet_file
from passel.fleet.ledger import Ledger
from passel.fleet.loop import Fleet, Surroundings
from passel.fleet.providers.choose import open_provider


def main(fleet_file: str, ledger: str, url: str) -> None:
    config = read_fleet_file(Path(fleet_file))
    provider = open_provider(config, Path(ledger).parent)
    around = Surroundings(config, provider, Line(url), None, lambda text: print(text, flush=True))
    Fleet(Ledger(Path(ledger)), around).run(threading.Event())


if __name__ == "__main__":
    main(*sys.argv[1:])
