"""Colour gains with known truth: a strip of photos whose errors would add up, highlights, clipped samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from passel.geo.grid import Bounds, Grid, Window
from passel.reconstruct.scene import Intrinsics, View
from passel.surface.camera import packed, project_all
from passel.surface.coarse import CoarseSurface
from passel.surface.colour import Gains, Tone, at_node, correct, sightings, solve_gains
from passel.surface.gain_solver import Sightings, solve
from passel.surface.ortho import _settle, _weigh
from passel.surface.plate import Plate

CAMERA = Intrinsics("strip", 1280, 960, 1000.0, 1000.0, 640.0, 480.0, 0.0, 0.0, 0.0, 0.0)
HEIGHT_M, STEP_M, PHOTOS = 50.0, 16.0, 40
HOT_SPOT = 0.06  # of brightness from the middle of a photo to its edge: the sun stands in the strip's direction
DOWN = np.diag([1.0, -1.0, -1.0])
NAMES = tuple(f"s{i:02d}.jpg" for i in range(PHOTOS))


def ground(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n, 3) true brightness: fields of different colour, without any trend along the strip."""
    a = 110 + 25 * np.sin(x / 9.0) + 20 * np.cos(y / 7.0 + x / 23.0)
    return np.stack([a, 0.8 * a + 10 * np.sin(y / 5.0), 0.6 * a + 15], axis=-1)


def exposure(number: int) -> float:
    return float(np.exp(0.2 * np.sin(number * 2.4)))


def strip() -> list[View]:
    return [View(n, CAMERA, DOWN, np.array([STEP_M * i, 0.0, HEIGHT_M])) for i, n in enumerate(NAMES)]


def write_plates(folder: Path, views: list[View]) -> dict[str, Plate]:
    """Tiny images (16 pixels to one) of the ground, darker in the corners, brighter towards the sun, each with its exposure."""
    scale, plates = 1 / 16, {}
    u, v = np.meshgrid((np.arange(80) + 0.5) * 16, (np.arange(60) + 0.5) * 16)
    q = ((u - 640) ** 2 + (v - 480) ** 2) / (640**2 + 480**2)
    for number, view in enumerate(views):
        x, y = view.centre[0] + (u - 640) / 1000 * HEIGHT_M, -(v - 480) / 1000 * HEIGHT_M
        seen = np.exp(-0.3 * q + HOT_SPOT * (u - 640) / 640)[:, :, None] * ground(x, y) * exposure(number)
        np.save(folder / f"{number}.npy", np.clip(seen + 0.5, 0, 255).astype(np.uint8))
        plates[view.photo] = Plate(view.photo, scale, scale, scale, scale, "", f"{number}.npy", str(folder))
    return plates


def flat_ground() -> CoarseSurface:
    window = Window(-40, -30, 720, 60)
    return CoarseSurface(
        Grid(1.0, (0.0, 0.0)), window, np.zeros(window.shape, np.float32), np.ones(window.shape, np.uint8)
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Gains, dict[str, Plate]]:
    plates = write_plates(tmp_path_factory.mktemp("strip"), strip())
    return solve_gains(strip(), plates, flat_ground()), plates


def corrected(gains: Gains, plates: dict[str, Plate], view: View, xy: np.ndarray, *, toned: bool = True) -> np.ndarray:
    """(n, 3) log of corrected values at ground positions, nan outside the photo."""
    xyz = np.column_stack([xy, np.zeros(len(xy))])
    uv = project_all(plates[view.photo].packed_tiny(view), xyz)
    inside = (uv >= 0).all(axis=1) & (uv <= (79, 59)).all(axis=1)
    image, table, out = plates[view.photo].read_tiny(), gains.table(view), np.full((len(xy), 3), np.nan)
    tone, x0, y0 = gains.tone.over(Bounds(-40, -30, 680, 30))
    for k in np.flatnonzero(inside):
        value, factor = np.empty(3), np.ones(3)
        u, v = uv[k]
        iu, iv = min(int(u), 78), min(int(v), 58)
        fu, fv = u - iu, v - iv
        block = image[iv : iv + 2, iu : iu + 2].astype(float)
        value[:] = (block[0, 0] * (1 - fu) + block[0, 1] * fu) * (1 - fv) + (
            block[1, 0] * (1 - fu) + block[1, 1] * fu
        ) * fv
        at_node(table, (u + 0.5) / 80 * 32, (v + 0.5) / 60 * 32, factor)
        if toned:
            cell = gains.tone.grid.resolution_m
            at_node(tone, (xy[k, 0] - x0) / cell, (y0 - xy[k, 1]) / cell, factor)
        out[k] = np.log(value * factor)
    return out


