"""A scene is inspected once, and opened as often as there are threads."""

from collections import Counter
from functools import partial

import numpy as np
import pytest
from affine import Affine

from cafe_cli.config.schema import HeightSettings
from cafe_cli.errors import ConfigError, GridError
from cafe_cli.raster import mosaic_view
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.window import Window
from cafe_cli.scenes import height_rasters, inspection
from cafe_cli.scenes.inspection import inspect_scene
from cafe_cli.scenes.scene import Scene, open_scene
from cafe_cli.system.threads import in_order
from tests.support.rasters import around, noise, scene_files

WHERE = around(300_000.0, 5_200_000.0, 40, 0.5)
COARSE = around(300_000.0, 5_200_000.0, 40, 2.0)
BLOCKS = {"blockxsize": 128, "blockysize": 128}


@pytest.fixture
def files(write):
    heights = write("dsm.tif", noise(1, COARSE, "float32")[0], COARSE, units="ft")
    labels = write("labels.tif", np.zeros((80, 80), np.uint8), WHERE, tiled=True, **BLOCKS)
    return scene_files("a", write("ortho.tif", noise(3, WHERE), WHERE), heights, labels)


def test_what_is_known_without_opening(files):
    found = inspect_scene(files, HeightSettings(ground="none"), (3, 1))
    assert found.files == files
    assert found.grid == found.native == WHERE
    assert (found.bands, found.dtype) == ((3, 1), "uint8")
    assert found.heights.metres == pytest.approx(0.3048)
    assert [member.path for member in found.heights.surface] == list(files.elevation)
    assert [member.path for member in found.labels] == list(files.labels)
    assert found.block == 128
    assert found.optical_block[0] == 80
    resampled = inspect_scene(files, HeightSettings(ground="none"), gsd=1.0)
    assert (resampled.native, resampled.grid) == (WHERE, WHERE.rescaled(2))


def far_off(where):
    return Grid(where.crs, Affine(0.5, 0, 0, 0, -0.5, 0), where.width, where.height)


def test_what_is_covered_does_not_depend_on_the_pixels_read(write):
    heights = write("dsm.tif", noise(1, WHERE, "float32")[0], WHERE)
    files = scene_files("s", write("ortho.tif", noise(3, WHERE), WHERE), heights)
    found = inspect_scene(files, HeightSettings(ground="none"), gsd=0.7)  # 57.1 pixels: 58
    assert found.findings == ()


def test_sheets_of_an_image_far_apart_are_refused(write):
    near = write("near.tif", noise(3, WHERE), WHERE)
    far = write("far.tif", noise(3, WHERE), far_off(WHERE))
    with pytest.raises(GridError, match=r"far\.tif lies 5,\d\d\d km from .*near\.tif: .* %"):
        inspect_scene(scene_files("s", [near, far]), HeightSettings())


def test_sheets_of_heights_far_apart_are_told_of_where_they_are_missed(write):
    image, heights = noise(3, WHERE), noise(1, WHERE, "float32")[0]
    optical = write("ortho.tif", image, WHERE)
    half = WHERE.at(Window(0, 0, WHERE.width, WHERE.height // 2))
    sheets = [
        write("whole.tif", heights, WHERE),
        write("half.tif", heights[: half.height], half),
        write("far.tif", heights, far_off(WHERE)),
    ]
    settings = HeightSettings(ground="none")
    whole = inspect_scene(scene_files("s", optical, [sheets[0], sheets[2]]), settings)
    assert whole.findings == ()
    far, cover = inspect_scene(scene_files("s", optical, sheets[1:]), settings).findings
    assert far.level == cover.level == "warning"
    assert "far.tif has a corner at 0, 0" in far.message
    assert "half.tif and 1 more cover 50.0 % of " in cover.message


def test_threads_open_what_was_inspected_without_looking_again(files, monkeypatch):
    found = inspect_scene(files, HeightSettings(ground="none", fill=0))
    with open_scene(found) as scene:
        whole = scene.read(WHERE.extent)

    def refuse(*args):
        raise AssertionError("inspected again")

    for module in (inspection, height_rasters, mosaic_view):
        monkeypatch.setattr(module, "open_raster", refuse)
    read = in_order(partial(open_scene, found), Scene.read, [WHERE.extent] * 8, jobs=4)
    for patch in read:
        for values, expected in zip(patch, whole, strict=True):
            assert np.array_equal(values, expected)


def test_each_raster_is_looked_at_once(files, monkeypatch):
    looked, original = Counter(), mosaic_view.open_raster
    monkeypatch.setattr(
        mosaic_view, "open_raster", lambda path: looked.update([path]) or original(path)
    )
    with open_scene(inspect_scene(files, HeightSettings(ground="none"))) as scene:
        scene.read(WHERE.extent)
    assert looked == Counter([*files.optical, *files.elevation, *files.labels])


def test_the_first_fault_is_told(files):
    settings = HeightSettings(ground="dtm")
    with pytest.raises(ConfigError, match="is not a CRS"):
        inspect_scene(files, settings, crs="nonsense")
    with pytest.raises(ConfigError, match="there is no terrain model"):
        inspect_scene(files, settings)
