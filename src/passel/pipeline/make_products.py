"""Running the second half: ground tiles, then the merged files in the output folder, then the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

import passel
from passel.pipeline import plan_ground as plan
from passel.pipeline.events import Artifact, OnEvent
from passel.pipeline.executor import Executor
from passel.pipeline.find_cameras import CamerasFound
from passel.pipeline.job import Job, run_all
from passel.pipeline.run_log import RunLog
from passel.pipeline.steps import products as files
from passel.pipeline.steps.products import load_raster_facts
from passel.products.layout import Layout
from passel.products.publish import publish, write_report
from passel.products.report_facts import SceneFacts, capture_span, product_facts, spread
from passel.products.report_model import FindingRow, MachineRow, ProductFacts, ReportFacts, StageRow, SubmodelRow
from passel.products.report_rows import alignment_rows, finding_rows, gates_of
from passel.survey.check import counted, some
from passel.survey.submodel import SplitPlan


@dataclass(frozen=True)
class ProductsMade:
    """The finished products. lost_tiles: tiles that could not be made, in words; notes: what else the user should know."""

    facts: ProductFacts
    scene: SceneFacts
    lost_tiles: tuple[str, ...]
    notes: tuple[str, ...]


def make_products(
    job: Job, cameras: CamerasFound, layout: Layout, executor: Executor, on_event: OnEvent
) -> ProductsMade | None:
    """Tiles, merge, files in the output folder; None when the user wants an earlier end. A tile that fails leaves a hole that is told,
    unless all fail."""
    found = plan.ground_step(job, cameras.adjusted_step)
    ground = plan.ground_of(job, found, run_all(executor, [found], on_event)[found.digest].path)
    placed = {v.photo for v in ground.views}
    unplaced = [p.name for p in job.survey.photos if p.name not in placed]
    surface = plan.surface_steps(job, ground)
    early = run_all(executor, surface.all, on_event)
    publish(early[surface.quick.digest].path / "quick.png", layout.first_look)
    if job.ends_with("coarse"):
        return None
    tiles = plan.tile_steps(job, ground, surface)
    outcomes = executor.run(tiles, on_event)
    made = [t for t in tiles if isinstance(outcomes[t.digest], Artifact)]
    if not made:
        run_all(executor, tiles, on_event)  # raises the first cause
    lost = tuple(f"tile {t.name} could not be made" for t in tiles if t not in made)
    if job.ends_with("tiles"):
        return None
    products = plan.product_steps(job, cameras.adjusted_step, made)
    done = run_all(executor, products.all, on_event)
    _publish_all(products, done, layout)
    facts = product_facts(
        ground.gsd_m,
        load_raster_facts(done[products.orthophoto.digest].path),
        load_raster_facts(done[products.dsm.digest].path),
        int(done[products.points.digest].manifest.fact("points")),
    )
    verb = "is" if len(unplaced) == 1 else "are"
    left_out = (f"{counted(len(unplaced))} could not be placed and {verb} not in the map: {some(unplaced)}",)
    scene = SceneFacts.load(done[products.side_files.digest].path / files.SCENE_FACTS)
    return ProductsMade(facts, scene, lost, (*(left_out if unplaced else ()), *ground.notes))


def _publish_all(products: plan.ProductSteps, done: Mapping[str, Artifact], layout: Layout) -> None:
    for step, name, target in (
        (products.orthophoto, files.ORTHOPHOTO, layout.orthophoto),
        (products.orthophoto, files.ORTHOPHOTO_PICTURE, layout.orthophoto_preview),
        (products.dsm, files.DSM, layout.dsm),
        (products.dsm, files.DSM_FILLED, layout.dsm_filled),
        (products.dsm, files.DSM_PICTURE, layout.dsm_preview),
        (products.points, files.CLOUD, layout.cloud),
        (products.side_files, files.CAMERAS, layout.cameras),
        (products.side_files, files.IMAGES, layout.images),
        (products.side_files, files.SHOTS, layout.shots),
    ):
        publish(done[step.digest].path / name, target)


def report(
    job: Job,
    split: SplitPlan,
    cameras: CamerasFound,
    made: ProductsMade,
    layout: Layout,
    log: RunLog,
    total_s: float,
) -> None:
    """report.html, stats.json and what they are made of."""
    detected = np.array([int(a.manifest.fact("features")) for a in cameras.features])
    lost = [FindingRow("error", words) for words in (*cameras.holes, *made.lost_tiles)]
    facts = ReportFacts(
        name=job.options.name or layout.root.name,
        version=passel.__version__,
        crs=f"EPSG:{job.survey.frame.epsg}" if job.survey.frame.epsg else "",
        captured=capture_span([p.time for p in job.survey.photos]),
        total_s=total_s,
        reconstruction=made.scene.reconstruction,
        features_detected=spread(detected),
        products=made.facts,
        cameras=made.scene.cameras,
        gps=made.scene.gps,
        alignment=alignment_rows(cameras.adjusted.path / "alignment.json"),
        submodels=tuple(_submodel_rows(cameras)),
        stages=tuple(
            StageRow(s.stage, s.made + s.reused, s.reused, s.cpu_seconds, s.wall_seconds, s.peak_rss_mb)
            for s in log.stages()
        ),
        findings=(
            *lost,
            *finding_rows(job.survey, split),
            *(FindingRow("warning", n) for n in cameras.notes),
            *(FindingRow("warning", n) for n in made.notes),
        ),
        machines=tuple(
            MachineRow(m.machine, m.steps, m.step_seconds, m.cpu_seconds, m.bytes_in, m.bytes_out)
            for m in log.machines()
        ),
    )
    pictures = (
        ("Orthophoto", layout.orthophoto_preview),
        ("Surface model (DSM)", layout.dsm_preview),
        ("Submodels", layout.plan_picture),
    )
    write_report(layout, facts, pictures)


def _submodel_rows(cameras: CamerasFound) -> list[SubmodelRow]:
    rows = []
    for m in cameras.submodels:
        gates = gates_of(m.artifact.path / "verdict.json") if m.artifact else ()
        placed = int(m.artifact.manifest.fact("photos")) if m.artifact else 0
        s = m.submodel
        rows.append(SubmodelRow(s.name, len(s.core), len(s.halo), placed, m.attempts, m.status, gates))
    return rows
