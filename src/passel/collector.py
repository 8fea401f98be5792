"""When Python looks for garbage: seldom, in processes of ours. Most of what they make, with all they import, stays until their end."""

from __future__ import annotations

import atexit
import gc

_NEW_OBJECTS = 10_000
"""So many more objects, instead of 700, are a reason to look: imports alone make 200,000."""


def look_seldom() -> None:
    """For the rest of this process, whose end then does not look through all that is left (0.6 CPU s with the engine loaded)."""
    gc.set_threshold(_NEW_OBJECTS, 10, 10)
    atexit.register(gc.freeze)
