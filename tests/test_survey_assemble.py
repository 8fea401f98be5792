"""From facts to a survey: cameras, focal priors, frame, GPS weights, findings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets import dataset
from passel.errors import InputError
from passel.survey.altitudes import judge_altitudes
from passel.survey.assemble import assemble_survey
from passel.survey.cameras_file import match_calibrations, read_cameras_file
from passel.survey.cut import stored_of
from passel.survey.describe import describe_survey, estimate_gsd_m
from passel.survey.facts import PhotoFacts, Refusal
from passel.survey.geo_file import find_geo_file, read_geo_file
from passel.survey.inspect import inspect_photo, list_photos
from passel.survey.model import Finding, Survey
from passel.survey.sensors import focal_prior
from survey_photos import facts, flight, serpentine


def survey_of(photos: Sequence[PhotoFacts], refusals: Sequence[Refusal] = (), **options: object) -> Survey:
    return assemble_survey(photos, refusals, [Path("photos") / f.name for f in photos], **options)  # type: ignore[arg-type]


def finding(survey: Survey, code: str) -> Finding:
    found = [f for f in survey.findings if f.code == code]
    assert len(found) == 1, [f.code for f in survey.findings]
    return found[0]


def plain_flight(lines: int = 6, per_line: int = 10, noise_m: float = 1.0, seed: int = 0) -> list[PhotoFacts]:
    xy = serpentine(lines, per_line)
    return flight(xy, 150.0 + np.random.default_rng(seed).normal(0, noise_m, len(xy)))


# --- focal priors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "focal_px", "source"),
    [
        ({"xmp_focal_px": 3666.7}, 3666.7, "xmp"),
        ({}, 20 / 43.2666 * 5000, "exif35"),
        ({"height_px": 2250}, 20 / 43.2666 * 5000, "exif35"),  # 16:9 cut out of the 4:3 sensor: same lens, same pixels
        ({"model": "?", "height_px": 2250}, 20 / 43.2666 * 5000, "exif35"),
        ({"width_px": 3000, "height_px": 4000}, 20 / 43.2666 * 5000, "exif35"),
        ({"focal35_mm": None, "focal_plane_px_per_mm": 640.0}, 3.61 * 640.0, "exif+sensor"),
        ({"focal35_mm": None}, 3.61 / 6.17 * 4000, "sensor table"),
        ({"focal35_mm": None, "digital_zoom": 2.0}, 2 * 3.61 / 6.17 * 4000, "sensor table"),
        ({"focal35_mm": None, "make": "", "model": ""}, 0.85 * 4000, "guess"),
    ],
)
def test_focal_prior_sources_in_order(changes: dict[str, object], focal_px: float, source: str) -> None:
    prior = focal_prior(facts("a.jpg", **changes))
    assert prior.source == source
    assert prior.focal_px == pytest.approx(focal_px, rel=1e-3)


@pytest.mark.parametrize(
    "told", [{}, {"focal35_mm": None}, {"xmp_focal_px": 2340.0}, {"focal35_mm": None, "focal_plane_px_per_mm": 648.3}]
)
def test_a_cut_leaves_the_focal_length_in_pixels_and_making_smaller_scales_it(told: dict[str, object]) -> None:
    size = {"original_width_px": 4000, "original_height_px": 3000}
    whole = focal_prior(facts("a.jpg", **size, **told))
    smaller = focal_prior(facts("a.jpg", width_px=1000, height_px=750, **size, **told))
    upright = focal_prior(facts("a.jpg", width_px=750, height_px=1000, **size, **told))
    assert smaller.focal_px == pytest.approx(whole.focal_px / 4, rel=1e-3)
    assert upright.focal_px == pytest.approx(whole.focal_px / 4, rel=1e-3)
    assert smaller.sigma == whole.sigma
    cut = focal_prior(facts("a.jpg", width_px=2700, height_px=2300, **size, **told))
    assert cut.focal_px == pytest.approx(whole.focal_px, rel=1e-3)
    assert cut.sigma > whole.sigma  # it may have been made smaller, too
    trimmed = focal_prior(facts("a.jpg", width_px=4000, height_px=2992, **size, **told))  # a lossless turn does that
    assert (trimmed.focal_px, trimmed.sigma) == (pytest.approx(whole.focal_px, rel=1e-3), pytest.approx(whole.sigma))


def test_photos_that_were_cut_are_told_and_their_middle_is_uncertain() -> None:
    size = {"original_width_px": 4000, "original_height_px": 3000}
    cut = [replace(f, width_px=3000, height_px=2600, **size) for f in plain_flight()]  # type: ignore[arg-type]
    survey = survey_of(cut)
    [camera] = survey.cameras
    assert camera.is_cut
    assert camera.centre_sigma == pytest.approx(500 / 2 / 3000)
    assert finding(survey, "cut").severity == "warning"
    [part, _] = survey_of([*cut[:20], *plain_flight()[20:]]).cameras  # beside whole ones its pixels are still known
    assert part.focal_prior_sigma == camera.focal_prior_sigma
    for untouched in (plain_flight(), [replace(f, width_px=1000, height_px=750, **size) for f in plain_flight()]):  # type: ignore[arg-type]
        [camera] = survey_of(untouched).cameras
        assert (camera.is_cut, camera.centre_sigma) == (False, 0.01)


@pytest.mark.parametrize(("width", "height", "is_cut"), [(4000, 2250, False), (3000, 4000, False), (3600, 2500, True)])
def test_an_aspect_that_no_camera_has_was_cut_even_if_an_editor_wrote_its_own_size(
    width: int, height: int, is_cut: bool
) -> None:
    size = {"width_px": width, "height_px": height, "original_width_px": width, "original_height_px": height}
    survey = survey_of([replace(f, **size) for f in plain_flight()])  # type: ignore[arg-type]
    assert survey.cameras[0].is_cut == is_cut
    assert (survey.cameras[0].focal_prior_sigma > 0.1) == is_cut


def test_three_by_two_sensor_cut_to_four_by_three() -> None:
    common = {"make": "DJI", "model": "FC6310", "focal_mm": 8.8, "focal35_mm": 24.0}
    full = focal_prior(facts("a.jpg", width_px=5472, height_px=3648, **common))
    cut = focal_prior(facts("a.jpg", width_px=4864, height_px=3648, **common))
    assert full.focal_px == pytest.approx(3648, rel=0.01)  # known: 8.8 mm on 2.41 µm pixels is 3651 px
    assert cut.focal_px == pytest.approx(full.focal_px, rel=0.01)


def test_contradicting_sources_widen_the_sigma() -> None:
    assert focal_prior(facts("a.jpg")).sigma == pytest.approx(0.03)
    assert focal_prior(facts("a.jpg", focal35_mm=28.0)).sigma > 0.2


# --- survey ---------------------------------------------------------------------------------------------------------------


def test_a_plain_flight_has_one_camera_a_frame_and_no_findings() -> None:
    photos = plain_flight()
    survey = survey_of(photos[::-1])
    assert [p.name for p in survey.photos] == [p.name for p in photos]
    assert [c.id for c in survey.cameras] == ["dji-fc300s-4000x3000-3.61mm"]
    assert survey.frame.epsg == 32632
    assert survey.findings == ()
    assert survey.gps_sigma_m == (5.0, 10.0)
    assert survey.photos[0].path == "photos/p0000.jpg"
    xyz = survey.positions_in_world()
    spacing = np.linalg.norm(np.diff(xyz[:10, :2], axis=0), axis=1)
    assert spacing == pytest.approx(np.full(9, 30.0), abs=0.1)  # metres
    assert survey_of(photos) == survey


def test_gsd_from_relative_altitude() -> None:
    survey = survey_of([replace(f, relative_altitude_m=100.0) for f in plain_flight()])
    assert estimate_gsd_m(survey) == pytest.approx(100.0 / (20 / 43.2666 * 5000), rel=1e-4)
    assert estimate_gsd_m(survey_of(plain_flight())) is None


def test_save_and_load(tmp_path: Path) -> None:
    survey = survey_of([*plain_flight(), facts("größe.jpg")])
    survey.save(tmp_path / "survey.json")
    assert Survey.load(tmp_path / "survey.json") == survey


def test_errors_when_there_is_nothing_to_map() -> None:
    bad = Refusal("b.jpg", "empty", "is an empty file")
    with pytest.raises(InputError, match=r"None of the 1 files.*b\.jpg is an empty file"):
        survey_of([], [bad])
    with pytest.raises(InputError, match=r"only one photo.*b\.jpg"):
        survey_of([facts("a.jpg")], [bad])
    with pytest.raises(InputError, match="copies of one"):
        survey_of([facts("a.jpg"), facts("b.jpg", sha256="sha-a.jpg")])


def test_duplicates_keep_the_first_name() -> None:
    photos = plain_flight()
    survey = survey_of([*photos, replace(photos[3], name="z-copy.jpg")])
    assert len(survey.photos) == len(photos)
    assert finding(survey, "duplicates").photos == ("z-copy.jpg",)
    assert "p0003.jpg" in finding(survey, "duplicates").message


def test_refusals_names_and_missing_gps_are_said() -> None:
    photos = [*plain_flight(), facts("P0000.JPG"), facts("noGPS.jpg", gps_note="its GPS says 0, 0")]
    survey = survey_of(
        photos, [Refusal("x.jpg", "truncated", "is cut off"), Refusal("w.jpg", "truncated", "is cut off")]
    )
    assert finding(survey, "refused-truncated").photos == ("w.jpg", "x.jpg")
    assert finding(survey, "names-equal-but-for-case").photos == ("P0000.JPG", "p0000.jpg")
    assert finding(survey, "some-without-gps").photos == ("P0000.JPG", "noGPS.jpg")
    assert finding(survey, "gps-invalid").photos == ("noGPS.jpg",)
    text = describe_survey(survey)
    assert all(f.message in text for f in survey.findings)
    assert "EPSG:32632" in text


def test_without_gps_the_frame_is_local_and_said() -> None:
    survey = survey_of([facts(f"{i}.jpg") for i in range(5)])
    assert not survey.frame.is_georeferenced
    assert "local frame" in finding(survey, "no-gps").message
    stuck = flight(np.zeros((6, 2)), np.full(6, 100.0))
    assert not survey_of(stuck).frame.is_georeferenced
    assert "local frame" in describe_survey(survey)


def test_a_reason_that_files_share_is_said_once() -> None:
    deep = [Refusal(f"p{i}.tif", "sixteen-bit", "has 16 bits a channel") for i in (1, 0)]
    with pytest.raises(InputError) as told:
        assemble_survey([], [*deep, Refusal("q.jpg", "empty", "is an empty file")], [])
    assert "None of the 3 files can be used: p0.tif, p1.tif: each has 16 bits a channel, q.jpg is an empty" in str(
        told.value
    )


def test_cameras_by_size_and_focal_and_zoom_changes() -> None:
    photos = plain_flight()
    photos[5] = replace(photos[5], focal_mm=7.2, focal35_mm=40.0)
    photos[7] = replace(photos[7], width_px=2000, height_px=1500)
    survey = survey_of(photos)
    assert [c.id for c in survey.cameras] == [
        "dji-fc300s-2000x1500-3.61mm",
        "dji-fc300s-4000x3000-3.61mm",
        "dji-fc300s-4000x3000-7.2mm",
    ]
    assert finding(survey, "zoom-change").photos == ("p0005.jpg",)
    assert "3 cameras" in finding(survey, "several-cameras").message
    assert survey.photos[7].camera == "dji-fc300s-2000x1500-3.61mm"


def test_photos_that_lost_their_focal_length_are_no_zoom_change() -> None:
    photos = plain_flight()
    for i in range(4):
        photos[i] = replace(photos[i], focal_mm=None, focal35_mm=None)
    survey = survey_of(photos)
    assert len(survey.cameras) == 2
    assert [f.code for f in survey.findings if f.code == "zoom-change"] == []
    assert finding(survey, "focal-guess").photos == tuple(p.name for p in photos[:4])


def test_blur_is_relative_to_the_neighbours() -> None:
    photos = plain_flight()
    rng = np.random.default_rng(1)
    scene = np.exp(np.linspace(0, 2.5, len(photos)) + rng.normal(0, 0.15, len(photos))) * 200  # fields turn into town
    photos = [replace(f, sharpness=float(s)) for f, s in zip(photos, scene, strict=True)]
    assert survey_of(photos).findings == ()
    photos[30] = replace(photos[30], sharpness=float(scene[30]) * 0.1)
    assert finding(survey_of(photos), "blurred").photos == ("p0030.jpg",)


def test_one_line_is_said() -> None:
    xy = serpentine(1, 12)
    assert "tilt" in finding(survey_of(flight(xy, np.full(len(xy), 120.0))), "one-line").message


def test_islands_are_named_with_counts() -> None:
    near, far = serpentine(4, 8), serpentine(3, 5) + np.array([3000.0, 500.0])
    xy = np.vstack([near, far])
    message = finding(survey_of(flight(xy, np.full(len(xy), 120.0))), "islands").message
    assert "2 groups" in message
    assert "32 photos (p0000.jpg to p0031.jpg)" in message
    assert "15 photos (p0032.jpg to p0046.jpg)" in message


# --- altitudes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise_m", [0.1, 3.0])
@pytest.mark.parametrize(("lines", "per_line"), [(6, 8), (12, 20)])
def test_sound_altitudes_are_left_alone(noise_m: float, lines: int, per_line: int) -> None:
    xy = serpentine(lines, per_line)
    n, rng = len(xy), np.random.default_rng(3)
    for truth in (np.zeros(n), 0.1 * xy[:, 1], 30 * np.exp(-(((xy - xy.mean(axis=0)) / 250) ** 2).sum(axis=1))):
        verdict = judge_altitudes(xy, truth + rng.normal(0, noise_m, n), np.arange(n))
        assert verdict.wander_m == 0.0
        assert verdict.outliers == ()


@pytest.mark.parametrize(("lines", "per_line"), [(6, 8), (12, 20), (20, 30)])
def test_drifts_of_tens_of_metres_get_a_wide_vertical_sigma(lines: int, per_line: int) -> None:
    xy = serpentine(lines, per_line)
    n, rng = len(xy), np.random.default_rng(4)
    t = np.arange(n) / n
    for drift in (30 * t, -40 * t, 30 * np.sin(4 * t)):
        survey = survey_of(flight(xy, 150 + drift + rng.normal(0, 1, n)), gps_sigma_m=(2.0, 4.0))
        assert "drift" in finding(survey, "altitude-drift").message
        assert survey.gps_sigma_m[0] == 2.0
        assert survey.gps_sigma_m[1] > 5 * np.ptp(drift)
        assert (survey.position_sigmas()[:, 2] == survey.gps_sigma_m[1]).all()  # over the photos' claimed 0.5 m


def test_jumps_are_found_and_named_but_two_flying_heights_are_no_fault() -> None:
    xy = serpentine(8, 12)
    z = 150 + np.random.default_rng(5).normal(0, 1, len(xy)) + 25.0 * (np.arange(len(xy)) >= 40)
    survey = survey_of(flight(xy, z))
    assert finding(survey, "altitude-jump").photos[0] in ("p0039.jpg", "p0040.jpg", "p0041.jpg")
    assert survey.gps_sigma_m[1] >= 200.0
    heights = [replace(f, relative_altitude_m=60.0 + 25.0 * (i >= 40)) for i, f in enumerate(flight(xy, z))]
    told = survey_of(heights)
    assert finding(told, "flying-heights").severity == "note"
    assert told.gps_sigma_m[1] == 10.0


@pytest.mark.parametrize("fixed", [10, 36])
def test_fixed_altitudes_are_believed_though_a_plain_receivers_are_tens_of_metres_off(fixed: int) -> None:
    xy = serpentine(8, 9)
    rng = np.random.default_rng(7)
    is_fixed = np.arange(len(xy)) < fixed
    z = 150 + np.where(is_fixed, rng.normal(0, 0.03, len(xy)), 48.0 + rng.normal(0, 1, len(xy)))
    photos = flight(xy, z)
    for i, f in enumerate(photos):
        assert f.position is not None
        photos[i] = replace(f, position=replace(f.position, vertical_sigma_m=0.03 if is_fixed[i] else None))
    survey = survey_of(photos)
    assert f"heights are those of the {fixed} photos" in finding(survey, "altitude-jump").message
    assert survey.position_sigmas()[:, 2] == pytest.approx(np.where(is_fixed, 0.03, 1000.0))


def elsewhere(f: PhotoFacts, north_deg: float) -> PhotoFacts:
    assert f.position is not None
    return replace(f, position=replace(f.position, latitude_deg=f.position.latitude_deg - north_deg))


def test_a_photo_in_another_country_has_wrong_gps() -> None:
    survey = survey_of([elsewhere(f, 10.0) if i == 7 else f for i, f in enumerate(plain_flight())])
    assert finding(survey, "gps-far").photos == ("p0007.jpg",)
    assert [p.name for p in survey.photos if p.position is None] == ["p0007.jpg"]
    assert "km or more from all others'" in finding(survey, "gps-far").message


def slipped(*photos: int) -> Survey:
    """A survey of 60 photos, these kilometres off, those of one half line together."""
    return survey_of([elsewhere(f, 0.0135 * (1 + i // 5)) if i in photos else f for i, f in enumerate(plain_flight())])


@pytest.mark.parametrize("photos", [(27,), (3, 41), (26, 27)])
def test_gps_that_leaves_a_photo_alone_is_not_used(photos: tuple[int, ...]) -> None:
    survey, names = slipped(*photos), [f"p{i:04d}.jpg" for i in photos]
    assert finding(survey, "gps-lone").photos == tuple(names)
    assert [p.name for p in survey.photos if p.position is None] == names
    assert not [f for f in survey.findings if f.code == "islands"]


@pytest.mark.parametrize("photos", [(25, 26, 27), (2, 12, 22, 32, 42)])
def test_gps_of_a_place_of_its_own_or_of_many_lone_photos_is_kept(photos: tuple[int, ...]) -> None:
    survey = slipped(*photos)
    assert all(p.position for p in survey.photos)
    assert finding(survey, "islands")


def test_photos_of_two_countries_are_refused_before_any_work() -> None:
    with pytest.raises(InputError, match="20 photos of 60 lie 1113 km or more from the others"):
        survey_of([elsewhere(f, 10.0) if i < 20 else f for i, f in enumerate(plain_flight())])


def test_how_far_another_place_is_counts_from_the_nearest_photo() -> None:
    """Not from the middle of a pipeline of hundreds of kilometres."""
    facts = [elsewhere(f, min(i, 39) * 0.1 + 0.7 * (i >= 40)) for i, f in enumerate(plain_flight())]
    with pytest.raises(InputError, match="20 photos of 60 lie 78 km or more from the others"):
        survey_of(facts)


def test_a_survey_across_the_date_line_is_one_place() -> None:
    def moved(f: PhotoFacts, i: int) -> PhotoFacts:
        assert f.position is not None
        side = 179.9995 if i % 2 else -179.9995
        return replace(f, position=replace(f.position, longitude_deg=side))

    survey = survey_of([moved(f, i) for i, f in enumerate(plain_flight())])
    assert all(p.position is not None for p in survey.photos)


def without_height(f: PhotoFacts, altitude_m: float | None = 0.0) -> PhotoFacts:
    assert f.position is not None
    return replace(f, position=replace(f.position, altitude_m=altitude_m))


def test_altitudes_of_zero_are_no_altitudes() -> None:
    """Some apps and cameras write 0 where they know no height."""
    facts = plain_flight()
    some = survey_of([without_height(f) if i % 3 == 0 else f for i, f in enumerate(facts)])
    told = finding(some, "altitude-zero")
    assert told.photos == tuple(f.name for f in facts[::3])
    assert [p.name for p in some.photos if p.position is not None and p.position.altitude_m is None] == list(
        told.photos
    )
    everywhere = survey_of([without_height(f) for f in facts])
    assert "no altitude" in finding(everywhere, "no-altitude").message
    assert not [f for f in everywhere.findings if f.code == "altitude-zero"]
    at_sea = survey_of([without_height(f, 0.0 if i == 3 else 0.4 * i) for i, f in enumerate(facts)])
    assert not [f for f in at_sea.findings if f.code in ("altitude-zero", "no-altitude")]


def test_a_single_wrong_altitude_is_set_aside() -> None:
    xy = serpentine(6, 10)
    z = 150 + np.random.default_rng(6).normal(0, 1, len(xy))
    z[17] += 60
    survey = survey_of(flight(xy, z))
    assert finding(survey, "altitude-outlier").photos == ("p0017.jpg",)
    assert survey.position_sigmas()[17, 2] == 1000.0
    assert survey.position_sigmas()[18, 2] == 0.5


# --- side files -----------------------------------------------------------------------------------------------------------


def test_geo_file_replaces_gps(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    lines = [
        "WGS84 UTM 32N",
        "# a comment",
        "P0001.jpg 422500.0 5094500.0 321.5 10 -80 1 0.02 0.05",
        "my photo.jpg 422600 5094500",
    ]
    (tmp_path / "geo.txt").write_text("\n".join(lines), encoding="utf-8")
    path = find_geo_file(tmp_path / "images")
    assert path == find_geo_file(tmp_path) == tmp_path / "geo.txt"
    geo = read_geo_file(path)
    assert [g.name for g in geo] == ["P0001.jpg", "my photo.jpg"]
    survey = survey_of(plain_flight(), geo=geo)
    p = survey.photos[1]
    assert p.position is not None
    assert (p.position.altitude_m, p.position.horizontal_sigma_m, p.position.vertical_sigma_m) == (321.5, 0.02, 1000.0)
    assert p.position.latitude_deg == pytest.approx(46.0, abs=0.01)
    assert (p.yaw_deg, p.pitch_deg, p.roll_deg) == (10.0, -80.0, 1.0)
    assert finding(survey, "geo-file-unknown").photos == ("my photo.jpg",)
    (tmp_path / "geo.txt").write_text("EPSG:4326\na.jpg 8.1 46.2 100\n")
    position = read_geo_file(path)[0].position
    assert (position.longitude_deg, position.latitude_deg) == pytest.approx((8.1, 46.2))


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "empty"), ("hello\n", "coordinate system"), ("EPSG:4326\na.jpg 8 x", "line 2"), ("EPSG:4326\na.jpg 8", "missing"),
     ("EPSG:4326\na.jpg 8 446", "not on earth"), ("EPSG:4326\na.jpg 8 46 1e300", "altitude of a.jpg cannot be right"),
     ("EPSG:4326\na.jpg 8 46 100 nan 0 0", "not a finite number"), ("EPSG:5773\na.jpg 8 46", "not one of maps"),
     ("EPSG:4978\na.jpg 8 46", "not one of maps")],
)  # fmt: skip
def test_bad_geo_files_are_explained(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "geo.txt").write_text(content)
    with pytest.raises(InputError, match=words):
        read_geo_file(tmp_path / "geo.txt")


def _calibration(**changes: object) -> str:
    entry = {
        "projection_type": "brown",
        "width": 4000,
        "height": 3000,
        "focal_x": 0.58,
        "focal_y": 0.58,
        "c_x": 0.001,
        "k1": -0.01,
    }
    return json.dumps({"v2 dji fc300s 4000 3000 brown 0.5555": {**entry, **changes}})


def test_cameras_file_sets_the_focal_prior(tmp_path: Path) -> None:
    (tmp_path / "cameras.json").write_text(_calibration())
    known = read_cameras_file(str(tmp_path / "cameras.json"))
    assert known == read_cameras_file(_calibration())
    survey = survey_of(plain_flight(), calibrations=known)
    camera = survey.cameras[0]
    assert (camera.focal_prior_px, camera.focal_prior_source) == (pytest.approx(0.58 * 4000), "cameras.json")
    matched, missing = match_calibrations(known, survey.cameras)
    assert (matched[0].camera, matched[0].k1, matched[0].c_y, missing) == (camera.id, -0.01, 0.0, ())
    other = survey_of([replace(f, width_px=3000) for f in plain_flight()], calibrations=known)
    assert finding(other, "no-calibration").severity == "warning"


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "not JSON"), ("{}x", "not JSON"), (_calibration(projection_type="fisheye"), "fisheye"), ("nowhere.json", "cannot be read"),
     (_calibration(focal_x="a"), "focal_x"), (_calibration(width=0), "not positive"), ('{"a": 1}', "table of cameras"),
     ('{"a":' * 20_000, "not JSON"), (_calibration(width=10**400), "width"), (_calibration(focal_x=float("nan")), "focal_x")],
)  # fmt: skip
def test_bad_cameras_files_are_explained(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_cameras_file(text)


# --- scale and real data --------------------------------------------------------------------------------------------------


def test_twelve_thousand_photos_have_nothing_to_find() -> None:
    survey = survey_of(plain_flight(100, 120))
    assert len(survey.photos) == 12_000
    assert survey.findings == ()


def _real(name: str) -> Survey:
    paths = list_photos(dataset(name))
    found = [inspect_photo(p) for p in paths]
    photos = [f for f in found if isinstance(f, PhotoFacts)]
    return assemble_survey(photos, [f for f in found if isinstance(f, Refusal)], paths)


@pytest.mark.parametrize("original", [(8000, 0), (0, 6000), (8000, 5990)])
def test_a_picture_made_smaller_is_told_by_one_side_and_by_rounded_ones(original: tuple[int, int]) -> None:
    size = {"width_px": 4000, "height_px": 3000, "original_width_px": original[0], "original_height_px": original[1]}
    stored = stored_of(replace(plain_flight()[0], **size))  # type: ignore[arg-type]
    assert (stored.scale, stored.is_cut) == (pytest.approx(0.5, rel=0.002), False)


@pytest.mark.parametrize("size", [(336, 256), (5568, 4872), (2464, 2056), (4112, 3008), (3800, 3188), (4000, 1800)])
def test_cameras_with_aspects_of_their_own_are_whole(size: tuple[int, int]) -> None:
    sides = {"width_px": size[0], "height_px": size[1], "original_width_px": size[0], "original_height_px": size[1]}
    assert not stored_of(replace(plain_flight()[0], **sides)).is_cut  # type: ignore[arg-type]


@pytest.mark.real
def test_brighton_beach() -> None:
    survey = _real("brighton_beach")
    assert len(survey.photos) == 18
    assert [c.focal_prior_px for c in survey.cameras] == [pytest.approx(2300, rel=0.02)]  # true: about 2300 px
    assert estimate_gsd_m(survey) == pytest.approx(0.0172, rel=0.03)
    assert survey.findings == ()


@pytest.mark.real
def test_seneca() -> None:
    survey = _real("seneca_half")
    assert len(survey.photos) == 167
    main = survey.cameras[1]
    assert (main.width_px, main.focal_prior_px) == (
        1800,
        pytest.approx(0.7097 * 1800, rel=0.03),
    )  # OpenSfM's adjustment
    assert [f.code for f in survey.findings] == ["cut", "several-cameras"]  # one photo has a shape of its own
