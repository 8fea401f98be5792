"""The process of one forwarder, started by the server like any driver (server/drivers.py):
`python -m passel.gateway.forward_driver --book FILE --folder JOB --lifeline FD`. It ends at once when its lifeline closes; the
node works on, and the next forwarder of the job finds it in the book.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import threading
from pathlib import Path

from passel.errors import PasselError
from passel.gateway.book import Book
from passel.gateway.forward import Forwarder, Patience, Voice, end_of
from passel.gateway.freight import read_freight
from passel.server.folders import JobFolder
from passel.server.jobs import RunEnd
from passel.server.outgoing import Gate


def main(words: list[str]) -> None:
    """Run it and say how it ended."""
    given = _parser().parse_args(words)
    threading.Thread(target=_end_with, args=(given.lifeline,), daemon=True).start()
    patience = Patience(given.silent_s, given.poll_s, given.wait_s)
    end = _forwarded(given.book, JobFolder(given.folder), patience, Gate(given.private_urls))
    _tell(event="end", code=end.code, message=end.message, todo=end.todo, where=end.where)


def _forwarded(path: Path, folder: JobFolder, patience: Patience, gate: Gate) -> RunEnd:
    try:
        book = Book(path)
        try:
            voice = Voice(_say, _stage)
            return asyncio.run(Forwarder(book, read_freight(folder.root), folder, voice, patience, gate).run())
        finally:
            book.close()
    except PasselError as e:
        return end_of(e)
    except OSError as e:
        return RunEnd(1, f"The task's folder cannot be used: {e.strerror}", "make room", str(e.filename or folder.root))


def _say(text: str) -> None:
    _tell(event="say", text=text)


def _stage(stage: str, done: int, total: int, progress: float) -> None:
    row = {"stage": stage, "done": done, "total": total, "failed": 0, "rest_s": None}
    _tell(event="stages", stages=[row], rest_s=None, progress=progress)


def _tell(**event: object) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def _end_with(lifeline: int) -> None:
    os.read(lifeline, 1)
    os._exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("forward_driver")
    for name, kind in (("book", Path), ("folder", Path), ("lifeline", int)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    for name in ("silent", "poll", "wait"):
        parser.add_argument(f"--{name}-s", type=float, default=getattr(Patience, f"{name}_s"))
    parser.add_argument("--private-urls", action="store_true")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
