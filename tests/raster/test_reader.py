import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.warp import transform

from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.errors import BandError, GridError, InputError, OutputError
from cafe_cli.raster.grid import Grid, check_overlap, describe_crs
from cafe_cli.raster.reader import (
    image_bands,
    open_raster,
    read_decimated,
    read_valid,
    read_window,
    shows_an_image,
)
from cafe_cli.raster.warp import in_memory_raster, open_warped, read_warped
from cafe_cli.raster.window import Window
from cafe_cli.raster.writer import create_cog, read_classes, write_geotiff
from tests.support.rasters import LAMBERT, TABLE, UTM, around, centres, grid, nearest, noise, read
from tests.support.rasters import write as write_to

OREGON = CRS.from_epsg(2994)
DEGREES = CRS.from_epsg(4326)
LOCAL = CRS.from_wkt('LOCAL_CS["Site",UNIT["foot",0.3048]]')

NEEDS_GDAL = pytest.mark.skipif(
    shutil.which("gdalinfo") is None, reason="GDAL's programs are not installed"
)


def shown(path, where, resampling=Resampling.nearest, window=None, **options):
    """Return what a raster looks like on another grid: values and validity."""
    with (
        open_raster(path) as dataset,
        open_warped(dataset, where, resampling, **options) as view,
    ):
        return read_warped(view, window or where.extent)


def moved(where: Grid, columns: float, rows: float, factor=1.0, width=None, height=None) -> Grid:
    place = where.transform @ Affine.translation(columns, rows) @ Affine.scale(factor)
    return Grid(where.crs, place, width or where.width, height or where.height)


# Grids


@pytest.mark.parametrize(
    ("crs", "unit", "tolerance"),
    [
        (UTM, 1.0, 1e-12),
        (OREGON, 0.3048, 1e-12),
        (CRS.from_epsg(2274), 1200 / 3937, 1e-9),
        (LOCAL, 0.3048, 1e-12),
        (None, 1.0, 1e-12),
    ],
)
def test_the_gsd_is_in_metres(crs, unit, tolerance):
    where = grid(pixel=0.25, crs=crs)
    assert where.gsd == pytest.approx(0.25 * unit, rel=tolerance)
    assert where.at(Window(3, 2, 1, 1)).gsd == pytest.approx(where.gsd)


@pytest.mark.parametrize("latitude", [0, 47, -47, 80])
def test_degrees_are_narrower_towards_the_poles(latitude):
    pixel = 1e-5
    where = grid(pixel=pixel, left=9, top=latitude, crs=DEGREES)
    height, width = 111_320 * pixel, 111_320 * pixel * math.cos(math.radians(latitude))
    assert where.gsd == pytest.approx(math.sqrt(height * width), rel=1e-3)


def test_the_gsd_of_turned_and_oblong_pixels_is_the_root_of_their_area():
    place = Affine.translation(5e5, 5e6) @ Affine.rotation(30) @ Affine.scale(0.2, -0.8)
    assert Grid(UTM, place, 5, 5).gsd == pytest.approx(0.4)


def test_the_footprint_of_a_turned_grid_is_its_outline():
    place = Affine.translation(10, 20) @ Affine.rotation(90) @ Affine.scale(1, -1)
    where = Grid(UTM, place, 4, 2)
    assert where.footprint.area == pytest.approx(8)
    assert where.bounds == pytest.approx((10, 20, 12, 24))


def test_a_window_has_a_grid_of_its_own():
    where = grid().at(Window(2, 3, 4, 5))
    assert (where.width, where.height) == (4, 5)
    assert (where.transform.c, where.transform.f) == (300_001.0, 5_199_998.5)


def test_a_rescaled_grid_covers_the_same_ground():
    where = grid(width=101, height=60).rescaled(2)
    assert (where.width, where.height, where.gsd) == (51, 30, 1.0)
    assert grid(width=100, height=60).rescaled(1.0).same_pixels(grid(width=100, height=60))
    assert grid().rescaled(1000).extent == Window(0, 0, 1, 1)


def test_a_covering_grid_has_a_margin():
    where = Grid.covering(UTM, (0, 0, 10.5, 4), 2, margin=1)
    assert (where.width, where.height) == (8, 4)
    assert where.bounds == (-2, -2, 14, 6)


