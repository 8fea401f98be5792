"""`passel serve --test`: a driver that maps nothing and delivers the same small products for every task, as NodeODM's test
mode does, for authors of clients. It is started and spoken to like the real one.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from passel.server.ports import Task
from passel.server.settings import TestMode

CONSOLE = (
    "DJI_0131.JPG - DJI_0313.JPG has 1 candidate matches",
    "DJI_0131.JPG - DJI_0177.JPG has 3 candidate matches",
    "DJI_0131.JPG - DJI_0302.JPG has 2 candidate matches",
    "These lines and the products are canned: passel serve --test",
)
"""NodeODM's test mode begins like this; tests of clients compare with it."""
PRODUCTS = "canned_products.json"


@dataclass(frozen=True)
class CannedDriver:
    """The DriverCommand of test mode."""

    test: TestMode

    def __call__(self, task: Task, lifeline_fd: int) -> tuple[str, ...]:
        skipped = [name for name, is_left_out in self._left_out() if is_left_out]
        code = "1" if self.test.fail_tasks else "0"
        return sys.executable, "-m", __name__, str(task.output), str(self.test.seconds), code, *skipped

    def _left_out(self) -> tuple[tuple[str, bool], ...]:
        return ("odm_dem", self.test.skip_dems), ("odm_orthophoto", self.test.skip_orthophotos)


def deliver(output: Path, left_out: tuple[str, ...]) -> None:
    """Write the canned products, but for those in the folders left out."""
    products = json.loads(resources.files("passel.server").joinpath(PRODUCTS).read_text(encoding="utf-8"))
    for name, content in products.items():
        if name.split("/")[0] in left_out:
            continue
        path = output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(content))


def main(arguments: list[str]) -> None:
    """output folder, seconds, exit code, folders left out."""
    output, seconds, code, *left_out = arguments

    def tell(**event: object) -> None:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()

    end_s = time.monotonic() + float(seconds)
    while (left_s := end_s - time.monotonic()) > 0:
        tell(event="stages", stages=[], rest_s=left_s, progress=100 * (1 - left_s / float(seconds)))
        time.sleep(min(0.5, left_s))
    if code == "0":
        deliver(Path(output), tuple(left_out))
    tell(event="end", code=int(code), message="" if code == "0" else "Cannot process dataset")


if __name__ == "__main__":
    main(sys.argv[1:])
