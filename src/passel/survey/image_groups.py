"""OpenDroneMap's image_groups.txt: the user says which photo belongs to which submodel."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from passel.errors import InputError, StorageError
from passel.survey.model import Survey
from passel.survey.split import MIN_PHOTOS, Places, photo_places, plan_from_cores
from passel.survey.submodel import SplitPlan

_FORM = "give one line a photo: its file name, a space, and the name of its group"
_FEWEST = 3


def plan_from_image_groups(survey: Survey, path: Path, overlap_m: float, footprint_m: float) -> SplitPlan:
    """The plan of an image_groups.txt (`IMG_0001.JPG group` a line); halos by overlap as in `split_survey`.

    Raises InputError with line and photo for lines that cannot be read, photos that the survey does not have (unless
    the input check left them out), photos named twice, photos without a group and groups that are too small;
    StorageError if unreadable.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as e:
        raise StorageError(f"Cannot read the image groups: {e.strerror}", str(path), "check the path") from e
    except UnicodeDecodeError as e:
        raise InputError("The image groups are not UTF-8 text", str(path), _FORM) from e
    group_of = _read(text, survey, path)
    names = tuple(sorted(p.name for p in survey.photos))
    missing = [n for n in names if n not in group_of]
    if missing:
        shown = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
        count = "1 photo has" if len(missing) == 1 else f"{len(missing)} photos have"
        raise InputError(f"{count} no group: {shown}", str(path), _FORM)
    groups = sorted(set(group_of.values()))
    core_of = np.array([groups.index(group_of[n]) for n in names], np.int64)
    sizes = np.bincount(core_of, minlength=len(groups))
    notes = []
    for group, size in zip(groups, sizes):
        if size < _FEWEST:
            raise InputError(
                f"Group {group!r} has {size} photos: too few for a model", str(path), "join it to another group"
            )
        if size < MIN_PHOTOS and len(groups) > 1:
            notes.append(f"Group {group!r} has only {size} photos and may fail to map alone.")
    places = photo_places(survey)
    if places is None:
        # Without positions there is no "within so many metres": the groups share no photos and only common points tie
        # them.
        notes.append("No photo has GPS: the groups of image_groups.txt get no shared photos.")
        spot = np.column_stack([core_of * 1e6, np.zeros(len(names))])
        places, overlap_m = Places(names, spot, ()), 0.0
    return plan_from_cores(places, core_of, (overlap_m, footprint_m), (*places.notes, *notes))


def _read(text: str, survey: Survey, path: Path) -> dict[str, str]:
    names = {p.name for p in survey.photos}
    left_out = {name for f in survey.findings for name in f.photos} - names
    group_of: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"{path}, line {number}"
        words = line.strip().rsplit(None, 1)
        if len(words) != 2:
            raise InputError(f"Cannot read {line.strip()!r}", where, _FORM)
        name, group = words
        if name in left_out:
            continue
        if name not in names:
            raise InputError(f"There is no photo {name!r}", where, "correct the name (case counts) or remove the line")
        if group_of.setdefault(name, group) != group:
            raise InputError(
                f"Photo {name!r} is in two groups, {group_of[name]!r} and {group!r}", where, "keep one line"
            )
    return group_of
