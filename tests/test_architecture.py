"""The house rules that a machine can check, over the syntax tree of every source file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "passel"
FILES = sorted(SOURCE.rglob("*.py"))

# Lower rooms never import higher ones.
ROOMS = (
    *("collector", "kernel_cache", "errors", "databases", "option_table", "options", "geo", "survey", "reconstruct"),
    *("align", "surface", "products", "pipeline", "cluster"),
)
_NO_ENGINE = {"collector", "databases", "errors", "option_table", "options", "server"}
# Rooms beside the column, with the rooms that they may see.
BESIDE = {
    "demo": {"errors", "geo", "survey", "reconstruct", "products"},
    "server": _NO_ENGINE,
    "client": {"errors", "option_table", "options"},
    "gateway": _NO_ENGINE,
    "fleet": _NO_ENGINE,
    "web": _NO_ENGINE,
}
# What may be imported only in some rooms (path prefixes).
ONLY_IN = {
    "pycolmap": ("reconstruct/", "align/"),
    "rasterio": ("products/raster", "demo/accuracy"),
    "dask": ("cluster/",),
    "distributed": ("cluster/",),
    "aiohttp": ("cluster/", "gateway/"),
    "httpx": ("client/",),
    "fastapi": ("server/", "web/"),
    "starlette": ("server/", "web/"),
    "rio_tiler": ("web/",),
    "boto3": ("fleet/",),
    "pydo": ("fleet/",),
    "hcloud": ("fleet/",),
    "scaleway": ("fleet/",),
    "zeroconf": ("cluster/",),
    "cryptography": ("cluster/",),
}
# How many handlers of a file may catch everything, and why.
CATCH_ALL: dict[str, tuple[int, str]] = {
    "fleet/loop.py": (
        1,
        "a bug in one turn must not leave rented machines unattended: it is told, the next turn tries",
    ),
    "pipeline/host.py": (
        3,
        "the child process turns any bug of a step into a report, and asks whether it was a full disk",
    ),
}
# Files that may print: what the user talks to, and the child process whose output is a step's log.
SIDES = {"coordinator", "worker", "driver"}  # of cluster/
PRINTERS = ("cli.py", "commands/", "pipeline/progress.py", "pipeline/host.py")


def relative(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def room_of(path: Path) -> str:
    """'geo' for geo/frames.py, 'errors' for errors.py, '' for the package's own __init__."""
    first = Path(relative(path)).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every module imported anywhere in the file, also inside functions, and its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def may_import(room: str, other: str) -> bool:
    if other in {room, "", "__version__"}:
        return True
    if room in BESIDE:
        return other in BESIDE[room]
    return other in ROOMS and ROOMS.index(other) < ROOMS.index(room)


@pytest.fixture(scope="module", params=FILES, ids=relative)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture(scope="module")
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_imports_go_in_one_direction(path, tree):
    room = room_of(path)
    if room in {"", "__main__", "cli", "commands", "serving"}:
        return  # they know everybody
    assert room in ROOMS or room in BESIDE, f"{relative(path)} lies in no room: add it to the list on purpose"
    for module, line in imports(tree):
        if module.startswith("passel."):
            other = module.split(".")[1]
            assert may_import(room, other), f"{relative(path)}:{line}: {room} must not import {other}"


def test_the_sides_of_a_passel_share_only_what_they_say(path, tree):
    """Coordinator, worker and driver may run on three machines: none needs another's code."""
    place = relative(path).split("/")
    if place[0] != "cluster" or len(place) < 3:
        return
    shared = {"wire", "trust", "user_files", "full_disk"} if place[1] in SIDES else {"wire"}
    for module, line in imports(tree):
        other = module.split(".")[2:3] if module.startswith("passel.cluster.") else []
        assert not other or other[0] in {place[1], *shared}, (
            f"{relative(path)}:{line}: {place[1]} must not import {module}"
        )


def test_heavy_libraries_stay_in_their_rooms(path, tree):
    for module, line in imports(tree):
        allowed = ONLY_IN.get(module.split(".")[0])
        if allowed is not None:
            assert relative(path).startswith(allowed), f"{relative(path)}:{line}: {module} only in {', '.join(allowed)}"


def test_files_and_functions_are_short(path, tree):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 400, f"{relative(path)} has {lines} lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= 60, f"{relative(path)}:{node.lineno}: {node.name} has {length} lines"


def test_no_drawer_for_everything(path):
    assert path.stem not in {"utils", "util", "helpers", "misc", "common"}


def test_exceptions_are_caught_by_name(path, tree):
    blanket = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and catches_all(node)]
    allowed, reason = CATCH_ALL.get(relative(path), (0, "no reason given"))
    assert len(blanket) == allowed, f"{relative(path)}: lines {blanket} catch everything; allowed: {allowed} ({reason})"


def catches_all(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(c is None or (isinstance(c, ast.Name) and c.id in {"Exception", "BaseException"}) for c in caught)


def test_only_the_command_line_prints(path, tree):
    if relative(path).startswith(PRINTERS):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{relative(path)}:{node.lineno} prints"
