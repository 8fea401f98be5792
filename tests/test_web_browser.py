"""The web pages in a real browser: upload → look at the survey → watch → map → download. Needs a Chromium (Debian: chromium)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browser_world import NEEDS_BROWSER, Visit, browsing, start
from passel.demo.flight import DemoSettings
from passel.demo.write import write_demo
from serving import running

pytestmark = NEEDS_BROWSER


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, DemoSettings(strips=2, photos_per_strip=4), 1)
    return sorted(str(p) for p in (folder / "images").iterdir())


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as opened:
        yield opened


@pytest.fixture(scope="module")
def canned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server whose tasks end at once, and its address."""
    folder = tmp_path_factory.mktemp("canned")
    words, address = start(folder, "--test", "--test-seconds", "1")
    with running(words, folder / "serve.log") as server:
        server.wait_for("is ready")
        yield address


def upload(visit: Visit, photos: list[str], name: str) -> None:
    page = visit.page
    page.get_by_role("banner").get_by_role("link", name="New map").click()
    page.get_by_label("Name").fill(name)
    page.locator("#files").set_input_files(photos)
    page.get_by_text(f"{len(photos)} files are here").wait_for()


def test_from_photos_to_a_download(browser: Any, canned: str, photos: list[str]) -> None:
    visit = Visit(browser, canned)
    page = visit.page
    page.get_by_text("No maps yet").wait_for()
    upload(visit, photos, "Down by the <b>river</b>")
    page.get_by_role("button", name="Start mapping").click()
    page.get_by_role("heading", name="Down by the <b>river</b>").wait_for()  # text, not markup
    page.get_by_role("tab", name="Files").click()
    with page.expect_download() as started:
        page.get_by_role("link", name=re.compile("Everything")).click()
    archive = Path(started.value.path())
    assert archive.read_bytes()[:2] == b"PK"

    page.get_by_role("tab", name="Map").click()
    page.get_by_role("button", name="Distance").click()
    canvas = page.locator("canvas").first
    canvas.click(position={"x": 300, "y": 300})
    canvas.click(position={"x": 500, "y": 300})
    assert re.search(r"\d m in 1 line", page.get_by_role("tabpanel").get_by_text("in 1 line").inner_text())

    page.get_by_role("link", name="Maps").click()
    page.get_by_role("heading", name="Down by the <b>river</b>").click()
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete").click()
    page.get_by_text("No maps yet").wait_for()
    assert visit.errors == []


def test_an_upload_that_was_cut_off_goes_on(browser: Any, canned: str, photos: list[str]) -> None:
    visit = Visit(browser, canned)
    page = visit.page
    upload(visit, photos[:3], "First half")
    sent: list[str] = []
    page.on("dialog", lambda dialog: dialog.accept())
    page.reload()
    page.get_by_text("This upload was interrupted").wait_for()
    page.on("request", lambda request: sent.append(request.url) if request.method == "PUT" else None)
    page.get_by_label("Name").fill("Whole")
    page.locator("#files").set_input_files(photos[:5])
    page.get_by_text("5 files are here").wait_for()
    assert len(sent) == 2  # what was there is not sent again
    page.get_by_role("button", name="Start mapping").click()
    page.get_by_text("5 photos").first.wait_for()
    assert visit.errors == []


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_every_page_fits_and_can_be_used_by_keyboard(browser: Any, canned: str, width: int, scheme: str) -> None:
    visit = Visit(browser, canned, width, color_scheme=scheme)
    page = visit.page
    for place, heading in {
        "#/": "Maps",
        "#/new": "New map",
        "#/machines": "Machines",
        "#/nodes": "Nodes",
        "#/settings": "Settings",
    }.items():
        page.goto(canned + place)
        page.get_by_role("heading", name=heading, exact=True).wait_for()
        assert visit.fits(), place
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, a, input, select')].filter(e => !e.textContent.trim() && "
        "!e.labels?.length && !e.getAttribute('aria-label') && e.type !== 'file').length"
    )
    assert unnamed == 0
    page.reload()
    page.get_by_role("heading", name="Settings", exact=True).wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert visit.errors == []


def test_a_server_with_tokens_asks_for_one(browser: Any, tmp_path: Path) -> None:
    words, address = start(tmp_path, "--test", "--token", "sesame-opens")
    with running(words, tmp_path / "serve.log") as server:
        server.wait_for("is ready")
        visit = Visit(browser, address)
        page = visit.page
        page.get_by_label("Token").fill("wrong")
        page.get_by_role("button", name="Log in").click()
        page.get_by_text("not known, expired or revoked").wait_for()
        page.get_by_label("Token").fill("sesame-opens")
        page.get_by_role("button", name="Log in").click()
        page.get_by_text("No maps yet").wait_for()
        page.goto(f"{address}#/settings")
        page.get_by_role("button", name="Log out").click()
        page.get_by_role("heading", name="Log in").wait_for()

        with_code = Visit(browser, f"{address}?token=sesame-opens")  # what the QR code says
        with_code.page.get_by_text("No maps yet").wait_for()
        assert "sesame" not in with_code.page.url
        assert "sesame" not in server.said


def test_a_real_map_can_be_watched_and_looked_at(browser: Any, tmp_path: Path, photos: list[str]) -> None:
    words, address = start(tmp_path)
    with running(words, tmp_path / "serve.log") as server:
        server.wait_for("is ready")
        visit = Visit(browser, address)
        page = visit.page
        upload(visit, photos, "Demo")
        page.get_by_role("heading", name="The survey").wait_for()
        page.get_by_text("8 photos").first.wait_for()
        page.get_by_text("A frame is what a photo shows").wait_for()
        page.get_by_text("on the machines there are now").wait_for()
        assert visit.colours("canvas") > 4  # photos and submodels
        page.get_by_role("button", name="Start mapping").click()
        page.get_by_role("heading", name="Progress").wait_for()
        page.get_by_text("features").first.wait_for()
        look_at_the_machines(browser, address)
        page.get_by_role("tab", name="Map").wait_for()
        page.locator("canvas[data-state=whole]").wait_for()
        assert visit.colours("canvas") > 100
        page.get_by_role("button", name="Surface").click()
        page.locator("canvas[data-state=loading]").wait_for()
        page.locator("canvas[data-state=whole]").wait_for()
        assert visit.colours("canvas") > 50
        page.get_by_role("button", name="Profile").click()
        box = page.locator("canvas").first.bounding_box()
        for part in (0.45, 0.55):
            page.locator("canvas").first.click(position={"x": part * box["width"], "y": 0.5 * box["height"]})
        page.get_by_role("img", name=re.compile("Heights from")).wait_for()
        page.get_by_role("tab", name="Cloud").click()
        page.locator(".cloud canvas[data-state=whole]").wait_for()
        assert visit.colours(".cloud canvas") > 100
        assert visit.errors == []


def look_at_the_machines(browser: Any, address: str) -> None:
    visit = Visit(browser, f"{address}#/machines")
    visit.page.get_by_role("button", name="Drain").wait_for()
    visit.page.get_by_text("listens on this machine only").wait_for()
    assert visit.errors == []
    visit.context.close()
