"""A driver for tests that speaks the protocol of server/drivers.py: server_driver.py SCRIPT UUID PHOTOS OUTPUT OPTIONS LIFELINE.

SCRIPT is a file of lines: `say TEXT`, `progress PERCENT`, `step NAME` (made), `wait FILE` (until it exists), `child` (a grandchild that
holds the output open), `deaf` (SIGTERM is ignored), `die SIGNAL`, `once FILE` (end here, dead, the first time), `end CODE [MESSAGE]`.
Without `end` it delivers a small map and ends well.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path


def tell(**event: object) -> None:
    print(json.dumps(event), flush=True)


def die_with(lifeline: int) -> None:
    os.read(lifeline, 1)
    os._exit(1)


def wait_for(file: str) -> None:
    while not Path(file).exists():
        time.sleep(0.01)


def deliver(photos: Path, output: Path, options: Path) -> None:
    output.mkdir(exist_ok=True)
    for name, content in (
        ("odm_orthophoto/odm_orthophoto.tif", b"II*\0" + bytes(range(256)) * 400),
        ("odm_dem/dsm.tif", b"II*\0 dsm"),
        ("images.json", json.dumps([{"filename": p.name} for p in sorted(photos.iterdir())]).encode()),
        ("options_seen.json", options.read_bytes()),
    ):
        path = output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def main() -> None:
    script, _uuid, photos, output, options, lifeline = sys.argv[1:]
    threading.Thread(target=die_with, args=(int(lifeline),), daemon=True).start()
    (Path(output).parent / "driver.pid").write_text(str(os.getpid()))
    for line in Path(script).read_text().splitlines():
        word, _, rest = line.partition(" ")
        if word == "say":
            tell(event="say", text=rest)
        elif word == "progress":
            row = {"stage": "tiles", "done": 1, "total": 2, "failed": 0, "rest_s": 3.5}
            tell(event="stages", stages=[row], rest_s=3.5, progress=float(rest))
        elif word == "step":
            tell(event="step", stage="tiles", name=rest, state="done", machine="here")
        elif word == "wait":
            wait_for(rest)
        elif word == "child":
            subprocess.Popen(["sleep", "1000"])
        elif word == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        elif word == "die":
            os.kill(os.getpid(), int(rest))
        elif word == "once" and not Path(rest).exists():
            Path(rest).touch()
            sys.stderr.write("out of luck\n")
            os._exit(7)
        elif word == "end":
            code, _, message = rest.partition(" ")
            tell(event="end", code=int(code), message=message, todo="try again" if message else "")
            return
    deliver(Path(photos), Path(output), Path(options))
    tell(event="end", code=0, message="", holes=["nothing"])


if __name__ == "__main__":
    main()
