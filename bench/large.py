"""The steps that see a whole survey at once, run for real on one of 12,000 photos: CPU seconds and peak memory of a process.

    python bench/large.py [--photos 12000] [--folder DIR]

Photos, features and matches are made from a known block: 800 points a photo, each seen by three or four photos, 6,000 features a
photo, wrong matches included. With --folder what was made is kept there and used again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from passel.geo.similarity import Similarity
from passel.options import Options
from passel.pipeline import plan_cameras
from passel.pipeline.job import Job
from passel.pipeline.step import FileInput, StepInputs
from passel.pipeline.steps.block import AdjustParams, AlignParams, adjust, align
from passel.reconstruct.features import Features
from passel.reconstruct.matches import PairMatches, save_matches
from passel.reconstruct.scene import Intrinsics, Scene, project
from passel.survey.assemble import overlap_reach_m
from passel.survey.model import Survey
from passel.survey.split import split_survey
from plan import flight
from results import Check, SurveyResult

NAME = "large"
POINTS_A_PHOTO, FEATURES, NOISE_PX, WRONG = 800, 6000, 1.0, 0.03
SEEN_MOST = 4
GPS_NOISE_M, START_NOISE_M, START_NOISE_RAD = 0.5, 0.1, 3e-4
TRUE = Intrinsics("camera", 5472, 3648, 3700.0, 3700.0, 2720.0, 1840.0, -0.02, 0.01)


@dataclass(frozen=True)
class Block:
    """A survey with the truth about its cameras, and points (p, 3) m: (p, 4) photos that see them, -1 for none, their features and
    pixels."""

    survey: Survey
    truth: Scene
    points: np.ndarray
    photo: np.ndarray
    feature: np.ndarray
    xy: np.ndarray
    pairs: np.ndarray


def make_block(photos: int) -> Block:
    """Deterministic. photos: about so many, in strips of a hundred."""
    survey, scene = flight()
    survey = replace(survey, photos=survey.photos[:photos])
    rng = np.random.default_rng(7)
    n = len(survey.photos)
    centres = scene.centres[:n] + rng.normal(0, GPS_NOISE_M, (n, 3))
    tilt = rng.normal(0, np.radians(1.5), (n, 3))
    rotations = _turned(scene.cam_from_world[:n], tilt)
    job = Job(survey, FileInput("survey.json", "0" * 64), Options())
    pairs = plan_cameras.pairs_to_match(job)
    near: list[list[int]] = [[] for _ in range(n)]
    for a, b in pairs:
        near[a].append(b)
        near[b].append(a)
    parts = [_points(k, np.array(sorted(near[k])), centres, rotations, rng) for k in range(n)]
    points, photo, xy = (np.concatenate(v) for v in zip(*parts))
    truth = Scene(
        (TRUE,), tuple(p.name for p in survey.photos), np.zeros(n, np.int32), rotations, centres, np.zeros((0, 3)),
        np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros((0, 2), np.float32), np.zeros(0, np.int32),
    )  # fmt: skip
    return Block(survey, truth, points, photo, _numbered(photo, n), xy, pairs)


def _turned(rotations: np.ndarray, omega: np.ndarray) -> np.ndarray:
    k = np.zeros((len(omega), 3, 3))
    k[:, 0, 1], k[:, 0, 2], k[:, 1, 2] = -omega[:, 2], omega[:, 1], -omega[:, 0]
    k -= k.transpose(0, 2, 1)
    q, r = np.linalg.qr(np.eye(3) + k)
    return (q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]) @ rotations


def _points(
    k: int, near: np.ndarray, centres: np.ndarray, rotations: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ground points (p, 3) of photo k and who of its neighbours sees them: (p, 4) photos and (p, 4, 2) pixels."""
    ray = np.column_stack([rng.uniform(-0.72, 0.72, POINTS_A_PHOTO), rng.uniform(-0.48, 0.48, POINTS_A_PHOTO)])
    down = np.column_stack([ray, np.ones(len(ray))]) @ rotations[k]
    ground = 4.0 * np.sin(centres[k, 0] / 90.0 + ray[:, 0]) * np.cos(centres[k, 1] / 70.0)
    xyz = centres[k] + down * ((ground - centres[k, 2]) / down[:, 2])[:, None]
    photos = np.concatenate([[k], near])
    seen = np.array([project(TRUE, (xyz - centres[i]) @ rotations[i].T) for i in photos]).transpose(1, 0, 2)
    inside = ((seen > 0) & (seen < (TRUE.width_px, TRUE.height_px))).all(axis=2)
    luck = np.where(inside, rng.random(inside.shape), 2.0)
    luck[:, 0] = np.where(inside[:, 0], -1.0, 2.0)
    order = np.argsort(luck, axis=1)[:, :SEEN_MOST]
    rows = np.arange(len(xyz))[:, None]
    photo = np.where(luck[rows, order] < 2.0, photos[order], -1).astype(np.int32)
    photo[rng.random(len(photo)) < 0.6, 3] = -1
    xy = seen[rows, order] + rng.normal(0, NOISE_PX, (*order.shape, 2))
    some = (photo >= 0).sum(axis=1) >= 2
    return xyz[some], photo[some], xy[some].astype(np.float32)


