"""What the gateway costs a client: an upload and task/info at the coordinator against the same at a node, in one run.

    python bench/gateway_proxy.py [--mb 300] [--polls 500]

The client of both is the same code. The two are measured in turns, so that a busy machine slows both; the medians are told.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from gateway_world import Front, PasselNode, photos, running, submit
from results import Check, SurveyResult

ROUNDS = 3
PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Cost:
    """Medians. through: to the coordinator, which then forwards to the node while the client is done."""

    upload_mb: float
    upload_direct_mb_s: float
    upload_through_mb_s: float
    upload_ratio: float
    info_direct_p50_ms: float
    info_through_p50_ms: float
    info_added_p50_ms: float
    info_direct_per_s: float
    info_through_per_s: float


def upload_s(port: int, uuid: str, file: Path) -> float:
    """Seconds of an upload, until it is acknowledged."""
    head = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n'
    tail = b"\r\n--b--\r\n"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    began_s = time.perf_counter()
    connection.putrequest("POST", f"/task/new/upload/{uuid}")
    connection.putheader("Content-Type", "multipart/form-data; boundary=b")
    connection.putheader("Content-Length", str(len(head) + file.stat().st_size + len(tail)))
    connection.endheaders()
    connection.send(head)
    with file.open("rb") as source:
        while piece := source.read(PIECE_BYTES):
            connection.send(piece)
    connection.send(tail)
    answer = json.loads(connection.getresponse().read())
    assert answer.get("success"), answer
    return time.perf_counter() - began_s


def polls_ms(port: int, uuid: str, count: int) -> list[float]:
    """Milliseconds of task/info, one after another on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    spent = []
    for _ in range(count):
        began_s = time.perf_counter()
        connection.request("GET", f"/task/{uuid}/info")
        assert connection.getresponse().read()
        spent.append(1000 * (time.perf_counter() - began_s))
    return spent


def measure(folder: Path, size_mb: int, polls: int) -> Cost:
    """Run it; `folder` takes everything."""
    file = folder / "a.jpg"
    with file.open("wb") as target:
        for _ in range(size_mb):
            target.write(os.urandom(1_000_000))
    node = PasselNode(folder / "node", seconds=600.0)
    with running(folder / "front", node, engine="odm") as front:
        front.online(node)
        running_task = submit(front, photos("x", 2))
        front.wait(lambda: node.get(f"/task/{running_task}/info").get("status", {}).get("code") == 20)
        ports = {"direct": node.port, "through": front.port}
        uploads: dict[str, list[float]] = {"direct": [], "through": []}
        infos: dict[str, list[float]] = {"direct": [], "through": []}
        for _ in range(ROUNDS):
            for way, port in ports.items():
                uploads[way].append(upload_s(port, _begun(front, node, way), file))
                infos[way] += polls_ms(port, running_task, polls)
    direct, through = (size_mb / median(uploads[way]) for way in ports)
    info = {way: median(spent) for way, spent in infos.items()}
    rate = {way: 1000 * len(spent) / sum(spent) for way, spent in infos.items()}
    numbers = (size_mb, direct, through, through / direct, info["direct"], info["through"])
    return Cost(
        *(round(n, 3) for n in numbers),
        round(info["through"] - info["direct"], 3),
        round(rate["direct"], 1),
        round(rate["through"], 1),
    )


def _begun(front: Front, node: PasselNode, way: str) -> str:
    begin: Callable[[], str] = front.init
    if way == "through":
        return begin()
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=60)
    connection.request("POST", "/task/new/init", "name=x", {"Content-Type": "application/x-www-form-urlencoded"})
    return str(json.loads(connection.getresponse().read())["uuid"])


def rows(cost: Cost) -> tuple[Check, ...]:
    """What issue 5 asks for, and what it was worked out from."""
    upload, info = f"upload of {cost.upload_mb:.0f} MB", "task/info"
    return (
        Check(upload, "through the gateway against direct", cost.upload_ratio, "", "≥", 0.6, "medians, in turns"),
        Check(upload, "direct", cost.upload_direct_mb_s, "MB/s"),
        Check(upload, "through the gateway", cost.upload_through_mb_s, "MB/s"),
        Check(info, "added by the gateway, median", cost.info_added_p50_ms, "ms", "≤", 3.0),
        Check(info, "direct, median", cost.info_direct_p50_ms, "ms"),
        Check(info, "through the gateway, median", cost.info_through_p50_ms, "ms"),
        Check(info, "direct", cost.info_direct_per_s, "requests/s"),
        Check(info, "through the gateway", cost.info_through_per_s, "requests/s"),
    )


def main() -> None:
    """See the module."""
    from run import about

    parser = argparse.ArgumentParser(description="What the gateway costs a client.")
    parser.add_argument("--mb", type=int, default=300)
    parser.add_argument("--polls", type=int, default=500)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gateway_proxy_") as folder:
        found = rows(measure(Path(folder), given.mb, given.polls))
    SurveyResult("gateway_proxy", about(), "", found, ()).save(given.results)
    for row in found:
        print(f"{row.run}: {row.what} {row.reached:.4g} {row.unit} {row.verdict}")


if __name__ == "__main__":
    main()