def test_a_trifle_of_pixel_size_is_the_same_grid():
    where = grid(width=5000, height=5000)
    assert where.same_pixels(grid(width=5000, height=5000, pixel=0.5 * (1 + 5e-15)))
    assert where.same_pixels(grid(width=5000, height=5000, pixel=0.5 + 1e-9 / 2))
    assert not where.same_pixels(grid(width=5000, height=5000, pixel=0.5 + 1e-6))
    assert not where.same_pixels(grid(width=5000, height=4999))
    assert not where.same_pixels(grid(width=5000, height=5000, crs=LAMBERT))
    assert not where.same_pixels(moved(where, 0.01, 0))


# Overlap


def test_the_share_of_ground_that_a_raster_covers():
    where = grid(width=100, height=80)
    assert check_overlap("a", moved(where, 50, 0), "b", where) == pytest.approx(0.5)
    assert check_overlap("a", moved(where, -10, -10, 2), "b", where) == pytest.approx(1)
    x, y = transform(UTM, LAMBERT, [300_025], [5_199_980])
    turned = grid(200, 200, left=x[0] - 50, top=y[0] + 50, crs=LAMBERT)
    assert check_overlap("a", turned, "b", where) == pytest.approx(1)


@pytest.mark.parametrize(
    "world",
    [
        Grid(DEGREES, Affine(0.1, 0, -180, 0, -0.1, 90), 3600, 1800),
        Grid(CRS.from_epsg(3857), Affine(1e4, 0, -2e7, 0, -1e4, 2e7), 4000, 4000),
    ],
)
def test_a_raster_of_the_world_covers_a_scene(world):
    assert check_overlap("world", world, "b", grid(800, 800)) == pytest.approx(1)
    assert check_overlap("a", grid(800, 800), "world", world) > 0


def test_rasters_apart_are_named_with_both_extents_in_one_crs():
    where = grid(width=10, height=10)
    x, y = transform(UTM, LAMBERT, [400_000], [5_100_000])
    apart = grid(width=10, height=10, left=x[0], top=y[0], crs=LAMBERT)
    with pytest.raises(GridError) as caught:
        check_overlap("dsm.tif", apart, "ortho.tif", where)
    message = str(caught.value)
    assert "dsm.tif does not overlap ortho.tif: in EPSG:32632 the first covers" in message
    assert "the second x 300000 to 300005, y 5199995 to 5200000" in message
    left = float(message.split("covers x ")[1].split(" to ")[0])
    assert left == pytest.approx(400_000, abs=5)


def test_rasters_that_only_touch_do_not_overlap():
    where = grid(width=10, height=10)
    with pytest.raises(GridError, match="does not overlap"):
        check_overlap("a", moved(where, 10, 0), "b", where)


@pytest.mark.parametrize(("first", "second"), [(UTM, OREGON), (OREGON, UTM), (UTM, LOCAL)])
def test_crs_without_common_ground(first, second):
    with pytest.raises(GridError, match=r"^a does not overlap b|^cannot transform a"):
        check_overlap("a", grid(crs=first), "b", grid(crs=second))


def test_one_raster_without_a_crs_is_named():
    with pytest.raises(GridError, match=r"a\.tif has no CRS while b is in EPSG:32632.*-a_srs"):
        check_overlap("a.tif", grid(crs=None), "b", grid())
    with pytest.raises(GridError, match="b has no CRS while a is in EPSG:32632"):
        check_overlap("a", grid(), "b", grid(crs=None))
    assert check_overlap("a", grid(crs=None), "b", grid(crs=None)) == pytest.approx(1)


def test_a_crs_has_a_short_name():
    assert [describe_crs(c) for c in (UTM, LOCAL)] == ["EPSG:32632", "Site"]
    assert "no CRS" in describe_crs(None)


# Reading


def test_a_missing_file_and_one_that_is_no_raster(tmp_path):
    with pytest.raises(InputError, match=r"none\.tif does not exist"):
        open_raster(str(tmp_path / "none.tif")).__enter__()
    text = tmp_path / "text.tif"
    text.write_text("not a raster")
    for path in (text, tmp_path):
        with pytest.raises(InputError, match=f"cannot open {path} as a raster"):
            open_raster(str(path)).__enter__()


