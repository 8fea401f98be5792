"""Find the checker marks of the synthetic world in an orthophoto, to a small part of a pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from passel.demo.kernels import F64

SEARCH_PX = 12
MARK_SCORE = 0.6  # correlation from which a mark counts as found
FINE_PX = 0.125  # step of the fine search
PARTS = 6  # a pixel of the template is the mean of so many squared


@dataclass(frozen=True)
class MarkFinder:
    """truth_from_px (2, 2): east and north (m) of one column and one row. mark_m: side of a mark."""

    truth_from_px: F64
    mark_m: float

    def find(self, grey: NDArray[np.float32], xy: F64) -> F64 | None:
        """(2,) column and row of the mark's centre near `xy` (pixel centres at .5); None where nothing looks like one.

        grey: (rows, cols), NaN = none.
        """
        half = int(np.ceil(0.75 * self.mark_m / np.sqrt(abs(np.linalg.det(self.truth_from_px))))) + 1
        reach = half + SEARCH_PX
        col, row = (int(np.floor(v)) for v in xy)
        if min(row, col) < reach or row + reach >= grey.shape[0] or col + reach >= grey.shape[1]:
            return None
        patch = grey[row - reach : row + reach + 1, col - reach : col + reach + 1].astype(float)
        if not np.isfinite(patch).all():
            return None
        windows = np.lib.stride_tricks.sliding_window_view(patch, (2 * half + 1, 2 * half + 1))
        coarse = _correlation(windows, *self._template(half, 0.0, 0.0))
        i, j = (int(v) for v in np.unravel_index(int(coarse.argmax()), coarse.shape))
        if coarse[i, j] < MARK_SCORE:
            return None
        dx, dy = self._fine(windows[i, j], half)
        return np.array([col + 0.5 + j - SEARCH_PX + dx, row + 0.5 + i - SEARCH_PX + dy])

    def _fine(self, window: F64, half: int) -> tuple[float, float]:
        """Where in the window, from its middle, the mark is: best of fine steps, then the top of a parabola."""
        steps = np.arange(-7, 8) * FINE_PX
        score = np.array([[_correlation(window, *self._template(half, x, y)) for x in steps] for y in steps])
        i, j = (int(v) for v in np.unravel_index(int(score.argmax()), score.shape))
        i, j = min(max(i, 1), len(steps) - 2), min(max(j, 1), len(steps) - 2)
        return (
            float(steps[j] + FINE_PX * _peak(score[i, j - 1 : j + 2])),
            float(steps[i] + FINE_PX * _peak(score[i - 1 : i + 2, j])),
        )

    def _template(self, half: int, dx: float, dy: float) -> tuple[F64, F64]:
        """A mark's picture (-1 black, 1 white) with its centre (dx, dy) px off the middle, and how much of each pixel it fills."""
        n = 2 * half + 1
        at = (np.arange(n * PARTS) + 0.5) / PARTS - n / 2
        x, y = np.meshgrid(at - dx, at - dy)
        (a, b), (c, d) = self.truth_from_px
        east, north = a * x + b * y, c * x + d * y
        inside = (np.maximum(np.abs(east), np.abs(north)) < self.mark_m / 2).astype(float)
        colour = np.where(east * north > 0, inside, -inside)
        shape = (n, PARTS, n, PARTS)
        fill = inside.reshape(shape).mean(axis=(1, 3))
        return colour.reshape(shape).mean(axis=(1, 3)) / np.maximum(fill, 1e-9), fill


def _correlation(window: F64, template: F64, weight: F64) -> F64:
    """Weighted normalised correlation over the last two axes."""
    w = weight / weight.sum()
    mean = (w * window).sum(axis=(-2, -1), keepdims=True)
    t = template - (w * template).sum()
    spread = np.sqrt((w * (window - mean) ** 2).sum(axis=(-2, -1)) * (w * t**2).sum())
    return np.asarray((w * (window - mean) * t).sum(axis=(-2, -1)) / np.maximum(spread, 1e-9))


def _peak(three: F64) -> float:
    """Offset (-1..1) of the top of the parabola through three equally spaced values."""
    bend = three[0] - 2 * three[1] + three[2]
    return float(np.clip(0.5 * (three[0] - three[2]) / bend, -1, 1)) if bend < 0 else 0.0
