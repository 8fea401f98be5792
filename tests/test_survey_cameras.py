"""Which camera took which photos, and how long its focal length is: sizes, cuts, zoom."""

from __future__ import annotations

from dataclasses import replace

import pytest

from passel.survey.cameras import weightiest
from passel.survey.cut import stored_of
from passel.survey.facts import PhotoFacts
from passel.survey.sensors import FocalPrior, focal_prior
from survey_photos import facts, finding, plain_flight, survey_of


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


@pytest.mark.parametrize("original", [(8000, 0), (0, 6000), (8000, 5990)])
def test_a_picture_made_smaller_is_told_by_one_side_and_by_rounded_ones(original: tuple[int, int]) -> None:
    size = {"width_px": 4000, "height_px": 3000, "original_width_px": original[0], "original_height_px": original[1]}
    stored = stored_of(replace(plain_flight()[0], **size))  # type: ignore[arg-type]
    assert (stored.scale, stored.is_cut) == (pytest.approx(0.5, rel=0.002), False)


@pytest.mark.parametrize("size", [(336, 256), (5568, 4872), (2464, 2056), (4112, 3008), (3800, 3188), (4000, 1800)])
def test_cameras_with_aspects_of_their_own_are_whole(size: tuple[int, int]) -> None:
    sides = {"width_px": size[0], "height_px": size[1], "original_width_px": size[0], "original_height_px": size[1]}
    assert not stored_of(replace(plain_flight()[0], **sides)).is_cut  # type: ignore[arg-type]


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


def resized(f: PhotoFacts, width_px: int, height_px: int, **changes: object) -> PhotoFacts:
    """The photo, which the camera made 4000 x 3000, at that size."""
    size = {"width_px": width_px, "height_px": height_px, "original_width_px": 4000, "original_height_px": 3000}
    return replace(f, **{**size, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(("number", "is_held"), [(20, True), (40, False)], ids=["few", "many"])
def test_photos_made_smaller_beside_whole_ones_are_not_cut(number: int, is_held: bool) -> None:
    photos = [
        resized(f, 2000, 1500) if i % 3 < number // 20 else resized(f, 4000, 3000) for i, f in enumerate(plain_flight())
    ]
    survey = survey_of(photos)
    small, whole = survey.cameras
    assert small.id == "dji-fc300s-2000x1500-of-4000x3000-3.61mm"
    assert small.focal_prior_px == pytest.approx(whole.focal_prior_px / 2)
    assert (small.focal_prior_sigma, small.is_cut) == (whole.focal_prior_sigma, False)
    assert (small.is_held, whole.is_held) == (is_held, False)
    assert [f.code for f in survey.findings] == ["several-cameras"]


def test_whole_photos_of_other_ground_or_another_zoom_hold_nothing() -> None:
    whole = [resized(f, 4000, 3000) for f in plain_flight()]
    small = [resized(replace(f, name=f"small_{f.name}", sha256=f"s{f.sha256}"), 2000, 1500) for f in whole[:20]]
    assert any(c.is_held for c in survey_of([*whole, *small]).cameras)
    moved = [replace(f, position=replace(f.position, latitude_deg=f.position.latitude_deg + 0.05)) for f in small]
    zoomed = [replace(f, focal_mm=2 * f.focal_mm) for f in small]
    turned = [replace(f, width_px=3984, height_px=2992) for f in small]
    for others in (moved, zoomed, turned):
        assert not any(c.is_held for c in survey_of([*whole, *others]).cameras)


@pytest.mark.parametrize("number", [1, 30, 59])
def test_photos_of_one_size_that_are_stored_otherwise_are_cameras_of_their_own(number: int) -> None:
    """The first by name are cut to the size of which the camera took the others; both have the zoom of the flight."""
    photos = [resized(f, 4000, 3000, original_width_px=5472, original_height_px=3648) for f in plain_flight()[:number]]
    photos += [resized(f, 4000, 3000) for f in plain_flight()[number:]]
    survey = survey_of(photos)
    whole, cut = survey.cameras
    assert (whole.id, whole.is_cut) == ("dji-fc300s-4000x3000-3.61mm", False)
    assert (cut.id, cut.is_cut) == ("dji-fc300s-4000x3000-of-5472x3648-3.61mm", True)
    assert finding(survey, "cut").photos == tuple(f.name for f in photos[:number])
    assert [f.code for f in survey.findings] == ["cut", "several-cameras"]  # no zoom change
    assert survey_of([replace(f, original_width_px=None) for f in photos[number:]]  # one side is enough
                     + photos[:number]).cameras[0].id == whole.id  # fmt: skip


def test_the_focal_length_is_what_most_and_the_surest_photos_say() -> None:
    def told(photos_with_calibration: int) -> tuple[str, float]:
        photos = plain_flight()
        for i in range(photos_with_calibration):
            photos[i] = replace(photos[i], xmp_focal_px=3600.0)
        [camera] = survey_of(photos).cameras
        return camera.focal_prior_source, round(camera.focal_prior_sigma, 3)

    assert told(0) == told(1) == told(10) == ("exif35", 0.03)  # a photo from elsewhere does not speak for all
    assert told(25) == told(60) == ("xmp", 0.02)  # many that kept theirs do
    odd = [replace(f, xmp_focal_px=2340.0 if i else 3600.0) for i, f in enumerate(plain_flight())]
    assert survey_of(odd).cameras[0].focal_prior_px == 2340.0
    guessed = [FocalPrior(3400.0, "guess", 0.3)] * 40 + [FocalPrior(2340.0, "xmp", 0.02)]
    assert weightiest(guessed).source == "xmp"  # a guess is no evidence


@pytest.mark.parametrize("told", [{}, {"xmp_focal_px": 2340.0}])
def test_of_a_small_piece_no_less_is_said_than_of_an_unknown_camera(told: dict[str, object]) -> None:
    [camera] = survey_of([resized(f, 700, 500, **told) for f in plain_flight()]).cameras
    assert (camera.focal_prior_sigma, camera.centre_sigma, camera.is_cut) == (0.3, 0.25, True)
    assert camera.focal_prior_px == pytest.approx(2320, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "is_cut"),
    [
        ({}, True),
        ({"xmp_focal_px": 3000.0}, False),
        ({"xmp_focal_px": 3000.0, "xmp_middle_x_px": 1810.0, "xmp_middle_y_px": 1240.0}, False),
        ({"xmp_focal_px": 3000.0, "xmp_middle_x_px": 2000.0, "xmp_middle_y_px": 1500.0}, True),  # of 4000 x 3000
        ({"xmp_focal_px": 3000.0, "original_width_px": None, "original_height_px": None}, True),
    ],
)
def test_a_rare_shape_that_its_camera_wrote_and_calibrated_is_whole(changes: dict[str, object], is_cut: bool) -> None:
    size = {"original_width_px": 3600, "original_height_px": 2500}
    [camera] = survey_of([resized(f, 3600, 2500, **{**size, **changes}) for f in plain_flight()]).cameras
    assert camera.is_cut == is_cut
    assert (camera.focal_prior_sigma > 0.1) == is_cut
