"""Matching one chunk of pairs: descriptors, then two-view geometry, both by pycolmap with fixed seeds and one thread."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray

from passel.reconstruct.colmap_db import DbPhoto, write_database
from passel.reconstruct.features import Features
from passel.reconstruct.matches import PairMatches
from passel.reconstruct.scene import Intrinsics

SEED = 1
UNDEFINED, DEGENERATE = 0, 1


def match_pairs(
    pairs: NDArray[np.int64],
    features: Mapping[int, Features],
    cameras: Sequence[Intrinsics],
    camera_of: Mapping[int, int],
    scratch: Path,
) -> list[PairMatches]:
    """Verified matches of `pairs` (p, 2) of survey indices, in their order; pairs without geometry are left out.

    Everything runs in one thread: chunks run in parallel, and the result must not depend on the machine.
    """
    names = {i: f"{i:06d}" for i in sorted(features)}
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        database, listing = Path(folder) / "db", Path(folder) / "pairs.txt"
        write_database(database, cameras, [DbPhoto(names[i], features[i], camera_of[i]) for i in names])
        listing.write_text("\n".join(f"{names[int(a)]} {names[int(b)]}" for a, b in pairs) + "\n", encoding="ascii")
        _match(database, listing)
        return _read_matches(database, pairs, {i: k for k, i in enumerate(names, start=1)})


def _match(database: Path, listing: Path) -> None:
    pycolmap.logging.minloglevel = 2
    pycolmap.set_random_seed(SEED)
    matching = pycolmap.FeatureMatchingOptions()
    matching.use_gpu = False
    matching.num_threads = 1
    pairing = pycolmap.ImportedPairingOptions()
    pairing.match_list_path = str(listing)
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = SEED
    pycolmap.match_image_pairs(
        str(database), matching_options=matching, pairing_options=pairing, verification_options=verification
    )


def _read_matches(database: Path, pairs: NDArray[np.int64], ids: Mapping[int, int]) -> list[PairMatches]:
    found: list[PairMatches] = []
    with pycolmap.Database.open(str(database)) as db:
        for a, b in pairs:
            first, second = int(a), int(b)
            if not db.exists_two_view_geometry(ids[first], ids[second]):
                continue
            g = db.read_two_view_geometry(ids[first], ids[second])
            if int(g.config) in (UNDEFINED, DEGENERATE) or not len(g.inlier_matches):
                continue
            features = np.asarray(g.inlier_matches, np.int32).reshape(-1, 2)
            matrices = [np.eye(3) if m is None else np.asarray(m, float) for m in (g.E, g.F, g.H)]
            found.append(PairMatches(first, second, features, int(g.config), *matrices))
    return found
