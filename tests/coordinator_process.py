"""A coordinator as a process of its own, for tests that kill it: `python coordinator_process.py DATA HOST PORT`.

DATA/shut-out names workers that are refused; LEASE_S in the environment shortens the time after which a silent worker is lost,
NO_ROOM_S that for which room on a full disk is waited for.
DATA/bucket holds URL and endpoint of the bucket for artifacts.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import uvloop

from passel.cluster.coordinator import coordinator as coordinators
from passel.cluster.coordinator import dispatch
from passel.cluster.coordinator.bucket import ArtifactBucket, BucketPlace
from passel.cluster.coordinator.coordinator import Coordinator, Listen
from passel.cluster.trust.authority import Authority


async def serve(data: Path, host: str, port: int) -> None:
    tls = Authority.open(data / "ca").server_context(["localhost"])
    words = _words(data / "bucket")
    bucket = ArtifactBucket(BucketPlace(words[0], words[1], "tests")) if words else None
    coordinator = Coordinator(lambda name: name not in _words(data / "shut-out"), bucket=bucket)
    print(await coordinator.start(Listen(host, port, tls, data / "driver.sock")), flush=True)
    await asyncio.Event().wait()


def _words(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


if __name__ == "__main__":
    dispatch.LEASE_S = float(os.environ.get("LEASE_S", dispatch.LEASE_S))
    coordinators.HOLD_S = float(os.environ.get("NO_ROOM_S", coordinators.HOLD_S))
    uvloop.run(serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