def test_neighbours_agree_and_the_strip_does_not_drift(made: tuple[Gains, dict[str, Plate]]) -> None:
    gains, plates = made
    x, y = np.meshgrid(np.arange(0, STEP_M * PHOTOS - 16, 4.0), np.array([-12.0, -4.0, 4.0, 12.0]))
    xy = np.column_stack([x.ravel(), y.ravel()])
    seen = np.stack([corrected(gains, plates, view, xy) for view in strip()])
    spread = np.nanstd(seen, axis=0)
    assert np.median(spread) < 0.01
    assert np.percentile(spread, 95) < 0.02
    error = np.nanmean(seen, axis=0) - np.log(ground(xy[:, 0], xy[:, 1]))
    trend = np.polyfit(xy[:, 0], error.mean(axis=1), 1)[0] * STEP_M * PHOTOS
    assert abs(trend) < 0.02
    wide = error.reshape(4, -1, 3).mean(axis=0)
    wide = np.stack([np.convolve(wide[:, b], np.ones(24) / 24, "valid") for b in range(3)])  # means over 96 m
    assert np.ptp(wide) < 0.08
    # the photos themselves differ by far more, and without the tone the hot spot adds up from one end to the other
    raw = np.stack([np.log(exposure(i)) for i in range(PHOTOS)])
    assert np.ptp(raw) > 0.35
    bare = np.stack([corrected(gains, plates, view, xy, toned=False) for view in strip()])
    bare_error = (np.nanmean(bare, axis=0) - np.log(ground(xy[:, 0], xy[:, 1]))).mean(axis=1)
    assert abs(np.polyfit(xy[:, 0], bare_error, 1)[0]) * STEP_M * PHOTOS > 5 * abs(trend)


def test_hue_stays_that_of_the_photos(made: tuple[Gains, dict[str, Plate]]) -> None:
    gains, plates = made
    xy = np.column_stack([np.arange(0, 600, 10.0), np.zeros(60)])
    seen = np.nanmean(np.stack([corrected(gains, plates, view, xy) for view in strip()]), axis=0)
    hue = (seen - np.log(ground(xy[:, 0], xy[:, 1]))) @ np.array([[1, -1, 0], [0, 1, -1]]).T
    assert np.abs(hue).max() < 0.02


def test_exposures_and_falloff_are_found(made: tuple[Gains, dict[str, Plate]]) -> None:
    gains, _ = made
    relative = gains.log_gain.mean(axis=1) + np.log([exposure(i) for i in range(PHOTOS)])
    steps = np.diff(relative)
    assert np.std(steps) < 0.01  # the same from photo to photo; what it adds up to is the hot spot's
    q = np.linspace(0, 1, 11)
    basis = np.column_stack([q - 1 / 3, q**2 - 0.16])
    table = gains.table(strip()[20])
    corner = np.log(table[[0, 0, -1, -1], [0, -1, 0, -1]]).mean() - np.log(table[16, 16]).mean()
    assert corner == pytest.approx(0.3, abs=0.06)
    assert np.ptp(basis @ gains.falloff[0, :, 0]) > 0.1


def test_clipped_values_say_nothing(tmp_path: Path) -> None:
    views = strip()[:6]
    plates = write_plates(tmp_path, views)
    points = np.column_stack([np.linspace(-10, 80, 200), np.zeros(200), np.zeros(200)])
    whole = sightings(views, plates, points)
    image = plates["s02.jpg"].read_tiny().copy()
    image[:, :40], image[:, 40:] = 255, 2
    np.save(tmp_path / plates["s02.jpg"].tiny, image)
    clipped = sightings(views, plates, points)
    assert (whole.photo == 2).any()
    assert not (clipped.photo == 2).any()
    assert np.isfinite(clipped.log_value).all()


