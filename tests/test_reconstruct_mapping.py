"""Features, matches and mapping of real pixels: the tiny synthetic survey, whose truth is known. Pixels, metres, degrees."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from align_world import angles_deg
from passel.align.camera_priors import camera_priors
from passel.align.gates import judge
from passel.align.whole import Evidence, adjust_whole
from passel.demo.truth import DemoTruth
from passel.errors import InputError
from passel.geo.similarity import fit_similarity
from passel.reconstruct.colmap_db import DbPhoto
from passel.reconstruct.features import Features, find_features
from passel.reconstruct.mapping import Mapper, MappingInput, map_photos, placed_by_gps
from passel.reconstruct.matches import PairMatches, load_matches, save_matches
from passel.reconstruct.matching import match_pairs
from passel.reconstruct.pairs import all_pairs
from passel.reconstruct.scene import Intrinsics, Scene


@dataclass(frozen=True)
class Matched:
    """The tiny survey after matching."""

    images: Path
    truth: DemoTruth
    names: tuple[str, ...]
    cameras: tuple[Intrinsics, ...]
    features: dict[int, Features]
    matches: list[PairMatches]
    gps: np.ndarray


@pytest.fixture(scope="module")
def tiny(tiny_survey: tuple[Path, DemoTruth], tmp_path_factory: pytest.TempPathFactory) -> Matched:
    images, truth = tiny_survey
    shots = sorted(truth.shots, key=lambda s: s.name)
    names = tuple(s.name for s in shots)
    features = {i: find_features(images / n, 800, 600, "lowest") for i, n in enumerate(names)}
    focal = 800 * 8.8 / 13.2  # as EXIF says, 1.3 % off
    cameras = (Intrinsics("c", 800, 600, focal, focal, 400.0, 300.0),)
    scratch = tmp_path_factory.mktemp("matching")
    matches = match_pairs(all_pairs(16), features, cameras, dict.fromkeys(features, 0), scratch)
    gps = truth.frame.world_from_geographic(np.array([s.noted for s in shots]))
    return Matched(images, truth, names, cameras, features, matches, gps)


def test_features_are_in_order_of_strength_and_the_same_every_time(tiny):
    f = tiny.features[0]
    again = find_features(tiny.images / tiny.names[0], 800, 600, "lowest")
    for key in ("xy", "scale", "angle", "descriptors"):
        assert np.array_equal(getattr(f, key), getattr(again, key))
    assert 1000 < len(f.xy) <= 2500
    assert ((f.xy > 0) & (f.xy < (800, 600))).all()
    length = np.linalg.norm(f.descriptors.astype(float), axis=1)
    assert np.abs(length - 512).max() < 15
    more = find_features(tiny.images / tiny.names[0], 800, 600, "medium")
    assert len(more.xy) > len(f.xy)


@pytest.mark.parametrize("factor", [2, 4])
def test_a_reduced_photo_has_its_features_in_the_same_place(tiny, tmp_path, factor):
    """The photo blown up by 2 or 4 is reduced while it is decoded; half a pixel of shift there would be 1 or 2 px here."""
    small = cv2.imread(str(tiny.images / tiny.names[3]), cv2.IMREAD_GRAYSCALE)
    large = cv2.resize(small, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(tmp_path / "small.png"), small)
    cv2.imwrite(str(tmp_path / "large.jpg"), large, [cv2.IMWRITE_JPEG_QUALITY, 98])
    one = find_features(tmp_path / "small.png", 800, 600, "lowest")
    two = find_features(tmp_path / "large.jpg", 800 * factor, 600 * factor, "lowest")
    cosine = one.descriptors.astype(float) @ two.descriptors.astype(float).T / 512**2
    best = cosine.argmax(axis=1)
    same = cosine.max(axis=1) > 0.97
    shift = two.xy[best[same]] / factor - one.xy[same]
    assert same.sum() > 200
    assert np.abs(np.median(shift, axis=0)).max() < 0.08
    assert np.median(np.linalg.norm(shift, axis=1)) < 0.4


def test_a_photo_without_detail_has_no_features(tmp_path):
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((300, 400), 128, np.uint8))
    f = find_features(tmp_path / "grey.png", 400, 300, "high")
    assert f.xy.shape == (0, 2)
    assert f.descriptors.shape == (0, 128)
    f.save(tmp_path / "f.npz")
    assert Features.load(tmp_path / "f.npz").descriptors.shape == (0, 128)


def test_photos_of_snow_match_by_what_little_they_show(tiny, tmp_path):
    """A tenth of the usual contrast about a bright grey, as JPEG keeps it."""
    for name in tiny.names[:2]:
        grey = cv2.imread(str(tiny.images / name), cv2.IMREAD_GRAYSCALE).astype(float)
        faint = np.round(225.0 + 0.09 * (grey - grey.mean())).astype(np.uint8)
        cv2.imwrite(str(tmp_path / name), faint, [cv2.IMWRITE_JPEG_QUALITY, 85])
    found = {i: find_features(tmp_path / n, 800, 600, "medium") for i, n in enumerate(tiny.names[:2])}
    [pair] = match_pairs(all_pairs(2), found, tiny.cameras, {0: 0, 1: 0}, tmp_path)
    assert len(pair.features) >= 30


@pytest.mark.parametrize("quality", [40, 75])
@pytest.mark.parametrize("swell_px", [6.0, 40.0])
def test_the_blocks_of_jpeg_match_nothing(tmp_path, quality, swell_px):
    """Photos of water, different everywhere: what is left at the faintest level are the blocks, alike in every photo."""
    across, down = np.meshgrid(np.linspace(-1, 1, 1200), np.linspace(-0.75, 0.75, 900))
    for k in range(3):
        waves = cv2.GaussianBlur(np.random.default_rng(k).normal(0, 1, (900, 1200)), (0, 0), swell_px)
        water = (115.0 + 5.0 * waves / waves.std()) * (1.0 - 0.3 * (across**2 + down**2))
        cv2.imwrite(str(tmp_path / f"{k}.jpg"), np.round(water).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])
    found = {k: find_features(tmp_path / f"{k}.jpg", 1200, 900, "high") for k in range(3)}
    cameras = (Intrinsics("c", 1200, 900, 800.0, 800.0, 600.0, 450.0),)
    pairs = match_pairs(all_pairs(3), found, cameras, dict.fromkeys(found, 0), tmp_path)
    assert max((len(m.features) for m in pairs), default=0) < 20


def test_unreadable_photos_say_so(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a photo")
    (tmp_path / "empty.jpg").write_bytes(b"")
    for name in ("bad.jpg", "empty.jpg", "gone.jpg"):
        with pytest.raises(InputError, match=name):
            find_features(tmp_path / name, 400, 300, "high")


def test_matches_are_true_and_the_same_every_time(tiny, tmp_path):
    pairs = all_pairs(16)[:6]
    again = match_pairs(pairs, tiny.features, tiny.cameras, dict.fromkeys(tiny.features, 0), tmp_path)
    for a, b in zip(tiny.matches, again):
        assert (a.first, a.second) == (b.first, b.second)
        assert np.array_equal(a.features, b.features)
    assert len(tiny.matches) > 40
    m = next(m for m in tiny.matches if (m.first, m.second) == (0, 1))
    assert len(m.features) > 100
    assert len(set(m.features[:, 0].tolist())) == len(m.features)


def test_a_photo_without_features_matches_nothing(tiny, tmp_path):
    empty = np.zeros(0, np.float32)
    none = Features(800, 600, np.zeros((0, 2), np.float32), empty, empty, np.zeros((0, 128), np.uint8))
    features = {0: tiny.features[0], 1: none, 2: tiny.features[2]}
    found = match_pairs(all_pairs(3), features, tiny.cameras, dict.fromkeys(features, 0), tmp_path)
    assert all(1 not in (m.first, m.second) for m in found)


def test_matches_are_kept_by_name(tiny, tmp_path):
    save_matches(tmp_path / "m.npz", tiny.names, tiny.matches)
    turned = {n: 15 - i for i, n in enumerate(tiny.names)}
    back = load_matches(tmp_path / "m.npz", turned)
    assert [(m.first, m.second) for m in back] == [(15 - m.first, 15 - m.second) for m in tiny.matches]
    assert all(np.array_equal(a.features, b.features) for a, b in zip(tiny.matches, back))
    some = load_matches(tmp_path / "m.npz", {tiny.names[0]: 0, tiny.names[1]: 1})
    assert [(m.first, m.second) for m in some] == [(0, 1)]
    save_matches(tmp_path / "none.npz", tiny.names, [])
    assert load_matches(tmp_path / "none.npz", turned) == []


def mapped(tiny: Matched, mapper: Mapper, scratch: Path) -> Scene:
    sigma = np.array([1.0, 1.0, 2.0])
    photos = tuple(DbPhoto(n, tiny.features[i], 0, tiny.gps[i], sigma) for i, n in enumerate(tiny.names))
    scene = map_photos(MappingInput(tiny.cameras, photos, tuple(tiny.matches), True), mapper, scratch)
    assert scene is not None
    return placed_by_gps(scene, tiny.gps, np.tile(sigma, (16, 1)))


@pytest.fixture(scope="module")
def globally_mapped(tiny: Matched, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return mapped(tiny, Mapper.GLOBAL, tmp_path_factory.mktemp("mapping"))


@pytest.mark.parametrize("mapper", list(Mapper))
def test_mapping_and_adjustment_end_at_the_truth(tiny, globally_mapped, mapper, tmp_path):
    scene = globally_mapped if mapper is Mapper.GLOBAL else mapped(tiny, mapper, tmp_path)
    assert scene.photos == tiny.names
    evidence = Evidence(
        tuple(range(16)),
        tuple(tiny.features[i].xy.astype(float) for i in range(16)),
        tiny.gps,
        np.tile([1.0, 1.0, 2.0], (16, 1)),
        np.full(16, 800 / 640),
        camera_priors(tiny.cameras, np.array([0.05]), [False], "auto"),
        np.full(16, np.nan),
    )
    scene, facts = adjust_whole(scene, evidence, tiny.matches)
    verdict = judge(scene, evidence, tiny.matches, 16)
    assert verdict.passed, verdict.failures
    true_centres, true_turns = tiny.truth.positions(tiny.names), tiny.truth.rotations(tiny.names)
    gsd = tiny.truth.settings.gsd_m
    b_from_a = fit_similarity(scene.centres, true_centres)
    miss = np.linalg.norm(b_from_a.apply(scene.centres) - true_centres, axis=1)
    assert np.sqrt((miss**2).mean()) < 2.0 * gsd
    assert angles_deg(scene.cam_from_world @ b_from_a.rotation.T, true_turns).max() < 0.3
    assert np.linalg.norm((scene.centres - true_centres).mean(axis=0)[:2]) < 1.0  # 16 photos of 1 m GPS
    assert facts.reprojection_px < 0.6


def test_mapping_is_the_same_every_time(tiny, globally_mapped, tmp_path):
    one, two = globally_mapped, mapped(tiny, Mapper.GLOBAL, tmp_path)
    assert np.array_equal(one.centres, two.centres)
    assert np.array_equal(one.points, two.points)
    assert np.array_equal(one.obs_xy, two.obs_xy)


def test_photos_without_matches_are_no_model(tiny, tmp_path):
    photos = tuple(DbPhoto(tiny.names[i], tiny.features[i], 0) for i in range(3))
    assert map_photos(MappingInput(tiny.cameras, photos, (), True), Mapper.INCREMENTAL, tmp_path) is None