def test_gdal_names_are_opened_as_they_are(write):
    path = write("a.tif", noise(1, grid()), grid())
    for name in (f"/vsisubfile/0,{path}", f"file://{path}", f"GTIFF_DIR:1:{path}"):
        with open_raster(name) as dataset:
            assert dataset.width == 8


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_named(write, kept):
    where = grid(width=256, height=256)
    path = write("cut.tif", noise(1, where), where, compress="deflate")
    os.truncate(path, int(kept * os.path.getsize(path)))

    def read_all():
        with open_raster(path) as dataset:
            read_window(dataset, where.extent, [1])

    def read_on_another_grid():
        shown(path, moved(where, 0.5, 0.5))

    for reading in (read_all, read_on_another_grid):
        with pytest.raises(InputError, match=r"cut\.tif") as caught:
            reading()
        assert "WarpedVRT" not in str(caught.value)


PLACES = st.integers(-12, 12)
WINDOWS = st.builds(Window, PLACES, PLACES, st.integers(1, 15), st.integers(1, 15))


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """Two bands, 8 x 6 pixels."""
    path = tmp_path_factory.mktemp("image") / "a.tif"
    return write_to(path, noise(2, grid(), "int16"), grid())


@given(WINDOWS, st.sampled_from([[1], [2], [2, 1], [1, 2, 1]]), st.integers(-5, 5))
def test_a_window_may_reach_beyond_the_raster(image, window, bands, fill):
    place = rasterio.windows.Window(window.col, window.row, window.width, window.height)
    with rasterio.open(image) as oracle, open_raster(image) as dataset:
        expected = oracle.read(bands, window=place, boundless=True, fill_value=fill)
        values = read_window(dataset, window, bands, fill)
        assert values.dtype == np.int16
        assert np.array_equal(values, expected)
        inside = oracle.read_masks(1, window=place, boundless=True) > 0
        assert np.array_equal(read_valid(dataset, window, bands), inside)


@NEEDS_GDAL
def test_bands_of_several_types_are_read_as_their_common_one(write, tmp_path):
    one = write("one.tif", noise(1, grid()), grid())
    other = write("other.tif", noise(1, grid(), "float32"), grid())
    subprocess.run(
        ["gdalbuildvrt", "-q", "-separate", tmp_path / "both.vrt", one, other], check=True
    )
    with open_raster(str(tmp_path / "both.vrt")) as dataset:
        values = read_window(dataset, grid().extent, [1, 2])
    assert values.dtype == np.float32
    assert np.array_equal(values, np.concatenate([read(one), read(other)]))


def test_all_bands_but_alpha_unless_they_are_named(write):
    path = write("a.tif", noise(4, grid()), grid(), alpha=4)
    with open_raster(path) as dataset:
        assert image_bands(dataset, None) == (1, 2, 3)
        assert image_bands(dataset, (4, 1)) == (4, 1)
        with pytest.raises(BandError, match=r"a\.tif has 4 bands, there is no band 5"):
            image_bands(dataset, (1, 5))


def test_alpha_that_shows_an_image(write):
    values = noise(4, grid(50, 50))
    mask = np.where(values[3:] > 100, 255, 0).astype(np.uint8)
    real = write("a.tif", np.concatenate([values[:3], mask]), grid(50, 50), alpha=4)
    infrared = write("b.tif", values, grid(50, 50), alpha=4)
    for path, expected in ((real, False), (infrared, True)):
        with open_raster(path) as dataset:
            assert shows_an_image(dataset, 4) is expected


# Validity

HOLE = np.zeros((6, 8), bool)
HOLE[1:4, 2:5] = True
EVERYWHERE = Window(0, 0, 8, 6)


@pytest.fixture(params=["alpha", "alpha of five", "mask", "nodata", "NaN", "NaN beside nodata"])
def holed(request, write):
    """A raster of 100 with a hole, whose values are far off, in each way that rasters have them."""
    values = np.where(HOLE, 5000, 100).astype(np.float32)[None]
    if request.param == "alpha":
        alpha = np.where(HOLE, 0, 255).astype(np.float32)[None]
        return write("a.tif", np.concatenate([values, alpha]), grid(), alpha=2)
    if request.param == "alpha of five":
        alpha = np.where(HOLE, 0, 255)[None]
        return write(
            "a.tif", np.concatenate([*[values] * 4, alpha]).astype("uint16"), grid(), alpha=5
        )
    if request.param == "mask":
        return write("a.tif", values, grid(), mask=~HOLE)
    if request.param == "nodata":
        return write("a.tif", values, grid(), nodata=5000)
    values[:, HOLE] = np.nan
    return write("a.tif", values, grid(), nodata=5000 if "beside" in request.param else None)


