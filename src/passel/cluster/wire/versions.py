"""Who understands whom: two machines whose Passel and whose wire are of one version. The wire has a number of its own, since it
changes between releases, too, and who speaks the old one should be told so, not be misunderstood."""

from __future__ import annotations

from collections.abc import Mapping

import passel
from passel.errors import PasselError

WIRE_VERSION = 2
"""To be raised whenever a request or an answer between worker and coordinator changes. 1 had no header; 2: an artifact in one request."""
VERSION_HEADER = "X-Passel-Version"
WIRE_HEADER = "X-Passel-Wire"
"""Headers of every request; the answer to other versions is 426 with a WireProblem that names both sides'."""


def version_headers() -> dict[str, str]:
    """What this machine says of itself."""
    return {VERSION_HEADER: passel.__version__, WIRE_HEADER: str(WIRE_VERSION)}


def other_version(headers: Mapping[str, str], who: str = "") -> PasselError | None:
    """What a machine that sends these headers is told when it is not understood; None when it is. who: its name, if it has one."""
    ours = version_headers()
    theirs = {
        VERSION_HEADER: headers.get(VERSION_HEADER, "unknown")[:40],
        WIRE_HEADER: headers.get(WIRE_HEADER, "1")[:10],
    }
    if theirs == ours:
        return None
    what = f"this machine runs {_words(theirs)}, the coordinator runs {_words(ours)}"
    return PasselError(what, who, f"install the coordinator's Passel {passel.__version__} on both")


def _words(versions: Mapping[str, str]) -> str:
    return f"Passel {versions[VERSION_HEADER]} (wire {versions[WIRE_HEADER]})"
