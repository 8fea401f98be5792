"""Where products lie in the output folder (OpenDroneMap's layout), and writing them aside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from passel.errors import StorageError


@dataclass(frozen=True)
class Layout:
    """Paths of the products under one output folder; nothing is made until somebody writes."""

    root: Path

    @property
    def orthophoto(self) -> Path:
        return self.root / "odm_orthophoto" / "odm_orthophoto.tif"

    @property
    def dsm(self) -> Path:
        return self.root / "odm_dem" / "dsm.tif"

    @property
    def dsm_filled(self) -> Path:
        return self.root / "odm_dem" / "dsm_filled.tif"

    @property
    def cloud(self) -> Path:
        return self.root / "odm_georeferencing" / "odm_georeferenced_model.laz"

    @property
    def report(self) -> Path:
        return self.root / "odm_report"

    @property
    def report_page(self) -> Path:
        return self.report / "report.html"

    @property
    def shots(self) -> Path:
        return self.report / "shots.geojson"

    @property
    def stats(self) -> Path:
        return self.report / "stats.json"

    @property
    def plan_picture(self) -> Path:
        return self.report / "submodels.png"

    @property
    def plan_geojson(self) -> Path:
        return self.report / "submodels.geojson"

    @property
    def orthophoto_preview(self) -> Path:
        return self.report / "orthophoto.png"

    @property
    def first_look(self) -> Path:
        return self.report / "first_look.png"

    @property
    def dsm_preview(self) -> Path:
        return self.report / "dsm.png"

    @property
    def cameras(self) -> Path:
        return self.root / "cameras.json"

    @property
    def images(self) -> Path:
        return self.root / "images.json"

    @property
    def log(self) -> Path:
        return self.root / "log.json"


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A path in the same folder to write to; renamed to `path` when the block ends well, removed when it does not.

    Raises StorageError where the operating system refuses (no space, no permission).
    """
    aside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        os.replace(aside, path)
    except (FileExistsError, NotADirectoryError) as e:
        raise StorageError("A file lies where a folder should be", str(path.parent), "move it away") from e
    except OSError as e:
        raise StorageError(
            f"Cannot write: {e.strerror or e}", str(path), "free some space or choose another output folder"
        ) from e
    finally:
        with suppress(OSError):  # what has just been told counts more
            aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text product aside and rename it; StorageError where that fails."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")