def test_holes_are_not_valid(holed, request):
    with open_raster(holed) as dataset:
        bands = image_bands(dataset, None)
        valid = read_valid(dataset, EVERYWHERE, bands)
        finite = np.isfinite(read_window(dataset, EVERYWHERE, bands)).all(axis=0)
    assert np.array_equal(valid & finite, ~HOLE)


@pytest.mark.parametrize("resampling", [Resampling.bilinear, Resampling.average, Resampling.min])
@pytest.mark.parametrize("factor", [0.3, 0.5, 1.0, 2.3])
def test_holes_never_enter_an_interpolation(holed, resampling, factor, request):
    finer = moved(grid(), 0.25, 0.25, factor, width=12, height=9)
    values, valid = shown(holed, finer, resampling)
    valid &= np.isfinite(values[0])
    assert values[0][valid] == pytest.approx(100)
    assert 0 < valid.mean() < 1
    column, row = (~grid().transform) @ centres(finer)
    deep = (column > 3) & (column < 4) & (row > 2) & (row < 3)
    assert not valid[deep].any()
    if "NaN beside nodata" not in request.node.name:  # the one kind of hole that grows
        assert valid[nearest(~HOLE, grid(), finer) == 1].all()


def test_a_pixel_is_valid_where_any_band_is(write):
    values = np.array([[[0, 0, 7]], [[0, 5, 7]]], np.uint8)
    path = write("a.tif", values, grid(3, 1), nodata=0)
    with open_raster(path) as dataset:
        valid = read_valid(dataset, Window(0, 0, 3, 1), (1, 2))
    assert valid.tolist() == [[False, True, True]]


def test_nodata_can_be_replaced(write):
    path = write("a.tif", np.array([[-1, 0, 7]], np.int16), grid(3, 1), nodata=0)
    assert shown(path, grid(3, 1))[1].tolist() == [[True, False, True]]
    assert shown(path, grid(3, 1), nodata=-1)[1].tolist() == [[False, True, True]]
    with open_raster(path) as dataset:
        assert np.isnan(read_decimated(dataset, 9)).tolist() == [[False, True, False]]
        assert np.isnan(read_decimated(dataset, 9, -1)).tolist() == [[True, False, False]]


def test_a_decimated_look_has_the_extent_of_the_whole(write):
    where = grid(100, 40)
    path = write("a.tif", np.broadcast_to(np.arange(100.0), (40, 100)), where)
    with open_raster(path) as dataset:
        assert read_decimated(dataset, 50).shape == (40, 50)
        seen = read_decimated(dataset, 10)
    assert seen.shape == (10, 10)
    assert (np.diff(seen, axis=1) > 0).all()
    assert seen[0, 0] < 10
    assert seen[0, -1] >= 90


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
    seen, valid = shown(path, target)
    expected = nearest(values[0], source, target)
    right = np.where(valid, seen[0].astype(int), -1) == expected
    assert right.mean() > 0.999  # a centre on the edge of two pixels may go to either
    assert 0.2 < valid.mean() <= 1


@pytest.mark.parametrize("crs", [UTM, LAMBERT])
def test_bilinear_of_a_plane_is_the_plane(write, crs):
    source, target = around(300_000, 5_200_000, 60, 0.8, crs), around(3e5, 5.2e6, 30, 0.3, UTM)
    x, y = centres(source)
    path = write("a.tif", (0.3 * (x - x[0, 0]) - 0.2 * (y - y[0, 0])).astype(np.float32), source)
    values, valid = shown(path, target, Resampling.bilinear)
    u, v = centres(target, crs)
    assert valid.all()
    assert np.abs(values[0] - (0.3 * (u - x[0, 0]) - 0.2 * (v - y[0, 0]))).max() < 1e-4


def test_a_window_shows_what_the_whole_shows(write):
    source = around(300_000, 5_200_000, 200, 0.5, LAMBERT)
    target = around(300_000, 5_200_000, 150, 0.2, UTM)
    path = write("a.tif", noise(1, source, "float32"), source)
    whole, known = shown(path, target, Resampling.bilinear)
    for window in (Window(0, 0, 64, 64), Window(100, 37, 200, 300), Window(690, 600, 64, 200)):
        values, valid = shown(path, target, Resampling.bilinear, window)
        part = window.intersection(target.extent).slices()
        inside = window.intersection(target.extent).slices(window)
        assert np.array_equal(values[:, *inside], whole[:, *part])
        assert np.array_equal(valid[inside], known[part])
        assert valid.sum() == known[part].sum()


