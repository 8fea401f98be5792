"""Two hosts on one cable: network namespaces, where the machine allows them."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

_numbers = itertools.count()


@dataclass(frozen=True)
class TwoHosts:
    """Names of the namespaces. The first has 10.77.0.1, the second 10.77.0.2; there is no other network."""

    first: str
    second: str

    def on_first(self) -> list[str]:
        return ["ip", "netns", "exec", self.first]

    def on_second(self) -> list[str]:
        return ["ip", "netns", "exec", self.second]


@contextmanager
def two_hosts() -> Iterator[TwoHosts]:
    """Skips the test where namespaces are not allowed."""
    number = next(_numbers)
    hosts = TwoHosts(*(f"passel-{side}{number}-{os.getpid()}" for side in "ab"))
    script = f"""
    set -e
    ip netns add {hosts.first}; ip netns add {hosts.second}
    ip link add pa0 netns {hosts.first} type veth peer name pb0 netns {hosts.second}
    for side in "{hosts.first} pa0 10.77.0.1" "{hosts.second} pb0 10.77.0.2"; do
      set -- $side
      ip -n $1 addr add $3/24 dev $2
      ip -n $1 link set lo up
      ip -n $1 link set $2 up
      ip -n $1 route add 224.0.0.0/4 dev $2
    done
    """
    try:
        if subprocess.run(["sh", "-c", script], capture_output=True, check=False, timeout=60).returncode != 0:
            pytest.skip("network namespaces are not allowed here")
        yield hosts
    finally:
        for name in (hosts.first, hosts.second):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False, timeout=60)
