"""What the report says, as plain typed facts.

Whoever runs the job fills them; the report and stats.json are made of them alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class CameraFacts:
    """One camera before and after calibration.

    id as in cameras.json; sizes and principal point in pixels; k, p: Brown model; readout_ms: of a rolling shutter.
    """

    id: str
    photos: int
    width_px: int
    height_px: int
    focal_prior_px: float
    focal_prior_source: str
    focal_px: float
    cx_px: float
    cy_px: float
    k1: float
    k2: float
    k3: float
    p1: float
    p2: float
    readout_ms: float = 0.0


@dataclass(frozen=True)
class GpsResidual:
    """One photo's camera position minus its GPS, metres east, north, up."""

    photo: str
    east_m: float
    north_m: float
    up_m: float


@dataclass(frozen=True)
class AlignmentRow:
    """How far cameras (or points) found in two submodels lie apart after one step of the alignment.

    step: 'before', 'similarities', 'adjustment', …; shared: how many were compared; medians and 95th percentiles.
    """

    step: str
    shared: int
    median_m: float
    p95_m: float
    median_deg: float
    p95_deg: float


@dataclass(frozen=True)
class Gate:
    """One check of a submodel: the value measured, its limit and unit, and whether it passed."""

    name: str
    value: float
    limit: float
    unit: str
    passed: bool


@dataclass(frozen=True)
class SubmodelRow:
    """One submodel.

    placed: photos with a pose; attempts: mapping runs; status: 'good', 'retried', 'resplit', 'apart' or 'quarantined'.
    """

    name: str
    core: int
    halo: int
    placed: int
    attempts: int
    status: str
    gates: tuple[Gate, ...] = ()


@dataclass(frozen=True)
class StageRow:
    """What one stage cost: steps run and reused, CPU and wall seconds, peak memory of one process."""

    stage: str
    steps: int
    reused: int
    cpu_s: float
    wall_s: float
    peak_mb: float


@dataclass(frozen=True)
class MachineRow:
    """What one machine made for this run. step_s, cpu_s: of its steps together. bytes_in, bytes_out: over the network for them."""

    machine: str
    steps: int
    step_s: float
    cpu_s: float
    bytes_in: int
    bytes_out: int


@dataclass(frozen=True)
class FindingRow:
    """Something the user should know. severity: 'note', 'warning' or 'error'; photos: names concerned."""

    severity: str
    message: str
    photos: tuple[str, ...] = ()


@dataclass(frozen=True)
class Spread:
    """Minimum, maximum, mean and median of counts per photo."""

    minimum: float
    maximum: float
    mean: float
    median: float


@dataclass(frozen=True)
class ReconstructionFacts:
    """The adjusted scene in numbers.

    reprojection_px: RMS at full photo size; track_lengths: (length, how many tracks), rising.
    """

    photos: int
    photos_placed: int
    components: int
    points: int
    observations: int
    reprojection_px: float
    track_lengths: tuple[tuple[int, int], ...]
    features_used: Spread


@dataclass(frozen=True)
class ProductFacts:
    """The map in numbers.

    covered, filled: shares (0 to 1) of the map with heights, and filled from around; 0 points: no cloud.
    """

    gsd_m: float
    orthophoto_m_per_px: float
    dsm_m_per_px: float
    area_m2: float
    covered: float
    filled: float
    points: int
    height_range_m: tuple[float, float]


@dataclass(frozen=True)
class Picture:
    """A picture in the report: caption and the PNG's bytes."""

    caption: str
    png: bytes = field(repr=False)


@dataclass(frozen=True)
class ReportFacts:
    """Everything in the report. crs: name of the map's CRS, '' for a local frame. total_s: wall seconds of the job."""

    name: str
    version: str
    crs: str
    captured: str
    total_s: float
    reconstruction: ReconstructionFacts
    features_detected: Spread
    products: ProductFacts
    cameras: tuple[CameraFacts, ...]
    gps: tuple[GpsResidual, ...]
    alignment: tuple[AlignmentRow, ...]
    submodels: tuple[SubmodelRow, ...]
    stages: tuple[StageRow, ...]
    findings: tuple[FindingRow, ...]
    machines: tuple[MachineRow, ...] = ()
