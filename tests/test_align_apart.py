"""Which photos hang together by matches: parts of a survey between which there is water, snow or a bare field."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np

from align_world import world
from passel.align.apart import HELD_BY, MIN_MATCHES, groups_by_matches, held_together
from passel.reconstruct.matches import PairMatches

NAMES = tuple(f"p{i:02d}" for i in range(30))


def pair(first: int, second: int, matches: int = 100) -> PairMatches:
    return PairMatches(first, second, np.zeros((matches, 2), np.int32), 2, *[np.eye(3)] * 3)


def chain(*photos: int) -> list[PairMatches]:
    return [pair(a, b) for a, b in pairwise(photos)]


def test_groups_are_held_together_by_matches_not_by_a_few_chance_ones() -> None:
    found = [*chain(*range(10)), *chain(*range(10, 22)), *chain(23, 24, 25), pair(3, 15, MIN_MATCHES - 1)]
    assert groups_by_matches(found, NAMES, ()) == (NAMES[10:22], NAMES[:10], NAMES[23:26])
    assert groups_by_matches([*found, pair(3, 15, MIN_MATCHES)], NAMES, ()) == (NAMES[:22], NAMES[23:26])


def test_photos_that_are_placed_hold_no_group_together() -> None:
    found = [*chain(*range(10)), *chain(9, 10, 11), *chain(*range(11, 20))]
    assert groups_by_matches(found, NAMES, NAMES[:10]) == (NAMES[10:20],)
    assert groups_by_matches([*found, pair(9, 11)], NAMES, NAMES[:10]) == (NAMES[10:20],)
    assert groups_by_matches(found, NAMES, NAMES[:13]) == ()  # seven that match one of those
    assert groups_by_matches([pair(1, 2), pair(4, 5)], NAMES, NAMES[4:]) == (NAMES[1:3],)
    assert groups_by_matches([], NAMES, ()) == ()


def test_parts_of_a_scene_that_chance_points_join_are_told_apart() -> None:
    """Two parts without GPS, of which a mapper made one scene by a handful of wrong matches: one is a map, both are not."""
    scene = world(strips=4, along=5, points=400).scene
    assert held_together(scene).all()
    first = np.arange(20) < 12
    both = np.intersect1d(scene.obs_point[first[scene.obs_photo]], scene.obs_point[~first[scene.obs_photo]])
    for shared, whole in ((HELD_BY - 1, False), (HELD_BY, True)):
        keep = first[scene.obs_photo] | ~np.isin(scene.obs_point, both[shared:])
        parts = [scene.obs_point, scene.obs_photo, scene.obs_xy, scene.obs_feature]
        point, photo, xy, feature = (a[keep] for a in parts)
        loose = replace(scene, obs_point=point, obs_photo=photo, obs_xy=xy, obs_feature=feature)
        assert np.array_equal(held_together(loose), first | whole)
