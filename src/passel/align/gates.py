"""Gates: is a mapped submodel to be believed? A mapper can return every photo and be sixty metres off (research/peers-measured.md §2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from passel.align.whole import Evidence, reprojection_errors
from passel.reconstruct.matches import PairMatches
from passel.reconstruct.scene import Scene

F64 = NDArray[np.float64]

SHARE = "share of photos placed"
MIN_PHOTO_SHARE = 0.7
MIN_MATCH_SHARE = 0.75  # a right model explains ≥ 90 % of the verified matches, the wrong one measured 57 %
SAME_PICTURE_SHARE = 0.05  # of a photo's longer side: less apart, two photos are of one place and one direction
MAX_REPROJECTION = 1.6  # noise units, mean
MAX_GPS_SIGMAS = 4.0  # median horizontal miss, in the GPS's own sigmas …
MAX_GPS_SHARE = 0.02  # … or this share of the submodel's extent, whichever is more


@dataclass(frozen=True)
class Gate:
    """One test of a submodel: what was measured, the limit, and whether it passed. todo: what to do if not."""

    name: str
    value: float
    limit: float
    passed: bool
    todo: str = ""

    @property
    def failure(self) -> str:
        """In words."""
        advice = f": {self.todo}" if self.todo else ""
        return f"{self.name} {self.value:.3g} (limit {self.limit:.3g}){advice}"


@dataclass(frozen=True)
class Verdict:
    """All gates of one submodel."""

    gates: tuple[Gate, ...]

    @property
    def passed(self) -> bool:
        return all(g.passed for g in self.gates)

    @property
    def is_part(self) -> bool:
        """Whether the model is right as far as it goes, and only too many photos are not in it."""
        return not self.passed and all(g.passed or g.name == SHARE for g in self.gates)

    @property
    def failures(self) -> str:
        """The failed gates in words, '' when none."""
        return "; ".join(g.failure for g in self.gates if not g.passed)


def nothing_mapped() -> Verdict:
    """Of a submodel of which the mapper could not place even two photos."""
    todo = "these photos show too little in common; leave out those of water, snow or sky, or fly them again with more overlap"
    return Verdict((Gate("photos placed together", 0, 2, False, todo),))


def judge(scene: Scene, evidence: Evidence, matches: Sequence[PairMatches], photos_wanted: int) -> Verdict:
    """Gates of an adjusted submodel. evidence: in the scene's order. photos_wanted: photos of the submodel that match any other."""
    noise = float(np.median(evidence.noise_px))
    share = len(scene.photos) / max(photos_wanted, 1)
    gates = [
        Gate(SHARE, share, MIN_PHOTO_SHARE, share >= MIN_PHOTO_SHARE),
    ]
    error = float(reprojection_errors(scene).mean()) / noise if len(scene.obs_xy) else float("inf")
    gates.append(Gate("reprojection error (feature pixels)", error, MAX_REPROJECTION, error <= MAX_REPROJECTION))
    explained = _explained(scene, evidence, matches)
    gates.append(Gate("share of matches explained", explained, MIN_MATCH_SHARE, explained >= MIN_MATCH_SHARE))
    miss = np.linalg.norm((scene.centres - evidence.gps)[:, :2], axis=1)
    have = np.isfinite(miss)
    if have.sum() >= 4:
        extent = float(np.linalg.norm(np.ptp(scene.centres[have, :2], axis=0)))
        limit = max(MAX_GPS_SIGMAS * float(np.median(evidence.gps_sigma[have, 0])), MAX_GPS_SHARE * extent)
        median = float(np.median(miss[have]))
        gates.append(Gate("GPS residual, median horizontal (m)", median, limit, median <= limit))
    return Verdict(tuple(gates))


def _explained(scene: Scene, evidence: Evidence, matches: Sequence[PairMatches]) -> float:
    """Share of the verified matches between placed photos whose two features ended in one point.

    Pairs of nearly the same picture count only if there are no others: from a drone that hovers, their rays have no angle and no
    model makes points of them, but n such photos bring n² pairs, each with more matches than any other.
    """
    place = {s: k for k, s in enumerate(evidence.survey_index)}
    point_of: list[dict[int, int]] = [{} for _ in scene.photos]
    for photo, feature, point in zip(scene.obs_photo.tolist(), scene.obs_feature.tolist(), scene.obs_point.tolist()):
        point_of[photo][feature] = point
    apart, same = [0, 0], [0, 0]
    for m in matches:
        if m.first in place and m.second in place:
            first, second = place[m.first], place[m.second]
            a, b = point_of[first], point_of[second]
            tally = same if _same_picture(scene, evidence, first, second, m) else apart
            tally[0] += sum(1 for f, g in m.features.tolist() if f in a and g in b and a[f] == b[g])
            tally[1] += len(m.features)
    good, total = apart if apart[1] else same
    return good / total if total else 0.0


def _same_picture(scene: Scene, evidence: Evidence, first: int, second: int, m: PairMatches) -> bool:
    """Whether the features of two photos of one size lie at nearly the same pixels; asked of the pictures, since the model is on trial."""
    one, other = (scene.cameras[int(scene.camera_of[k])] for k in (first, second))
    if not len(m.features) or (one.width_px, one.height_px) != (other.width_px, other.height_px):
        return False
    moved = evidence.xy[first][m.features[:, 0]] - evidence.xy[second][m.features[:, 1]]
    limit_px = SAME_PICTURE_SHARE * max(one.width_px, one.height_px)
    return float(np.median(np.linalg.norm(moved, axis=1))) < limit_px
