"""Tracks, triangulation and thinning on small geometry with known answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from align_world import CAMERA, DOWN, World, world
from passel.align.block import Cameras, Tracks
from passel.align.thin import A_PAIR, CELLS, fewer_matches, well_spread
from passel.align.tracks import build_tracks
from passel.align.triangulate import fit, reprojection, triangulate
from passel.reconstruct.features import Features, KeypointFiles
from passel.reconstruct.matches import MatchFiles, save_matches
from passel.reconstruct.scene import project


@pytest.fixture(scope="module")
def block() -> World:
    return world(strips=3, along=4, points=600, noise_px=0.3)


def tracks_of(w: World, matches) -> Tracks:
    return build_tracks(Cameras.of_scene(w.scene), matches, {i: i for i in range(w.photos)}, w.xy, reach_px=8.0)


def test_a_track_is_all_sightings_of_a_point(block):
    tracks = tracks_of(block, block.matches(reach=1))  # chains: first with second, second with third
    point = np.array([block.point_of[p][f] for p, f in zip(tracks.photo, tracks.feature)])
    for t in range(len(tracks)):
        assert len(set(point[tracks.start[t] : tracks.start[t + 1]])) == 1
    assert np.diff(tracks.start).min() >= 2
    np.testing.assert_allclose(tracks.xy, [block.xy[p][f] for p, f in zip(tracks.photo, tracks.feature)])


def test_a_feature_is_in_one_track_only(block):
    tracks = tracks_of(block, block.matches())
    assert len(set(zip(tracks.photo.tolist(), tracks.feature.tolist()))) == len(tracks.photo)


def test_matches_off_the_epipolar_line_join_nothing(block):
    good, bad = tracks_of(block, block.matches()), tracks_of(block, block.matches(wrong_share=0.3))
    point = np.array([block.point_of[p][f] for p, f in zip(bad.photo, bad.feature)])
    mixed = [len(set(point[bad.start[t] : bad.start[t + 1]])) > 1 for t in range(len(bad))]
    assert np.mean(mixed) < 0.2  # a wrong match along the line cannot be told
    assert len(bad.photo) > 0.9 * len(good.photo)


def test_two_features_of_a_photo_in_a_track_leave_one(block):
    w = block
    double = [m for m in w.matches() if m.first == 0][:1]
    first = double[0].features[0]
    twin = np.array([first[0], len(w.xy[double[0].second])], np.int32)
    xy = list(w.xy)
    xy[double[0].second] = np.concatenate([xy[double[0].second], xy[double[0].second][first[1]][None] + 1.0])
    match = replace(double[0], features=np.concatenate([double[0].features, twin[None]]))
    cameras = Cameras.of_scene(w.scene)
    tracks = build_tracks(cameras, [match], {i: i for i in range(w.photos)}, xy, reach_px=8.0)
    assert np.diff(tracks.start).max() == 3
    found = triangulate(cameras, tracks, 4.0)
    assert np.diff(found.tracks.start).max() == 2
    point = found.tracks.point_of_observation()
    assert len(set(zip(point.tolist(), found.tracks.photo.tolist()))) == len(point)


def test_photos_outside_the_block_are_passed_over(block):
    tracks = build_tracks(Cameras.of_scene(block.scene), block.matches(), {}, block.xy, 8.0)
    assert len(tracks) == 0


def row_of_cameras(n: int, step_m: float) -> Cameras:
    rows = Cameras.of_scene(world(strips=1, along=2, points=50).scene)
    return replace(
        rows, of_photo=np.zeros(n, np.int32), rotations=np.repeat(DOWN[None], n, axis=0),
        centres=np.column_stack([np.arange(n) * step_m, np.zeros(n), np.full(n, 80.0)]),
        velocities=np.zeros((n, 3)),
    )  # fmt: skip


def one_track(cameras: Cameras, point) -> Tracks:
    n = len(cameras.centres)
    seen = [project(CAMERA, (np.atleast_2d(point) - c) @ r.T)[0] for c, r in zip(cameras.centres, cameras.rotations)]
    return Tracks(np.array([0, n]), np.arange(n, dtype=np.int32), np.zeros(n, np.int32), np.array(seen))


def test_a_point_is_found_where_it_is():
    cameras = row_of_cameras(4, 8.0)
    found = triangulate(cameras, one_track(cameras, (12.0, 5.0, 3.0)), 4.0)
    np.testing.assert_allclose(found.points, [[12.0, 5.0, 3.0]], atol=1e-4)
    assert found.error.max() < 1e-3
    np.testing.assert_allclose(reprojection(cameras, found.tracks, found.points), found.error, atol=1e-9)


def test_outliers_leave_a_track():
    cameras = row_of_cameras(5, 8.0)
    track = one_track(cameras, (12.0, 5.0, 3.0))
    xy = track.xy.copy()
    xy[2] += (40.0, -25.0)
    found = triangulate(cameras, replace(track, xy=xy), 4.0)
    assert found.tracks.photo.tolist() == [0, 1, 3, 4]
    np.testing.assert_allclose(found.points, [[12.0, 5.0, 3.0]], atol=1e-3)


def test_rays_that_hardly_cross_are_no_point():
    cameras = row_of_cameras(2, 0.5)  # 0.4° at 80 m
    assert len(triangulate(cameras, one_track(cameras, (1.0, 5.0, 3.0)), 4.0).points) == 0


def test_cameras_at_one_place_see_no_point():
    cameras = row_of_cameras(3, 0.0)
    assert len(triangulate(cameras, one_track(cameras, (1.0, 5.0, 3.0)), 4.0).points) == 0


def test_rays_that_cross_behind_the_cameras_are_no_point():
    cameras = row_of_cameras(2, 20.0)
    track = one_track(cameras, (10.0, 5.0, 3.0))
    swapped = replace(track, xy=track.xy[::-1].copy())  # left and right exchanged: the rays part below and meet above
    assert len(triangulate(cameras, swapped, 4.0).points) == 0


def test_features_of_nan_are_no_point():
    cameras = row_of_cameras(3, 8.0)
    track = one_track(cameras, (12.0, 5.0, 3.0))
    assert len(triangulate(cameras, replace(track, xy=np.full_like(track.xy, np.nan)), 4.0).points) == 0


def test_thinning_keeps_every_part_of_every_photo(block):
    tracks = tracks_of(block, block.matches())
    sizes = np.full((block.photos, 2), (2000.0, 1500.0))
    seen = np.ones(len(tracks.photo), np.bool_)
    keep = well_spread(tracks, seen, sizes, per_photo=CELLS * CELLS)
    assert 0.05 < keep.mean() < 0.9
    point = tracks.point_of_observation()
    cell = (tracks.xy / sizes[tracks.photo] * CELLS).astype(int)
    key = tracks.photo * 1000 + cell[:, 1] * CELLS + cell[:, 0]
    assert set(key) == set(key[keep[point]])
    length = np.diff(tracks.start)
    assert length[keep].mean() > length.mean()
    assert well_spread(tracks, seen, sizes, 10**6).all()
    seen[tracks.start[3] : tracks.start[5]] = False
    assert not well_spread(tracks, seen, sizes, 10**6)[3:5].any()


def test_fitting_is_triangulating_without_the_copy(block, monkeypatch):
    monkeypatch.setattr("passel.align.triangulate.AT_ONCE", 37)  # parts of a survey that fits in memory
    tracks, cameras = tracks_of(block, block.matches(wrong_share=0.1)), Cameras.of_scene(block.scene)
    points, keep = fit(cameras, tracks, 2.0)
    found = triangulate(cameras, tracks, 2.0)
    left, alive = tracks.kept(keep)
    np.testing.assert_array_equal(points[alive], found.points)
    for mine, theirs in zip((left.start, left.photo, left.feature, left.xy), vars(found.tracks).values()):
        np.testing.assert_array_equal(mine, theirs)
    assert found.error.max() <= 2.0


def test_fewer_matches_keep_the_long_tracks_and_every_weak_pair(block):
    matches = block.matches()
    sizes = np.full((block.photos, 2), (2000.0, 1500.0))
    fewer = fewer_matches(matches, block.xy, sizes, CELLS * CELLS)
    assert [(m.first, m.second) for m in fewer] == [(m.first, m.second) for m in matches]
    before, after = (np.array([len(m.features) for m in some]) for some in (matches, fewer))
    assert (after >= np.minimum(before, A_PAIR)).all()
    assert after.sum() < 0.8 * before.sum()
    for m, f in zip(matches, fewer):
        assert set(map(tuple, f.features)) <= set(map(tuple, m.features))


def test_files_are_read_as_if_they_were_in_memory(block, tmp_path):
    matches = block.matches()
    names = [f"{k}.jpg" for k in range(block.photos)]
    for number, part in enumerate((matches[:20], matches[20:-1])):
        save_matches(tmp_path / f"{number}.npz", names, part)
    for k, xy in enumerate(block.xy):
        zero = np.zeros(len(xy), np.float32)
        Features(2000, 1500, xy.astype(np.float32), zero, zero, np.zeros((0, 128), np.uint8)).save(
            tmp_path / f"f{k}.npz"
        )
    files = MatchFiles(tuple(tmp_path / f"{k}.npz" for k in (0, 1)), {n: k for k, n in enumerate(names)})
    files = files.and_more(matches[-1:])
    xy = KeypointFiles([tmp_path / f"f{k}.npz" for k in range(block.photos)])
    place = {i: i for i in range(block.photos)}
    cameras = Cameras.of_scene(block.scene)
    for _ in range(2):  # each time anew
        read = build_tracks(cameras, files, place, xy, 8.0)
        held = build_tracks(cameras, matches, place, block.xy, 8.0)
        for mine, theirs in zip(vars(read).values(), vars(held).values()):
            np.testing.assert_array_equal(mine, theirs)