@pytest.mark.parametrize("place", [grid(crs=None), Grid(None, Affine.identity(), 8, 6)])
def test_no_crs_on_either_side_is_one_plane(write, place):
    values = noise(1, place)
    path = write("a.tif", values, place)
    seen, valid = shown(path, Grid(None, place.transform, 9, 6))
    assert np.array_equal(seen[:, :, :8], values)
    assert valid[:, :8].all()
    assert not valid[:, 8].any()


def test_a_raster_of_5999_columns_on_a_grid_of_6000(write):
    narrow, wide = grid(5999, 2, 0.05, crs=None), grid(6000, 2, 0.05, crs=None)
    values = noise(1, narrow)
    seen, valid = shown(write("a.tif", values, narrow), wide)
    assert np.array_equal(seen[:, :, :5999], values)
    assert valid.sum() == 2 * 5999


def test_a_local_system_is_compatible_with_itself_only(write):
    where = grid(crs=LOCAL)
    path = write("a.tif", noise(1, where), where)
    assert np.array_equal(shown(path, where)[0], read(path))
    with pytest.raises(GridError, match=r"cannot bring .*a\.tif onto the grid"):
        shown(path, grid())


def test_a_crs_on_one_side_only_is_refused(write):
    plain = write("plain.tif", noise(1, grid()), grid(crs=None))
    with pytest.raises(GridError, match=r"plain\.tif has no CRS while .* EPSG:32632"):
        shown(plain, grid())
    placed = write("placed.tif", noise(1, grid()), grid())
    with pytest.raises(GridError, match="the reference grid has no CRS"):
        shown(placed, grid(crs=None))


def test_alpha_before_the_last_band_is_the_mask_too(write):
    values = noise(4, grid())
    values[1] = np.where(HOLE, 0, 255)
    path = write("a.tif", values, grid(), alpha=2)
    seen, valid = shown(path, grid())
    assert np.array_equal(valid, ~HOLE)
    assert np.array_equal(seen[:, ~HOLE], values[[0, 2, 3]][:, ~HOLE])


def test_an_array_can_be_shown_like_a_file():
    values = noise(1, grid(), "float32")[0]
    with in_memory_raster(values, grid()) as dataset:
        assert Grid.of(dataset) == grid()
        assert np.array_equal(dataset.read(1), values)


# Writing


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_a_tile_is_read_back_as_it_was_written(tmp_path, dtype, count):
    values = noise(count, grid(), dtype)
    write_geotiff(tmp_path / "a.tif", values, grid())
    with rasterio.open(tmp_path / "a.tif") as dataset:
        assert np.array_equal(dataset.read(), values)
        assert dataset.dtypes[0] == dtype
        assert ColorInterp.alpha not in dataset.colorinterp
        assert (dataset.read_masks() == 255).all()
        assert Grid.of(dataset) == grid()


def test_a_tile_can_have_a_mask(tmp_path):
    write_geotiff(tmp_path / "a.tif", noise(3, grid()), grid(), mask=~HOLE)
    with rasterio.open(tmp_path / "a.tif") as dataset:
        assert np.array_equal(dataset.dataset_mask() > 0, ~HOLE)
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]


