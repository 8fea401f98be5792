"""Smoothing by expected noise: known surfaces, known noise."""

import cv2
import numpy as np
import pytest

from passel.surface.refine import expected_noise
from passel.surface.smooth import evened, smoothed_on_slopes

CELL_M = 0.1
ROWS, COLS = 60, 90
RNG = np.random.default_rng(3)
SLOPE = (0.3 * CELL_M * np.arange(COLS)[None] + np.zeros((ROWS, 1))).astype(np.float32)
INNER = np.s_[10:-10, 10:-10]


def constant(cells: float) -> np.ndarray:
    return np.full((ROWS, COLS), cells * CELL_M, np.float32)


def noisy(z: np.ndarray, noise_m: np.ndarray) -> np.ndarray:
    return (z + noise_m * RNG.standard_normal(z.shape)).astype(np.float32)


def test_slopes_stay_and_noise_goes() -> None:
    assert np.abs(evened(SLOPE, constant(0.5), CELL_M) - SLOPE)[INNER].max() < 0.001 * CELL_M
    for cells in (0.1, 0.5):
        found = evened(noisy(constant(0), constant(cells)), constant(cells), CELL_M)
        assert found[INNER].std() < 0.35 * cells * CELL_M


def test_edges_stay() -> None:
    wall = np.where(np.arange(COLS)[None] < 40, 0, 6 * CELL_M).astype(np.float32)
    for cells in (0.1, 0.5):
        error = evened(noisy(wall, constant(cells)), constant(cells), CELL_M) - wall
        assert np.abs(error[10:-10, 38:42]).max() < 1.2 * cells * CELL_M


def test_what_many_photos_see_is_not_moved_by_what_few_see() -> None:
    noise = np.where(np.arange(COLS)[None] < 40, constant(0.1), constant(0.8)).astype(np.float32)
    off = np.where(np.arange(COLS)[None] < 40, SLOPE, SLOPE + 0.8 * CELL_M).astype(np.float32)
    moved = np.abs(evened(off, noise, CELL_M) - off)
    assert 2 * moved[INNER][:, :30].max() < 0.4 * CELL_M < moved[INNER][:, 30:].max()


@pytest.mark.parametrize("slope", [0.0, 0.3, 0.6, 1.0])
def test_no_slope_becomes_a_flight_of_stairs(slope: float) -> None:
    """Heights matched in steps of a cell, some of them one off, on the side of a quarry or of a heap."""
    rows, cols = np.mgrid[0:80, 0:120]
    ground = slope * CELL_M * (0.8 * cols + 0.6 * rows)
    steps = np.round(noisy(ground, constant(0.4)[:1, :1]) / CELL_M) * CELL_M
    found = smoothed_on_slopes(cv2.medianBlur(steps.astype(np.float32), 5), CELL_M, 7, 1.5)
    assert (found - ground)[INNER].std() < 0.08 * CELL_M


def test_edges_ridges_and_foots_of_slopes_stay() -> None:
    col = np.arange(COLS)[None] + np.zeros((ROWS, 1))
    for ground, most in (
        (np.where(col < 40, 0, 60), 0.01),  # a wall
        (np.where(col < 40, 0.6 * col, 0.6 * col + 60), 0.01),  # a house on a slope
        (0.8 * np.abs(col - 45), 1.2),  # a ridge, and where a slope begins: rounded by a cell
        (0.8 * np.maximum(col - 45, 0), 0.8),
    ):
        z = (ground * CELL_M).astype(np.float32)
        assert np.abs(smoothed_on_slopes(z, CELL_M, 7, 1.5) - z)[INNER].max() < most * CELL_M


def test_few_photos_close_together_and_poor_matches_are_noisy() -> None:
    def noise_m(score: float, sharpness: float, photos: int) -> float:
        one = (1, 1)
        return float(
            expected_noise(
                np.full(one, score, np.float32), np.full(one, sharpness, np.float32), np.full(one, photos, np.uint8)
            )[0, 0]
        )

    assert np.isclose(noise_m(0.8, 100, 2), 2 * noise_m(0.8, 100, 5), rtol=1e-5)
    assert np.isclose(noise_m(0.8, 25, 3), 2 * noise_m(0.8, 100, 3), rtol=1e-5)  # half the base
    assert np.isclose(noise_m(0.6, 100, 3), np.sqrt(2) * noise_m(0.8, 100, 3), rtol=1e-5)
    assert all(np.isinf(noise_m(*case)) for case in ((0.8, 0.0, 5), (-1.0, 100, 5), (0.8, 100, 1)))


def test_expected_noise_is_the_noise() -> None:
    """Photos that see a wave moved by an error of the height times their place, and gray noise; 4000 tries of 20 grays each."""
    places, noise_gray, grays, tries = np.array([-1.0, 0.0, 1.0]), 0.6, 20, 4000
    phase = RNG.uniform(0, 2 * np.pi, (tries, grays))
    grain = noise_gray * RNG.standard_normal((3, tries, grays))
    heights = np.linspace(-0.4, 0.4, 5)

    def score(height: float) -> np.ndarray:
        seen = np.sqrt(2) * np.sin(phase[None] + places[:, None, None] * height) + grain
        square = (seen**2).sum(0)
        return np.asarray((((seen.sum(0) ** 2 - square) / 6).mean(-1)) / (square / 3).mean(-1))

    curves = np.stack([score(h) for h in heights])
    bend, tilt, top = (np.polynomial.polynomial.polyfit(heights, curves, 2)[i] for i in (2, 1, 0))
    found = -tilt / (2 * bend)
    mean = np.full((1, 1), 1, np.float32)
    expected = expected_noise(mean * top.mean(), -2 * mean * bend.mean(), np.full((1, 1), 3, np.uint8))[0, 0]
    assert 0.7 < found.std() / expected < 1.4
