"""Which photos are paired. Positions in metres."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from passel.reconstruct.pairs import all_pairs, pairs_by_looks, pairs_by_position, pairs_by_time


def pieces(pairs: np.ndarray, n: int) -> int:
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return int(connected_components(graph, directed=False)[0])


def sound(pairs: np.ndarray) -> bool:
    ordered = bool((pairs[:, 0] < pairs[:, 1]).all())
    return ordered and len({(int(a), int(b)) for a, b in pairs}) == len(pairs) and pairs.dtype == np.int64


def grid(columns: int, rows: int, step_m: tuple[float, float], jitter_m: float = 0.5) -> np.ndarray:
    x, y = np.meshgrid(np.arange(columns) * step_m[0], np.arange(rows) * step_m[1])
    return np.column_stack([x.ravel(), y.ravel()]) + np.random.default_rng(0).normal(0, jitter_m, (columns * rows, 2))


def test_dense_strips_far_apart_stay_connected():
    """2 m along, 30 m across: a photo's ten nearest are all in its own strip."""
    xy = grid(60, 5, (2.0, 30.0), 0.2)
    pairs = pairs_by_position(xy, reach_m=120.0)
    assert sound(pairs)
    assert pieces(pairs, len(xy)) == 1
    strip = pairs // 60
    across = (strip[:, 0] != strip[:, 1]).sum()
    assert across >= 60  # hundreds of ties, not one lucky pair


def test_an_even_grid_is_paired_with_its_neighbours():
    xy = grid(20, 10, (15.0, 25.0))
    pairs = pairs_by_position(xy, reach_m=150.0)
    assert sound(pairs)
    assert pieces(pairs, 200) == 1
    count = np.bincount(pairs.ravel(), minlength=200)
    assert count.min() >= 8
    assert len(pairs) < 200 * 12


def test_islands_out_of_reach_are_not_paired():
    xy = np.concatenate([grid(5, 5, (15.0, 25.0)), grid(5, 5, (15.0, 25.0)) + 2000.0])
    pairs = pairs_by_position(xy, reach_m=150.0)
    assert pieces(pairs, 50) == 2


def test_photos_whose_gps_was_swapped_are_paired_with_those_beside_them_in_time():
    xy, order = grid(20, 10, (15.0, 25.0)), np.arange(200)
    assert len(pairs_by_time(xy, order)) == 0  # a sound survey is left as it is
    xy[[25, 170]] = xy[[170, 25]]
    added = pairs_by_time(xy, order)
    assert sound(added)
    assert {tuple(p) for p in added.tolist()} == {
        *((23, 25), (24, 25), (25, 26), (25, 27)),
        *((168, 170), (169, 170), (170, 171), (170, 172)),
    }


def test_time_that_contradicts_gps_everywhere_pairs_nothing():
    xy = grid(20, 10, (15.0, 25.0))
    two_drones = np.arange(200).reshape(2, 100).T.ravel()  # one photo of each in turn
    assert len(pairs_by_time(xy, two_drones)) == 0
    assert len(pairs_by_time(np.array([[0.0, 0.0], [900.0, 0.0]]), np.arange(2))) == 0


def test_few_photos_and_photos_at_one_place():
    assert pairs_by_position(np.zeros((0, 2))).shape == (0, 2)
    assert pairs_by_position(np.zeros((1, 2))).shape == (0, 2)
    assert pairs_by_position(np.array([[0.0, 0.0], [9.0, 0.0]])).tolist() == [[0, 1]]
    assert len(pairs_by_position(np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]]))) == 3
    same = pairs_by_position(np.zeros((40, 2)))
    assert sound(same)
    assert np.bincount(same.ravel(), minlength=40).min() >= 10


def test_pairing_grows_with_the_photos_not_their_square():
    few, many = grid(20, 20, (15.0, 25.0)), grid(40, 40, (15.0, 25.0))
    assert len(pairs_by_position(many, reach_m=150.0)) < 4.4 * len(pairs_by_position(few, reach_m=150.0))


def test_all_pairs():
    assert all_pairs(4).tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert all_pairs(1).shape == (0, 2)


def test_photos_that_look_alike_are_paired():
    """Ten places, six photos of each, shuffled: nearly all look-alikes are of one place."""
    rng = np.random.default_rng(0)
    place = rng.permutation(np.repeat(np.arange(10), 6))
    vocabulary = rng.integers(0, 256, (10, 80, 128))
    words = [
        np.clip(vocabulary[p][rng.permutation(80)[:60]] + rng.normal(0, 5, (60, 128)), 0, 255).astype(np.uint8)
        for p in place
    ]
    pairs = pairs_by_looks(words, neighbours=4, order=0)
    assert sound(pairs)
    assert (place[pairs[:, 0]] == place[pairs[:, 1]]).mean() > 0.95
    assert np.array_equal(pairs, pairs_by_looks(words, neighbours=4, order=0))
    following = {(int(a), int(b)) for a, b in pairs_by_looks(words, neighbours=4, order=2)}
    assert {(i, i + 1) for i in range(59)} | {(i, i + 2) for i in range(58)} <= following


def test_a_photo_without_features_has_no_look_alikes_of_its_own():
    rng = np.random.default_rng(1)
    words = [rng.integers(0, 256, (50, 128)).astype(np.uint8) for _ in range(5)]
    words[2] = np.zeros((0, 128), np.uint8)
    assert sound(pairs_by_looks(words, neighbours=2, order=1))
    nothing = [np.zeros((0, 128), np.uint8) for _ in range(4)]
    assert pairs_by_looks(nothing, neighbours=2, order=1).shape[1] == 2
