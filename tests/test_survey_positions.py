"""GPS of the survey: places and altitudes that cannot be right, and those that only look so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from passel.errors import InputError
from passel.survey.altitudes import judge_altitudes
from passel.survey.facts import PhotoFacts
from passel.survey.model import Survey
from survey_photos import finding, flight, plain_flight, serpentine, survey_of


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


@pytest.mark.parametrize("altitude_m", [0.0, None])
def test_without_altitudes_heights_count_from_the_take_off_if_they_are_told(altitude_m: float | None) -> None:
    low_and_high = [
        replace(without_height(f, altitude_m), relative_altitude_m=60.0 + i) for i, f in enumerate(plain_flight())
    ]
    low_and_high[7] = replace(low_and_high[7], relative_altitude_m=0.0)  # some cameras write 0 where they know none
    survey = survey_of(low_and_high)
    assert finding(survey, "heights-above-start").message.startswith(
        "No altitudes: heights in the map count from the take-off"
    )
    altitudes = [p.position.altitude_m for p in survey.photos if p.position is not None]
    assert altitudes == [None if i == 7 else 60.0 + i for i in range(60)]
    assert not [f for f in survey.findings if f.code == "no-altitude"]
    for told in (1, 40):
        some = survey_of([*plain_flight()[:told], *low_and_high[told:]])
        assert any(f.code == "heights-above-start" for f in some.findings) == (told == 1)
        assert sum(p.position is not None and p.position.altitude_m is not None for p in some.photos) == (
            58 if told == 1 else 40
        )
    never = survey_of([replace(f, relative_altitude_m=0.0) for f in low_and_high])
    assert finding(never, "no-altitude")


def test_heights_above_the_take_off_that_jump_may_count_from_two_places() -> None:
    """Altitudes beside them would tell another flying height from another place of take-off."""
    xy = serpentine(8, 12)
    z = 80 + np.random.default_rng(5).normal(0, 1, len(xy)) + 25.0 * (np.arange(len(xy)) >= 40)
    photos = [replace(without_height(f), relative_altitude_m=float(h)) for f, h in zip(flight(xy, z), z, strict=True)]
    survey = survey_of(photos)
    assert "heights above the take-off jump" in finding(survey, "altitude-jump").message
    assert survey.gps_sigma_m[1] == 1000.0


def test_below_the_sea_altitudes_are_as_good_as_above() -> None:
    xy = serpentine(6, 10)
    survey = survey_of(flight(xy, -380.0 + np.random.default_rng(2).normal(0, 1, len(xy))))
    assert survey.findings == ()
    assert survey.frame.origin_height_m == pytest.approx(-380, abs=3)
