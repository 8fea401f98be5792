"""From the facts of all photos to the survey: cameras, frame, GPS weights and findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from passel.errors import InputError
from passel.geo.frames import Frame
from passel.geo.nearest import kd_tree
from passel.survey import check
from passel.survey.altitudes import judge_altitudes
from passel.survey.cameras import cameras_of, with_held
from passel.survey.cameras_file import KnownCalibration, match_calibrations, with_calibrations
from passel.survey.facts import PhotoFacts, Refusal
from passel.survey.geo_file import GeoEntry
from passel.survey.model import SHAPELESS_M, Finding, Photo, Position, Survey
from passel.survey.pieces import largest_first, pieces_of

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

# A single-frequency receiver is good to 2-3 m, the camera's shutter a few tenths of a second late at 10-15 m/s; height is twice as bad.
DEFAULT_GPS_SIGMA_M = (5.0, 10.0)
_FEWEST_WITH_GPS = 2
_SURE_ALTITUDE_M = 0.5  # vertical sigma of altitudes that an RTK receiver fixed
_FEWEST_SURE = 3  # of them tell a height
_SMALLEST_EXTENT_M = 1.0
_METRES_A_DEGREE = 111_320.0
_ONE_SURVEY_M = 50_000.0  # no two neighbours of one survey are further apart
_FEW_FAR_SHARE = 0.05  # of the photos: so few may have wrong GPS, more are photos of another place
_LONE = 2  # photos that one slip of the GPS may have carried away together
_FEWEST_TOGETHER = 8  # photos beside which a lone one is believed to be of the same flight
_NEAR_SEA_LEVEL_M = 30.0  # a photo at 0.000 m is believed where the others are no higher


def assemble_survey(
    facts: Sequence[PhotoFacts],
    refusals: Sequence[Refusal],
    paths: Sequence[Path],
    geo: Sequence[GeoEntry] = (),
    calibrations: Sequence[KnownCalibration] = (),
    gps_sigma_m: tuple[float, float] = DEFAULT_GPS_SIGMA_M,
) -> Survey:
    """Make the survey of inspected photos.

    paths: where the files lie, from `list_photos`; geo: lines of geo.txt, which replace the photos' GPS; calibrations: of
    `--cameras`; gps_sigma_m: (horizontal, vertical) for photos that do not tell their accuracy, before the altitudes are
    checked. Raises InputError when fewer than two photos can be used.
    """
    path_of = {p.name: p for p in paths}
    findings = check.refused_findings(refusals)
    kept, found = check.without_duplicates(facts)
    findings += found
    _need_two(kept, refusals, len(facts), paths)
    told = cameras_of(kept)
    matched, missing = match_calibrations(calibrations, told.cameras)
    cameras = with_calibrations(told.cameras, matched)
    if calibrations and missing:
        message = f"The cameras file has no calibration for {check.some(missing)}: found from the photos"
        findings.append(Finding("warning", "no-calibration", message))
    photos = [_photo(f, path_of[f.name], told.of[f.name]) for f in kept]
    photos, found = _with_geo(photos, geo)
    findings += found
    photos, found = _without_far_positions(photos)
    findings += found
    photos, found = _without_empty_altitudes(photos)
    findings += found
    photos, found = _with_heights_above_start(photos)
    findings += found
    frame = _frame(photos)
    without = [p.name for p in photos if p.position is None]
    findings += check.gps_findings(kept, without, frame.is_georeferenced)
    findings += check.name_findings([p.name for p in photos])
    findings += check.camera_findings(cameras, told.of, told.bodies)
    findings += check.blur_findings(photos)
    survey = Survey(tuple(photos), cameras, frame, gps_sigma_m, ())
    if frame.is_georeferenced:
        survey, found = _without_lone_positions(survey)
        findings += found
        if told.wholes:
            survey = with_held(survey, told.wholes, overlap_reach_m(survey))
        survey, found = _with_checked_altitudes(survey)
        findings += found + _layout_findings(survey)
    order = {"error": 0, "warning": 1, "note": 2}
    findings.sort(key=lambda f: (order[f.severity], f.code, f.message))
    return replace(survey, findings=tuple(findings))


def _need_two(kept: Sequence[PhotoFacts], refusals: Sequence[Refusal], inspected: int, paths: Sequence[Path]) -> None:
    if len(kept) >= 2:
        return
    where = str(paths[0].parent) if paths else ""
    reasons = check.refusal_reasons(refusals)
    if not kept:
        raise InputError(f"None of the {len(refusals)} files can be used: {reasons}", where, "give the original photos")
    what = "There is only one photo" if inspected == 1 else f"All {inspected} photos are copies of one"
    what += f" that can be used; left out: {reasons}" if refusals else ""
    raise InputError(what, f"{where}: {kept[0].name}", "a map needs at least two photos that overlap")


def _photo(f: PhotoFacts, path: Path, camera: str) -> Photo:
    return Photo(
        name=f.name,
        path=str(path),
        sha256=f.sha256,
        size_bytes=f.size_bytes,
        camera=camera,
        position=f.position,
        time=f.time,
        yaw_deg=f.yaw_deg,
        pitch_deg=f.pitch_deg,
        roll_deg=f.roll_deg,
        relative_altitude_m=f.relative_altitude_m,
        sharpness=f.sharpness,
    )


def _with_geo(photos: list[Photo], geo: Sequence[GeoEntry]) -> tuple[list[Photo], list[Finding]]:
    """The photos with the positions of geo.txt; names match exactly, else but for case."""
    if not geo:
        return photos, []
    exact, folded = {g.name: g for g in geo}, {g.name.casefold(): g for g in geo}
    out, used = [], set()
    for p in photos:
        g = exact.get(p.name) or folded.get(p.name.casefold())
        if g is None:
            out.append(p)
            continue
        used.add(g.name)
        position = g.position
        if position.altitude_m is None and p.position is not None:
            position = replace(position, altitude_m=p.position.altitude_m)
        angles = (g.yaw_deg, g.pitch_deg, g.roll_deg)
        turned = p
        if all(a is not None for a in angles):
            turned = replace(p, yaw_deg=angles[0], pitch_deg=angles[1], roll_deg=angles[2])
        out.append(replace(turned, position=position))
    findings = [
        Finding("note", "geo-file", f"geo.txt gives the position of {len(used)} of {check.counted(len(photos))}")
    ]
    unknown = sorted(set(exact) - used)
    if unknown:
        message = f"geo.txt names {check.counted(len(unknown))} not used here: {check.some(unknown)}"
        findings.append(Finding("warning", "geo-file-unknown", message, tuple(unknown)))
    return out, findings


def _without_far_positions(photos: list[Photo]) -> tuple[list[Photo], list[Finding]]:
    """The photos without GPS that lies another country away from the others' in a few. Raises InputError where many lie there: no
    lattice can hold two such places, and nobody wants the empty map between."""
    have = [(p.name, p.position) for p in photos if p.position is not None]
    if len(have) < _FEWEST_WITH_GPS:
        return photos, []
    first = have[0][1]
    east_deg = [(q.longitude_deg - first.longitude_deg + 180.0) % 360.0 - 180.0 for _, q in have]
    narrowed = float(np.cos(np.radians(median(q.latitude_deg for _, q in have))))
    xy_m = _METRES_A_DEGREE * np.column_stack([np.array(east_deg) * narrowed, [q.latitude_deg for _, q in have]])
    label = largest_first(pieces_of(xy_m, _ONE_SURVEY_M))
    far = {name for (name, _), k in zip(have, label, strict=True) if k > 0}
    if not far:
        return photos, []
    names = sorted(far)
    apart_km = float(kd_tree(xy_m[label == 0]).query(xy_m[label > 0])[0].min()) / 1000.0
    if len(far) > max(1.0, _FEW_FAR_SHARE * len(have)):
        what = f"{check.counted(len(far))} of {len(have)} lie {apart_km:.0f} km or more from the others: {check.some(names)}"
        todo = "put the photos of each place into a folder of their own and map each by itself"
        raise InputError(what, "GPS of the photos", todo)
    message = (
        f"GPS {apart_km:.0f} km or more from all others' is not used in {check.counted(len(far))}: {check.some(names)}"
    )
    kept = [replace(p, position=None) if p.name in far else p for p in photos]
    return kept, [Finding("warning", "gps-far", message, tuple(names))]


def _without_lone_positions(survey: Survey) -> tuple[Survey, list[Finding]]:
    """The survey without the GPS of a few photos, each too far from all others to overlap any: right or wrong, it says only that the
    photo cannot be mapped. Without it the photo is matched with those taken just before and after, and placed if it shows what they do."""
    names, xy, link_m = _linked(survey)
    if len(names) <= _FEWEST_TOGETHER:
        return survey, []
    piece = largest_first(pieces_of(xy, link_m))
    size = np.bincount(piece)
    lone = {name for name, k in zip(names, piece, strict=True) if k > 0 and size[k] <= _LONE}
    if not lone or len(lone) > max(_LONE, _FEW_FAR_SHARE * len(names)) or size[0] < _FEWEST_TOGETHER:
        return survey, []
    listed = tuple(sorted(lone))
    message = (
        f"GPS too far from all others' to overlap (more than {link_m:.0f} m) is not used in {check.counted(len(listed))}: "
        f"{check.some(listed)}: placed by pictures alone, if they show the same ground"
    )
    photos = tuple(replace(p, position=None) if p.name in lone else p for p in survey.photos)
    return replace(survey, photos=photos), [Finding("warning", "gps-lone", message, listed)]


def _without_empty_altitudes(photos: list[Photo]) -> tuple[list[Photo], list[Finding]]:
    """The photos without altitudes of exactly 0, which is what cameras write that know none: where all are 0, or the others far off."""
    told = [p.position.altitude_m for p in photos if p.position is not None and p.position.altitude_m is not None]
    others = [a for a in told if a != 0.0]
    if len(others) == len(told) or (others and abs(median(others)) <= _NEAR_SEA_LEVEL_M):
        return photos, []
    empty = tuple(p.name for p in photos if p.position is not None and p.position.altitude_m == 0.0)
    kept = [
        replace(p, position=replace(p.position, altitude_m=None))
        if p.position is not None and p.position.altitude_m == 0.0
        else p
        for p in photos
    ]
    if not others:  # said of all photos without altitudes
        return kept, []
    message = f"GPS altitude 0 beside others of about {median(others):.0f} m, not used, in {check.counted(len(empty))}"
    return kept, [Finding("warning", "altitude-zero", f"{message}: {check.some(empty)}", empty)]


def _with_heights_above_start(photos: list[Photo]) -> tuple[list[Photo], list[Finding]]:
    """The photos with their heights above the take-off for altitudes where most have only those: they tell the map's shape all the same."""
    told = [p for p in photos if p.position is not None and p.position.altitude_m is not None]
    only = [p for p in photos if p.position is not None and p.position.altitude_m is None and p.relative_altitude_m]
    if len(told) >= len(only):
        return photos, []
    kept = [
        p
        if p.position is None
        else replace(p, position=replace(p.position, altitude_m=p.relative_altitude_m or None, vertical_sigma_m=None))
        for p in photos
    ]
    what = f"Altitudes in only {check.counted(len(told))}, not used" if told else "No altitudes"
    message = f"{what}: heights in the map count from the take-off, as the photos tell, not from the sea"
    return kept, [Finding("warning", "heights-above-start", message)]


