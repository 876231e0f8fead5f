import numpy as np
import pytest

from cafe_cli.errors import InputError
from cafe_cli.raster.mosaic_view import inspect_rasters
from cafe_cli.raster.overview import read_overview
from tests.support.rasters import LAMBERT, UTM, around, grid, moved, noise, write

WHERE = grid(60, 42)


def overview(paths, where=WHERE, factor=5, **options):
    members = inspect_rasters([paths] if isinstance(paths, str) else paths, None, where)
    return read_overview(members, where, factor, **options)


def test_means_of_whole_cells(tmp_path):
    values = noise(3, WHERE)
    found, valid = overview(write(tmp_path / "a.tif", values, WHERE))
    assert found.shape == (3, 9, 12)
    assert valid.all()
    whole = values[:, :40].astype(float).reshape(3, 8, 5, 12, 5).mean(axis=(2, 4))
    assert np.abs(found[:, :8] - whole).max() <= 0.5 + 1e-6  # rounded
    rest = values[:, 40:].astype(float).reshape(3, 2, 12, 5).mean(axis=(1, 3))
    assert np.abs(found[:, 8] - rest).max() <= 0.5 + 1e-6


def test_one_to_one_is_the_raster(tmp_path):
    values = noise(1, WHERE, "uint16")
    found, valid = overview(write(tmp_path / "a.tif", values, WHERE), factor=1)
    assert (found == values).all()
    assert valid.all()


def test_bands_that_were_named_keep_their_order(tmp_path):
    path = write(tmp_path / "a.tif", noise(4, WHERE), WHERE)
    members = inspect_rasters([path], None, WHERE, bands=(4, 1, 2))
    found, _ = read_overview(members, WHERE, 1, bands=2)
    assert (found == noise(4, WHERE)[[3, 0]]).all()


@pytest.mark.parametrize(
    "marks", [{"nodata": 7}, {"mask": "half"}, {"alpha": 2}], ids=["nodata", "mask", "alpha"]
)
def test_voids(tmp_path, marks):
    half = np.arange(WHERE.width) < 30
    values = np.where(half, 7, 100).astype(np.uint8) * np.ones((WHERE.height, 1), np.uint8)
    if "alpha" in marks:
        values = np.stack([values, np.where(values == 7, 0, 255).astype(np.uint8)])
    if "mask" in marks:
        marks = {"mask": np.broadcast_to(~half, values.shape)}
    found, valid = overview(write(tmp_path / "a.tif", values, WHERE, **marks))
    assert (valid == (np.arange(12) >= 6)).all()
    assert (found[0][valid] == 100).all()


@pytest.mark.parametrize("dtype", ["float32", "int16", "uint8"])
def test_voids_have_no_part_in_a_mean(tmp_path, dtype):
    nodata = 0 if dtype == "uint8" else -9999
    values = np.where(np.arange(WHERE.width) < 28, nodata, 150) * np.ones((WHERE.height, 1))
    path = write(tmp_path / "a.tif", values.astype(dtype), WHERE, nodata=nodata)
    found, valid = overview(path)
    assert (valid == (np.arange(12) >= 5)).all()  # a part of the sixth column has data
    assert (found[0][valid] == 150).all()
    told = write(tmp_path / "b.tif", values.astype(dtype), WHERE)
    assert (overview(told, nodata=nodata)[1] == valid).all()


def test_sheets(tmp_path):
    """Two sheets side by side, of which the first wins where both have data."""
    right = moved(WHERE, 20, 0, width=40)
    paths = [
        write(tmp_path / "a.tif", np.full((42, 30), 1, np.uint8), moved(WHERE, 0, 0, width=30)),
        write(tmp_path / "b.tif", np.full((42, 40), 2, np.uint8), right),
    ]
    found, valid = overview(paths)
    assert valid.all()
    assert (found[0] == np.where(np.arange(12) < 6, 1, 2)).all()


@pytest.mark.parametrize(("crs", "pixel", "angle"), [(LAMBERT, 0.7, 0), (UTM, 1.3, 30)])
def test_other_grids(tmp_path, crs, pixel, angle):
    x, y = WHERE.footprint.centroid.coords[0]
    other = around(x, y, 90, pixel, crs, angle)
    path = write(tmp_path / "a.tif", np.full((other.height, other.width), 9, np.uint8), other)
    found, valid = overview(path)
    assert valid.all()
    assert (found == 9).all()


def test_a_raster_elsewhere_shows_nothing(tmp_path):
    path = write(tmp_path / "a.tif", noise(1, WHERE), moved(WHERE, 500, 0))
    assert not overview(path)[1].any()


def test_damage(tmp_path):
    path = write(tmp_path / "a.tif", noise(3, grid(400, 400)), grid(400, 400), compress="deflate")
    data = (tmp_path / "a.tif").read_bytes()
    middle = len(data) // 2
    (tmp_path / "a.tif").write_bytes(data[:middle] + b"\xff" * 60_000 + data[middle + 60_000 :])
    with pytest.raises(InputError, match=r"cannot read .*a\.tif at .*; the file is truncated or"):
        overview(path, grid(400, 400))
