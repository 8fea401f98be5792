"""The report: one HTML page that needs nothing else, made of `ReportFacts` and pictures."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape

from passel.products.report_model import Picture, ReportFacts, SubmodelRow
from passel.products.report_plot import gps_plot
from passel.products.report_style import STYLE
from passel.products.stats import gps_summary, human_seconds
from passel.survey.check import counted


def report_html(facts: ReportFacts, pictures: Sequence[Picture]) -> str:
    """The page as text: no scripts, no outside files; pictures are embedded."""
    parts = [
        _header(facts),
        _findings(facts),
        _pictures(pictures),
        _positions(facts),
        _alignment(facts),
        _submodels(facts),
        _cameras(facts),
        _processing(facts),
        _machines(facts),
    ]
    title = escape(facts.name)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title} – Passel report</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body>\n" + "\n".join(p for p in parts if p) + "\n</body></html>\n"
    )


def _header(f: ReportFacts) -> str:
    r, p = f.reconstruction, f.products
    gps = gps_summary(f.gps)
    low, high = p.height_range_m
    cards = [
        (f"{r.photos_placed} of {r.photos}", "photos placed"),
        (_area(p.area_m2), "area mapped"),
        (f"{p.gsd_m * 100:.1f} cm", "ground sampling distance"),
        (f"{p.orthophoto_m_per_px * 100:.1f} cm", "orthophoto pixel"),
        (f"{p.dsm_m_per_px * 100:.1f} cm", "surface cell"),
        (f"{_told(r.reprojection_px, 2)} px", "reprojection error (RMS)"),
        (f"{gps.rms_3d_m:.2f} m" if gps else "no GPS", "cameras against GPS (3D RMS)"),
        (f"{low:.1f} … {high:.1f} m", "heights"),
        (f"{100 * p.filled:.1f} %", "of the heights filled from around"),
        (f"{p.points:,}".replace(",", " "), "points in the cloud"),
        (human_seconds(f.total_s), "processing time"),
    ]
    body = "".join(f'<div class="card"><b>{escape(v)}</b><span>{escape(k)}</span></div>' for v, k in cards)
    frame = f.crs or "local frame: no photo has GPS, so place, heading and scale are arbitrary"
    about = " · ".join(x for x in (f.captured, frame, f"Passel {f.version}") if x)
    return f'<h1>{escape(f.name)}</h1><p class="sub">{escape(about)}</p><div class="cards">{body}</div>'


def _area(m2: float) -> str:
    if m2 < 1e4:
        return f"{m2:.0f} m²"
    return f"{m2 / 1e4:.2f} ha" if m2 < 1e6 else f"{m2 / 1e6:.2f} km²"


def _findings(f: ReportFacts) -> str:
    order = {"error": 0, "warning": 1, "note": 2}
    found = sorted(f.findings, key=lambda x: order.get(x.severity, 3))
    rows = [_finding(x.severity, x.message, x.photos) for x in found]
    return "<h2>What to know</h2>" + "".join(rows or ["<p>Nothing unusual was found.</p>"])


def _finding(severity: str, message: str, photos: Sequence[str]) -> str:
    names = ""
    if photos:
        names = f"<details><summary>{counted(len(photos))}</summary>{escape(', '.join(photos))}</details>"
    return f'<div class="finding {escape(severity)}">{escape(severity.capitalize())}: {escape(message)}{names}</div>'


def _pictures(pictures: Sequence[Picture]) -> str:
    if not pictures:
        return ""
    rows = [
        f'<figure><img alt="{escape(p.caption)}" src="data:image/png;base64,{base64.b64encode(p.png).decode()}">'
        f"<figcaption>{escape(p.caption)}</figcaption></figure>"
        for p in pictures
    ]
    return "<h2>Map</h2>" + "".join(rows)


def _positions(f: ReportFacts) -> str:
    s = gps_summary(f.gps)
    if s is None:
        return "<h2>Positions</h2><p>No photo has GPS: positions cannot be compared.</p>"
    rows = [
        (axis, f"{s.mean_m[i]:+.3f}", f"{s.std_m[i]:.3f}", f"{s.rms_m[i]:.3f}")
        for i, axis in enumerate(("East", "North", "Up"))
    ]
    worst = sorted(f.gps, key=lambda r: (-(r.east_m**2 + r.north_m**2 + r.up_m**2), r.photo))[:10]
    far = [(r.photo, f"{r.east_m:+.2f}", f"{r.north_m:+.2f}", f"{r.up_m:+.2f}") for r in worst]
    return (
        f"<h2>Positions: cameras minus GPS</h2><p>{s.photos} photos; 3D RMS {s.rms_3d_m:.3f} m, 90 % within {s.ce90_m:.3f} m "
        f"horizontally and {s.le90_m:.3f} m vertically. The GPS of most drones is off by metres: this is not the accuracy "
        "of the map, which only check points can tell.</p>"
        + _table(("", "mean (m)", "std (m)", "RMS (m)"), rows)
        + gps_plot(f.gps)
        + "<details><summary>Ten largest</summary>"
        + _table(("photo", "east (m)", "north (m)", "up (m)"), far)
        + "</details>"
    )


def _alignment(f: ReportFacts) -> str:
    if not f.alignment:
        return ""
    rows = [
        (a.step, str(a.shared), _told(a.median_m, 3), _told(a.p95_m, 3), _told(a.median_deg, 4), _told(a.p95_deg, 4))
        for a in f.alignment
    ]
    head = ("", "compared", "median (m)", "95 % (m)", "median (°)", "95 % (°)")
    return (
        "<h2>Alignment: submodels into one frame</h2><p>How far apart submodels put the cameras that they share, "
        "unless the row says something else.</p>" + _table(head, rows)
    )


def _told(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def _submodels(f: ReportFacts) -> str:
    if not f.submodels:
        return ""
    names = list(dict.fromkeys(g.name for s in f.submodels for g in s.gates))
    head = ("submodel", "core", "halo", "placed", "runs", "result", *names)
    body = "".join(f"<tr>{_submodel_cells(s, names)}</tr>" for s in f.submodels)
    top = "".join(f"<th>{escape(h)}</th>" for h in head)
    return f'<h2>Submodels</h2><div class="scroll"><table><tr>{top}</tr>{body}</table></div>'


def _submodel_cells(s: SubmodelRow, names: Sequence[str]) -> str:
    gates = {g.name: g for g in s.gates}
    cells = [f"<td>{escape(s.name)}</td>", *(f"<td>{v}</td>" for v in (s.core, s.halo, s.placed, s.attempts))]
    cells.append(f'<td class="{"bad" if s.status == "quarantined" else "good"}">{escape(s.status)}</td>')
    for n in names:
        g = gates.get(n)
        if g is None:
            cells.append("<td>–</td>")
        else:
            colour = "good" if g.passed else "bad"
            told = f"{g.value:.3g} {g.unit}".strip()
            cells.append(f'<td class="{colour}" title="limit {g.limit:.3g} {escape(g.unit)}">{escape(told)}</td>')
    return "".join(cells)


def _cameras(f: ReportFacts) -> str:
    rows = []
    for c in f.cameras:
        change = 100 * (c.focal_px / c.focal_prior_px - 1)
        rows.append(
            (
                c.id, str(c.photos), f"{c.focal_px:.1f}", f"{change:+.2f} % ({c.focal_prior_source})",
                f"{c.cx_px - c.width_px / 2:+.1f}, {c.cy_px - c.height_px / 2:+.1f}",
                f"{c.k1:+.4f}, {c.k2:+.4f}, {c.k3:+.4f}", f"{c.p1:+.5f}, {c.p2:+.5f}",
                f"{c.readout_ms:.1f}" if c.readout_ms else "global",
            )
        )  # fmt: skip
    head = ("camera", "photos", "focal (px)", "from prior", "centre shift (px)", "k1, k2, k3", "p1, p2", "shutter (ms)")
    return "<h2>Cameras</h2>" + _table(head, rows) if rows else ""


def _processing(f: ReportFacts) -> str:
    if not f.stages:
        return ""
    photos = max(1, f.reconstruction.photos)
    rows = [
        (
            s.stage,
            str(s.steps),
            str(s.reused),
            f"{s.cpu_s:.1f}",
            f"{s.cpu_s / photos:.2f}",
            f"{s.wall_s:.1f}",
            f"{s.peak_mb:.0f}",
        )
        for s in f.stages
    ]
    cpu = sum(s.cpu_s for s in f.stages)
    peak = max(s.peak_mb for s in f.stages)
    rows.append(("all", str(sum(s.steps for s in f.stages)), str(sum(s.reused for s in f.stages)), f"{cpu:.1f}",
                 f"{cpu / photos:.2f}", f"{f.total_s:.1f}", f"{peak:.0f}"))  # fmt: skip
    head = ("stage", "steps", "reused", "CPU s", "CPU s a photo", "wall s", "peak MB")
    return "<h2>Processing</h2>" + _table(head, rows)


def _machines(f: ReportFacts) -> str:
    """Who made the map, when it was more than one machine."""
    if len(f.machines) < 2:
        return ""
    step_s = sum(m.step_s for m in f.machines)
    rows = [
        (
            m.machine, str(m.steps), f"{m.step_s:.0f}", f"{100 * m.step_s / step_s:.0f} %" if step_s else "",
            f"{m.cpu_s:.0f}", f"{m.bytes_in / 1e6:.1f}", f"{m.bytes_out / 1e6:.1f}",
        )
        for m in f.machines
    ]  # fmt: skip
    head = ("machine", "steps", "step s", "share", "CPU s", "MB received", "MB sent")
    speed_up = step_s / f.total_s if f.total_s else 0.0
    words = f"The steps took {human_seconds(step_s)} together, {speed_up:.1f} times as long as the run."
    return "<h2>Machines</h2>" + _table(head, rows) + f"<p>{escape(words)}</p>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in r) + "</tr>" for r in rows)
    return f'<div class="scroll"><table><tr>{top}</tr>{body}</table></div>'