def _numbered(photo: np.ndarray, n: int) -> np.ndarray:
    """(p, 4) int32 number of each observation among its photo's."""
    flat = photo.ravel()
    order = np.argsort(flat, kind="stable")
    first = np.searchsorted(flat[order], np.arange(n))
    number = np.full(len(flat), -1, np.int32)
    real = order[first[0] :]
    number[real] = np.arange(len(flat))[first[0] :] - first[flat[real]]
    return number.reshape(photo.shape)


def write_block(block: Block, folder: Path) -> None:
    """What the adjustment step reads."""
    folder.mkdir(parents=True, exist_ok=True)
    n, rng = len(block.survey.photos), np.random.default_rng(8)
    block.survey.save(folder / "survey.json")
    real = block.photo >= 0
    order = np.lexsort((block.feature[real], block.photo[real]))
    ends = np.searchsorted(block.photo[real][order], np.arange(n + 1))
    xy = block.xy[real][order]
    for k in range(n):
        own = xy[ends[k] : ends[k + 1]]
        more = rng.uniform(0, 1, (max(0, FEATURES - len(own)), 2)) * (TRUE.width_px, TRUE.height_px)
        all_xy = np.concatenate([own, more]).astype(np.float32)
        one = np.ones(len(all_xy), np.float32)
        (folder / "features" / str(k)).mkdir(parents=True)
        Features(TRUE.width_px, TRUE.height_px, all_xy, one, one, np.zeros((0, 128), np.uint8)).save(
            folder / "features" / str(k) / "features.npz"
        )
    _write_matches(block, folder, rng)
    _write_submodels(block, folder / "submodels", rng)
    centres = block.truth.centres + rng.normal(0, START_NOISE_M, (n, 3))
    rotations = _turned(block.truth.cam_from_world, rng.normal(0, START_NOISE_RAD, (n, 3)))
    start = replace(TRUE, fx=3680.0, fy=3680.0, cx=2736.0, cy=1824.0, k1=0.0, k2=0.0)
    (folder / "aligned").mkdir()
    replace(block.truth, cameras=(start,), centres=centres, cam_from_world=rotations).save(folder / "aligned")
    (folder / "aligned" / "alignment.json").write_text("{}", encoding="utf-8")
    np.save(folder / "truth.npy", block.truth.centres)


