"""Heights above ground: where the ground comes from, units, voids."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS

from cafe_cli.config.schema import HeightSettings
from cafe_cli.errors import ConfigError, InputError
from cafe_cli.raster import mosaic_view
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.window import Window
from cafe_cli.scenes import scene_ground
from cafe_cli.scenes.height_rasters import metres_per_unit
from cafe_cli.scenes.inspection import inspect_scene
from cafe_cli.scenes.scene import find_scene_ground, open_scene
from tests.support.rasters import LAMBERT, around, grid, noise, scene_files
from tests.support.rasters import write as write_to

X, Y = 300_000.0, 5_200_000.0
WHERE = around(X, Y, 40, 0.5)
WHOLE = WHERE.extent


def read(files, settings, window=WHOLE, ground=None, **options):
    with open_scene(inspect_scene(files, settings, **options), ground) as scene:
        patch = scene.read(window)
    return patch.height, patch.height_valid


@pytest.fixture
def image(write):
    return write("ortho.tif", noise(3, WHERE), WHERE)


@pytest.fixture
def slope():
    """Terrain in metres that rises to the right."""
    return np.tile(np.arange(80, dtype=np.float32) / 10 + 200, (80, 1))


# Where the ground comes from


@pytest.mark.parametrize("ground", ["auto", "dtm"])
def test_heights_above_a_terrain_model(image, write, slope, ground):
    surface = slope.copy()
    surface[20:40, 30:50] += 6
    files = scene_files(
        "a", image, write("dsm.tif", surface, WHERE), dtm=write("dtm.tif", slope, WHERE)
    )
    height, valid = read(files, HeightSettings(ground=ground, fill=0))
    assert valid.all()
    assert height == pytest.approx(surface - slope, abs=1e-4)
    assert find_scene_ground(inspect_scene(files, HeightSettings(ground=ground))) is None


def test_a_terrain_model_of_another_grid_unit_and_extent(image, write):
    feet = around(X + 10, Y, 40, 2.0, LAMBERT)
    terrain = np.full((20, 20), 200 / 0.3048, np.float32)
    terrain[:4] = -9999
    files = scene_files(
        "a", image, write("dsm.tif", np.full((80, 80), 207, np.float32), WHERE),
        dtm=write("dtm.tif", terrain, feet, nodata=-9999, units="ft"),
    )  # fmt: skip
    height, valid = read(files, HeightSettings(fill=0))
    assert height[valid] == pytest.approx(7, abs=1e-3)
    assert 0.4 < valid.mean() < 0.7  # where the terrain is not known, nothing is above it


def test_which_ground_is_taken_off(image, write, slope):
    surface, terrain = write("dsm.tif", slope + 3, WHERE), write("dtm.tif", slope, WHERE)
    files = scene_files("a", image, surface, dtm=terrain)
    for kind, ground, source, mean in [
        ("dsm", "none", "none", float(slope.mean()) + 3),
        ("dsm", "estimate", "estimate", 0),
        ("dsm", "dtm", "dtm", 3),
        ("ndsm", "auto", "none", float(slope.mean()) + 3),
    ]:
        settings = HeightSettings(kind=kind, ground=ground, fill=0)
        with open_scene(inspect_scene(files, settings)) as scene:
            assert scene.inspection.heights.ground == source
            assert scene.read(WHOLE).height.mean() == pytest.approx(mean, abs=0.1)


def test_a_ground_from_a_terrain_model_that_is_not_there(image, write, slope):
    files = scene_files("a", image, write("dsm.tif", slope, WHERE))
    with pytest.raises(ConfigError, match=r"height\.ground is 'dtm', .* name one with scenes\.dtm"):
        read(files, HeightSettings(ground="dtm"))


def test_the_ground_below_a_part_of_a_large_surface(image, write, monkeypatch):
    """Above a number of cells, only the surroundings of the scene are looked at."""
    wide = around(X, Y, 400, 1.0)
    column, row = np.meshgrid(np.arange(400), np.arange(400))
    surface = (100 + column / 20 + row / 50).astype(np.float32)
    surface[190:205, 190:205] += 5
    files = scene_files("a", image, write("dsm.tif", surface, wide))
    settings = HeightSettings(cell=1.0, max_window=30.0, fill=0)
    whole, _ = read(files, settings)
    monkeypatch.setattr(scene_ground, "_WHOLE", 100)
    ground = find_scene_ground(inspect_scene(files, settings)).estimate
    assert ground.grid.width == ground.grid.height < 400
    part, valid = read(files, settings)
    assert valid.all()
    assert part == pytest.approx(whole, abs=0.01)


# Units


@pytest.mark.parametrize(
    ("crs", "metres"),
    [
        ("EPSG:32632+5773", 1.0),
        ("EPSG:6557+6360", 1200 / 3937),
        ("EPSG:2994+8228", 0.3048),
        ("EPSG:2994", 1.0),
    ],
)
def test_the_unit_of_the_vertical_crs(crs, metres):
    found = mosaic_view.Member(
        "dsm.tif", Grid(CRS.from_user_input(crs), WHERE.transform, 1, 1), 1, "float32", ""
    )
    assert metres_per_unit(found, HeightSettings()) == pytest.approx(metres)
    assert metres_per_unit(found, HeightSettings(unit="decimetre")) == 0.1


# Voids


def gappy(write, radius):
    """A plane with a hole of that radius in pixels, in the middle."""
    column, row = np.meshgrid(np.arange(80) - 40, np.arange(80) - 40)
    plane = (5 + column / 100).astype(np.float32)
    hole = np.hypot(column, row) <= radius
    return write("dsm.tif", np.where(hole, -9999, plane), WHERE, nodata=-9999), plane, hole


def test_voids_are_filled_up_to_a_distance(image, write):
    dsm, plane, hole = gappy(write, 10)
    files = scene_files("a", image, dsm)
    height, valid = read(files, HeightSettings(kind="ndsm", fill=2.0))  # four pixels
    middle = np.hypot(*np.mgrid[-40:40, -40:40]) < 5
    assert not valid[middle].any()
    assert (height[~valid] == 0).all()
    assert valid[~hole].all()
    assert height[~hole] == pytest.approx(plane[~hole])
    filled = valid & hole
    assert filled.sum() > hole.sum() / 2
    assert height[filled] == pytest.approx(plane[filled], abs=0.1)
    _, plain = read(files, HeightSettings(kind="ndsm", fill=0))
    assert np.array_equal(plain, ~hole)
    _, all_of_it = read(files, HeightSettings(kind="ndsm", fill=10))
    assert all_of_it.all()


@pytest.fixture(scope="module")
def voids(tmp_path_factory):
    """A scene whose heights have voids of all sizes, on another grid, and all that it shows."""
    folder = tmp_path_factory.mktemp("voids")
    surface = around(X, Y, 60, 0.8, LAMBERT, angle=7)
    random = np.random.default_rng(2)
    values = random.normal(100, 3, (surface.height, surface.width)).astype(np.float32)
    values[random.random(values.shape) > 0.8] = -9999
    values[20:40, 30:50] = -9999
    files = scene_files(
        "a",
        write_to(folder / "a.tif", noise(1, WHERE), WHERE),
        write_to(folder / "dsm.tif", values, surface, nodata=-9999),
    )
    settings = HeightSettings(cell=1.0, max_window=20.0, fill=3.0)
    with open_scene(inspect_scene(files, settings)) as scene:
        yield scene, *scene._heights.read(WHOLE.expand(20))


@given(st.integers(-20, 90), st.integers(-20, 90), st.integers(1, 25), st.integers(1, 25))
def test_filled_heights_do_not_depend_on_the_window(voids, col, row, width, height):
    scene, values, valid = voids
    window = Window(col, row, width, height).intersection(WHOLE.expand(20))
    if window is None:
        return
    found, known = scene._heights.read(window)
    here = window.slices(WHOLE.expand(20))
    assert np.array_equal(known, valid[here])
    assert np.array_equal(found, values[here])


def test_undeclared_voids_that_the_first_look_misses(image, write):
    wide = grid(3000, 3000, 0.5, X - 700, Y + 700)
    values = np.full((3000, 3000), 50, np.float32)
    values[1401:1403, 1401:1403] = -9999
    files = scene_files("a", image, write("dsm.tif", values, wide))
    with pytest.raises(
        InputError, match=r"dsm\.tif has heights .* declare them with height\.nodata = -9999 "
    ):
        read(files, HeightSettings(kind="ndsm"))
