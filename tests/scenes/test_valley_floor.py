"""How high the ground lies above the floor of its valley."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from cafe_cli.config.schema import HeightSettings
from cafe_cli.errors import GridError
from cafe_cli.raster.window import Window
from cafe_cli.scenes import scene_ground
from cafe_cli.scenes.height_map import HeightSource, write_heights
from cafe_cli.scenes.inspection import inspect_scene
from cafe_cli.scenes.scene import find_scene_ground, open_scene
from cafe_cli.scenes.valley_floor import (
    HIGHEST,
    RADIUS_CELLS,
    UNKNOWN,
    find_floor,
    height_above,
)
from tests.support.rasters import around, noise, scene_files
from tests.support.rasters import read as values_of
from tests.support.rasters import write as write_to

NAN = float("nan")
WHERE = around(300_000.0, 5_200_000.0, 200, 1.0)
SETTINGS = HeightSettings(valley_radius=40, fill=0)


def valley() -> tuple[np.ndarray, np.ndarray]:
    """Return terrain, and a surface with a house: a river from north to south, banks, meadows."""
    across = np.abs(np.arange(200) - 100.0)
    terrain = np.select([across < 10, across < 20], [100.0, 90 + across], 110.0 + across / 50)
    terrain = np.tile(terrain.astype(np.float32), (200, 1))
    surface = terrain.copy()
    surface[50:70, 150:170] += 8
    return terrain, surface


@pytest.fixture
def image(write):
    return write("ortho.tif", noise(3, WHERE), WHERE)


@pytest.fixture
def files(image, write):
    return scene_files("a", image, write("dsm.tif", valley()[1], WHERE))


def read(files, settings=SETTINGS, window=WHERE.extent, ground=None):
    with open_scene(inspect_scene(files, settings), ground) as scene:
        return scene.read(window)


def test_the_floor_is_the_lowest_ground_within_the_radius():
    ground = np.full((51, 51), 9, np.float32)
    ground[25, 25], ground[0] = 2, NAN
    floor = find_floor(ground)
    rows, columns = np.mgrid[:51, :51] - 25
    near = rows**2 + columns**2 <= RADIUS_CELLS**2
    assert (floor[near] == 2).all()
    assert (floor[~near] == 9).all()
    ground[...] = NAN
    ground[0, 0] = 5
    assert np.isnan(find_floor(ground)).sum() > 51 * 51 - 100


def test_heights_above_a_floor_are_bounded():
    floor = np.array([[3, 3, 3, 3, NAN, 3]], np.float32)
    ground = np.array([[2, 3, 4, 99, 4, NAN]], np.float32)
    assert height_above(floor, ground).tolist() == [[0, 0, 1, HIGHEST, UNKNOWN, UNKNOWN]]


@pytest.mark.parametrize("source", ["estimate", "dtm"])
def test_rivers_lie_on_the_floor_and_meadows_do_not(files, write, source):
    terrain, surface = valley()
    if source == "dtm":
        files = replace(files, dtm=(write("dtm.tif", terrain, WHERE),))
    patch = read(files)
    assert patch.heights.shape == (2, 200, 200)
    assert patch.height_valid.all()
    height, above = patch.heights
    assert above[:, 95:105].max() < 0.3
    assert above[:, 65:75].min() > 9  # 10 m above the river, which is 30 m away
    assert above[:, 185:].max() < 3  # a meadow from which no river can be seen
    assert height == pytest.approx(surface - terrain, abs=1)
    assert np.abs(above[50:70] - above[150:170]).max() < 0.6  # a house is not ground
    plain = read(files, HeightSettings(fill=0))
    assert plain.heights.shape == (1, 200, 200)
    assert np.array_equal(plain.height, height)


@pytest.mark.parametrize("source", ["estimate", "dtm"])
def test_a_pixel_has_one_height_in_every_window(files, write, source):
    if source == "dtm":
        files = replace(files, dtm=(write("dtm.tif", valley()[0], WHERE),))
    whole = read(files)
    ground = find_scene_ground(inspect_scene(files, SETTINGS))
    assert (ground.estimate is None) == (source == "dtm")
    window = Window(90, 30, 40, 50)
    for given in (None, ground):
        part = read(files, window=window, ground=given)
        assert np.allclose(part.heights, whole.heights[:, *window.slices()], atol=1e-4)


def test_ground_that_is_not_known(image, files, write):
    ndsm = HeightSettings(kind="ndsm", valley_radius=40, fill=0)
    assert find_scene_ground(inspect_scene(files, ndsm)) is None
    surface = valley()[1]
    surface[:, :30] = -9999
    holes = scene_files("a", image, write("holes.tif", surface, WHERE, nodata=-9999))
    patch = read(holes, ndsm)
    assert (patch.heights[1] == np.where(patch.height_valid, UNKNOWN, 0)).all()
    assert not patch.height_valid[:, :30].any()
    nothing = read(scene_files("a", image), SETTINGS)
    assert nothing.heights.shape == (2, 200, 200)
    assert not nothing.heights.any()
    assert not nothing.height_valid.any()


def test_voids_of_a_terrain_model_are_unknown_ground(files, write):
    terrain = valley()[0]
    terrain[100:110, 100:110] = -9999
    files = replace(files, dtm=(write("dtm.tif", terrain, WHERE, nodata=-9999),))
    patch = read(files, HeightSettings(valley_radius=40, fill=20))
    inside = (slice(102, 108), slice(102, 108))
    assert patch.height_valid[inside].all()
    assert (patch.heights[1][inside] == UNKNOWN).all()
    assert (patch.heights[1][:95] >= 0).all()


def test_floors_are_computed_once_and_not_to_inspect_a_scene(files, write, monkeypatch):
    calls, find = [], scene_ground.find_floor
    monkeypatch.setattr(scene_ground, "find_floor", lambda cells: calls.append(1) or find(cells))
    terrain = valley()[0]
    terrain[100:110, 100:110] = -9999
    files = replace(files, dtm=(write("dtm.tif", terrain, WHERE, nodata=-9999),))
    settings = HeightSettings(valley_radius=40, fill=20)
    inspection = inspect_scene(files, settings)
    assert not calls
    with open_scene(inspection, find_scene_ground(inspection)) as scene:
        for row in (0, 100):
            scene.read(Window(0, row, 200, 100))
    assert len(calls) == 1


def test_a_radius_of_few_cells():
    with pytest.raises(ValidationError, match="valley_radius 19 m is less than 10 cells"):
        HeightSettings(valley_radius=19)
    assert HeightSettings(valley_radius=20).planes == 2
    assert HeightSettings().planes == 1


def test_a_terrain_model_larger_than_the_scene(files, tmp_path, monkeypatch):
    """Only what lies around the scene is looked at."""
    wide = around(300_000.0, 5_200_000.0, 4000, 10.0)
    terrain = write_to(tmp_path / "dtm.tif", np.zeros((400, 400), np.float32) + 90, wide)
    inspection = inspect_scene(replace(files, dtm=(terrain,)), SETTINGS)
    floor = find_scene_ground(inspection).floor
    assert floor.grid.width < 90
    assert (floor.surface == 90).all()
    monkeypatch.setattr(scene_ground, "_MOST_CELLS", 1000)
    with pytest.raises(GridError, match=r"cells of 4 m, more than 1,000; raise height\.valley"):
        find_scene_ground(inspection)


def test_the_command_writes_a_second_band(files, tmp_path):
    source = HeightSource(files.elevation, optical=files.optical)
    write_heights(source, tmp_path / "h.tif", SETTINGS)
    found, patch = values_of(tmp_path / "h.tif"), read(files)
    assert np.allclose(found, patch.heights, atol=1e-4)
