"""Pages for what is not the good day, in a real browser: failed and stopped tasks, hundreds of them, a server that goes away,
clouds without a graphics card, nodes that are bad. Needs a Chromium (Debian: chromium)."""

from __future__ import annotations

import asyncio
import http.server
import re
import signal
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from browser_world import NEEDS_BROWSER, Visit, browsing, launched, start
from passel.products.points import merge_points
from passel.products.tiles import read_tiles
from passel.server.canned import deliver
from passel.server.folders import JobFolder
from passel.server.job_store import JobStore
from passel.server.jobs import Job, Order, State
from passel.web.cloud_nodes import CLOUD
from product_tiles import Field
from runs import command
from serving import running

pytestmark = NEEDS_BROWSER
FAILURE = "Only 3 of 12 photos hang together (submodel_0000): fly with more overlap"
MANY = 200
NAMES = {State.COMPLETED: "With a cloud", State.FAILED: "Broken", State.CANCELED: "Stopped"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as opened:
        yield opened


def fill_store(data: Path) -> dict[str, str]:
    """Hundreds of tasks, of which few have files: {name: uuid}."""
    (data / "jobs").mkdir(parents=True)
    store, special = JobStore(data / "jobs.sqlite"), {}

    async def fill() -> None:
        for i in range(MANY):
            name, state = f"Field {i}", State.COMPLETED
            for other, title in NAMES.items():
                if i == MANY - 2 - list(NAMES).index(other):
                    name, state = title, other
            id_ = str(uuid.UUID(int=i, version=4))
            special["Bare" if i == 0 else name] = id_
            failure = FAILURE if state is State.FAILED else ""
            await store.write(Job(id_, "", Order(name, 1_700_000_000_000 + i), state, 1, 1, 1, 12, 100.0, failure, 1))
            folder = JobFolder(data / "jobs" / id_)
            folder.root.mkdir()
            folder.console.write_text("the first line\n", "utf-8")
            if name == NAMES[State.COMPLETED]:
                deliver(folder.output, ())
                write_cloud(folder.output)

    with ThreadPoolExecutor(1) as aside:  # Playwright's loop runs in this thread
        aside.submit(lambda: asyncio.run(fill())).result()
    store.close()
    return special


def write_cloud(output: Path) -> None:
    field = Field()
    tiles = [field.write(output / ".tiles", i, j, points=True) for j in range(2) for i in range(3)]
    (output / CLOUD).unlink()
    merge_points(read_tiles(tiles), field.frame, output / CLOUD, 30_000)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """A server with many tasks: its address, and their uuids by name."""
    folder = tmp_path_factory.mktemp("shelf")
    special = fill_store(folder / "data")
    words, address = start(folder, "--test", "--cleanup-tasks-after", "0")
    with running(words, folder / "serve.log") as server:
        server.wait_for("is ready")
        yield address, special


def test_hundreds_of_maps_and_only_pictures_in_sight(browser: Any, shelf: tuple[str, dict[str, str]]) -> None:
    visit = Visit(browser, "about:blank")
    asked: list[str] = []
    visit.page.on("request", lambda request: asked.append(request.url) if "/pictures/" in request.url else None)
    visit.page.goto(shelf[0])
    visit.page.get_by_role("heading", name=NAMES[State.COMPLETED]).wait_for()
    assert visit.page.get_by_role("listitem").count() == MANY
    visit.page.locator(".thumb img").first.wait_for()
    assert len(asked) == 1
    assert visit.errors == []


def test_a_failed_task_says_what_and_a_stopped_one_how_to_go_on(
    browser: Any, shelf: tuple[str, dict[str, str]]
) -> None:
    address, special = shelf
    visit = Visit(browser, f"{address}#/task/{special['Broken']}", 360)
    page = visit.page
    assert FAILURE in page.get_by_role("alert").inner_text()
    page.get_by_role("button", name="Run again").wait_for()
    page.get_by_text("the first line").wait_for()
    assert visit.fits()
    page.goto(f"{address}#/task/{special['Stopped']}")
    page.get_by_text("goes on: what was finished is not made again").wait_for()
    page.goto(f"{address}#/task/{uuid.UUID(int=10**6, version=4)}")
    page.get_by_role("heading", name="No such map").wait_for()
    assert visit.errors == []


def test_results_that_are_in_a_bucket_only_can_be_downloaded(browser: Any, shelf: tuple[str, dict[str, str]]) -> None:
    address, special = shelf
    visit = Visit(browser, "about:blank")
    away = {"status": 302, "headers": {"Location": "http://bucket.invalid/all.zip?signature=x"}}
    visit.page.route("**/download/*", lambda route: route.fulfill(**away))
    visit.page.goto(f"{address}#/task/{special['Bare']}")
    visit.page.get_by_text("results to its bucket").wait_for()
    visit.page.get_by_role("link", name=re.compile("Orthophoto")).wait_for()
    assert visit.page.get_by_role("button", name="Run again").count() == 0  # the photos are not here
    visit.page.unroute("**/download/*")
    visit.page.reload()
    visit.page.get_by_text("This job made no map").wait_for()
    assert visit.errors == []


def test_the_cloud_turns_and_tells_heights(browser: Any, shelf: tuple[str, dict[str, str]]) -> None:
    address, special = shelf
    visit = Visit(browser, f"{address}#/task/{special['With a cloud']}", 360, has_touch=True)
    page = visit.page
    page.get_by_role("tab", name="Cloud").click()
    cloud = page.locator(".cloud canvas[data-state=whole]")
    cloud.wait_for()
    assert "152 thousand points" in str(cloud.get_attribute("aria-label"))
    before = cloud.screenshot()
    assert visit.colours(".cloud canvas") > 30
    cloud.focus()
    for key in ("ArrowLeft", "ArrowUp", "Shift+ArrowLeft", "+", "t"):
        page.keyboard.press(key)
    page.wait_for_timeout(600)  # it rests, and draws all points again
    assert cloud.screenshot() != before
    page.get_by_role("button", name="Heights").click()
    page.get_by_role("button", name="Show all").click()
    cloud.click()
    page.get_by_text(re.compile(r"\d E  \d+\.\d N  -?\d+\.\d\d m")).wait_for()
    assert visit.fits()
    assert visit.errors == []


def test_without_webgl_the_page_says_so(browser: Any, shelf: tuple[str, dict[str, str]]) -> None:
    address, special = shelf
    with launched(browser.browser_type, "--disable-3d-apis") as blind:
        visit = Visit(blind, f"{address}#/task/{special['With a cloud']}")
        visit.page.get_by_role("tab", name="Cloud").click()
        visit.page.get_by_text("WebGL 2 is missing or switched off").wait_for()
        visit.page.get_by_role("tab", name="Map").click()
        visit.page.locator("canvas[data-state=whole]").wait_for()


def test_a_server_that_goes_and_comes_back(browser: Any, tmp_path: Path) -> None:
    words, address = start(tmp_path, "--test")
    with running(words, tmp_path / "one.log") as server:
        server.wait_for("is ready")
        visit = Visit(browser, address)
        page = visit.page
        page.get_by_text("No maps yet").wait_for()
        server.signal(signal.SIGKILL)
        page.get_by_text("The server does not answer").wait_for()
        page.get_by_role("link", name="Machines").click()
        page.get_by_text("Waiting for the server").or_(page.get_by_role("heading", name="Machines")).first.wait_for()
    with running(words, tmp_path / "two.log") as server:
        server.wait_for("is ready")
        page.get_by_text("The server does not answer").wait_for(state="hidden")
        page.get_by_text("This server runs in test mode").wait_for()


def test_the_line_for_another_machine_has_a_token_that_opens(browser: Any, tmp_path: Path) -> None:
    words, address = start(tmp_path, "--no-worker", "--token", "operator", listen="0.0.0.0")
    with running(words, tmp_path / "serve.log") as server:
        server.wait_for("is ready")
        visit = Visit(browser, f"{address}?token=operator#/machines")
        visit.page.get_by_role("button", name="Show the line to type").click()
        typed = visit.page.locator("code", has_text=" join https://").text_content().split()
        assert visit.page.locator("code", has_text="/join | sh -s --").text_content().endswith(typed[-1])
        assert visit.page.locator(".qr svg").count() == 1
        joining = running([*command(typed[1:]), "--home", str(tmp_path / "home")], tmp_path / "join.log")
        with joining as worker:
            worker.wait_for("MB for steps of")
            visit.page.get_by_text("nothing", exact=True).wait_for()  # it is in the list of machines, and runs nothing
        assert visit.page.locator("code", has_text=" join https://").count() == 1, "the next look took the line away"
        assert visit.errors == []


class _Stranger(http.server.BaseHTTPRequestHandler):
    """A web server that is no NodeODM: it answers everything with a page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<h1>Welcome</h1>")

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_nodes_are_looked_after_by_keyboard(browser: Any, shelf: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    stranger = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Stranger)
    threading.Thread(target=stranger.serve_forever, daemon=True).start()
    words, address = start(tmp_path, "--no-worker")
    try:
        with running(words, tmp_path / "serve.log") as server:
            server.wait_for("is ready")
            visit = Visit(browser, f"{address}#/nodes")
            page = visit.page
            page.get_by_text("No nodes").wait_for()
            for url, name in ((shelf[0], "good"), (f"http://127.0.0.1:{stranger.server_port}", "stranger")):
                page.get_by_label("Address").fill(url.rstrip("/"))
                page.get_by_label("Name").fill(name)
                page.keyboard.press("Enter")
                page.get_by_role("cell", name=re.compile(f"^{name}")).first.wait_for()
            page.get_by_text("Takes tasks").wait_for()
            page.get_by_text("Bad", exact=True).wait_for()
            assert page.locator(".why").inner_text()
            page.get_by_role("button", name="Lock good").focus()
            page.keyboard.press("Enter")
            page.get_by_text("Locked", exact=True).wait_for()
            page.on("dialog", lambda dialog: dialog.accept())
            page.get_by_role("button", name="Delete stranger").click()
            page.get_by_role("cell", name=re.compile("^stranger")).first.wait_for(state="detached")
            page.get_by_label("Address").fill("ftp://nowhere")
            page.keyboard.press("Enter")
            page.get_by_role("alert").wait_for()
            page.get_by_role("button", name="Unlock good").click()
            page.get_by_text("Takes tasks").wait_for()
            assert visit.errors == []
    finally:
        stranger.shutdown()
        stranger.server_close()
