"""Rasters on another grid."""

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import Resampling

from cafe_cli.errors import GridError
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.warp import in_memory_raster
from cafe_cli.raster.window import Window
from tests.support.rasters import (
    HOLE,
    LAMBERT,
    UTM,
    around,
    centres,
    grid,
    nearest,
    noise,
    read,
    warped,
)

LOCAL = CRS.from_wkt('LOCAL_CS["Site",UNIT["foot",0.3048]]')


# Another grid


@pytest.mark.parametrize(
    "target",
    [
        around(300_000, 5_200_000, 40, 0.3, UTM),
        around(300_010, 5_199_990, 40, 0.7, LAMBERT),
        around(300_000, 5_200_000, 40, 0.5, UTM, angle=33),
        around(300_003, 5_200_001, 30, 0.45, LAMBERT, angle=-100, flip=-1),
        around(300_000, 5_200_000, 12, 0.5, UTM, flip=-1),
    ],
    ids=["resolution", "crs", "turned", "turned, south up, crs", "south up"],
)
@pytest.mark.parametrize(
    "source",
    [
        around(300_000, 5_200_000, 25, 0.5, UTM),
        around(300_000, 5_200_000, 25, 1.5, UTM, angle=20, flip=-1),
        around(300_000, 5_200_000, 25, 0.5, LAMBERT, flip=-1),
    ],
    ids=["north up", "turned", "south up"],
)
def test_nearest_is_the_pixel_below_each_centre(write, source, target):
    values = noise(1, source, "uint8")
    path = write("a.tif", values, source)
    seen, valid = warped(path, target)
    expected = nearest(values[0], source, target)
    right = np.where(valid, seen[0].astype(int), -1) == expected
    assert right.mean() > 0.999  # a centre on the edge of two pixels may go to either
    assert 0.2 < valid.mean() <= 1


@pytest.mark.parametrize("crs", [UTM, LAMBERT])
def test_bilinear_of_a_plane_is_the_plane(write, crs):
    source, target = around(300_000, 5_200_000, 60, 0.8, crs), around(3e5, 5.2e6, 30, 0.3, UTM)
    x, y = centres(source)
    path = write("a.tif", (0.3 * (x - x[0, 0]) - 0.2 * (y - y[0, 0])).astype(np.float32), source)
    values, valid = warped(path, target, Resampling.bilinear)
    u, v = centres(target, crs)
    assert valid.all()
    assert np.abs(values[0] - (0.3 * (u - x[0, 0]) - 0.2 * (v - y[0, 0]))).max() < 1e-4


def test_a_window_shows_what_the_whole_shows(write):
    source = around(300_000, 5_200_000, 200, 0.5, LAMBERT)
    target = around(300_000, 5_200_000, 150, 0.2, UTM)
    path = write("a.tif", noise(1, source, "float32"), source)
    whole, known = warped(path, target, Resampling.bilinear)
    for window in (Window(0, 0, 64, 64), Window(100, 37, 200, 300), Window(690, 600, 64, 200)):
        values, valid = warped(path, target, Resampling.bilinear, window)
        part = window.intersection(target.extent).slices()
        inside = window.intersection(target.extent).slices(window)
        assert np.array_equal(values[:, *inside], whole[:, *part])
        assert np.array_equal(valid[inside], known[part])
        assert valid.sum() == known[part].sum()


@pytest.mark.parametrize("place", [grid(crs=None), Grid(None, Affine.identity(), 8, 6)])
def test_no_crs_on_either_side_is_one_plane(write, place):
    values = noise(1, place)
    path = write("a.tif", values, place)
    seen, valid = warped(path, Grid(None, place.transform, 9, 6))
    assert np.array_equal(seen[:, :, :8], values)
    assert valid[:, :8].all()
    assert not valid[:, 8].any()


def test_a_raster_of_5999_columns_on_a_grid_of_6000(write):
    narrow, wide = grid(5999, 2, 0.05, crs=None), grid(6000, 2, 0.05, crs=None)
    values = noise(1, narrow)
    seen, valid = warped(write("a.tif", values, narrow), wide)
    assert np.array_equal(seen[:, :, :5999], values)
    assert valid.sum() == 2 * 5999


def test_a_local_system_is_compatible_with_itself_only(write):
    where = grid(crs=LOCAL)
    path = write("a.tif", noise(1, where), where)
    assert np.array_equal(warped(path, where)[0], read(path))
    with pytest.raises(GridError, match=r"cannot bring .*a\.tif onto the grid"):
        warped(path, grid())


def test_a_crs_on_one_side_only_is_refused(write):
    plain = write("plain.tif", noise(1, grid()), grid(crs=None))
    with pytest.raises(GridError, match=r"plain\.tif has no CRS while .* EPSG:32632"):
        warped(plain, grid())
    placed = write("placed.tif", noise(1, grid()), grid())
    with pytest.raises(GridError, match="the reference grid has no CRS"):
        warped(placed, grid(crs=None))


def test_alpha_before_the_last_band_is_the_mask_too(write):
    values = noise(4, grid())
    values[1] = np.where(HOLE, 0, 255)
    path = write("a.tif", values, grid(), alpha=2)
    seen, valid = warped(path, grid())
    assert np.array_equal(valid, ~HOLE)
    assert np.array_equal(seen[:, ~HOLE], values[[0, 2, 3]][:, ~HOLE])


def test_an_array_can_be_shown_like_a_file():
    values = noise(1, grid(), "float32")[0]
    with in_memory_raster(values, grid()) as dataset:
        assert Grid.of(dataset) == grid()
        assert np.array_equal(dataset.read(1), values)
