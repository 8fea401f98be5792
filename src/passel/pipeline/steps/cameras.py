"""Steps that find the cameras: features, pairs by looks, matches, calibration, submodels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from passel.align.apart import groups_by_matches, held_together
from passel.align.astray import photos_astray
from passel.align.block import Keypoints
from passel.align.camera_priors import CameraPriors, camera_priors
from passel.align.gates import Gate, Verdict, judge, nothing_mapped
from passel.align.thin import fewer_matches
from passel.align.upright import set_upright, tilt_by_altitudes, without_altitudes
from passel.align.whole import Evidence, adjust_whole, without_photos
from passel.errors import ReconstructionError
from passel.pipeline.step import Fact, StepInputs
from passel.reconstruct.colmap_db import DbPhoto
from passel.reconstruct.features import SIZE_PX, Features, find_features
from passel.reconstruct.mapping import Mapper, MappingInput, map_photos, placed_by_gps
from passel.reconstruct.matches import PairMatches, load_matches, save_matches
from passel.reconstruct.matching import match_pairs
from passel.reconstruct.pairs import pairs_by_looks
from passel.reconstruct.scene import Intrinsics, Scene
from passel.survey.model import Survey

LOOKS_FEATURES = 400
MAPPED_A_PHOTO = 500  # features of a photo that a mapper is given; the adjustment takes all
CALIBRATED_SIGMA = 0.003  # how far a submodel's focal length may leave the survey's calibration (relative)
MOST_FOCAL_SIGMAS = 3.0
HELD_SIGMA = 0.3
"""Of the focal length (relative) of photos beside which whole ones of the same camera hold the map's shape."""


@dataclass(frozen=True)
class FeatureParams:
    """width_px, height_px: the photo's stored size. quality: a word of SIZE_PX."""

    width_px: int
    height_px: int
    quality: str


def features(inputs: StepInputs, params: FeatureParams, out: Path) -> dict[str, Fact]:
    """The features of one photo (role 'photo') → features.npz."""
    found = find_features(inputs.one("photo"), params.width_px, params.height_px, params.quality)
    found.save(out / "features.npz")
    return {"features": len(found.xy)}


@dataclass(frozen=True)
class LooksParams:
    """neighbours: look-alikes a photo is paired with. following: photos after it, by name, that it is paired with as well."""

    neighbours: int
    following: int


def looks(inputs: StepInputs, params: LooksParams, out: Path) -> dict[str, Fact]:
    """Pairs of photos that look alike (role 'features', in survey order) → pairs.npy, (p, 2) int64 survey indices."""
    words = [Features.load(p / "features.npz").descriptors[:LOOKS_FEATURES] for p in inputs.many("features")]
    pairs = pairs_by_looks(words, params.neighbours, params.following)
    np.save(out / "pairs.npy", pairs)
    return {"pairs": len(pairs)}


@dataclass(frozen=True)
class MatchParams:
    """photos: names, in the order of the inputs. pairs: to match, indices into photos. cameras, camera_of: prior intrinsics."""

    photos: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]
    cameras: tuple[Intrinsics, ...]
    camera_of: tuple[int, ...]


def matches(inputs: StepInputs, params: MatchParams, out: Path) -> dict[str, Fact]:
    """Verified matches of a chunk of pairs (role 'features', one a photo) → matches.npz."""
    loaded = {i: Features.load(p / "features.npz") for i, p in enumerate(inputs.many("features"))}
    pairs = np.array(params.pairs, np.int64).reshape(-1, 2)
    found = match_pairs(pairs, loaded, params.cameras, dict(enumerate(params.camera_of)), out)
    save_matches(out / "matches.npz", params.photos, found)
    return {"pairs": len(pairs), "verified": len(found), "matches": sum(len(m.features) for m in found)}


@dataclass(frozen=True)
class SubmodelParams:
    """name: of the submodel. photos: names, in the order of the inputs. mapper: 'global' or 'incremental'.
    quality: of the features. lens: ODM's --camera-lens."""

    name: str
    photos: tuple[str, ...]
    mapper: str
    quality: str
    lens: str