def _frame(photos: Sequence[Photo]) -> Frame:
    """Around the GPS positions; local where they are too few or all at one place, so that they fix neither scale nor north."""
    have = [p.position for p in photos if p.position is not None]
    if len(have) < _FEWEST_WITH_GPS:
        return Frame.local()
    altitudes = [p.altitude_m for p in have if p.altitude_m is not None]
    middle = median(altitudes) if altitudes else 0.0
    rows = [(p.latitude_deg, p.longitude_deg, middle if p.altitude_m is None else p.altitude_m) for p in have]
    frame = Frame.around(np.array(rows))
    extent = np.ptp(frame.world_from_geographic(np.array(rows))[:, :2], axis=0).max()
    return frame if extent > _SMALLEST_EXTENT_M else Frame.local()


def _with_checked_altitudes(survey: Survey) -> tuple[Survey, list[Finding]]:
    """Raise the vertical sigma where altitudes contradict each other, over whatever accuracy the photos claim."""
    xyz = survey.positions_in_world()
    index = [
        i for i, p in enumerate(survey.photos) if p.position is not None and p.position.altitude_m is not None
    ]  # fmt: skip
    chosen = [survey.photos[i] for i in index]
    if not chosen:
        message = "The GPS positions have no altitude: heights in the map count from where the cameras flew, so the ground is below 0"
        return survey, [Finding("warning", "no-altitude", message)]
    z = np.array([p.position.altitude_m for p in chosen if p.position is not None], float)
    xy, order = xyz[index][:, :2], check.time_order(chosen)
    verdict = judge_altitudes(xy, z, order)
    photos = list(survey.photos)
    names = [p.name for p in chosen]
    if verdict.wander_m > 0.0:
        above_start = [p.relative_altitude_m for p in chosen if p.relative_altitude_m is not None]
        from_start = np.array_equal(z, above_start)
        if verdict.at >= 0 and len(above_start) == len(chosen) and not from_start:
            without_flying_height = judge_altitudes(xy, z - np.array(above_start), order)
            if without_flying_height.wander_m < 0.3 * verdict.wander_m:
                message = f"Two flying heights, about {verdict.wander_m:.0f} m apart from {names[verdict.at]} on"
                return survey, [Finding("note", "flying-heights", message)]
        sure = _surely_high(chosen, xy, z, order)
        sigma_m = (survey.gps_sigma_m[0], SHAPELESS_M)
        photos = [
            replace(p, position=replace(p.position, vertical_sigma_m=None))
            if p.position is not None and p.name not in sure
            else p
            for p in photos
        ]
        how = f"jump at {names[verdict.at]}" if verdict.at >= 0 else "drift along the flight"
        code = "altitude-jump" if verdict.at >= 0 else "altitude-drift"
        what = "heights above the take-off" if from_start else "altitudes"
        message = f"The photos' {what} {how}, by about {verdict.wander_m:.0f} m at the same place: " + (
            f"heights are those of the {check.counted(len(sure))} with heights of centimetres, which agree"
            if sure
            else "they do not shape the map, only its mean height"
        )
        concerned = (names[verdict.at],) if verdict.at >= 0 else ()
        return replace(survey, photos=tuple(photos), gps_sigma_m=sigma_m), [
            Finding("warning", code, message, concerned)
        ]
    if not verdict.outliers:
        return survey, []
    wrong = tuple(sorted(names[i] for i in verdict.outliers))
    for i in verdict.outliers:
        p = photos[index[i]]
        assert p.position is not None
        photos[index[i]] = replace(p, position=_vague_altitude(p.position))
    message = f"Altitude far off the neighbours', not used, in {check.counted(len(wrong))}: {check.some(wrong)}"
    return replace(survey, photos=tuple(photos)), [Finding("warning", "altitude-outlier", message, wrong)]


