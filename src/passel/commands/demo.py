"""`passel demo`: the synthetic survey, mapped as any other and compared with its truth."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import passel
from passel.commands.run import check_writable, run_job_here, tell
from passel.errors import UsageError
from passel.option_table import STAGES, Option, Range
from passel.options import parse_options, parse_value

DEMO_PHOTOS, DEMO_SPLIT = 63, 20
DEMO_OVERLAP_M = 45.0  # a strip and two photos: the default of 150 m would put nearly every photo into every submodel


def run(words: tuple[str, ...]) -> int:
    """`passel demo`: write the synthetic survey, map it as any other, compare the map with its truth."""
    count, rest = _demo_photos(words)
    parsed = parse_options(rest)
    if parsed.arguments or parsed.project_path is not None:
        raise UsageError("passel demo takes no photos: it makes its own", todo="passel demo --output DIR [--photos N]")
    folder = (parsed.output or Path("passel-demo")).absolute()
    check_writable(folder)
    for notice in parsed.notices:
        print(f"passel: {notice}", file=sys.stderr)
    options = parsed.options
    options = options if "split" in parsed.given else replace(options, split=DEMO_SPLIT)
    options = options if "split-overlap" in parsed.given else replace(options, split_overlap_m=DEMO_OVERLAP_M)

    from passel.demo.accuracy import measure
    from passel.demo.flight import DemoSettings
    from passel.demo.write import write_demo

    strips = max(2, round(math.sqrt(0.7 * count)))  # the flight's proportions: 7 strips of 10
    settings = DemoSettings(strips=strips, photos_per_strip=math.ceil(count / strips))
    made = strips * settings.photos_per_strip
    print(f"passel {passel.__version__}: {made} synthetic photos in {folder / 'images'}, map to {folder}", flush=True)
    truth = write_demo(folder, settings, options.max_concurrency)
    tell(run_job_here(folder / "images", folder, options, ("passel", "demo", *words)))
    if STAGES.index(options.end_with) >= STAGES.index("merge"):
        print(measure(truth, folder).text)
    return 0


def _demo_photos(words: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
    """The value of --photos, which only the demo has, and the other words."""
    option = Option("photos", "int", DEMO_PHOTOS, "synthetic photos to make", Range(6, 100_000), "photos")
    count, rest, queue = DEMO_PHOTOS, [], list(words)
    while queue:
        name, equals, text = queue.pop(0).partition("=")
        if name != "--photos":
            rest.append(name + equals + text)
            continue
        if not equals and not queue:
            raise UsageError("--photos needs a value (whole number of photos)")
        value = parse_value(option, text if equals else queue.pop(0))
        assert isinstance(value, int)
        count = value
    return count, tuple(rest)
