"""A real browser (Debian: chromium) for tests of the pages, and servers for it to look at."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving import serve_words

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *(
        "--disable-component-update",
        "--disable-sync",
        "--enable-unsafe-swiftshader",
    ),  # the last: WebGL without a graphics card
)
PATIENCE_MS = 240_000
NEEDS_BROWSER = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt install chromium")


@contextmanager
def browsing() -> Iterator[Any]:
    """A browser. Skips, in a line, where Playwright is not installed."""
    sync = pytest.importorskip("playwright.sync_api", reason="no Playwright here: pip install playwright")
    with sync.sync_playwright() as playwright, launched(playwright.chromium) as browser:
        yield browser


@contextmanager
def launched(kind: Any, *more: str) -> Iterator[Any]:
    """Another browser beside the first, whose `browser_type` is `kind`. more: flags of Chromium."""
    browser = kind.launch(executable_path=CHROMIUM, args=[*QUIET, *more])
    yield browser
    browser.close()


class Visit:
    """A page, and what went wrong on it."""

    def __init__(self, browser: Any, address: str, width: int = 1280, **context: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        self.page.goto(address)

    def colours(self, selector: str) -> int:
        """How many different colours a part of the page shows: an empty map has few."""
        shot = Image.open(io.BytesIO(self.page.locator(selector).first.screenshot())).convert("RGB")
        return len(np.unique(np.asarray(shot).reshape(-1, 3) // 8, axis=0))

    def fits(self) -> bool:
        """Nothing sticks out sideways."""
        return bool(self.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


def start(folder: Path, *more: str, listen: str = "127.0.0.1") -> tuple[list[str], str]:
    words, port, _ = serve_words(folder / "data", *more, listen=listen)
    return words, f"http://127.0.0.1:{port}/"