def _surely_high(photos: Sequence[Photo], xy_m: F64, z_m: F64, order: I64) -> frozenset[str]:
    """Names of the photos whose altitudes are of centimetres (RTK, PPK) and agree with each other, whatever the others say; none
    where all claim that."""
    sigma = np.array([p.position.vertical_sigma_m or np.inf for p in photos if p.position is not None])
    sure = np.flatnonzero(sigma <= _SURE_ALTITUDE_M)
    if not _FEWEST_SURE <= len(sure) < len(photos):
        return frozenset()
    verdict = judge_altitudes(xy_m[sure], z_m[sure], np.argsort(np.argsort(order)[sure]))
    agree = verdict.wander_m == 0.0 and not verdict.outliers
    return frozenset(photos[int(i)].name for i in sure) if agree else frozenset()


def _vague_altitude(p: Position) -> Position:
    return replace(p, vertical_sigma_m=SHAPELESS_M)


def footprint_m(survey: Survey) -> float | None:
    """Diagonal of the typical photo on flat ground, metres, from the height above take-off; None where that is not told."""
    index = survey.camera_index()
    diagonals = []
    for p, k in zip(survey.photos, index, strict=True):
        c = survey.cameras[int(k)]
        if p.relative_altitude_m is not None and p.relative_altitude_m > 2.0:
            diagonals.append(p.relative_altitude_m * float(np.hypot(c.width_px, c.height_px)) / c.focal_prior_px)
    return median(diagonals) if diagonals else None


def overlap_reach_m(survey: Survey) -> float:
    """Distance (m) within which two photos may share ground: from the photos' footprint, else from how densely they were taken."""
    xyz = survey.positions_in_world()
    xy = xyz[np.isfinite(xyz[:, 0]), :2]
    return check.link_distance_m(xy, footprint_m(survey)) if len(xy) >= 2 else _SMALLEST_EXTENT_M


def _linked(survey: Survey) -> tuple[list[str], F64, float]:
    """The photos with GPS: names, (n, 2) world metres, and the distance within which two of them may overlap, their GPS being off."""
    xyz = survey.positions_in_world()
    have = np.isfinite(xyz[:, 0])
    names = [p.name for p, h in zip(survey.photos, have, strict=True) if h]
    return names, xyz[have, :2], overlap_reach_m(survey) + 2.0 * survey.gps_sigma_m[0]


def _layout_findings(survey: Survey) -> list[Finding]:
    names, xy, link_m = _linked(survey)
    if len(xy) < 2:
        return []
    return check.line_findings(xy, 2.0 * survey.gps_sigma_m[0]) + check.island_findings(names, xy, link_m)
