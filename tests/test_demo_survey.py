"""The synthetic survey: the truth must be true, or every accuracy that we tell is not."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio import Affine
from scipy.spatial.transform import Rotation

from passel.demo.accuracy import measure
from passel.demo.checks import MapRaster, camera_accuracy, fits, mark_accuracy, placed_from_scene, surface_accuracy
from passel.demo.flight import GIMBAL_NOISE_DEG, MOUNT_DEG, DemoSettings, rotation_from_angles
from passel.demo.kernels import ground
from passel.demo.marks import MarkFinder
from passel.demo.rasters import true_rasters
from passel.demo.render import render_photo
from passel.demo.terrain import World
from passel.demo.truth import DemoTruth
from passel.demo.write import write_demo
from passel.errors import InputError, UsageError
from passel.geo.frames import Frame
from passel.geo.grid import Bounds, Grid
from passel.geo.similarity import Similarity
from passel.products.layout import Layout
from passel.reconstruct.scene import Scene, project

SMALL = replace(DemoSettings.tiny(), strips=2, photos_per_strip=2, width_px=200, height_px=150)


@pytest.fixture(scope="module")
def truth() -> DemoTruth:
    return DemoTruth.of(DemoSettings.tiny())


@pytest.fixture(scope="module")
def perfect(truth):
    """A perfect map at 10 cm: its frame (another origin than the truth's), grid, window and rasters."""
    frame = Frame.around(np.array([s.noted for s in truth.shots]))
    grid = Grid(0.1, frame.map_offset_m)
    centre = frame.map_from_world(frame.world_from_geographic(truth.frame.geographic_from_world(np.zeros((1, 3)))))[0]
    window = grid.window(Bounds(centre[0] - 50, centre[1] - 50, centre[0] + 50, centre[1] + 50))
    return frame, grid, window, true_rasters(truth, frame, grid, window)


def scene_of(truth: DemoTruth, frame: Frame) -> Scene:
    """The true cameras in a survey's frame."""
    ends = frame.world_from_geographic(truth.frame.geographic_from_world(np.vstack([np.zeros(3), 100 * np.eye(3)])))
    turn = (ends[1:] - ends[0]).T / 100
    names = tuple(s.name for s in truth.shots)
    centres = frame.world_from_geographic(truth.frame.geographic_from_world(truth.positions(names)))
    none = np.zeros(0, np.int32)
    camera_of = np.array([s.camera for s in truth.shots], np.int32)
    rotations = truth.rotations(names) @ np.linalg.inv(turn)
    points, pixels = np.zeros((0, 3)), np.zeros((0, 2), np.float32)
    empty = {f.name: none for f in fields(Scene) if f.name.startswith("obs_")} | {"obs_xy": pixels}
    return Scene(truth.cameras, names, camera_of, rotations, centres, points, **empty)


def test_world_is_the_same_whatever_its_size():
    small, large = World(5, 60.0), World(5, 110.0)
    x, y = np.meshgrid(np.linspace(-50, 50, 150), np.linspace(-50, 50, 150))
    np.testing.assert_allclose(small.ground_m(x, y), large.ground_m(x, y), atol=1e-9)
    np.testing.assert_allclose(small.height_m(x, y), large.height_m(x, y), atol=1e-9)
    assert (small.height_m(x, y) >= small.ground_m(x, y)).all()
    assert 0.3 < small.is_open(x, y).mean() < 1.0
    assert not np.array_equal(World(6, 60.0).ground_m(x, y), small.ground_m(x, y))


def test_ground_slopes_are_the_derivatives(truth):
    w = truth.world.arrays
    for x, y in np.random.default_rng(0).uniform(-100, 100, (50, 2)):
        _, gx, gy = ground(w, x, y)
        assert gx == pytest.approx((ground(w, x + 1e-4, y)[0] - ground(w, x - 1e-4, y)[0]) / 2e-4, abs=1e-6)
        assert gy == pytest.approx((ground(w, x, y + 1e-4)[0] - ground(w, x, y - 1e-4)[0]) / 2e-4, abs=1e-6)


def test_relief_is_hilly_and_open_ground_has_nothing_on_it(truth):
    x, y = np.meshgrid(np.linspace(-90, 90, 200), np.linspace(-90, 90, 200))
    g, h, is_open = truth.world.ground_m(x, y), truth.world.height_m(x, y), truth.world.is_open(x, y)
    assert 3 < np.ptp(g) < 25
    assert (h - g)[is_open].max() == 0
    assert 4 < (h - g).max() < 25


@pytest.mark.parametrize("index", [5, 10])
def test_photo_agrees_with_the_camera_model(truth, index):
    """Marks lie in the photo where the true camera projects them, to a fraction of a pixel, out to the corners."""
    shot, camera, world = truth.shots[index], truth.cameras[0], truth.world
    photo = render_photo(world, camera, shot.cam_from_world, shot.centre)
    grey = photo.astype(np.float32).mean(axis=2)
    marks = np.column_stack([world.marks, world.ground_m(*world.marks.T)])

    def pixels(xyz):
        return project(camera, (xyz - shot.centre) @ shot.cam_from_world.T)

    errors = []
    for mark, xy in zip(marks, pixels(marks)):
        _, gx, gy = ground(world.arrays, *mark[:2])
        px_from_truth = np.column_stack(
            [(pixels((mark + step)[None])[0] - xy) / 0.01 for step in ([0.01, 0, 0.01 * gx], [0, 0.01, 0.01 * gy])]
        )
        if np.isfinite(xy).all() and 25 < xy[0] < camera.width_px - 25 and 25 < xy[1] < camera.height_px - 25:
            found = MarkFinder(np.linalg.inv(px_from_truth), world.mark_m).find(grey, xy)
            if found is not None:
                errors.append(found - xy)
    e = np.array(errors)
    assert len(e) >= 3
    assert np.abs(e).max() < 0.35  # px
    assert np.sqrt((e**2).mean()) < 0.15  # px


def test_photo_is_deterministic_and_has_detail(truth):
    shot = truth.shots[0]
    camera = replace(truth.cameras[0], width_px=160, height_px=120)
    first, again = (render_photo(truth.world, camera, shot.cam_from_world, shot.centre) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    grey = first.astype(float).mean(axis=2)
    assert grey.std() > 10
    assert np.abs(np.diff(grey, axis=1)).mean() > 2  # DN from pixel to pixel: something to match
    assert (first == 255).mean() < 0.01


def test_rotations_follow_the_drone_convention():
    np.testing.assert_allclose(rotation_from_angles(0, -90, 0), [[1, 0, 0], [0, -1, 0], [0, 0, -1]], atol=1e-12)
    np.testing.assert_allclose(rotation_from_angles(90, -90, 0)[1], [-1, 0, 0], atol=1e-12)  # image down is west
    np.testing.assert_allclose(rotation_from_angles(0, 0, 0)[2], [0, 1, 0], atol=1e-12)  # looks north
    r = rotation_from_angles(33, -80, 5)
    np.testing.assert_allclose(r @ r.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(r) == pytest.approx(1)


def test_the_gimbal_does_not_know_how_its_camera_sits():
    """Angles are told as a real gimbal does: off alike in the camera's frame, differently in each photo, and a little in the world."""
    shots = DemoTruth.of(replace(SMALL, strips=10, photos_per_strip=40)).shots
    off = [s.cam_from_world @ rotation_from_angles(*s.noted_angles_deg).T for s in shots]
    off_deg = Rotation.from_matrix(off).as_rotvec(degrees=True)
    np.testing.assert_allclose(off_deg.mean(axis=0), MOUNT_DEG, atol=0.1)
    np.testing.assert_allclose(off_deg.std(axis=0), GIMBAL_NOISE_DEG, rtol=0.25)


def test_flight_overlaps_and_default_is_large_enough():
    s = DemoSettings()
    assert s.photos >= 60
    across, along = s.spacing_m
    assert along <= 0.25 * s.height_px * s.gsd_m
    assert across <= 0.35 * s.width_px * s.gsd_m
    heights = [DemoTruth.of(s).world.ground_m(shot.centre[:1], shot.centre[1:2])[0] for shot in DemoTruth.of(s).shots]
    above = np.array([shot.centre[2] for shot in DemoTruth.of(s).shots]) - heights
    assert 70 < above.min() < above.max() < 95


def test_written_survey_reads_back(tmp_path):
    truth = write_demo(tmp_path, SMALL, workers=1)
    loaded = DemoTruth.load(tmp_path / "truth.json")
    assert loaded.settings == truth.settings
    assert loaded.cameras == truth.cameras
    np.testing.assert_array_equal(loaded.shots[3].cam_from_world, truth.shots[3].cam_from_world)
    for shot in truth.shots:
        path = tmp_path / "images" / shot.name
        with Image.open(path) as image:
            assert image.size == (200, 150)
            exif = image.getexif()
            assert (exif[0x010F], exif[0x0110]) == ("Passel", "Demo")
            gps, sub = exif.get_ifd(0x8825), exif.get_ifd(0x8769)
            assert float(sub[0x920A]) == pytest.approx(8.8)
            assert sub[0xA405] == 23
            latitude = sum(float(v) / 60**i for i, v in enumerate(gps[2]))
            assert latitude == pytest.approx(shot.noted[0], abs=1e-8)
            assert float(gps[6]) == pytest.approx(shot.noted[2], abs=1e-3)
            assert b"GimbalYawDegree" in image.info["xmp"]
    assert len({shot.seconds for shot in truth.shots}) == len(truth.shots)


def test_writing_again_keeps_photos_and_makes_only_what_is_missing(tmp_path):
    write_demo(tmp_path, SMALL)
    paths = sorted((tmp_path / "images").iterdir())
    before = [p.read_bytes() for p in paths]
    times = [p.stat().st_mtime_ns for p in paths]
    paths[1].unlink()
    write_demo(tmp_path, SMALL, workers=2)
    assert [p.read_bytes() for p in paths] == before
    assert [p.stat().st_mtime_ns == t for p, t in zip(paths, times)] == [True, False, True, True]
    write_demo(tmp_path, replace(SMALL, seed=2, photos_per_strip=1))
    after = sorted((tmp_path / "images").iterdir())
    assert len(after) == 2
    assert after[0].read_bytes() != before[0]


def test_the_demo_does_not_mix_with_a_project_of_somebody(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "notes.txt").touch()
    write_demo(tmp_path, replace(SMALL, photos_per_strip=1))
    (tmp_path / "images" / "DJI_0001.JPG").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"other photos than the demo's: DJI_0001.JPG.*another --output"):
        write_demo(tmp_path, replace(SMALL, photos_per_strip=1))


def test_gps_options():
    base = replace(SMALL, strips=10, photos_per_strip=10)
    truth = DemoTruth.of(base)
    noted = truth.frame.world_from_geographic(np.array([s.noted for s in truth.shots]))
    e = noted - truth.positions(tuple(s.name for s in truth.shots))
    assert 0.8 < e[:, :2].std() < 1.2
    assert 1.5 < e[:, 2].std() < 2.5
    drifted = DemoTruth.of(replace(base, altitude_drift_m=30.0))
    assert drifted.shots[-1].noted[2] - truth.shots[-1].noted[2] == pytest.approx(30, abs=1e-3)
    assert drifted.shots[0].noted == truth.shots[0].noted
    two = DemoTruth.of(replace(base, second_camera=True))
    assert [c.width_px for c in two.cameras] == [200, 175]
    assert sum(s.camera for s in two.shots) == 34  # the last third


def test_no_gps_is_written_without(tmp_path):
    settings = replace(SMALL, gps=False, strips=1, photos_per_strip=1, second_camera=True)
    truth = write_demo(tmp_path, settings)
    with Image.open(tmp_path / "images" / truth.shots[0].name) as image:
        assert not image.getexif().get_ifd(0x8825)
        assert b"RelativeAltitude" not in image.info["xmp"]


def test_bad_settings_and_bad_truth(tmp_path):
    with pytest.raises(UsageError):
        DemoSettings(strips=0)
    (tmp_path / "truth.json").write_text("[]")
    with pytest.raises(InputError, match="not the truth"):
        DemoTruth.load(tmp_path / "truth.json")


def test_true_cameras_have_no_error(truth, perfect):
    placed = placed_from_scene(truth, scene_of(truth, perfect[0]), perfect[0])
    for fit in fits(truth, placed):
        a = camera_accuracy(truth, placed, fit)
        assert a.photos == 16
        assert a.rmse_m < 1e-4
        assert a.rotation_deg < 1e-4
        assert a.focal_percent < 1e-9


def test_a_moved_and_turned_block_is_told(truth, perfect):
    frame = perfect[0]
    turn = Rotation.from_euler("z", 0.2, degrees=True).as_matrix()
    moved = scene_of(truth, frame).transformed(Similarity(1.001, turn, np.array([2.0, -1.0, 3.0])))
    placed = placed_from_scene(truth, moved, frame)
    absolute, shift, similarity = (camera_accuracy(truth, placed, f) for f in fits(truth, placed))
    assert absolute.rmse_m == pytest.approx(np.sqrt(14), abs=0.3)
    assert absolute.rotation_deg == pytest.approx(0.2, abs=0.01)
    assert shift.rmse_m < 0.3
    assert similarity.rmse_m < 1e-4
    assert similarity.rotation_deg < 1e-4


def rasters_of(perfect, east_m: float = 0.0, up_m: float = 0.0) -> tuple[MapRaster, MapRaster]:
    frame, grid, window, true = perfect
    west, north = float(grid.x(window.col)) + frame.map_offset_m[0], float(grid.y(window.row)) + frame.map_offset_m[1]
    dsm = MapRaster(true.dsm + np.float32(up_m), west + east_m, north, grid.resolution_m, frame.epsg)
    return dsm, replace(dsm, values=true.ortho.astype(np.float32).mean(axis=2))


def test_perfect_map_is_perfect_and_a_shift_is_measured(truth, perfect):
    placed = placed_from_scene(truth, scene_of(truth, perfect[0]), perfect[0])
    ways = fits(truth, placed)
    dsm, ortho = rasters_of(perfect)
    s = surface_accuracy(truth, dsm, ways[0])
    assert s.cells > 1000
    assert s.rmse_m < 0.002
    assert s.complete == pytest.approx(1.0)
    m = mark_accuracy(truth, ortho, ways[-1], ways)[0]
    assert m.found == m.marks >= 4
    assert m.rmse_m < 0.012  # a tenth of a cell
    dsm, ortho = rasters_of(perfect, east_m=0.3, up_m=0.5)
    s = surface_accuracy(truth, dsm, ways[0])
    assert s.median_m == pytest.approx(0.5, abs=0.05)
    m = mark_accuracy(truth, ortho, ways[-1], ways)[0]
    assert m.errors_m.mean(axis=0) == pytest.approx([0.3, 0.0], abs=0.02)


def test_holes_lower_completeness(truth, perfect):
    placed = placed_from_scene(truth, scene_of(truth, perfect[0]), perfect[0])
    dsm, _ = rasters_of(perfect)
    values = dsm.values.copy()
    values[450:550, 400:600] = np.nan
    whole = surface_accuracy(truth, dsm, fits(truth, placed)[0])
    holed = surface_accuracy(truth, replace(dsm, values=values), fits(truth, placed)[0])
    assert 0.5 < holed.complete < whole.complete - 0.05
    assert surface_accuracy(truth, replace(dsm, values=values * np.nan), fits(truth, placed)[0]).complete == 0


def test_measure_reads_the_products(truth, perfect, tmp_path):
    frame, grid, window, true = perfect
    layout = Layout(tmp_path)
    for path in (layout.dsm, layout.orthophoto, layout.shots):
        path.parent.mkdir(parents=True, exist_ok=True)
    with pytest.raises(InputError, match="no cameras"):
        measure(truth, tmp_path)
    write_shots(truth, frame, layout.shots)
    dsm, _ = rasters_of(perfect)
    place = {
        "crs": f"EPSG:{frame.epsg}",
        "transform": Affine(grid.resolution_m, 0, dsm.west, 0, -grid.resolution_m, dsm.north),
        "width": window.cols,
        "height": window.rows,
    }
    with rasterio.open(layout.dsm, "w", driver="GTiff", count=1, dtype="float32", nodata=-9999, **place) as d:
        d.write(true.dsm, 1)
    with rasterio.open(layout.orthophoto, "w", driver="GTiff", count=4, dtype="uint8", **place) as d:
        d.write(np.concatenate([np.moveaxis(true.ortho, -1, 0), np.full((1, *window.shape), 255, np.uint8)]))
    found = measure(truth, tmp_path)
    assert found.cameras[0].rmse_m < 0.001
    assert found.cameras[0].rotation_deg < 0.001
    assert found.surface[0].nmad_m < 0.002
    assert found.marks[0].rmse_m < 0.012
    assert "16 of 16 photos" in found.text
    assert "nan" not in replace(found, marks=tuple(replace(m, found=0, rmse_m=np.nan) for m in found.marks)).text
    assert json.loads(found.json())["marks"][0]["found"] == found.marks[0].found


def write_shots(truth: DemoTruth, frame: Frame, path: Path) -> None:
    """shots.geojson of perfect cameras, as products/shots.py writes it."""
    zero = replace(frame, map_offset_m=(0.0, 0.0))
    scene = scene_of(truth, frame)
    centres = zero.map_from_world(scene.centres)
    features = []
    for i, name in enumerate(scene.photos):
        u, _, vt = np.linalg.svd(scene.cam_from_world[i] @ zero.world_from_map_linear(centres[i]))
        c = scene.cameras[scene.camera_of[i]]
        about = {
            "filename": name,
            "focal": c.fx / c.width_px,
            "width": c.width_px,
            "height": c.height_px,
            "translation": centres[i].tolist(),
            "rotation": Rotation.from_matrix(u @ vt).as_rotvec().tolist(),
        }
        features.append({"type": "Feature", "properties": about})
    path.write_text(json.dumps({"features": features}))