def submodel(inputs: StepInputs, params: SubmodelParams, out: Path) -> dict[str, Fact]:
    """Map some photos and judge the result.

    Roles: 'survey' file; 'features', one a photo; 'matches', many; 'calibration', at most one. Leaves the scene in the world frame
    (if it has GPS) and verdict.json. A model that fails a gate is an artifact too, with the fact passed = False: making it again with
    the same settings would fail in the same way. The fact groups (JSON) names the photos, by group, that a good model left out although
    they match each other, and the parts of one that failed if matches hold it together in several. The fact stands (JSON) names those
    photos of a failed one that may be mapped without the rest: all in a model that is right as far as it goes; where no model was
    found, the largest of several groups.
    """
    survey = Survey.load(inputs.one("survey"))
    known = [load_cameras(p) for p in inputs.many("calibration")]
    cameras = known[0] if known else prior_cameras(survey)
    xy = _features_of(inputs, params.photos)
    index = {p.name: i for i, p in enumerate(survey.photos)}
    found = [m for p in inputs.many("matches") for m in load_matches(p / "matches.npz", index)]
    wanted = {index[n] for n in params.photos}
    found = [m for m in found if m.first in wanted and m.second in wanted]
    scene, verdict = _mapped(survey, params, cameras, xy, found, out, calibrated=bool(known))
    (out / "verdict.json").write_text(json.dumps(asdict(verdict), indent=1), encoding="utf-8")
    if scene is not None:
        scene.save(out)
        save_cameras(out / "cameras.json", scene.cameras)
    placed = len(scene.photos) if scene else 0
    names = [p.name for p in survey.photos]
    groups = groups_by_matches(found, names, scene.photos if scene and verdict.passed else ())
    groups = groups if verdict.passed or len(groups) > 1 else ()
    stands: tuple[str, ...] = groups[0] if groups and scene is None else ()
    if scene is not None and verdict.is_part:
        stands = scene.photos
    return {
        "passed": verdict.passed, "why": verdict.failures, "photos": placed, "mapper": params.mapper,
        "groups": json.dumps(groups), "stands": json.dumps(stands),
    }  # fmt: skip


def _mapped(
    survey: Survey,
    params: SubmodelParams,
    cameras: tuple[Intrinsics, ...],
    loaded: Mapping[str, Features],
    found: Sequence[PairMatches],
    scratch: Path,
    calibrated: bool,
) -> tuple[Scene | None, Verdict]:
    index = {p.name: i for i, p in enumerate(survey.photos)}
    place = {index[n]: k for k, n in enumerate(params.photos)}
    gps, sigma, camera_of = survey.positions_in_world(), survey.position_sigmas(), survey.camera_index()
    photos = tuple(
        DbPhoto(n, loaded[n], int(camera_of[index[n]]), *_known(gps[index[n]], sigma[index[n]])) for n in params.photos
    )
    local = [replace(m, first=place[m.first], second=place[m.second]) for m in found]
    sizes = np.array([(cameras[p.camera].width_px, cameras[p.camera].height_px) for p in photos], float)
    fewer = tuple(fewer_matches(local, [loaded[n].xy for n in params.photos], sizes, MAPPED_A_PHOTO))
    scene = map_photos(MappingInput(cameras, photos, fewer, not calibrated), Mapper(params.mapper), scratch)
    if scene is None:
        return None, nothing_mapped()
    scene = without_photos(scene, ~held_together(scene))
    rows = [index[n] for n in scene.photos]
    scene = placed_by_gps(scene, gps[rows], sigma[rows])
    up = survey.up_in_camera()[rows]
    tilted = tilt_by_altitudes(scene, gps[rows], sigma[rows], up) > 0
    if tilted:
        scene = set_upright(scene, gps[rows], sigma[rows], up)
    held = survey_priors(survey, params.lens)
    if calibrated:
        n = len(cameras)
        held = camera_priors(cameras, np.full(n, CALIBRATED_SIGMA), [False] * n, params.lens)

    def adjusted(scene: Scene) -> Scene:
        told = evidence_for(survey, scene.photos, [loaded[n].xy for n in scene.photos], params.quality, held)
        return adjust_whole(scene, without_altitudes(told, scene) if tilted else told, found)[0]

    try:
        scene = adjusted(scene)
        rest = without_strays(survey, scene)
        scene = scene if rest is scene else adjusted(rest)
    except ReconstructionError as e:
        return None, Verdict((Gate(e.what, 0, 1, False, e.todo),))
    evidence = evidence_for(survey, scene.photos, [loaded[n].xy for n in scene.photos], params.quality, held)
    matched = {n for m in found if len(m.features) >= 30 for n in (m.first, m.second)}
    return scene, judge(scene, evidence, found, len(matched))


