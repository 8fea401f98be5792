"""Splitting a survey into submodels: compact cores of about N photos, clustered in metres, with a halo of neighbours.

The cut is a recursive balanced bisection: each cut takes the direction that leaves the two sides most compact (least
spread around their own centres), so that cores come out about as wide as they are long, whatever the flight lines.
Everything works on photos sorted by name and on positions rounded to millimetres: the order of the input is no matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from passel.geo.nearest import kd_tree
from passel.survey.model import Photo, Survey
from passel.survey.pieces import pieces_of
from passel.survey.submodel import SplitPlan, Submodel

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

MIN_PHOTOS = 8
"""A submodel with fewer photos is not mapped alone."""
MIN_SHARED = 6
"""Photos that two neighbouring submodels share at least, so that they can be aligned to each other."""
DIRECTIONS = 24


@dataclass(frozen=True)
class Places:
    """Where photos are.

    Names sorted, xy_m (n, 2) east and north in world metres (mm-rounded), and notes about those that were guessed.
    """

    names: tuple[str, ...]
    xy_m: F64
    notes: tuple[str, ...]


def split_survey(survey: Survey, photos_per_submodel: int, overlap_m: float, footprint_m: float) -> SplitPlan:
    """Submodels of about `photos_per_submodel` photos.

    overlap_m: photos of other cores this close to a core photo form the halo. footprint_m: width of one photo on the
    ground; photos closer than that can overlap. Every core is connected in that sense and has at least `MIN_PHOTOS`
    photos; what cannot stand alone joins its nearest neighbour, and a note says so. Without any GPS, or with few
    photos of one piece, one submodel has everything; islands are mapped apart, for only GPS ties them.
    """
    names = tuple(sorted(p.name for p in survey.photos))
    places = photo_places(survey)
    if places is None:
        note = "No photo has GPS: the survey cannot be split by place and is mapped as one submodel."
        return SplitPlan((Submodel("submodel_0000", names, ()),), (note,) if len(names) > photos_per_submodel else ())
    if len(names) <= photos_per_submodel and pieces_of(places.xy_m, footprint_m).max() == 0:
        return SplitPlan((Submodel("submodel_0000", names, ()),), places.notes)
    core_of, notes = _cores(places, max(photos_per_submodel, MIN_PHOTOS), footprint_m)
    if photos_per_submodel < MIN_PHOTOS:
        notes.append(f"Submodels have {MIN_PHOTOS} photos or more: smaller ones cannot be mapped alone.")
    return plan_from_cores(places, core_of, (overlap_m, footprint_m), (*places.notes, *notes))


def plan_from_cores(places: Places, core_of: I64, reach_m: tuple[float, float], notes: tuple[str, ...]) -> SplitPlan:
    """The plan for given cores: core_of (n,) numbers from 0 without gaps; reach_m is (overlap, footprint)."""
    halos = _halos(places.xy_m, core_of, *reach_m)
    submodels = []
    for k, halo in enumerate(halos):
        core = tuple(places.names[i] for i in np.flatnonzero(core_of == k))
        submodels.append(Submodel(f"submodel_{k:04d}", core, tuple(places.names[i] for i in sorted(halo))))
    return SplitPlan(tuple(submodels), notes)


def photo_places(survey: Survey) -> Places | None:
    """Where each photo is; one without GPS is put where its nearest neighbour in time (else name) is.

    None if no photo has GPS.
    """
    order = sorted(range(len(survey.photos)), key=lambda i: survey.photos[i].name)
    photos = [survey.photos[i] for i in order]
    xy = survey.positions_in_world()[order, :2]
    have: NDArray[np.bool_] = np.isfinite(xy[:, 0] + xy[:, 1])
    if not have.any():
        return None
    notes: tuple[str, ...] = ()
    if not have.all():
        timed = all(p.time for p in photos)
        xy = _fill_in(photos, xy, have, timed)
        missing = [p.name for p, ok in zip(photos, have) if not ok]
        beside = "taken nearest in time" if timed else "with GPS that is next by name"
        notes = (f"{_list(missing)} without GPS: kept with the photo {beside}.",)
    return Places(tuple(p.name for p in photos), np.round(xy, 3), notes)


def _fill_in(photos: list[Photo], xy: F64, have: NDArray[np.bool_], timed: bool) -> F64:
    """timed: whether all photos tell their time; else names are their order."""
    sequence = sorted(range(len(photos)), key=lambda i: (photos[i].time if timed else "", photos[i].name))
    rank = np.empty(len(photos), np.int64)
    rank[sequence] = np.arange(len(photos))
    known = np.flatnonzero(have)
    known = known[np.argsort(rank[known])]
    out = xy.copy()
    for i in np.flatnonzero(~have):
        out[i] = xy[known[np.argmin(np.abs(rank[known] - rank[i]))]]
    return out


def _cores(places: Places, wanted: int, footprint_m: float) -> tuple[I64, list[str]]:
    xy, notes = places.xy_m, []
    core_of = np.full(len(xy), -1, np.int64)
    island = pieces_of(xy, footprint_m)
    sizes = np.bincount(island)
    large = np.flatnonzero(sizes >= MIN_PHOTOS)
    if len(large) == 0:
        return np.zeros(len(xy), np.int64), [
            f"No {MIN_PHOTOS} photos are near enough to one another to overlap: all are mapped as one submodel."
        ]
    number = 0
    for k in large:
        members = np.flatnonzero(island == k)
        parts = max(1, min(-(-len(members) // wanted), len(members) // MIN_PHOTOS))
        for part in compact_parts(xy, members, parts):
            core_of[part] = number
            number += 1
        core_of[members] = _connected(xy[members], core_of[members], wanted, footprint_m, number)
        number = int(core_of.max()) + 1
    if len(large) > 1:
        notes.append(
            f"The survey has {len(large)} islands further apart than one photo's footprint; only GPS ties them."
        )
    strays = np.flatnonzero(core_of < 0)
    if len(strays):
        placed = np.flatnonzero(core_of >= 0)
        core_of[strays] = core_of[placed[kd_tree(xy[placed]).query(xy[strays])[1]]]
        notes.append(
            f"{_list([places.names[i] for i in strays])} in groups too small to be mapped alone:"
            " joined to the nearest submodel."
        )
    return _renumbered(xy, core_of), notes


def compact_parts(xy: F64, members: I64, parts: int) -> list[I64]:
    """Members (indices into xy, sorted by name) in `parts` compact sets of equal size (± 1 a level)."""
    if parts == 1:
        return [members]
    left = parts // 2
    size = round(len(members) * left / parts)
    p = xy[members] - xy[members].mean(axis=0)
    best, best_spread = members[:0], np.inf
    angles = _principal_angle(p) + np.arange(DIRECTIONS) * (np.pi / DIRECTIONS)
    for angle in angles:
        along = np.round(p @ np.array([np.cos(angle), np.sin(angle)]), 3)
        order = np.argsort(along, kind="stable")
        spread = _spread(p[order[:size]]) + _spread(p[order[size:]])
        if spread < best_spread * (1 - 1e-6):
            best, best_spread = order, spread
    sides = members[np.sort(best[:size])], members[np.sort(best[size:])]
    return [*compact_parts(xy, sides[0], left), *compact_parts(xy, sides[1], parts - left)]


def _principal_angle(p: F64) -> float:
    """Direction of the largest spread, radians, rounded so that noise in the last digit cannot turn it."""
    c = p.T @ p
    return round(0.5 * float(np.arctan2(2 * c[0, 1], c[0, 0] - c[1, 1])), 6)


def _spread(p: F64) -> float:
    return float(((p - p.mean(axis=0)) ** 2).sum()) if len(p) else 0.0


def _connected(xy: F64, core_of: I64, wanted: int, reach_m: float, next_number: int) -> I64:
    """Cores of one island made connected.

    A core's smaller pieces go to the nearest other core, or stand alone if large enough.
    """
    core_of = core_of.copy()
    for _ in range(len(xy)):
        moved = False
        for k in np.unique(core_of):
            members = np.flatnonzero(core_of == k)
            piece = pieces_of(xy[members], reach_m)
            sizes = np.bincount(piece)
            if len(sizes) == 1:
                continue
            for j in np.argsort(-sizes, kind="stable")[1:]:
                part = members[piece == j]
                if len(part) >= max(MIN_PHOTOS, wanted // 2):
                    core_of[part] = next_number
                    next_number += 1
                else:
                    others = np.setdiff1d(np.arange(len(xy)), members)
                    distance, nearest = kd_tree(xy[others]).query(xy[part])
                    core_of[part] = core_of[others[nearest[np.argmin(distance)]]]
            moved = True
        small = [k for k, n in zip(*np.unique(core_of, return_counts=True)) if n < MIN_PHOTOS]
        if small and len(np.unique(core_of)) > 1:
            part, others = np.flatnonzero(core_of == small[0]), np.flatnonzero(core_of != small[0])
            distance, nearest = kd_tree(xy[others]).query(xy[part])
            core_of[part] = core_of[others[nearest[np.argmin(distance)]]]
            moved = True
        if not moved:
            break
    return core_of


def _renumbered(xy: F64, core_of: I64) -> I64:
    """Cores numbered in rows from the north, west to east, by their centres.

    Numbers that a reader of the map can follow.
    """
    old = np.unique(core_of)
    centre = np.array([xy[core_of == k].mean(axis=0) for k in old])
    width = np.sqrt(max(1.0, float(np.ptp(xy[:, 0]) * np.ptp(xy[:, 1])) / len(old)))
    row = np.floor((xy[:, 1].max() - centre[:, 1]) / width)
    order = np.lexsort((np.round(centre[:, 1], 3), np.round(centre[:, 0], 3), row))
    new = np.empty(len(old), np.int64)
    new[order] = np.arange(len(old))
    return np.asarray(new[np.searchsorted(old, core_of)], np.int64)


def _halos(xy: F64, core_of: I64, overlap_m: float, footprint_m: float) -> list[set[int]]:
    number = int(core_of.max()) + 1
    members = [np.flatnonzero(core_of == k) for k in range(number)]
    trees = [kd_tree(xy[m]) for m in members]
    reach = max(overlap_m, footprint_m)
    halos: list[set[int]] = []
    neighbours: set[tuple[int, int]] = set()
    for k in range(number):
        low, high = xy[members[k]].min(axis=0) - reach, xy[members[k]].max(axis=0) + reach
        near = np.flatnonzero((core_of != k) & ((xy >= low) & (xy <= high)).all(axis=1))
        if len(near) == 0:
            halos.append(set())
            continue
        distance = trees[k].query(xy[near], distance_upper_bound=reach * (1 + 1e-9))[0]
        halos.append(set(near[distance <= overlap_m].tolist()))
        neighbours |= {(min(k, int(o)), max(k, int(o))) for o in np.unique(core_of[near[distance <= footprint_m]])}
    for a, b in sorted(neighbours):
        shared = ({*members[a].tolist()} | halos[a]) & ({*members[b].tolist()} | halos[b])
        missing = MIN_SHARED - len(shared)
        for mine, other, count in ((a, b, (missing + 1) // 2), (b, a, missing // 2)):
            if count <= 0:
                continue
            free = np.array([i for i in members[other].tolist() if i not in shared], np.int64)
            distance = np.round(trees[mine].query(xy[free])[0], 3) if len(free) else np.empty(0)
            halos[mine] |= set(free[np.argsort(distance, kind="stable")[:count]].tolist())
    return halos


def _list(names: list[str]) -> str:
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"{len(names)} photo{'s' if len(names) != 1 else ''} ({shown})"
