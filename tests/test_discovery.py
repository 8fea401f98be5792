"""Finding coordinators by mDNS: real announcements between two network namespaces."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence

import pytest

from two_hosts import TwoHosts, two_hosts

FINGERPRINT_A, FINGERPRINT_B = "a" * 24, "b" * 24

ANNOUNCE = """
import asyncio, sys
from passel.cluster.trust.discovery import announced
async def main():
    name, fingerprint = sys.argv[1:]
    async with announced(name, 3001, fingerprint, lambda: ["127.0.0.1", "10.77.0.1"]):
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
asyncio.run(main())
"""
FIND = """
import sys
from passel.cluster.trust.discovery import find_coordinators
for f in find_coordinators(float(sys.argv[2]), 1.5, sys.argv[1]):
    print(f.name, f.urls[0], f.fingerprint, len(f.urls))
"""


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    with two_hosts() as made:
        yield made


def inside(host: Sequence[str], script: str, *words: str) -> subprocess.Popen[str]:
    command = [*host, sys.executable, "-c", textwrap.dedent(script), *words]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def found(host: Sequence[str], fingerprint: str = "", patience_s: float = 30.0) -> list[str]:
    output, _ = inside(host, FIND, fingerprint, str(patience_s)).communicate(timeout=120)
    return output.splitlines()


def test_none_one_and_two_coordinators(hosts: TwoHosts) -> None:
    first, second = hosts.on_first(), hosts.on_second()
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
