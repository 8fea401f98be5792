"""The Cholesky of the photos' normal equations in panels, against a dense solution."""

from __future__ import annotations

import numpy as np
import pytest

from passel.align import block_solver
from passel.align.block_solver import Pattern, pattern_of, solve


def system(n: int, reach: int, seed: int = 0) -> tuple[Pattern, np.ndarray, np.ndarray]:
    """Photos in a shuffled row, each tied to those within `reach`: pattern, blocks, and the same as a dense matrix."""
    rng = np.random.default_rng(seed)
    at = rng.permutation(n)
    start, column, blocks = [0], [], []
    dense = np.zeros((6 * n, 6 * n))
    for i in range(n):
        for j in range(i, n):
            if abs(at[i] - at[j]) <= reach:
                block = rng.normal(size=(6, 6))
                block = block @ block.T + 40.0 * (reach + 1) * np.eye(6) if i == j else block
                column.append(j)
                blocks.append(block)
                dense[6 * i : 6 * i + 6, 6 * j : 6 * j + 6] = block
                dense[6 * j : 6 * j + 6, 6 * i : 6 * i + 6] = block.T
        start.append(len(column))
    return pattern_of(np.array(start), np.array(column)), np.array(blocks), dense


@pytest.mark.parametrize(("n", "reach"), [(1, 0), (5, 0), (30, 4), (210, 7), (110, 110)])
def test_the_solution_is_the_dense_one(n: int, reach: int) -> None:
    pattern, blocks, dense = system(n, reach)
    sides = np.random.default_rng(1).normal(size=(6 * n, 10))
    dense[np.diag_indices(6 * n)] *= 1.0 + 1e-3
    found = solve(pattern, blocks, 1e-3, sides)
    np.testing.assert_allclose(found, np.linalg.solve(dense + 1e-9 * np.eye(6 * n), sides), rtol=1e-9, atol=1e-13)


def test_what_waits_on_disk_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pattern, blocks, _ = system(150, 6)
    sides = np.random.default_rng(1).normal(size=(900, 3))
    in_memory = solve(pattern, blocks, 1e-6, sides)
    monkeypatch.setattr(block_solver, "IN_MEMORY_BYTES", 1000)
    np.testing.assert_array_equal(solve(pattern, blocks, 1e-6, sides), in_memory)


def test_panels_reach_no_farther_than_they_must() -> None:
    """A long row: a panel's rows end a few photos after its own."""
    pattern, _, _ = system(400, 5)
    panels = list(pattern.panels())
    assert [first for first, _, _ in panels[1:]] == [end for _, end, _ in panels[:-1]]
    assert panels[-1][1:] == (400, 400)
    assert max(reach - end for _, end, reach in panels) <= 12


def test_what_is_not_positive_definite_is_said() -> None:
    pattern, blocks, _ = system(20, 3)
    blocks[pattern.start[7]] *= -1.0
    with pytest.raises(np.linalg.LinAlgError, match="positive definite"):
        solve(pattern, blocks, 0.0, np.ones((120, 1)))