def test_a_tile_that_cannot_be_written(tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        write_geotiff(tmp_path / "none" / "a.tif", noise(1, grid()), grid())


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from tests.support.rasters import TABLE, grid, noise
from cafe_cli.raster.writer import create_cog, write_geotiff
from cafe_cli.errors import OutputError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
where = grid(600, 600)
try:
    if sys.argv[2] == "tile":
        write_geotiff(Path(sys.argv[1]), noise(1, where), where)
    else:
        with create_cog(Path(sys.argv[1]), where, False, TABLE) as dataset:
            dataset.write(noise(1, where))
except OutputError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("kind", ["tile", "cog"])
@pytest.mark.parametrize("limit", [1_000, 300_000])
def test_a_full_disk_is_noticed(tmp_path, kind, limit):
    """600 x 600 random bytes do not fit in 300 kB; a COG of them not even when they do, once."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "a.tif"), kind, str(limit)]
    paths = str(Path(__file__).parents[2])
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        check=False,
    )
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    if kind == "cog":
        assert list(tmp_path.iterdir()) == []


def write_cog(path, where, classes=TABLE, overwrite=False, **options):
    values = noise(1, where)[0] % len(TABLE)
    with create_cog(path, where, overwrite, classes, **options) as dataset:
        dataset.write(values, 1)
    return values


def gdalinfo(path):
    shown = subprocess.run(["gdalinfo", "-json", path], capture_output=True, check=True)
    return json.loads(shown.stdout)


@NEEDS_GDAL
def test_gdalinfo_of_a_label_raster(tmp_path, request):
    where = grid(1500, 700)
    write_cog(tmp_path / "a.tif", where, CAFE="x")
    info = gdalinfo(tmp_path / "a.tif")
    band = info["bands"][0]
    assert info["metadata"]["IMAGE_STRUCTURE"]["LAYOUT"] == "COG"
    assert info["metadata"][""]["CAFE"] == "x"
    assert info["geoTransform"] == list(where.transform.to_gdal())
    assert (band["noDataValue"], band["block"], band["type"]) == (255, [512, 512], "Byte")
    assert [tuple(o["size"]) for o in band["overviews"]] == [(750, 350), (375, 175)]
    entries = band["colorTable"]["entries"]
    assert entries[1] == [0, 255, 0, 255]
    assert band["colorInterpretation"] == "Palette"
    text = subprocess.run(
        ["gdalinfo", tmp_path / "a.tif"], capture_output=True, text=True, check=True
    )
    assert "2: building" in text.stdout
    assert 'ID["EPSG",32632]' in text.stdout


def test_a_cog_holds_what_was_written(tmp_path):
    where = grid(1030, 513)
    values = write_cog(tmp_path / "a.tif", where)
    assert np.array_equal(read(tmp_path / "a.tif")[0], values)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["a.tif", "a.tif.aux.xml"]
    with open_raster(str(tmp_path / "a.tif")) as dataset:
        assert read_classes(dataset) == TABLE


def test_overviews_of_labels_are_labels(tmp_path):
    where = grid(1024, 1024)
    values = np.where(noise(1, where)[0] < 128, 0, 2).astype(np.uint8)
    with create_cog(tmp_path / "a.tif", where, False, TABLE) as dataset:
        dataset.write(values, 1)
    with rasterio.open(tmp_path / "a.tif", overview_level=0) as dataset:
        assert set(np.unique(dataset.read())) == {0, 2}


def test_what_is_never_written_is_nodata(tmp_path):
    with create_cog(tmp_path / "a.tif", grid(1100, 10), False, None) as dataset:
        dataset.write(np.full((1, 10, 5), 7, np.uint8), window=((0, 10), (0, 5)))
    values = read(tmp_path / "a.tif")[0]
    assert (values[:, :5] == 7).all()
    assert (values[:, 5:] == 255).all()


@NEEDS_GDAL
def test_names_are_escaped(tmp_path):
    classes = ClassTable((LandClass(0, "grass & <trees>"), LandClass(1, "Gebäude")))
    write_cog(tmp_path / "a.tif", grid(), classes)
    text = subprocess.run(
        ["gdalinfo", tmp_path / "a.tif"], capture_output=True, text=True, check=True
    )
    assert "0: grass & <trees>" in text.stdout
    assert "1: Gebäude" in text.stdout


def test_an_exception_leaves_nothing_behind(tmp_path):
    def fail():
        with create_cog(tmp_path / "a.tif", grid(), False, TABLE) as dataset:
            dataset.write(noise(1, grid()))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists_is_refused_and_left(tmp_path):
    path = tmp_path / "a.tif"
    path.write_text("old")
    with pytest.raises(OutputError, match="exists; pass --overwrite"):
        write_cog(path, grid())
    assert path.read_text() == "old"
    values = write_cog(path, grid(), overwrite=True)
    assert np.array_equal(read(path)[0], values)
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        write_cog(folder, grid(), overwrite=True)
    assert folder.is_dir()


def test_the_names_of_a_replaced_raster_go_with_it(tmp_path):
    path = tmp_path / "a.tif"
    write_cog(path, grid())
    write_cog(path, grid(), classes=None, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]
    with open_raster(str(path)) as dataset:
        assert read_classes(dataset) is None


@pytest.mark.parametrize("tag", ["{", "[{}]", "5", '[{"id": 3, "name": "a", "color": "#000000"}]'])
def test_a_damaged_class_table_is_named(write, tag):
    path = write("a.tif", noise(1, grid()), grid())
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(CLASSES=tag)
    with (
        open_raster(path) as dataset,
        pytest.raises(InputError, match=r"a\.tif: the CLASSES tag is damaged"),
    ):
        read_classes(dataset)