def test_no_saturation_is_made() -> None:
    rng = np.random.default_rng(1)
    for _ in range(4000):
        raw = rng.integers(0, 250, 3).astype(float)
        factor = np.exp(rng.uniform(-0.7, 0.7)) * np.exp(rng.uniform(-0.1, 0.1, 3))
        value = raw.copy()
        correct(value, factor)
        assert value.max() < 254.5
        if raw.max() < 235 and raw.min() > 0:
            assert value / value[0] == pytest.approx(raw * factor / (raw[0] * factor[0]))
    white = np.full(3, 255.0)
    correct(white, np.array([1.3, 1.2, 1.25]))
    assert white == pytest.approx(np.full(3, 255.0))
    same = np.array([250.0, 120.0, 3.0])
    correct(same, np.ones(3))
    assert same == pytest.approx([250.0, 120.0, 3.0])


def test_highlights_rise_with_the_photo() -> None:
    for factor in (0.6, 1.0, 1.4, 2.0):
        shown = []
        for raw in range(256):
            value = np.full(3, float(raw))
            correct(value, np.full(3, factor))
            shown.append(value[0])
        assert (np.diff(shown) > 0).all()


def test_photos_without_neighbours_keep_their_colours(tmp_path: Path) -> None:
    alone = strip()[:1]
    gains = solve_gains(alone, write_plates(tmp_path, alone), flat_ground())
    table = gains.table(alone[0])
    assert table == pytest.approx(np.ones_like(table))
    assert np.abs(gains.tone.log).max() == 0
    assert gains.table(strip()[1]) == pytest.approx(np.ones_like(table))
    nothing = Sightings(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3)), np.zeros((0, 2)), np.zeros(0))
    found = solve(nothing, np.zeros(3, np.int64), 1)
    assert not found.photo.any()
    assert not found.camera.any()
    assert not found.local.any()


def test_tone_is_the_same_from_every_tile_and_gains_survive_saving(
    made: tuple[Gains, dict[str, Plate]], tmp_path: Path
) -> None:
    gains, plates = made
    gains.save(tmp_path)
    again = Gains.load(tmp_path)
    assert np.array_equal(again.table(strip()[7]), gains.table(strip()[7]))
    assert _tone_at(again.tone, 100.0, 3.0, 90.0, 110.0) == _tone_at(gains.tone, 100.0, 3.0, 60.0, 140.0)
    twice = solve_gains(strip(), plates, flat_ground())
    assert np.array_equal(twice.field, gains.field)
    assert np.array_equal(twice.tone.log, gains.tone.log)


def _tone_at(tone: Tone, x: float, y: float, west: float, east: float) -> list[float]:
    nodes, x0, y0 = tone.over(Bounds(west, -10, east, 10))
    factor, cell = np.ones(3), tone.grid.resolution_m
    at_node(nodes, (x - x0) / cell, (y0 - y) / cell, factor)
    return [round(float(f), 12) for f in factor]


def test_rare_choices_give_way_and_real_borders_stay() -> None:
    views = strip()[:2]
    params = np.stack([packed(v) for v in views])
    sizes = np.array([(CAMERA.width_px, CAMERA.height_px)] * 2, float)
    photo = np.full((64, 64, 3), -1, np.int16)
    photo[:, :, 0] = 0
    photo[:, 40:, 0] = 1
    photo[20:23, 10:13, 0] = 1  # a speckle, and beside it a wide border
    score, edge = np.zeros(photo.shape, np.float32), np.ones(photo.shape, np.float32)
    z = np.zeros((64, 64), np.float32)
    _settle(z, np.arange(2), params, sizes, 5.0, 3.0, 0.1, photo, score, edge)
    assert (photo[:, :40, 0] == 0).all()
    assert (photo[:, 40:, 0] == 1).all()


def test_a_photo_fades_out_at_its_edge_on_open_ground_only() -> None:
    photo = np.full((1, 50, 3), -1, np.int16)
    photo[:, :, 0], photo[:, :, 1] = 0, 1
    score, edge = np.zeros(photo.shape, np.float32), np.ones(photo.shape, np.float32)
    score[:, :, 1] = 0.5  # much steeper
    edge[0, :, 0] = np.linspace(1.0, 0.0, 50)
    flat, weight = np.zeros((1, 50), np.float32), np.zeros(photo.shape, np.uint8)
    _weigh(photo, score, edge, flat, flat, weight)
    assert (weight.sum(axis=2) == 255).all()
    assert np.abs(np.diff(weight[0, :, 0].astype(int))).max() <= 12
    assert weight[0, 0, 0] == 255
    assert weight[0, -1, 0] <= 1
    sharp = np.zeros(photo.shape, np.uint8)
    _weigh(photo, score, edge, flat, np.full((1, 50), 60, np.float32), sharp)
    assert (sharp[0, :-1, 0] == 255).all()
