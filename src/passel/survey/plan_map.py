"""A split plan on the map: outlines of submodels, and GeoJSON for any GIS."""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

from passel.survey.model import Survey
from passel.survey.split import photo_places
from passel.survey.submodel import SplitPlan

F64 = NDArray[np.float64]


def hull_of(xy_m: F64) -> F64:
    """(k, 2) corners of the convex hull, counter-clockwise.

    Positions on one line or spot give its two ends or the spot.
    """
    spots = np.unique(xy_m, axis=0)
    if len(spots) < 3:
        return spots
    from scipy.spatial import ConvexHull, QhullError

    try:
        return np.asarray(spots[ConvexHull(spots).vertices])
    except QhullError:
        return spots[[0, -1]]  # all on one line: sorted by x, then y, so these are its ends


def plan_geojson(survey: Survey, plan: SplitPlan) -> str:
    """GeoJSON text (WGS 84): one polygon a submodel around its core, and one point a photo with its submodel and halos.

    Without GPS the features have no geometry.
    """
    places = photo_places(survey)
    xyz = np.zeros((0, 3)) if places is None else np.column_stack([places.xy_m, np.zeros(len(places.names))])
    lonlat: dict[str, list[float]] = {}
    if places is not None:
        degrees = np.round(survey.frame.geographic_from_world(xyz)[:, [1, 0]], 8)
        lonlat = {n: p for n, p in zip(places.names, degrees.tolist())}
    xy = {} if places is None else dict(zip(places.names, places.xy_m))
    features: list[object] = []
    for s in plan.submodels:
        outline = None
        if places is not None:
            corners = hull_of(np.array([xy[n] for n in s.core]))
            outline = _geometry(survey, corners)
        about = {"kind": "submodel", "submodel": s.name, "core": len(s.core), "halo": len(s.halo)}
        features.append({"type": "Feature", "properties": about, "geometry": outline})
    halos: dict[str, list[str]] = {}
    for s in plan.submodels:
        for n in s.halo:
            halos.setdefault(n, []).append(s.name)
    for s in plan.submodels:
        for n in s.core:
            point = {"type": "Point", "coordinates": lonlat[n]} if n in lonlat else None
            about2 = {"kind": "photo", "photo": n, "submodel": s.name, "halo_of": halos.get(n, [])}
            features.append({"type": "Feature", "properties": about2, "geometry": point})
    return json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False)


def _geometry(survey: Survey, corners_in_world: F64) -> dict[str, object]:
    p = np.column_stack([corners_in_world, np.zeros(len(corners_in_world))])
    c = np.round(survey.frame.geographic_from_world(p)[:, [1, 0]], 8).tolist()
    if len(c) == 1:
        return {"type": "Point", "coordinates": c[0]}
    if len(c) == 2:
        return {"type": "LineString", "coordinates": c}
    return {"type": "Polygon", "coordinates": [[*c, c[0]]]}