def without_strays(survey: Survey, scene: Scene) -> Scene:
    """The scene less photos whose pose cannot be, which bend what hangs on them; itself if there are none."""
    index = {p.name: i for i, p in enumerate(survey.photos)}
    rows = [index[n] for n in scene.photos]
    return without_photos(scene, photos_astray(scene, survey.positions_in_world()[rows], survey.up_in_camera()[rows]))


def _known(gps: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    return (gps, sigma) if np.isfinite(gps).all() else (None, None)


def _features_of(inputs: StepInputs, photos: Sequence[str]) -> dict[str, Features]:
    paths = inputs.many("features")
    assert len(paths) == len(photos), "one features artifact a photo"
    return {n: Features.load(p / "features.npz", with_descriptors=False) for n, p in zip(photos, paths)}


def evidence_for(
    survey: Survey,
    photos: Sequence[str],
    xy: Keypoints,
    quality: str,
    cameras: CameraPriors,
) -> Evidence:
    """What the survey and the features' pixels (xy, in the same order) say about `photos`, for the adjustment."""
    index = {p.name: i for i, p in enumerate(survey.photos)}
    rows = [index[n] for n in photos]
    sizes = np.array([max(c.width_px, c.height_px) for c in survey.cameras], float)
    longest = sizes[survey.camera_index()[rows]]
    return Evidence(
        tuple(rows),
        xy,
        survey.positions_in_world()[rows],
        survey.position_sigmas()[rows],
        longest / np.minimum(longest, SIZE_PX[quality]),
        cameras,
        survey.times_s()[rows],
    )


def prior_cameras(survey: Survey) -> tuple[Intrinsics, ...]:
    """Each camera as it was calibrated before (`--cameras`), else as its metadata tell: prior focal length, centred, no distortion."""
    made = []
    for c in survey.cameras:
        known = c.calibration
        f, size = c.focal_prior_px, (c.width_px, c.height_px)
        if known is None:
            made.append(Intrinsics(c.id, *size, f, f, c.width_px / 2, c.height_px / 2))
        else:
            made.append(Intrinsics(c.id, *size, **asdict(known)))
    return tuple(made)


def survey_priors(survey: Survey, lens: str, readout_s: float | None = None) -> CameraPriors:
    """What the survey knows of its cameras, for the adjustment. lens, readout_s: see `camera_priors`."""
    sigma = np.array(
        [max(c.focal_prior_sigma, HELD_SIGMA) if c.is_held else c.focal_prior_sigma for c in survey.cameras]
    )
    known = [c.calibration is not None for c in survey.cameras]
    centre = [c.centre_sigma for c in survey.cameras]
    return camera_priors(prior_cameras(survey), sigma, known, lens, readout_s, centre)


def focals_off(survey: Survey, cameras: Sequence[Intrinsics]) -> tuple[str, ...]:
    """In words, the cameras whose focal length came out otherwise than their photos tell, by more than these can be wrong."""
    came_out = {c.camera: c.fx for c in cameras}
    return tuple(
        f"{c.id} ({came_out[c.id]:.0f} px, told {c.focal_prior_px:.0f} px)"
        for c in survey.cameras
        if c.id in came_out
        and c.calibration is None
        and abs(np.log(came_out[c.id] / c.focal_prior_px)) > MOST_FOCAL_SIGMAS * c.focal_prior_sigma
    )


def save_cameras(path: Path, cameras: Sequence[Intrinsics]) -> None:
    path.write_text(json.dumps([asdict(c) for c in cameras], indent=1), encoding="utf-8")


def load_cameras(folder: Path) -> tuple[Intrinsics, ...]:
    """The cameras.json of a submodel step's artifact."""
    return tuple(Intrinsics(**c) for c in json.loads((folder / "cameras.json").read_text(encoding="utf-8")))
