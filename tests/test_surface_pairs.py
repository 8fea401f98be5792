"""Photos from one place see no heights: their pairs decide none."""

import numpy as np

from passel.surface.blocks import pairs_apart
from passel.surface.camera import LEAST_BASE
from passel.surface.kernels import CENSUS_BITS, NO_COST, PLANE_STEPS, matching_cost
from passel.surface.refine import any_apart

ROWS, COLS, HEIGHTS, TRUE_HEIGHT = 6, 8, 7, 4
RNG = np.random.default_rng(5)
VALID = np.uint64(1) << np.uint64(63)


def test_pairs_are_apart_by_what_they_see_of_a_place() -> None:
    near, far = 0.5 * LEAST_BASE * 100, 2 * LEAST_BASE * 100
    centres = np.array([[0.0, 0.0, 100.0], [near, 0.0, 100.0], [0.0, far, 100.0], [0.0, 0.0, 150.0]])
    apart = pairs_apart(centres, np.zeros(3), LEAST_BASE)
    assert (apart == apart.T).all()
    assert not apart.diagonal().any()
    assert apart[2, [0, 1, 3]].all()
    assert not apart[0, [1, 3]].any()


def costs(photos: int) -> tuple[np.ndarray, np.ndarray]:
    """Costs (rows, cols, heights) and photos seen: 0 and 1 from one place, alike at all heights; 2 shifts by a column a height."""
    ground = RNG.integers(0, 2**CENSUS_BITS, (ROWS, COLS + 2 * HEIGHTS), np.uint64) | VALID
    codes, layout = np.concatenate([ground.ravel()] * photos), np.zeros((photos, 3), np.int64)
    layout[:] = [(k * ground.size, *ground.shape) for k in range(photos)]
    rows = HEIGHTS * PLANE_STEPS
    table = np.zeros((rows, photos, 3))
    table[:, :, 0], table[:, :, 1] = 1.0, HEIGHTS
    if photos > 2:
        table[:, 2, 1] += np.arange(rows) // PLANE_STEPS - TRUE_HEIGHT
    apart = np.zeros((photos, photos), bool)
    apart[2:, :2] = apart[:2, 2:] = True
    count = np.full((ROWS, COLS), HEIGHTS, np.int32)
    start = np.arange(ROWS * COLS, dtype=np.int64).reshape(ROWS, COLS) * HEIGHTS
    cost, seen = np.empty(ROWS * COLS * HEIGHTS, np.uint8), np.zeros((ROWS, COLS), np.uint8)
    matching_cost(codes, layout, apart, table, np.zeros_like(count), count, start, cost, seen)
    return cost.reshape(ROWS, COLS, HEIGHTS), seen


def test_a_third_photo_decides_between_two_from_one_place() -> None:
    cost, seen = costs(3)
    assert (cost.argmin(axis=2) == TRUE_HEIGHT).all()
    assert (cost[:, :, TRUE_HEIGHT] == 0).all()
    assert np.delete(cost, TRUE_HEIGHT, axis=2).min() > 40
    assert (seen == 3).all()


def test_two_photos_from_one_place_see_no_height() -> None:
    cost, seen = costs(2)
    assert (cost == NO_COST).all()
    assert (seen == 1).all()


def test_photos_in_use_from_one_place_refine_nothing() -> None:
    apart = np.array([[False, False, True], [False, False, True], [True, True, False]])
    use = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [0, 1, 1, 1]], bool)[:, None]
    assert any_apart(use, apart).tolist() == [[False, True, False, True]]
    assert any_apart(use, ~np.eye(3, dtype=bool)).tolist() == [[True, True, False, True]]
