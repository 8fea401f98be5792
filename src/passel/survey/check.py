"""The input check: what the photos' facts say before any work is done on them."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from passel.geo.nearest import kd_tree
from passel.survey.facts import PhotoFacts, Refusal
from passel.survey.model import Camera, Finding, Photo
from passel.survey.pieces import largest_first, pieces_of

F64 = NDArray[np.float64]
_SHOWN = 4
_BLUR_NEIGHBOURS = 5  # on each side, in time
_BLUR_RATIO = 0.25
_LINK_IN_SPACINGS = 10.0  # 90 % forward overlap: the footprint is ten times the spacing
_LINK_IN_FOOTPRINTS = 1.3  # height above take-off is not height above ground


def some(names: Sequence[str]) -> str:
    """A few names and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def counted(n: int, noun: str = "photo") -> str:
    """'1 photo', '2 photos'."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def refused_findings(refusals: Sequence[Refusal]) -> list[Finding]:
    """One warning a kind of refusal."""
    by_code = defaultdict(list)
    for r in sorted(refusals, key=lambda r: r.name):
        by_code[r.code].append(r)
    found = []
    for code, group in sorted(by_code.items()):
        names = tuple(r.name for r in group)
        message = f"{len(group)} files left out: {some(names)}: {group[0].message}"
        if len(group) == 1:
            message = f"File left out: {names[0]} {group[0].message}"
        found.append(Finding("warning", f"refused-{code}", message, names))
    return found


def refusal_reasons(refusals: Sequence[Refusal]) -> str:
    """Which files cannot be used and why, each reason once: most often all files share one."""
    names_by_reason = defaultdict(list)
    for r in sorted(refusals, key=lambda r: r.name):
        names_by_reason[r.message].append(r.name)
    return some(
        [f"{some(names)}{'' if len(names) == 1 else ': each'} {reason}" for reason, names in names_by_reason.items()]
    )


def without_duplicates(facts: Sequence[PhotoFacts]) -> tuple[list[PhotoFacts], list[Finding]]:
    """The photos sorted by name, of those with equal content only the first; and what was dropped."""
    kept: dict[str, PhotoFacts] = {}
    dropped = []
    for f in sorted(facts, key=lambda f: f.name):
        if kept.setdefault(f.sha256, f) is not f:
            dropped.append(f)
    if not dropped:
        return list(kept.values()), []
    pairs = [f"{f.name} = {kept[f.sha256].name}" for f in dropped]
    message = f"Left out as exact copies: {counted(len(dropped))}: {some(pairs)}"
    return list(kept.values()), [Finding("warning", "duplicates", message, tuple(f.name for f in dropped))]


def name_findings(names: Sequence[str]) -> list[Finding]:
    """Names that differ only in case: they overwrite each other on Windows and macOS disks."""
    groups = defaultdict(list)
    for name in sorted(names):
        groups[name.casefold()].append(name)
    clashes = [n for g in groups.values() if len(g) > 1 for n in g]
    if not clashes:
        return []
    message = f"Names that differ only in upper and lower case, kept apart here but not on every disk: {some(clashes)}"
    return [Finding("warning", "names-equal-but-for-case", message, tuple(clashes))]


def gps_findings(facts: Sequence[PhotoFacts], without: Sequence[str], georeferenced: bool) -> list[Finding]:
    """Photos without a usable position (`without`), and what a survey without any means. facts: photos used."""
    found, lacking = [], set(without)
    bad = [f for f in facts if f.gps_note and f.name in lacking]
    if bad:
        message = f"GPS that cannot be right is not used in {counted(len(bad))}: {some([f.name for f in bad])}"
        found.append(Finding("warning", "gps-invalid", f"{message}: {bad[0].gps_note}", tuple(f.name for f in bad)))
    if not georeferenced:
        reason = (
            "No photo has a GPS position"
            if len(without) == len(facts)
            else "The GPS positions are too few or all at one place"
        )
        message = f"{reason}: the map gets a local frame without true scale, north or place; add GPS or a geo.txt"
        found.append(Finding("warning", "no-gps", message, tuple(without)))
    elif without:
        message = f"No GPS in {len(without)} of {counted(len(facts))}, placed by their pictures alone: {some(without)}"
        found.append(Finding("warning", "some-without-gps", message, tuple(without)))
    return found


def camera_findings(cameras: Sequence[Camera], camera_of: dict[str, str], bodies: dict[str, str]) -> list[Finding]:
    """Several cameras, zoom changes, cameras whose focal length is a mere guess.

    camera_of: camera id by photo name. bodies: by camera id, what stays when only the zoom changes (make, model, lens, size).
    """
    photos = defaultdict(list)
    for name, camera in sorted(camera_of.items()):
        photos[camera].append(name)
    found = []
    if len(cameras) > 1:
        listed = "; ".join(f"{c.id} ({counted(len(photos[c.id]))})" for c in cameras)
        found.append(Finding("note", "several-cameras", f"{len(cameras)} cameras, each calibrated by itself: {listed}"))
    for c in cameras:
        if c.is_cut and c.calibration is None:
            message = (
                f"Cut after the flight, it seems (not the size that the camera takes): {counted(len(photos[c.id]))} of {c.id}. Focal "
                "length and middle of the picture are uncertain, and with them the map's heights: give the photos as they were taken"
            )
            found.append(Finding("warning", "cut", message, tuple(photos[c.id])))
    zoomed = defaultdict(list)
    for c in cameras:
        if c.focal_prior_source != "guess":  # those whose photos tell none: told below
            zoomed[bodies[c.id]].append(c)
    for body, group in sorted(zoomed.items()):
        if len(group) > 1:
            fewest = min(group, key=lambda c: (len(photos[c.id]), c.id))
            message = f"The zoom of {body} changed during the survey ({len(group)} focal lengths); use one focal length"
            found.append(Finding("warning", "zoom-change", message, tuple(photos[fewest.id])))
    for c in cameras:
        if c.focal_prior_source == "guess":
            message = (
                f"The focal length of {c.id} is not told by its photos and not in our table: it starts from a guess"
            )
            found.append(Finding("note", "focal-guess", message, tuple(photos[c.id])))
    return found


def time_order(photos: Sequence[Photo]) -> NDArray[np.int64]:
    """(n,) indices in the order the photos were taken: by time, then by name."""
    return np.array(sorted(range(len(photos)), key=lambda i: (photos[i].time, photos[i].name)), np.int64)


def blur_findings(photos: Sequence[Photo]) -> list[Finding]:
    """Photos far less sharp than those taken just before and after with the same camera."""
    blurred: list[str] = []
    by_camera = defaultdict(list)
    for i in time_order(photos):
        by_camera[photos[i].camera].append(photos[i])
    for group in by_camera.values():
        if len(group) < 5:
            continue
        level = np.log(np.array([p.sharpness for p in group]) + 1e-3)
        k = _BLUR_NEIGHBOURS
        windows = [level[max(0, i - k) : i + k + 1] for i in range(len(level))]
        below = level - np.array([np.median(w) for w in windows])
        spread = 1.4826 * float(np.median(np.abs(below)))
        limit = min(np.log(_BLUR_RATIO), -5.0 * spread)
        blurred += [p.name for p, b in zip(group, below, strict=True) if b < limit]
    if not blurred:
        return []
    blurred.sort()
    message = f"Blurred compared with their neighbours: {counted(len(blurred))}: {some(blurred)}"
    return [Finding("warning", "blurred", message, tuple(blurred))]


def line_findings(xy_m: F64, width_m: float) -> list[Finding]:
    """Positions (n, 2) all within a strip of that width: GPS then says nothing about the tilt across it."""
    centred = xy_m - xy_m.mean(axis=0)
    across = centred @ np.linalg.svd(centred, full_matrices=False)[2][-1]
    if np.ptp(across) > width_m:
        return []
    message = "All photos were taken on one line: GPS cannot tell the map's tilt across it; fly at least two lines"
    return [Finding("warning", "one-line", message)]


def typical_spacing_m(xy_m: F64) -> float:
    """Median distance of the positions (n ≥ 2, 2) to their nearest neighbour, metres; at least 1."""
    distance = kd_tree(xy_m).query(xy_m, k=2)[0][:, 1]
    return max(float(np.median(distance)), 1.0)


def link_distance_m(xy_m: F64, footprint_m: float | None) -> float:
    """How far two photos may be apart and still overlap: the footprint's diagonal, or from the spacing where it is unknown.

    The spacing also counts beside a footprint: heights are above take-off, and a valley is deeper.
    """
    from_spacing = typical_spacing_m(xy_m) * _LINK_IN_SPACINGS
    return from_spacing if footprint_m is None else max(footprint_m * _LINK_IN_FOOTPRINTS, from_spacing / 2.0)


def island_findings(names: Sequence[str], xy_m: F64, link_m: float) -> list[Finding]:
    """names (n) and positions (n, 2) of the photos with GPS."""
    label = largest_first(pieces_of(xy_m, link_m))
    if label.max() == 0:
        return []
    groups = [[n for n, k in zip(names, label, strict=True) if k == g] for g in range(int(label.max()) + 1)]
    listed = "; ".join(f"{counted(len(g))} ({g[0] if len(g) == 1 else f'{g[0]} to {g[-1]}'})" for g in groups[:_SHOWN])
    listed += f"; and {len(groups) - _SHOWN} more" if len(groups) > _SHOWN else ""
    message = f"{len(groups)} groups of photos that cannot overlap (more than {link_m:.0f} m apart): {listed}"
    return [Finding("warning", "islands", message, tuple(sorted(itertools.chain.from_iterable(groups[1:]))))]
