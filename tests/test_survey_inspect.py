"""Reading photos: tags, pixels, refusals."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import dataset
from passel.errors import InputError
from passel.pipeline.step import StepInputs
from passel.pipeline.steps.survey import InspectParams, inspect_batch, load_batch
from passel.survey.exif import read_tags
from passel.survey.facts import PhotoFacts, Refusal
from passel.survey.inspect import inspect_photo, list_photos, photo_sha256, photos_in_folders
from passel.survey.sensors import focal_prior
from passel.survey.xmp import Xmp
from survey_photos import Shot, attribute_xmp, element_xmp


def good(path: Path) -> PhotoFacts:
    found = inspect_photo(path)
    assert isinstance(found, PhotoFacts), found
    return found


def refused(path: Path) -> Refusal:
    found = inspect_photo(path)
    assert isinstance(found, Refusal), found
    return found


def test_exif_gps_time_and_lens_of_a_jpeg(tmp_path: Path) -> None:
    exif = {0x9003: "2024:05:01 10:11:12", 0x9291: "25", 0x920A: 3.61, 0xA405: 20, 0xA434: "20mm F2.8", 0xA404: 1.0}
    shot = Shot(gps=(-33.8567891, 151.2152963, -12.5), exif=exif, gps_tags={31: 1.5}, orientation=6)
    f = good(shot.write(tmp_path / "Größe 写真.JPG"))
    assert (f.name, f.width_px, f.height_px, f.orientation) == (
        "Größe 写真.JPG",
        320,
        240,
        6,
    )  # stored size, not turned
    assert (f.make, f.model, f.lens, f.focal35_mm) == ("DJI", "FC300S", "20mm F2.8", 20.0)
    assert f.focal_mm == pytest.approx(3.61)
    assert f.time == "2024-05-01T10:11:12.25"
    assert f.position is not None
    assert f.position.latitude_deg == pytest.approx(-33.8567891, abs=1e-7)
    assert f.position.longitude_deg == pytest.approx(151.2152963, abs=1e-7)
    assert f.position.altitude_m == pytest.approx(-12.5)
    assert (f.position.horizontal_sigma_m, f.position.vertical_sigma_m) == (1.5, None)


def test_dji_xmp_gives_angles_heights_rtk_and_focal(tmp_path: Path) -> None:
    xmp = attribute_xmp(
        AbsoluteAltitude="+198.31", RelativeAltitude="+39.80", GimbalYawDegree="+45.00", GimbalPitchDegree="-89.90",
        GimbalRollDegree="+0.00", RtkFlag="50", RtkStdLon="0.011", RtkStdLat="0.013", RtkStdHgt="0.025",
        GpsLatitude="46.12345678901", GpsLongtitude="-91.98765432109", CalibratedFocalLength="290.5",
        CalibratedOpticalCenterX="161.5", CalibratedOpticalCenterY="0.0",
    )  # fmt: skip
    f = good(Shot(gps=(46.1234, -91.9876, 5.0), xmp=xmp).write(tmp_path / "a.jpg"))
    assert (f.yaw_deg, f.pitch_deg, f.roll_deg, f.relative_altitude_m, f.xmp_focal_px) == (
        45.0,
        -89.9,
        0.0,
        39.8,
        290.5,
    )
    assert (f.xmp_middle_x_px, f.xmp_middle_y_px) == (161.5, None)
    assert f.position is not None
    assert f.position.latitude_deg == pytest.approx(46.12345678901, abs=1e-11)
    assert f.position.longitude_deg == pytest.approx(-91.98765432109, abs=1e-11)
    assert (f.position.altitude_m, f.position.horizontal_sigma_m, f.position.vertical_sigma_m) == (198.31, 0.02, 0.03)


def test_element_form_with_accuracies_and_nadir_counted_from_down(tmp_path: Path) -> None:
    xmp = element_xmp("Camera", Yaw="12.5", Pitch="1.5", Roll="-2/1", GPSXYAccuracy="0.8", GPSZAccuracy="1.6")
    f = good(Shot(make="senseFly", model="S.O.D.A.", gps=(46.5, 6.5, 500.0), xmp=xmp).write(tmp_path / "a.jpg"))
    assert (f.yaw_deg, f.pitch_deg, f.roll_deg) == (12.5, -88.5, -2.0)
    assert f.position is not None
    assert (f.position.horizontal_sigma_m, f.position.vertical_sigma_m) == (0.8, 1.6)


def test_dewarp_data_tell_the_focal_length_in_the_cameras_own_pixels(tmp_path: Path) -> None:
    xmp = attribute_xmp(DewarpData="2020-01-01;640.5,641.0,1,2,0,0,0,0,0", CalibratedFocalLength="0.0")
    f = good(Shot(xmp=xmp, exif={0xA002: 640, 0xA003: 480}).write(tmp_path / "a.jpg"))
    assert (f.xmp_focal_px, f.original_width_px, f.original_height_px) == (640.5, 640, 480)
    assert focal_prior(f).focal_px == pytest.approx(320.25)


def test_a_photo_whose_pixels_somebody_turned_upright_was_not_made_smaller(tmp_path: Path) -> None:
    xmp, tags = attribute_xmp(CalibratedFocalLength="290.5"), {0xA002: 320, 0xA003: 240, 0xA20E: 100.0, 0xA210: 4}
    f = good(Shot(size=(240, 320), xmp=xmp, exif=tags).write(tmp_path / "a.jpg"))
    assert f.xmp_focal_px == pytest.approx(290.5)
    assert f.focal_plane_px_per_mm == pytest.approx(100.0)
    assert focal_prior(f).focal_px == pytest.approx(290.5)


def test_xmp_reader_is_tolerant() -> None:
    xmp = Xmp(
        '<a:B c:D = \'x &amp; y\' e:F="nan" g:H="12,30.0S"/> <k:L><rdf:Seq><rdf:li>1</rdf:li></rdf:Seq></k:L> <m:N>3 m'
    )
    assert xmp.text("D") == "x & y"
    assert xmp.number("F") is None
    endless = Xmp('<x d:G="' + "9" * 400 + '/1" d:H="' + "9" * 5000 + '/7"/>')
    assert (endless.number("G"), endless.number("H")) == (None, None)
    assert xmp.degrees("H") == pytest.approx(-12.5)
    assert xmp.text("k:L") == "1"
    assert xmp.text("other:L") == ""


@pytest.mark.parametrize(
    ("gps", "words"), [((0.0, 0.0, 0.0), "0, 0"), ((95.0, 10.0, 0.0), "no such place")], ids=["zero", "out of range"]
)
def test_impossible_gps_is_no_gps(tmp_path: Path, gps: tuple[float, float, float], words: str) -> None:
    f = good(Shot(gps=gps).write(tmp_path / "a.jpg"))
    assert f.position is None
    assert words in f.gps_note


def test_png_and_tiff_with_exif(tmp_path: Path) -> None:
    for name in ("a.png", "b.TIF"):
        f = good(Shot(gps=(46.0, 8.0, 300.0)).write(tmp_path / name))
        assert f.position is not None
        assert f.position.altitude_m == 300.0
        assert (f.width_px, f.height_px, f.model) == (320, 240, "FC300S")


def test_files_that_are_no_photos_are_refused_in_words(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = Shot(size=(640, 480)).write(tmp_path / "whole.jpg").read_bytes()
    middle = bytearray(whole)
    middle[len(whole) // 2 : len(whole) // 2 + 2] = b"\xff\xc0"
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((200, 200), np.uint16)).save(buffer, "TIFF")
    deep = buffer.getvalue()
    files = {
        "empty.jpg": (b"", "empty"),
        "text.jpg": (b"hello, I am a text file\n" * 50, "not-an-image"),
        "zeros.jpg": (bytes(50_000), "not-an-image"),
        "cut.jpg": (whole[: len(whole) // 2], "truncated"),
        "head.jpg": (whole[:300], "damaged"),
        "zero-tail.jpg": (whole[: len(whole) // 2] + bytes(len(whole) // 2), "damaged"),
        "middle.jpg": (bytes(middle), "damaged"),
        "deep.tif": (deep, "sixteen-bit"),
        "small.jpg": (Shot(size=(40, 30)).write(tmp_path / "s.jpg").read_bytes(), "too-small"),
    }
    for name, (content, code) in files.items():
        (tmp_path / name).write_bytes(content)
        found = refused(tmp_path / name)
        assert (found.name, found.code) == (name, code), found
        assert len(found.message) > 20
    assert refused(tmp_path / "missing.jpg").code == "unreadable"
    assert isinstance(photo_sha256(tmp_path / "missing.jpg"), Refusal)
    assert photo_sha256(tmp_path / "whole.jpg") == good(tmp_path / "whole.jpg").sha256
    assert capfd.readouterr() == ("", "")


def test_sixteen_bit_png_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((100, 100), np.uint16)).save(tmp_path / "a.png")
    assert "8 bits" in refused(tmp_path / "a.png").message


def test_forbidden_files_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Shot().write(tmp_path / "a.jpg")

    def forbidden(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", forbidden)  # root, who may run this, may read everything
    monkeypatch.setattr(Path, "iterdir", forbidden)
    assert (refused(path).code, "Permission denied" in refused(path).message) == ("unreadable", True)
    with pytest.raises(InputError, match="cannot be read"):
        list_photos(tmp_path)


def test_garbage_never_raises(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(5)
    shot = Shot(gps=(46.0, 8.0, 300.0), xmp=attribute_xmp(GpsLatitude="1"), exif={0x920A: 4.3, 0xA20E: 100.0})
    for suffix in (".jpg", ".png", ".tif"):
        whole = shot.write(tmp_path / f"a{suffix}").read_bytes()
        for _ in range(60):
            broken = bytearray(whole)
            for at in rng.integers(0, min(len(whole), 1500), 8):
                broken[at] = rng.integers(0, 256)
            (tmp_path / f"b{suffix}").write_bytes(bytes(broken))
            inspect_photo(tmp_path / f"b{suffix}")
            read_tags(bytes(broken[: rng.integers(0, len(broken))]))
    assert capfd.readouterr() == ("", "")


def test_blur_lowers_sharpness(tmp_path: Path) -> None:
    sharp = good(Shot(size=(640, 480), smooth=8).write(tmp_path / "a.jpg")).sharpness
    soft = good(Shot(size=(640, 480), smooth=64).write(tmp_path / "b.jpg")).sharpness
    assert soft < 0.2 * sharp


def test_listing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        list_photos(tmp_path / "none")
    with pytest.raises(InputError, match="empty"):
        list_photos(tmp_path)
    (tmp_path / "readme.txt").write_text("x")
    with pytest.raises(InputError, match="no photos"):
        list_photos(tmp_path)
    (tmp_path / "images").mkdir()
    for name in ("B.JPG", "a.jpeg", ".hidden.jpg", "a_mask.png", "c.TIFF", "d.Jpe", "e.JFIF", "note.txt"):
        (tmp_path / "images" / name).write_bytes(b"x")
    (tmp_path / "preview.jpg").write_bytes(b"x")
    assert [p.name for p in list_photos(tmp_path)] == ["B.JPG", "a.jpeg", "c.TIFF", "d.Jpe", "e.JFIF"]
    assert list_photos(tmp_path / "images") == list_photos(tmp_path)
    with pytest.raises(InputError, match="not a folder"):
        list_photos(tmp_path / "preview.jpg")


def test_very_long_names(tmp_path: Path) -> None:
    name = "ü" * 120 + ".jpg"
    assert good(Shot().write(tmp_path / name)).name == name


def test_batch_step_writes_the_same_bytes_whatever_the_paths(tmp_path: Path) -> None:
    written = []
    for place in ("one", "two"):
        folder, out = tmp_path / place, tmp_path / f"out-{place}"
        folder.mkdir()
        out.mkdir()
        paths = [Shot(gps=(46.0, 8.0, 1.0)).write(folder / f"{place}.jpg"), folder / "broken.jpg"]
        paths[1].write_bytes(b"x")
        params = InspectParams(("a.jpg", "b.jpg"))
        told = inspect_batch(StepInputs((("photo", paths[0]), ("photo", paths[1]))), params, out)
        assert told == {"photos": 1, "refused": 1}
        written.append((out / "photos.json").read_bytes())
    assert written[0] == written[1]
    photos, refusals = load_batch(tmp_path / "out-one")
    assert photos[0] == inspect_photo(tmp_path / "one" / "one.jpg", "a.jpg")
    assert refusals[0].name == "b.jpg"


@pytest.mark.real
def test_real_photos_are_read() -> None:
    found = [good(p) for p in list_photos(dataset("brighton_beach"))]
    assert len(found) == 18
    assert {(f.make, f.model, f.focal35_mm, f.pitch_deg is not None) for f in found} == {("DJI", "FC300S", 20.0, True)}
    assert all(f.position is not None and 190 < (f.position.altitude_m or 0) < 210 for f in found)


def test_pipes_and_sub_folders_are_not_searched(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")  # reading it would never end
    (tmp_path / "dead.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "100MEDIA").mkdir()
    (tmp_path / "100MEDIA" / "b.jpg").write_bytes(b"x")
    (tmp_path / "notes").mkdir()
    assert [p.name for p in list_photos(tmp_path)] == ["a.jpg", "dead.jpg"]
    (said,) = photos_in_folders(tmp_path)
    assert said.name == "100MEDIA/ (1)"


def test_photos_only_in_sub_folders_are_told_with_where_they_are(tmp_path: Path) -> None:
    """As on a camera's card: 100MEDIA/DJI_0001.JPG, 101MEDIA/DJI_0001.JPG."""
    for name in ("100MEDIA", "101MEDIA"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "DJI_0001.JPG").write_bytes(b"")
    with pytest.raises(InputError, match=r"only in its sub-folders: 100MEDIA/ \(1\), 101MEDIA/ \(1\)"):
        list_photos(tmp_path)
