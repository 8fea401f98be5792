"""Steps that bring all cameras into one frame: alignment of the submodels, and the one adjustment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from passel.align.level import levelled
from passel.align.merge import merge_scenes
from passel.align.rescue import Positions, rescue
from passel.align.resect import Unplaced, resect
from passel.align.similarities import Disagreement, align_jointly, disagreement, shared_between, what_others_share
from passel.align.tilt import set_level
from passel.align.turned import with_turned_photos
from passel.align.upright import set_upright, tilt_by_altitudes, without_altitudes
from passel.align.whole import AdjustmentFacts, Evidence, adjust_whole
from passel.geo.similarity import Similarity
from passel.pipeline.step import Fact, StepInputs
from passel.pipeline.steps.cameras import evidence_for, focals_off, survey_priors, without_strays
from passel.reconstruct.features import SIZE_PX, Features, KeypointFiles
from passel.reconstruct.matches import MatchFiles
from passel.reconstruct.scene import Scene
from passel.survey.model import SHAPELESS_M, Survey

RESECT_ROUNDS = 3


@dataclass(frozen=True)
class AlignParams:
    """submodels: names, in the order of the 'scene' inputs. cores: their core photos. align: False leaves each where its GPS puts it."""

    submodels: tuple[str, ...]
    cores: tuple[tuple[str, ...], ...]
    align: bool


def align(inputs: StepInputs, params: AlignParams, out: Path) -> dict[str, Fact]:
    """Joint similarities of the submodels (role 'scene', many; 'survey' file) → one scene without points, and alignment.json."""
    survey = Survey.load(inputs.one("survey"))
    folders = inputs.many("scene")
    names = [Scene.load(p, observations=False).photos for p in folders]
    scenes = what_others_share((Scene.load(p) for p in folders), names)
    index = {p.name: i for i, p in enumerate(survey.photos)}
    gps, sigma = survey.positions_in_world(), survey.position_sigmas()
    rows = [[index[n] for n in s.photos] for s in scenes]
    shared = shared_between(scenes)
    placed = [Similarity.identity()] * len(scenes)
    before = disagreement(shared, placed)
    if params.align and len(scenes) > 1:
        placed = align_jointly(scenes, shared, [gps[r] for r in rows], [sigma[r] for r in rows])
    after = disagreement(shared, placed)
    poses = [replace(s, points=np.zeros((0, 3))).transformed(t) for s, t in zip(scenes, placed)]
    merged = merge_scenes(poses, [frozenset(c) for c in params.cores])
    merged.save(out)
    steps = {"by GPS alone": asdict(before), "joint similarities": asdict(after)}
    (out / "alignment.json").write_text(json.dumps(steps, indent=1), encoding="utf-8")
    return {"photos": len(merged.photos), "shared_cameras": after.cameras}


@dataclass(frozen=True)
class AdjustParams:
    """photos: names, in the order of the 'features' inputs (all photos of the survey). quality: of the features. lens: ODM's
    --camera-lens. readout_s: see `camera_priors`."""

    photos: tuple[str, ...]
    quality: str
    lens: str
    readout_s: float | None


def adjust(inputs: StepInputs, params: AdjustParams, out: Path) -> dict[str, Fact]:
    """The one adjustment. Roles: 'survey' file, 'aligned' scene, 'features' (all photos), 'matches', 'scene' (the submodels, to
    tell how far the adjustment moved them) → the final scene, and alignment.json with the step added."""
    survey = Survey.load(inputs.one("survey"))
    aligned = Scene.load(inputs.one("aligned"))
    index = {p.name: i for i, p in enumerate(survey.photos)}
    path = {n: p / "features.npz" for n, p in zip(params.photos, inputs.many("features"), strict=True)}
    found = MatchFiles(tuple(p / "matches.npz" for p in inputs.many("matches")), index)
    tilt_deg = tilt_by_altitudes(aligned, *_positions(survey, aligned))
    if tilt_deg > 0:
        aligned = set_upright(aligned, *_positions(survey, aligned))
    scene, facts, rescued = _adjusted(survey, aligned, path, found, params, tilt_deg > 0)
    if tilt_deg > 0:  # its shape has changed, and with it what the loosely held heights say about its tilt
        scene = set_upright(scene, *_positions(survey, scene))
    if not survey.frame.is_georeferenced:
        scene = levelled(scene)
    gps, sigma, up = _positions(survey, scene)
    if tilt_deg > 0:  # altitudes that the angles have disproved say nothing beside them
        sigma[:, 2] = SHAPELESS_M
    scene, turned_deg = set_level(scene, gps, sigma, up, survey.times_s()[_rows(survey, scene)])
    scene.save(out)
    steps = json.loads((inputs.one("aligned") / "alignment.json").read_text(encoding="utf-8"))
    steps["adjustment"] = asdict(_after(aligned, scene))
    (out / "alignment.json").write_text(json.dumps(steps, indent=1), encoding="utf-8")
    return {
        "photos": len(scene.photos), "points": facts.points, "observations": facts.observations,
        "reprojection_px": facts.reprojection_px, "gps_sigma_horizontal_m": facts.gps_sigma_used_m[0],
        "gps_sigma_vertical_m": facts.gps_sigma_used_m[1], "iterations": facts.iterations, "rescued": rescued,
        "tilt_by_altitudes_deg": tilt_deg, "levelled_by_angles_deg": turned_deg, "turned": int(scene.turned.sum()),
        "focals_off": json.dumps(focals_off(survey, scene.cameras)),
    }  # fmt: skip


def _positions(survey: Survey, scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """GPS, its sigmas and up by the photos' angles, each (n, 3) in the scene's order."""
    rows = _rows(survey, scene)
    return survey.positions_in_world()[rows], survey.position_sigmas()[rows], survey.up_in_camera()[rows]


def _rows(survey: Survey, scene: Scene) -> list[int]:
    """The place of each of the scene's photos in the survey."""
    index = {p.name: i for i, p in enumerate(survey.photos)}
    return [index[n] for n in scene.photos]


