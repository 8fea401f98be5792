"""A task's output: a file that only grows, read by line number. Clients ask for 'lines from n on' again and again, so
numbers once told must hold, also after the server died.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable
from pathlib import Path

LONGEST_LINE = 4000
MOST_LINES_AT_ONCE = 100_000


class Console:
    """The output of one task. Not for several threads."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._starts = array("Q")  # offset of each line
        self._end = 0
        if file.is_file():
            self._index()

    def _index(self) -> None:
        with open(self._file, "rb") as f:
            for line in f:
                self._starts.append(self._end)
                self._end += len(line)
        if self._starts and not self._ends_with_newline():  # killed in the middle of a line
            self._write(b"\n")

    def _ends_with_newline(self) -> bool:
        with open(self._file, "rb") as f:
            f.seek(-1, os.SEEK_END)
            return f.read(1) == b"\n"

    def __len__(self) -> int:
        return len(self._starts)

    def say(self, lines: Iterable[str]) -> None:
        """Append lines; what holds several becomes several."""
        split = [part[:LONGEST_LINE] for line in lines for part in (line.splitlines() or [""])]
        # PyODM takes an answer that contains the very word for an error, also a list of lines.
        data = [(("error:" if part == "error" else part) + "\n").encode(errors="replace") for part in split]
        start = self._end
        self._write(b"".join(data))
        for line in data:
            self._starts.append(start)
            start += len(line)

    def _write(self, data: bytes) -> None:
        fd = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        finally:
            self._end = os.fstat(fd).st_size
            os.close(fd)

    def lines(self, start: int) -> list[str]:
        """Lines from `start` on; a negative number counts from the end, as in JavaScript's slice."""
        first = max(0, len(self) + start) if start < 0 else start
        if first >= len(self):
            return []
        last = min(len(self), first + MOST_LINES_AT_ONCE)
        end = self._starts[last] if last < len(self) else self._end
        with open(self._file, "rb") as f:
            f.seek(self._starts[first])
            data = f.read(end - self._starts[first])
        return data.decode(errors="replace").removesuffix("\n").split("\n")

    def clear(self) -> None:
        """Forget all lines: the task starts anew."""
        self._file.unlink(missing_ok=True)
        self._starts = array("Q")
        self._end = 0
