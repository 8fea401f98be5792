"""From facts to a survey: frame, GPS weights, findings; and the real surveys."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets import dataset
from passel.errors import InputError
from passel.survey.assemble import assemble_survey
from passel.survey.describe import describe_survey, estimate_gsd_m
from passel.survey.facts import PhotoFacts, Refusal
from passel.survey.inspect import inspect_photo, list_photos
from passel.survey.model import Survey
from survey_photos import facts, finding, flight, plain_flight, survey_of


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


def test_blur_is_relative_to_the_neighbours() -> None:
    photos = plain_flight()
    rng = np.random.default_rng(1)
    scene = np.exp(np.linspace(0, 2.5, len(photos)) + rng.normal(0, 0.15, len(photos))) * 200  # fields turn into town
    photos = [replace(f, sharpness=float(s)) for f, s in zip(photos, scene, strict=True)]
    assert survey_of(photos).findings == ()
    photos[30] = replace(photos[30], sharpness=float(scene[30]) * 0.1)
    assert finding(survey_of(photos), "blurred").photos == ("p0030.jpg",)


def test_twelve_thousand_photos_have_nothing_to_find() -> None:
    survey = survey_of(plain_flight(100, 120))
    assert len(survey.photos) == 12_000
    assert survey.findings == ()


def _real(name: str) -> Survey:
    paths = list_photos(dataset(name))
    found = [inspect_photo(p) for p in paths]
    photos = [f for f in found if isinstance(f, PhotoFacts)]
    return assemble_survey(photos, [f for f in found if isinstance(f, Refusal)], paths)


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
    assert [f.code for f in survey.findings] == [
        "several-cameras"
    ]  # one photo was made smaller than the others, none was cut
