"""Ports for servers of tests."""

from __future__ import annotations

import itertools
import os
import random
import socket

# Below the ports that the kernel gives to outgoing connections, which would take one between asking and listening;
# and each of pytest-xdist's processes has its own.
_FIRST, _COUNT = 20_000, 2_000
_PROCESS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 6
_numbers = itertools.count(random.SystemRandom().randrange(_COUNT))


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at, and that no other test of this run is given soon."""
    for number in itertools.islice(_numbers, _COUNT):
        port = _FIRST + _PROCESS * _COUNT + number % _COUNT
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")
