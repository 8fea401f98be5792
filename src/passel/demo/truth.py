"""The truth of a synthetic survey as data: what was flown, over what, and with which cameras."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from passel.demo.flight import DemoSettings, Shot, fly, true_cameras, truth_frame
from passel.demo.kernels import F64
from passel.demo.terrain import World
from passel.errors import InputError
from passel.geo.frames import Frame
from passel.reconstruct.scene import Intrinsics

RENDER_VERSION = 5  # raise when pictures change, so that photos lying there are made again
MARK_PIXELS = 8.0


@dataclass(frozen=True)
class DemoTruth:
    """A synthetic survey: settings, the frame of its world, the true cameras and the shots (poses in that frame)."""

    settings: DemoSettings
    frame: Frame
    cameras: tuple[Intrinsics, ...]
    shots: tuple[Shot, ...]

    @staticmethod
    def of(settings: DemoSettings) -> DemoTruth:
        """The truth that settings imply."""
        return DemoTruth(settings, truth_frame(settings), true_cameras(settings), fly(settings))

    @property
    def world(self) -> World:
        """The world flown over (made once for a process)."""
        s = self.settings
        return _world(s.seed, s.half_size_m, round(MARK_PIXELS * s.gsd_m, 2))

    def positions(self, names: tuple[str, ...]) -> F64:
        """(n, 3) true centres of photos by name."""
        centre = {s.name: s.centre for s in self.shots}
        return np.array([centre[n] for n in names]).reshape(-1, 3)

    def rotations(self, names: tuple[str, ...]) -> F64:
        """(n, 3, 3) true cam_from_world of photos by name."""
        rotation = {s.name: s.cam_from_world for s in self.shots}
        return np.array([rotation[n] for n in names]).reshape(-1, 3, 3)

    def save(self, path: Path) -> None:
        """Write truth.json."""
        shots = [
            {**asdict(s), "cam_from_world": s.cam_from_world.tolist(), "centre": s.centre.tolist()} for s in self.shots
        ]
        document = {
            "version": RENDER_VERSION,
            "settings": asdict(self.settings),
            "frame": asdict(self.frame),
            "cameras": [asdict(c) for c in self.cameras],
            "shots": shots,
        }
        path.write_text(json.dumps(document, indent=1), encoding="utf-8")

    @staticmethod
    def load(path: Path) -> DemoTruth:
        """Read truth.json. Raises InputError if it is not one."""
        try:
            d = json.loads(path.read_text(encoding="utf-8"))
            f = d["frame"]
            shots = [
                Shot(
                    **{
                        **s,
                        "cam_from_world": np.array(s["cam_from_world"]),
                        "centre": np.array(s["centre"]),
                        "noted": tuple(s["noted"]),
                        "noted_angles_deg": tuple(s["noted_angles_deg"]),
                    }
                )
                for s in d["shots"]
            ]
            return DemoTruth(
                DemoSettings(**d["settings"]),
                Frame(tuple(f["origin_deg"]), f["origin_height_m"], f["epsg"], tuple(f["map_offset_m"])),
                tuple(Intrinsics(**c) for c in d["cameras"]),
                tuple(shots),
            )
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise InputError(f"not the truth of a demo survey: {e}", str(path), "make it with `passel demo`") from e


@lru_cache(maxsize=2)
def _world(seed: int, half_size_m: float, mark_m: float) -> World:
    return World(seed, half_size_m, mark_m)
