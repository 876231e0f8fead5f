"""Several rasters as one, and rasters that do not say where they lie."""

import warnings

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning

from cafe_cli.config.schema import HeightSettings
from cafe_cli.errors import BandError, ConfigError, GridError, InputError
from cafe_cli.raster.grid import Grid, parse_crs
from cafe_cli.raster.mosaic_view import (
    MosaicView,
    covered_share,
    inspect_rasters,
    union_grid,
)
from cafe_cli.raster.window import Window, blocks
from cafe_cli.scenes.inspection import inspect_scene
from cafe_cli.scenes.scene import open_scene
from tests.support.rasters import LAMBERT, UTM, around, grid, noise, scene_files
from tests.support.rasters import write as write_to

NDSM = HeightSettings(kind="ndsm", fill=0)
WHOLE = grid(60, 40)


@pytest.fixture
def sheets(write):
    """A raster, and the same cut into four sheets that overlap a little."""
    values = noise(3, WHOLE)
    parts = [Window(0, 0, 35, 22), Window(30, 0, 30, 22), Window(0, 18, 35, 22)]
    parts.append(Window(33, 20, 27, 20))
    paths = [
        write(f"sheet{i}.tif", values[:, *part.slices()], WHOLE.at(part))
        for i, part in enumerate(parts)
    ]
    return values, paths


def test_sheets_are_read_as_one_raster(sheets):
    values, paths = sheets
    members = inspect_rasters(paths)
    where = union_grid(members)
    assert where.same_pixels(WHOLE)
    joined = MosaicView(members, where, Resampling.bilinear)
    for window in (*blocks(60, 40, 17), Window(-3, -2, 70, 50)):
        read, valid = joined.read(window)
        here = window.intersection(where.extent)
        assert np.array_equal(read[:, *here.slices(window)], values[:, *here.slices()])
        assert valid.sum() == here.width * here.height
    joined.close()


def test_the_first_raster_with_data_counts(write):
    one, other = np.full((2, 40, 60), 7, np.uint8), np.full((2, 40, 60), 9, np.uint8)
    one[:, :, 30:] = 0
    paths = [write("a.tif", one, WHOLE, nodata=0), write("b.tif", other, WHOLE)]
    values, valid = MosaicView(inspect_rasters(paths), WHOLE, Resampling.nearest).read(WHOLE.extent)
    assert valid.all()
    assert (values[:, :, :30] == 7).all()
    assert (values[:, :, 30:] == 9).all()


def test_the_lowest_counts_where_the_minimum_is_asked_for(write):
    fine = grid(60, 40)
    high, low = np.full((1, 40, 60), 5, np.float32), np.full((1, 40, 60), 3, np.float32)
    low[:, :, :20] = -9
    paths = [write("a.tif", high, fine), write("b.tif", low, fine, nodata=-9)]
    values, _ = MosaicView(inspect_rasters(paths), fine.rescaled(4), Resampling.min).read(
        Window(0, 0, 15, 10)
    )
    assert (values[0, :, :5] == 5).all()
    assert (values[0, :, 5:] == 3).all()


def test_a_scene_of_many_sheets_in_two_crs(write, tmp_path):
    """More sheets than are open at a time, heights of another CRS among them."""
    where = grid(90, 90)
    optical = noise(1, where)
    pieces = list(blocks(90, 90, 10))
    images = [
        write(f"o{i}.tif", optical[:, *w.slices()], where.at(w)) for i, w in enumerate(pieces)
    ]
    surface = around(*where.footprint.centroid.coords[0], 60, 0.5, LAMBERT)
    halves = [Window(0, 0, 60, 120), Window(60, 0, 60, 120)]
    heights = [
        write(f"h{i}.tif", np.full((120, 60), 4 + i, np.float32), surface.at(w))
        for i, w in enumerate(halves)
    ]
    with open_scene(inspect_scene(scene_files("a", images, heights), NDSM)) as scene:
        assert (scene.grid.width, scene.grid.height) == (90, 90)
        patch = scene.read(scene.grid.extent)
    assert np.array_equal(patch.optical, optical)
    assert patch.height_valid.all()
    assert set(np.unique(patch.height.round(3)).tolist()) == {4.0, 5.0}


