"""Write a synthetic survey as a drone would: JPEG photos with EXIF and XMP in `images`, and the truth beside them."""

from __future__ import annotations

import io
import json
import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from datetime import datetime, timedelta
from fractions import Fraction
from functools import partial
from pathlib import Path

from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from passel.demo.flight import FOCAL_MM, SENSOR_WIDTH_MM, DemoSettings, Shot
from passel.demo.render import render_photo
from passel.demo.truth import RENDER_VERSION, DemoTruth
from passel.errors import InputError, StorageError
from passel.survey.inspect import EXTENSIONS

TRUTH_FILE = "truth.json"
IMAGES_FOLDER = "images"
JPEG_QUALITY = 95
_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825
_TAKE_OFF = datetime(2025, 6, 14, 9, 30, 0)


def write_demo(folder: Path, settings: DemoSettings | None = None, workers: int = 1) -> DemoTruth:
    """Make the survey in `folder`: images/DEMO_nnnn.JPG and truth.json. Photos that lie there from equal settings are kept.

    workers: processes that render. The bytes do not depend on it. Raises StorageError if the folder cannot be written.
    """
    truth = DemoTruth.of(settings or DemoSettings())
    try:
        images = folder / IMAGES_FOLDER
        images.mkdir(parents=True, exist_ok=True)
        _refuse_others(images)
        if not _same_survey(folder / TRUTH_FILE, truth):
            for old in images.glob("DEMO_*.JPG"):
                old.unlink()
            truth.save(folder / TRUTH_FILE)
        todo = [i for i, s in enumerate(truth.shots) if not (images / s.name).exists()]
        if workers <= 1 or len(todo) <= 1:
            for i in todo:
                write_photo(truth.settings, images, i)
        else:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(min(workers, len(todo)), mp_context=context) as pool:
                for _ in pool.map(partial(write_photo, truth.settings, images), todo):
                    pass
    except OSError as e:
        raise StorageError(
            f"cannot write the demo survey: {e.strerror or e}", str(folder), "choose another folder"
        ) from e
    return truth


def write_photo(settings: DemoSettings, images: Path, index: int) -> Path:
    """Render one photo of the survey by its number and write it, aside first. Any process can do any photo."""
    truth = DemoTruth.of(settings)
    path = images / truth.shots[index].name
    aside = path.with_name(path.name + ".part")
    aside.write_bytes(photo_bytes(truth, index))
    aside.replace(path)
    return path


def photo_bytes(truth: DemoTruth, index: int) -> bytes:
    """The JPEG file of one photo."""
    shot = truth.shots[index]
    camera = truth.cameras[shot.camera]
    seed = (truth.settings.seed, index)
    pixels = render_photo(truth.world, camera, shot.cam_from_world, shot.centre, shot.exposure, noise_seed=seed)
    out = io.BytesIO()
    exif = _exif(truth, shot)
    Image.fromarray(pixels).save(out, "JPEG", quality=JPEG_QUALITY, subsampling=0, exif=exif, xmp=_xmp(truth, shot))
    return out.getvalue()


def _refuse_others(images: Path) -> None:
    """They would be mapped with the demo's, and the map of theirs replaced."""
    others = [p.name for p in images.iterdir() if p.suffix.lower() in EXTENSIONS and not p.name.startswith("DEMO_")]
    if others:
        what = f"There are other photos than the demo's: {min(others)}"
        raise InputError(what, str(images), "choose another --output for the demo")


def _same_survey(path: Path, truth: DemoTruth) -> bool:
    try:
        d = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(d.get("version") == RENDER_VERSION and d.get("settings") == asdict(truth.settings))


def _rational(value: float, denominator: int) -> IFDRational:
    f = Fraction(round(value * denominator), denominator)
    return IFDRational(f.numerator, f.denominator)


def _degrees(value: float) -> tuple[IFDRational, IFDRational, IFDRational]:
    value = abs(value)
    minutes = (value - math.floor(value)) * 60
    seconds = (minutes - math.floor(minutes)) * 60
    return IFDRational(math.floor(value), 1), IFDRational(math.floor(minutes), 1), _rational(seconds, 1_000_000)


def _exif(truth: DemoTruth, shot: Shot) -> Image.Exif:
    """EXIF as cameras write it: the focal length is the nominal one, not the true."""
    camera = truth.cameras[shot.camera]
    exif = Image.Exif()
    when = _TAKE_OFF + timedelta(seconds=shot.seconds)
    stamp, hundredths = when.strftime("%Y:%m:%d %H:%M:%S"), f"{when.microsecond // 10_000:02d}"
    exif[0x010F], exif[0x0110], exif[0x0112] = "Passel", camera.camera, 1
    exif[0x0131], exif[0x0132] = "passel demo", stamp
    sub = exif.get_ifd(_EXIF_IFD)
    sub[0x829A], sub[0x829D], sub[0x8827] = IFDRational(1, 1000), IFDRational(28, 10), 100  # exposure, f-number, ISO
    sub[0x9003] = sub[0x9004] = stamp
    sub[0x9291] = sub[0x9292] = hundredths
    sub[0x920A] = _rational(FOCAL_MM, 10)
    sub[0xA002], sub[0xA003] = camera.width_px, camera.height_px
    # By the standard (CIPA DCG-001) the 35 mm equivalent compares diagonals, and is a whole number.
    diagonal_mm = SENSOR_WIDTH_MM * math.hypot(camera.width_px, camera.height_px) / camera.width_px
    sub[0xA405] = round(FOCAL_MM * math.hypot(36.0, 24.0) / diagonal_mm)
    if truth.settings.gps:
        latitude, longitude, altitude = shot.noted
        gps = exif.get_ifd(_GPS_IFD)
        gps[0] = b"\x02\x03\x00\x00"
        gps[1], gps[2] = ("N" if latitude >= 0 else "S"), _degrees(latitude)
        gps[3], gps[4] = ("E" if longitude >= 0 else "W"), _degrees(longitude)
        gps[5], gps[6] = (b"\x00" if altitude >= 0 else b"\x01"), _rational(abs(altitude), 1000)
        gps[18] = "WGS-84"
    return exif


def _xmp(truth: DemoTruth, shot: Shot) -> bytes:
    """DJI's words for the attitude, and the height above take-off if there is GPS."""
    yaw, pitch, roll = shot.noted_angles_deg
    s = truth.settings
    relative = f' drone-dji:RelativeAltitude="{shot.noted[2] - s.altitude_m - 11.0:+.2f}"' if s.gps else ""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        f'xmlns:drone-dji="http://www.dji.com/drone-dji/1.0/"{relative} drone-dji:GimbalYawDegree="{yaw:+.2f}" '
        f'drone-dji:GimbalPitchDegree="{pitch:+.2f}" drone-dji:GimbalRollDegree="{roll:+.2f}"/></rdf:RDF></x:xmpmeta>'
        '<?xpacket end="w"?>'
    ).encode()
