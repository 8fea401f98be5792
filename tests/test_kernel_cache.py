"""Compiled kernels belong to the sources they were compiled from."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import passel
from passel import kernel_cache
from passel.kernel_cache import PACKAGES

SOURCES = Path(passel.__file__).parent


def _run(home: Path, code: str, **environment: str) -> str:
    kept = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "PYTHONPATH": str(home), **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_a_kernel_is_compiled_anew_when_one_that_it_calls_has_changed(tmp_path: Path) -> None:
    home = tmp_path / "passel"
    for name in ("__init__.py", "kernel_cache.py"):
        (home / name).parent.mkdir(exist_ok=True)
        shutil.copy(SOURCES / name, home / name)
    for name in PACKAGES:
        (home / name).mkdir()
        (home / name / "__init__.py").touch()
    inner = "from numba import njit\n@njit(cache=True)\ndef inner(x):\n    return x + {}\n"
    outer = "from numba import njit\nfrom passel.align.inner import inner\n@njit(cache=True)\ndef outer(x):\n    return inner(x)\n"
    ask = "from passel.surface.outer import outer; print(outer(1), sum(outer.stats.cache_hits.values()))"
    (home / "surface" / "outer.py").write_text(outer)
    (home / "align" / "inner.py").write_text(inner.format(1))
    assert [_run(tmp_path, ask), _run(tmp_path, ask)] == ["2 0", "2 1"]
    (home / "align" / "inner.py").write_text(inner.format(10))
    assert _run(tmp_path, ask) == "11 0"


def test_a_process_keeps_to_its_own_sources_whatever_started_it(tmp_path: Path) -> None:
    ask = "import os, passel; print(os.environ['NUMBA_CACHE_DIR'])"
    own = _run(SOURCES.parent, ask)
    assert Path(own).name.startswith("passel-kernels-")
    assert _run(SOURCES.parent, ask, NUMBA_CACHE_DIR=str(tmp_path / "passel-kernels-0")) == str(
        tmp_path / Path(own).name
    )
    assert _run(SOURCES.parent, ask, NUMBA_CACHE_DIR=str(tmp_path)) == str(tmp_path / Path(own).name)


def test_kernels_in_use_are_not_cleared(tmp_path: Path) -> None:
    ask = "import os, passel; print(os.environ['NUMBA_CACHE_DIR'])"
    own = Path(_run(SOURCES.parent, ask, NUMBA_CACHE_DIR=str(tmp_path)))
    unused = tmp_path / "passel-kernels-0"
    for folder in (own, unused):
        folder.mkdir()
        os.utime(folder, (0.0, 0.0))
    _run(SOURCES.parent, ask, NUMBA_CACHE_DIR=str(tmp_path))  # used again
    home = tmp_path / "other" / "passel"
    shutil.copytree(SOURCES, home, ignore=shutil.ignore_patterns("__pycache__"), copy_function=shutil.copyfile)
    _run(home.parent, ask, NUMBA_CACHE_DIR=str(tmp_path))
    assert own.exists()
    assert not unused.exists()


def test_a_user_without_a_home_has_a_cache_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs as a number: no $HOME, and nobody of this number in the list of users."""
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    monkeypatch.chdir(tmp_path)
    foreign = kernel_cache._users_cache()
    assert foreign.parent == tmp_path
    assert foreign.name != "passel-54321", "the folder there is root's, not that user's"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert kernel_cache._users_cache().parent == tmp_path
    home = tmp_path / "home" / "somebody"
    monkeypatch.setenv("HOME", str(home))
    assert kernel_cache._users_cache() == home / ".cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "kept"))
    assert kernel_cache._users_cache() == tmp_path / "kept"
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("home", ["/proc/nonexistent", "/dev/null"])
def test_a_home_that_may_not_be_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    """Numba would refuse to load the kernels, and Passel to start."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith("/proc") and os.path.isdir(path))
    monkeypatch.setenv("HOME", home)
    assert kernel_cache._users_cache().parent == tmp_path


def test_a_users_temporary_cache_is_one_for_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own = kernel_cache._own_temporary_folder()
    assert own.stat().st_mode & 0o777 == 0o700
    assert kernel_cache._own_temporary_folder() == own
    own.chmod(0o777)
    assert kernel_cache._own_temporary_folder() != own, "anybody may have written there"


def test_all_packages_with_kernels_count() -> None:
    with_kernels = {
        p.relative_to(SOURCES).parts[0] for p in SOURCES.rglob("*.py") if re.search(r"\bnjit\b", p.read_text())
    }
    assert with_kernels == set(PACKAGES)
