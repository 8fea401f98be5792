"""mDNS on the loopback's neighbours is not to be had everywhere: real announcements between two network namespaces."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

FINGERPRINT_A, FINGERPRINT_B = "a" * 24, "b" * 24

ANNOUNCE = """
import asyncio, sys
from passel.cluster.discovery import announced
async def main():
    name, fingerprint = sys.argv[1:]
    async with announced(name, 3001, fingerprint, ["127.0.0.1", "10.77.0.1"]):
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
asyncio.run(main())
"""
FIND = """
import sys
from passel.cluster.discovery import find_coordinators
for f in find_coordinators(float(sys.argv[2]), 1.5, sys.argv[1]):
    print(f.name, f.urls[0], f.fingerprint, len(f.urls))
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[str, str]]:
    """Two network namespaces joined by a cable."""
    first, second = (f"passel-d{n}-{os.getpid()}" for n in (1, 2))
    script = f"""
    set -e
    ip netns add {first}; ip netns add {second}
    ip link add pd1 netns {first} type veth peer name pd2 netns {second}
    ip -n {first} addr add 10.77.0.1/24 dev pd1; ip -n {second} addr add 10.77.0.2/24 dev pd2
    for n in {first} {second}; do ip -n $n link set lo up; done
    ip -n {first} link set pd1 up; ip -n {second} link set pd2 up
    ip -n {first} route add 224.0.0.0/4 dev pd1; ip -n {second} route add 224.0.0.0/4 dev pd2
    """
    try:
        if subprocess.run(["sh", "-c", script], capture_output=True, check=False, timeout=60).returncode != 0:
            pytest.skip("network namespaces are not allowed here")
        yield first, second
    finally:
        for name in (first, second):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False, timeout=60)


def inside(host: str, script: str, *words: str) -> subprocess.Popen[str]:
    command = ["ip", "netns", "exec", host, sys.executable, "-c", textwrap.dedent(script), *words]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def found(host: str, fingerprint: str = "", patience_s: float = 30.0) -> list[str]:
    output, _ = inside(host, FIND, fingerprint, str(patience_s)).communicate(timeout=120)
    return output.splitlines()


def test_none_one_and_two_coordinators(hosts: tuple[str, str]) -> None:
    first, second = hosts
    assert found(second, patience_s=1.0) == []
    field = inside(first, ANNOUNCE, "field", FINGERPRINT_A)
    office = inside(first, ANNOUNCE, "office", FINGERPRINT_B)
    try:
        for process in (field, office):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        line_a = f"field https://10.77.0.1:3001 {FINGERPRINT_A} 1"
        line_b = f"office https://10.77.0.1:3001 {FINGERPRINT_B} 1"
        assert found(second) == [line_a, line_b]
        assert found(second, FINGERPRINT_B) == [line_b]
        office.communicate(timeout=60)
        assert found(second) == [line_a]  # it took leave
    finally:
        for process in (field, office):
            process.kill()
            process.communicate()
