"""A picture of the surface: coloured, shaded relief with a legend in metres."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from passel.products.layout import written_aside
from passel.products.plan_picture import round_length_m
from passel.products.preview import LONGEST_PX
from passel.products.raster import read_reduced


def dsm_preview(raster: Path, path: Path, longest_px: int = LONGEST_PX) -> None:
    """Write a PNG of a DSM COG: colours by height (2nd to 98th percentile), shaded from the north-west, legend and
    scale in metres.
    """
    reduced = read_reduced(raster, longest_px - 240)
    heights = np.asarray(reduced.values, np.float32)
    known = heights[np.isfinite(heights)]
    low, high = (float(v) for v in np.percentile(known, [2, 98])) if known.size else (0.0, 1.0)
    scale = Normalize(low, max(high, low + 0.1))
    rows, cols = heights.shape
    figure = Figure(figsize=((cols + 240) / 100, max(rows, 320) / 100), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    width, height = cols / (cols + 240), rows / max(rows, 320)
    axes = figure.add_axes((0.0, 1 - height, width, height))
    axes.imshow(shaded_relief(heights, reduced.metres_per_px, scale), interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    legend = figure.add_axes((width + 40 / (cols + 240), 0.25, 30 / (cols + 240), 0.65))
    figure.colorbar(ScalarMappable(scale, "viridis"), cax=legend, label="height (m)", extend="both")
    _scale_bar(figure.add_axes((width, 0.02, 240 / (cols + 240), 0.18)), reduced.metres_per_px)
    with written_aside(path) as aside:
        figure.savefig(aside, format="png", metadata={"Software": None})


def shaded_relief(heights: NDArray[np.float32], metres_per_px: float, scale: Normalize) -> NDArray[np.uint8]:
    """(rows, cols, 4) uint8 RGBA: viridis by height, lit from the north-west; transparent where heights are NaN."""
    z = np.where(np.isfinite(heights), heights, np.nan).astype(np.float64)
    shade = np.full(z.shape, 0.8)
    if min(z.shape) > 1:
        down, right = np.gradient(z, metres_per_px)
        light = np.array([-0.5, 0.5, 0.7071])  # east, north, up: towards the lamp
        lit = (-right * light[0] + down * light[1] + light[2]) / np.sqrt(1 + right**2 + down**2)
        shade = np.where(np.isfinite(lit), np.clip(0.35 + 0.9 * lit, 0.15, 1.25), shade)
    rgba = np.asarray(colormaps["viridis"](scale(np.nan_to_num(z, nan=float(scale.vmin or 0.0)))))
    rgba[..., :3] = np.clip(rgba[..., :3] * shade[..., None], 0, 1)
    rgba[..., 3] = np.isfinite(z)
    return np.asarray(np.rint(rgba * 255), np.uint8)


def _scale_bar(axes: Axes, metres_per_px: float) -> None:
    """A bar in true length in axes that are 240 px wide."""
    length = round_length_m(180 * metres_per_px)
    px = length / metres_per_px
    axes.set_xlim(0, 240)
    axes.set_ylim(0, 1)
    axes.set_axis_off()
    axes.plot([30, 30 + px], [0.35, 0.35], color="black", linewidth=3, solid_capstyle="butt")
    axes.text(30, 0.5, f"{length:g} m", fontsize=10, va="bottom")
    axes.annotate("", (220, 1.0), (220, 0.5), arrowprops={"arrowstyle": "-|>", "color": "black"})
    axes.text(220, 0.45, "N", ha="center", va="top", fontsize=10)