def _write_matches(block: Block, folder: Path, rng: np.random.Generator) -> None:
    n, names = len(block.survey.photos), [p.name for p in block.survey.photos]
    pair_key = np.sort(block.pairs[:, 0].astype(np.int64) * n + block.pairs[:, 1])
    at, features = [], []
    for i in range(SEEN_MOST):
        for j in range(i + 1, SEEN_MOST):
            a, b, fa, fb = block.photo[:, i], block.photo[:, j], block.feature[:, i], block.feature[:, j]
            swap = a > b
            key = np.where(swap, b, a).astype(np.int64) * n + np.where(swap, a, b)
            where = np.minimum(np.searchsorted(pair_key, key), len(pair_key) - 1)
            good = (a >= 0) & (b >= 0) & (pair_key[where] == key)
            at.append(where[good].astype(np.int32))
            features.append(np.column_stack([np.where(swap, fb, fa), np.where(swap, fa, fb)])[good].astype(np.int32))
    pair, feature = np.concatenate(at), np.concatenate(features)
    order = np.argsort(pair, kind="stable")
    ends = np.searchsorted(pair[order], np.arange(len(pair_key) + 1))
    feature = feature[order]
    wrong = rng.random(len(feature)) < WRONG
    feature[wrong, 1] = rng.integers(0, FEATURES, wrong.sum())
    eye = np.eye(3)
    for number, first in enumerate(range(0, len(pair_key), plan_cameras.PAIRS_A_STEP)):
        made = [
            PairMatches(int(pair_key[p] // n), int(pair_key[p] % n), feature[ends[p] : ends[p + 1]], 2, eye, eye, eye)
            for p in range(first, min(first + plan_cameras.PAIRS_A_STEP, len(pair_key)))
        ]
        used = sorted({i for m in made for i in (m.first, m.second)})
        local = {i: k for k, i in enumerate(used)}
        target = folder / "matches" / f"{number:05d}"
        target.mkdir(parents=True)
        save_matches(
            target / "matches.npz",
            [names[i] for i in used],
            [replace(m, first=local[m.first], second=local[m.second]) for m in made],
        )


def _write_submodels(block: Block, folder: Path, rng: np.random.Generator) -> None:
    """Each submodel's scene, off by a small similarity, and which photos are its core."""
    survey = block.survey
    split = split_survey(survey, 400, 150.0, overlap_reach_m(survey))
    index = {p.name: i for i, p in enumerate(survey.photos)}
    for submodel in split.submodels:
        rows = np.array([index[n] for n in submodel.photos])
        place = np.full(len(index) + 1, -1, np.int32)  # the last for 'none'
        place[rows] = np.arange(len(rows))
        seen = place[block.photo]
        some = np.flatnonzero((seen >= 0).sum(axis=1) >= 2)
        point, slot = np.nonzero(seen[some] >= 0)
        turn = _turned(np.eye(3)[None], rng.normal(0, 1e-3, (1, 3)))[0]
        moved = Similarity(float(np.exp(rng.normal(0, 2e-3))), turn, rng.normal(0, 0.5, 3))
        scene = Scene(
            (TRUE,), submodel.photos, np.zeros(len(rows), np.int32), block.truth.cam_from_world[rows],
            block.truth.centres[rows], block.points[some], point.astype(np.int32), seen[some][point, slot],
            block.xy[some][point, slot], block.feature[some][point, slot],
        ).transformed(moved)  # fmt: skip
        (folder / submodel.name).mkdir(parents=True)
        scene.save(folder / submodel.name)
    (folder / "cores.json").write_text(json.dumps({s.name: s.core for s in split.submodels}), encoding="utf-8")


def run_alignment(folder: Path, out: Path) -> dict[str, float | int | str | bool]:
    """The joint similarities of what `write_block` left."""
    cores = json.loads((folder / "submodels" / "cores.json").read_text(encoding="utf-8"))
    inputs = (("survey", folder / "survey.json"), *(("scene", folder / "submodels" / name) for name in cores))
    return align(StepInputs(inputs), AlignParams(tuple(cores), tuple(map(tuple, cores.values())), True), out)


def run_adjustment(folder: Path, out: Path) -> dict[str, float | int | str | bool]:
    """The step on what `write_block` left."""
    survey = Survey.load(folder / "survey.json")
    inputs = StepInputs(
        (
            ("survey", folder / "survey.json"),
            ("aligned", folder / "aligned"),
            *(("features", folder / "features" / str(k)) for k in range(len(survey.photos))),
            *(("matches", p) for p in sorted((folder / "matches").iterdir())),
        )
    )
    return adjust(inputs, AdjustParams(tuple(p.name for p in survey.photos), "high", "auto", None), out)


@dataclass(frozen=True)
class Spent:
    """By a process of its own."""

    cpu_s: float
    peak_mb: float


def _measured(work: Callable[..., object], *args: object) -> Spent:
    context = multiprocessing.get_context("spawn")
    told, tells = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(tells, work, *args))
    process.start()
    tells.close()
    process.join()
    assert process.exitcode == 0, "the step failed"
    return Spent(*told.recv())


def _work(tells: Connection, work: Callable[..., object], *args: object) -> None:
    """In the process. Its own VmHWM: the kernel's ru_maxrss of children is that of the largest one so far."""
    start = time.monotonic()
    print(f"  {work.__name__}: {work(*args)} in {time.monotonic() - start:.0f} s", flush=True)
    used = resource.getrusage(resource.RUSAGE_SELF)
    status = Path("/proc/self/status").read_text()
    peak_kb = int(status.partition("VmHWM:")[2].split()[0])
    tells.send((used.ru_utime + used.ru_stime, peak_kb * 1024 / 1e6))


def make(photos: int, folder: Path) -> None:
    write_block(make_block(photos), folder)


def measure(photos: int, folder: Path) -> list[Check]:
    run = f"{photos:,} photos"
    if not (folder / "truth.npy").exists():
        made = multiprocessing.get_context("spawn").Process(target=make, args=(photos, folder))
        made.start()
        made.join()
    with tempfile.TemporaryDirectory(dir=folder) as out:
        aligning = _measured(run_alignment, folder, Path(out))
    with tempfile.TemporaryDirectory(dir=folder) as out:
        spent = _measured(run_adjustment, folder, Path(out))
        scene = Scene.load(Path(out), observations=False)
    names = {p.name: i for i, p in enumerate(Survey.load(folder / "survey.json").photos)}
    miss = scene.centres - np.load(folder / "truth.npy")[[names[n] for n in scene.photos]]
    off = float(np.sqrt((np.linalg.norm(miss - miss.mean(axis=0), axis=1) ** 2).mean()))
    return [
        Check(run, "joint similarities, CPU", aligning.cpu_s, "s"),
        Check(run, "joint similarities, peak memory", aligning.peak_mb, "MB", "≤", 2500.0),
        Check(run, "adjustment, CPU a photo", spent.cpu_s / photos, "s"),
        Check(run, "adjustment, peak memory", spent.peak_mb, "MB", "≤", 2500.0),
        Check(run, "photos placed", len(scene.photos), "", "≥", photos),
        Check(run, "camera positions against truth, mean shift removed, RMS", off, "m"),
    ]


def main() -> int:
    from run import about

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=12_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        checks = measure(given.photos, given.folder or Path(scratch) / "block")
    for check in checks:
        print(f"  {check.what}: {check.reached:.4g} {check.unit} {check.verdict}")
    if given.photos == 12_000:
        SurveyResult(NAME, about(), "", tuple(checks), ()).save(given.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
