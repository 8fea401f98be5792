"""The plot of camera positions minus GPS as inline SVG: seen from above, and heights as a histogram."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from passel.products.plan_picture import round_length_m
from passel.products.report_model import GpsResidual

_SIDE = 300
_DOT, _LINE = "#3f83d1", "#8b98a6"  # seen on white and on black


def gps_plot(residuals: Sequence[GpsResidual]) -> str:
    """HTML text: two SVG pictures side by side, below each other on a phone; '' without residuals."""
    if not residuals:
        return ""
    d = np.array([(r.east_m, r.north_m, r.up_m) for r in residuals])
    reach = max(0.01, float(np.abs(d[:, :2]).max()) * 1.1)
    above = _svg("Camera positions minus GPS from above", _from_above(d, reach))
    return f'<div class="plots">{above}{_svg("Camera heights minus GPS", _histogram(d[:, 2]))}</div>'


def _svg(label: str, body: str) -> str:
    return f'<svg viewBox="0 0 {_SIDE + 60} {_SIDE + 60}" role="img" aria-label="{label}">{body}</svg>'


def _from_above(d: NDArray[np.float64], reach: float) -> str:
    middle, radius = _SIDE / 2 + 30, _SIDE / 2
    step = round_length_m(reach / 2)
    rings = [
        f'<circle cx="{middle}" cy="{middle}" r="{k * step / reach * radius:.1f}" fill="none" stroke="{_LINE}"/>'
        f'<text x="{middle + k * step / reach * radius + 2:.1f}" y="{middle - 3}">{k * step:g} m</text>'
        for k in range(1, int(reach / step) + 1)
    ]
    dots = [
        f'<circle cx="{middle + e / reach * radius:.1f}" cy="{middle - n / reach * radius:.1f}" r="2.5" '
        f'fill="{_DOT}" fill-opacity=".8"/>'
        for e, n in d[:5000, :2].tolist()
    ]
    cross = (
        f'<path d="M{middle - radius} {middle}H{middle + radius}M{middle} {middle - radius}V{middle + radius}" '
        f'stroke="{_LINE}"/><text x="{middle}" y="{_SIDE + 52}" text-anchor="middle">east and north (north is up)</text>'
    )
    return cross + "".join(rings) + "".join(dots)


def _histogram(up: NDArray[np.float64]) -> str:
    left, bottom, height = 30, _SIDE + 20, _SIDE - 20
    low, high = float(up.min()), float(up.max())
    if high - low < 0.01:
        low, high = low - 0.005, high + 0.005
    counts, edges = np.histogram(up, bins=min(24, max(6, int(np.sqrt(len(up))))), range=(low, high))
    scale, width = height / max(1, int(counts.max())), _SIDE / len(counts)
    bars = [
        f'<rect x="{left + i * width:.1f}" y="{bottom - n * scale:.1f}" width="{width - 1:.1f}" height="{n * scale:.1f}" '
        f'fill="{_DOT}"/>'
        for i, n in enumerate(counts.tolist())
    ]
    names = [
        f'<text x="{left + x * _SIDE:.0f}" y="{bottom + 15}" text-anchor="{anchor}">{edges[k]:+.2f} m</text>'
        for x, k, anchor in ((0, 0, "start"), (1, -1, "end"))
    ]
    label = f'<text x="{left + _SIDE / 2}" y="{_SIDE + 52}" text-anchor="middle">up, number of photos</text>'
    return f'<path d="M{left} {bottom}h{_SIDE}" stroke="{_LINE}"/>' + "".join(bars) + "".join(names) + label