def _adjusted(
    survey: Survey,
    scene: Scene,
    path: Mapping[str, Path],
    found: MatchFiles,
    params: AdjustParams,
    tilted: bool,
) -> tuple[Scene, AdjustmentFacts, int]:
    """The scene adjusted, with all photos that can be placed by what it shows; and how many of them took guided matching.

    tilted: GPS altitudes are not to be believed.
    """
    index = {p.name: i for i, p in enumerate(survey.photos)}
    quality, held = params.quality, survey_priors(survey, params.lens, params.readout_s)

    def evidence(scene: Scene) -> Evidence:
        told = evidence_for(survey, scene.photos, KeypointFiles([path[n] for n in scene.photos]), quality, held)
        return without_altitudes(told, scene) if tilted else told

    positions = Positions(survey.positions_in_world(), survey.position_sigmas())
    scene, facts = adjust_whole(scene, evidence(scene), found)
    rescued = 0
    for _ in range(RESECT_ROUNDS - 1):
        missing = _unplaced(survey, scene, path, quality)
        grown = resect(scene, [index[n] for n in scene.photos], missing, found)
        more = rescue(
            grown,
            [index[n] for n in grown.photos],
            [u for u in missing if u.name not in set(grown.photos)],
            found,
            positions,
            lambda k: Features.load(path[survey.photos[k].name]),
        )
        if len(more.scene.photos) == len(scene.photos):
            break
        rescued += len(more.scene.photos) - len(grown.photos)
        scene, found = more.scene, found.and_more(more.matches)
        scene, facts = adjust_whole(scene, evidence(scene), found, facts)
    rest = without_strays(survey, scene)
    if rest is not scene:
        scene, facts = adjust_whole(rest, evidence(rest), found, facts)
    yaw_deg = np.array([survey.photos[index[n]].yaw_deg for n in scene.photos], float)  # None becomes NaN
    scene, facts = with_turned_photos(scene, facts, evidence(scene), found, yaw_deg)
    return scene, facts, rescued


def _unplaced(survey: Survey, scene: Scene, path: Mapping[str, Path], quality: str) -> list[Unplaced]:
    placed, camera = set(scene.photos), survey.camera_index()
    longest = {c.id: max(c.width_px, c.height_px) for c in survey.cameras}
    return [
        Unplaced(
            *(p.name, i, int(camera[i]), Features.load(path[p.name], with_descriptors=False).xy.astype(np.float64)),
            noise_px=max(1.0, longest[p.camera] / SIZE_PX[quality]),
        )
        for i, p in enumerate(survey.photos)
        if p.name not in placed
    ]


def _after(aligned: Scene, final: Scene) -> Disagreement:
    """In the adjusted frame submodels agree by construction; what is told is how far the adjustment moved the aligned photos."""
    place = {n: i for i, n in enumerate(aligned.photos)}
    both = [(place[n], i) for i, n in enumerate(final.photos) if n in place]
    a, b = (np.array(v, int) for v in zip(*both, strict=True))
    moved = np.linalg.norm(aligned.centres[a] - final.centres[b], axis=1)
    turn = aligned.cam_from_world[a] @ final.rotations_of_files()[b].transpose(0, 2, 1)
    angle = np.degrees(np.arccos(np.clip((np.trace(turn, axis1=1, axis2=2) - 1) / 2, -1, 1)))
    m, t = np.percentile(moved, [50, 95]), np.percentile(angle, [50, 95])
    return Disagreement(len(a), float(m[0]), float(m[1]), float(t[0]), float(t[1]), float("nan"), float("nan"))
