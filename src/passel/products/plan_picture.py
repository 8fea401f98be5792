"""The split plan as a picture: photos coloured by submodel, outlines, a scale bar in metres, north up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from passel.survey.model import Survey
from passel.survey.plan_map import hull_of
from passel.survey.split import photo_places
from passel.survey.submodel import SplitPlan

F64 = NDArray[np.float64]

# Twelve colours that stay apart in print and for colour-blind readers; neighbours in number get different ones.
_COLOURS = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377",
    "#994f00", "#40b0a6", "#e66100", "#5d3a9b", "#88aa00", "#777777",
)  # fmt: skip


def plan_picture(survey: Survey, plan: SplitPlan, path: Path) -> None:
    """Write a PNG (about 1600 px wide) of the plan.

    Dots are photos, outlines are cores, rings are photos of some halo.
    """
    places = photo_places(survey)
    if places is None:
        figure, axes = _figure(1.0)
        axes.text(0.5, 0.5, "No photo has GPS: one submodel, no map of it", ha="center", va="center")
        _write(figure, path)
        return
    xy = dict(zip(places.names, places.xy_m))
    low, high = places.xy_m.min(axis=0), places.xy_m.max(axis=0)
    span = np.maximum(high - low, 0.04 * max(float((high - low).max()), 10.0))
    figure, axes = _figure(float(span[1] / span[0]))
    dot = float(np.clip(6000.0 / len(places.names), 2.0, 60.0))
    shared = np.array([xy[n] for n in sorted({n for s in plan.submodels for n in s.halo})]).reshape(-1, 2)
    axes.scatter(shared[:, 0], shared[:, 1], s=dot * 2.6, c="none", edgecolors="#00000055", linewidths=0.5, zorder=2)
    for i, s in enumerate(plan.submodels):
        core = np.array([xy[n] for n in s.core])
        colour = _COLOURS[i % len(_COLOURS)]
        axes.scatter(core[:, 0], core[:, 1], s=dot, color=colour, linewidths=0, zorder=3)
        corners = hull_of(core)
        axes.fill(corners[:, 0], corners[:, 1], facecolor=colour + "22", edgecolor=colour, linewidth=1.4, zorder=1)
    for i, s in enumerate(plan.submodels):
        x, y = np.array([xy[n] for n in s.core]).mean(axis=0)
        label = axes.text(x, y, f"{i}\n{len(s.core)} + {len(s.halo)}", ha="center", va="center", fontsize=8, zorder=5)
        label.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
    axes.set_xlim(low[0] - 0.05 * span[0], high[0] + 0.05 * span[0])
    axes.set_ylim(low[1] - 0.12 * span[1], high[1] + 0.05 * span[1])
    axes.set_title(
        f"{len(places.names)} photos in {len(plan.submodels)} submodel{'s' if len(plan.submodels) > 1 else ''}"
        "   (number, core + halo photos; ringed: shared by submodels)",
        fontsize=10,
    )
    _scale_bar(axes, low, span)
    _write(figure, path)


def _figure(height_by_width: float) -> tuple[Figure, Axes]:
    height = float(np.clip(10.0 * height_by_width + 1.0, 4.0, 14.0))
    figure = Figure(figsize=(11.0, height), dpi=145, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_aspect("equal")
    axes.set_axis_off()
    return figure, axes


def _scale_bar(axes: Axes, low: F64, span: F64) -> None:
    length = round_length_m(float(span[0]) / 4)
    x, y = float(low[0]), float(low[1] - 0.07 * span[1])
    axes.plot([x, x + length], [y, y], color="black", linewidth=3, solid_capstyle="butt")
    axes.text(x + length, y, f"  {length:g} m", va="center", fontsize=9)
    east = float(low[0] + span[0])
    top, tail = (east, y + 0.04 * span[1]), (east, y - 0.02 * span[1])
    axes.annotate("", top, tail, arrowprops={"arrowstyle": "-|>", "color": "black"})
    axes.text(top[0], top[1], "N", ha="center", va="bottom", fontsize=10)


def round_length_m(at_most_m: float) -> float:
    """The largest 1, 2 or 5 times a power of ten that is not longer."""
    power = 10.0 ** np.floor(np.log10(max(at_most_m, 1e-3)))
    return float(power * max(m for m in (1.0, 2.0, 5.0) if m * power <= at_most_m * (1 + 1e-9) or m == 1.0))


def _write(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", facecolor="white", metadata={"Software": None})
