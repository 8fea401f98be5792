"""From the store to the user's output folder: products are linked (else copied), the report is written beside them."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from passel.products.layout import Layout, write_text, written_aside
from passel.products.report import report_html
from passel.products.report_model import Picture, ReportFacts
from passel.products.stats import stats_json

# What a file system says that has no hard links, has too many of this file, or is another one than the store's.
_CANNOT_LINK = {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EACCES, errno.ENOSYS}


def publish(source: Path, target: Path) -> None:
    """Put a finished file of the store at `target`, at once or not at all. StorageError where that fails.

    A hard link costs no disk; programs that change a file in place would change the store's too, whose `verify` tells.
    """
    with written_aside(target) as aside:
        aside.unlink(missing_ok=True)
        try:
            os.link(source, aside)
        except OSError as e:
            if e.errno not in _CANNOT_LINK:
                raise
            shutil.copyfile(source, aside)
        if target.exists() and os.path.samefile(aside, target):
            # Renaming a file to another name of itself does nothing and leaves both.
            target.unlink()


def write_report(layout: Layout, facts: ReportFacts, pictures: Sequence[tuple[str, Path]]) -> None:
    """Write report.html and stats.json; pictures: (caption, PNG) of those that exist."""
    shown = [Picture(caption, path.read_bytes()) for caption, path in pictures if path.exists()]
    write_text(layout.report_page, report_html(facts, shown))
    write_text(layout.stats, stats_json(facts))