@given(st.integers(-20, 70), st.integers(-20, 70), st.integers(1, 40), st.integers(1, 40))
def test_any_window_is_that_part_of_the_whole(made, col, row, width, height):
    joined, values, valid = made
    window = Window(col, row, width, height)
    read, known = joined.read(window)
    inside = window.intersection(WHOLE.extent)
    expected = np.zeros((height, width), bool)
    if inside:
        expected[inside.slices(window)] = valid[inside.slices()]
        part = read[:, *inside.slices(window)]
        assert np.array_equal(
            part[:, valid[inside.slices()]], values[:, *inside.slices()][:, valid[inside.slices()]]
        )
    assert np.array_equal(known, expected)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A raster with holes, warped; and read as a whole."""
    folder = tmp_path_factory.mktemp("made")
    source = around(*WHOLE.footprint.centroid.coords[0], 24, 0.7, LAMBERT, angle=10)
    holes = np.random.default_rng(1).random((source.height, source.width)) > 0.1
    path = write_to(folder / "a.tif", noise(2, source, "float32"), source, mask=holes)
    joined = MosaicView(inspect_rasters([path]), WHOLE, Resampling.bilinear)
    yield joined, *joined.read(WHOLE.extent)
    joined.close()


# Rasters that lack something


def test_a_raster_without_georeference_lies_on_the_image_of_its_size(write):
    nowhere = Grid(None, Affine.identity(), 60, 40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        path = write("labels.tif", noise(1, nowhere), nowhere)
        small = write(
            "small.tif",
            noise(1, nowhere.at(Window(0, 0, 59, 40))),
            nowhere.at(Window(0, 0, 59, 40)),
        )
    (member,) = inspect_rasters([path], None, WHOLE)
    assert member.grid == WHOLE
    with pytest.raises(GridError, match=r"small\.tif has no georeference and 59 x 40 pixels; with"):
        inspect_rasters([small], None, WHOLE)
    with pytest.raises(GridError, match=r"no georeference and cannot be joined"):
        inspect_rasters([path, small])


def test_a_raster_without_crs_on_the_pixels_of_the_image(write):
    bare = Grid(None, WHOLE.transform, 60, 40)
    assert inspect_rasters([write("a.tif", noise(1, bare), bare)], None, WHOLE)[0].grid == WHOLE
    shifted = bare.at(Window(1, 0, 60, 40))
    path = write("b.tif", noise(1, shifted), shifted)
    with pytest.raises(
        GridError, match=r"b\.tif has no CRS .* EPSG:32632; give it with scenes\.crs"
    ):
        inspect_rasters([path], None, WHOLE)
    assert inspect_rasters([path], UTM, WHOLE)[0].grid.crs == UTM


def test_a_crs_given_for_rasters_without_one(write):
    bare = Grid(None, WHOLE.transform, 60, 40)
    shifted = bare.at(Window(5, 0, 60, 40))
    image = write("a.tif", noise(1, bare), bare)
    dsm = write("b.tif", np.ones((40, 60), np.float32), shifted)
    with open_scene(inspect_scene(scene_files("a", image, dsm), NDSM, crs="EPSG:32632")) as scene:
        assert scene.grid.crs == UTM
        patch = scene.read(scene.grid.extent)
    assert np.array_equal(patch.height_valid[0], np.arange(60) >= 5)


@pytest.mark.parametrize("text", ["EPSG:nonsense", "EPSG:999999", "", "metres"])
def test_a_crs_that_means_nothing(text):
    with pytest.raises(ConfigError, match="is not a CRS; write it like EPSG:25832"):
        parse_crs(text)
    assert parse_crs("EPSG:25832") == CRS.from_epsg(25832)


def test_heights_without_georeference_on_a_resampled_scene(write):
    nowhere = Grid(None, Affine.identity(), 60, 40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        dsm = write("dsm.tif", np.ones((40, 60), np.float32), nowhere)
    files = scene_files("a", write("a.tif", noise(1, WHOLE), WHOLE), dsm)
    with open_scene(inspect_scene(files, NDSM, gsd=1.0)) as scene:
        assert scene.read(scene.grid.extent).height_valid.all()


# Rasters that cannot be joined


def test_rasters_of_different_kinds_are_not_joined(write):
    first = write("a.tif", noise(3, WHOLE), WHOLE)
    with pytest.raises(BandError, match=r"b\.tif has 2 bands, .*a\.tif has 3"):
        inspect_rasters([first, write("b.tif", noise(2, WHOLE), WHOLE)])
    with pytest.raises(InputError, match=r"c\.tif is uint16, .*a\.tif is uint8: they"):
        inspect_rasters([first, write("c.tif", noise(3, WHOLE, "uint16"), WHOLE)])


def test_how_much_of_an_image_several_rasters_cover(write):
    left, far = WHOLE.at(Window(0, 0, 30, 40)), WHOLE.at(Window(500, 0, 30, 40))
    members = inspect_rasters(
        [write("a.tif", noise(1, left), left), write("b.tif", noise(1, far), far)]
    )
    assert covered_share(members, "image", WHOLE) == pytest.approx(0.5)
    with pytest.raises(GridError, match=r"b\.tif does not overlap image"):
        covered_share(members[1:], "image", WHOLE)
