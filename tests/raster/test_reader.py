"""Reading windows of pixels and of validity."""

import os
import shutil
import subprocess

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from rasterio.enums import Resampling

from cafe_cli.errors import BandError, InputError
from cafe_cli.raster.reader import (
    image_bands,
    open_raster,
    read_decimated,
    read_valid,
    read_window,
    shows_an_image,
)
from cafe_cli.raster.window import Window
from tests.support.rasters import HOLE, centres, grid, moved, nearest, noise, read, warped
from tests.support.rasters import write as write_to

NEEDS_GDAL = pytest.mark.skipif(
    shutil.which("gdalinfo") is None, reason="GDAL's programs are not installed"
)


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
        warped(path, moved(where, 0.5, 0.5))

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
    values, valid = warped(holed, finer, resampling)
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
    assert warped(path, grid(3, 1))[1].tolist() == [[True, False, True]]
    assert warped(path, grid(3, 1), nodata=-1)[1].tolist() == [[False, True, True]]
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


PYTHON_PIXELS = """<VRTDataset rasterXSize="8" rasterYSize="6">
<VRTRasterBand dataType="Byte" band="1" subClass="VRTDerivedRasterBand">
<PixelFunctionType>run</PixelFunctionType><PixelFunctionLanguage>Python</PixelFunctionLanguage>
<PixelFunctionCode>def run(*args, **more): open("{}", "w").close()</PixelFunctionCode>
</VRTRasterBand></VRTDataset>"""


@pytest.mark.parametrize("setting", ["YES", "TRUSTED_MODULES", "NO"])
def test_code_in_a_virtual_raster_never_runs(setting, tmp_path, monkeypatch):
    monkeypatch.setenv("GDAL_VRT_ENABLE_PYTHON", setting)
    path, sign = tmp_path / "a.vrt", tmp_path / "sign"
    path.write_text(PYTHON_PIXELS.format(sign))
    with open_raster(str(path)) as dataset, pytest.raises(InputError, match="Python"):
        read_window(dataset, Window(0, 0, 8, 6), [1])
    assert not sign.exists()
