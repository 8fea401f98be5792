"""The fields of a form → the order of a job, checked."""

from __future__ import annotations

import json
import math
import urllib.parse
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import PurePosixPath

from passel.server.api_options import Choice, choose
from passel.server.buckets import is_in_buckets
from passel.server.jobs import JobError, Order
from passel.server.outgoing import Gate
from passel.server.settings import ServerSettings

LONGEST_NAME = 200
LATEST_MS = 253402300799000  # the year 9999
MOST_OUTPUTS, MOST_URLS = 1000, 100_000


def order_from(fields: Mapping[str, str], settings: ServerSettings, now_ms: int) -> Order:
    """What the client asked for. JobError with the text for the client."""
    skip = fields.get("skipPostProcessing") == "true"
    choice = choose(fields.get("options", ""), skip, settings.max_concurrency)
    gate = Gate(settings.allow_private_urls)
    webhook, zip_url = fields.get("webhook", "").strip(), fields.get("zipurl", "").strip()
    urls = tuple(_strings(fields.get("urls", ""), "urls", MOST_URLS))
    for url in (webhook, zip_url, *(u for u in urls if not is_in_buckets(u, settings.buckets))):
        if url:
            gate.check(url)
    created_ms = _date(fields.get("dateCreated", ""), now_ms)
    return Order(
        name=_name(fields.get("name", ""), now_ms),
        created_ms=created_ms,
        options=choice.options,
        ignored=choice.ignored,
        skip_post_processing=skip,
        webhook=webhook,
        outputs=tuple(_output(o) for o in _strings(fields.get("outputs", ""), "outputs", MOST_OUTPUTS)),
        zip_url=zip_url,
        urls=urls,
        priority=_priority(fields.get("priority", "")),
    )


def options_from(fields: Mapping[str, str], order: Order, settings: ServerSettings) -> Choice | None:
    """The options of a restart; None = those of before."""
    text = fields.get("options", "")
    return choose(text, order.skip_post_processing, settings.max_concurrency) if text.strip() else None


def _name(given: str, now_ms: int) -> str:
    """The title; some clients send none, and others need one in the answer."""
    name = "".join(c for c in given if c.isprintable()).strip()[:LONGEST_NAME]
    return name or f"Task of {datetime.fromtimestamp(now_ms / 1000, UTC).isoformat(timespec='seconds')}"


def _date(given: str, now_ms: int) -> int:
    try:
        date = float(given)
    except ValueError:
        return now_ms
    return int(date) if math.isfinite(date) and 0 <= date <= LATEST_MS else now_ms


def _priority(given: str) -> int:
    try:
        return max(-100, min(100, int(given)))
    except ValueError:
        return 0


def _strings(text: str, field: str, most: int) -> list[str]:
    """A JSON list of texts; an empty field is an empty list."""
    if not text.strip():
        return []
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise JobError(f"{field} is not valid JSON: {e}") from None
    if given is None:
        return []
    if not isinstance(given, list) or not all(isinstance(x, str) and _is_text(x) for x in given):
        raise JobError(f"{field} must be a list of strings")
    if len(given) > most:
        raise JobError(f"{field} has too many entries; at most {most} are allowed")
    return given


def _is_text(x: str) -> bool:
    """Whether it can be written down: JSON can carry halves of characters, which no file name can."""
    return not any(0xD800 <= ord(c) <= 0xDFFF for c in x)


def _output(given: str) -> str:
    """The path below the project: leading slashes and dots are taken off, as NodeODM does; '' if nothing is left."""
    parts = [p for p in PurePosixPath(given.replace("\\", "/").replace("\0", "")).parts if p not in {"..", ".", "/"}]
    return "/".join(parts)


def name_in_url(url: str) -> str:
    """The file name at the end of a URL's path."""
    return urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])
