"""Grids and their overlap."""

import math

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.warp import transform

from cafe_cli.errors import GridError
from cafe_cli.raster.grid import Grid, check_overlap, describe_crs
from cafe_cli.raster.reader import open_raster
from cafe_cli.raster.window import Window
from tests.support.rasters import LAMBERT, UTM, grid, moved

OREGON = CRS.from_epsg(2994)
DEGREES = CRS.from_epsg(4326)


LOCAL = CRS.from_wkt('LOCAL_CS["Site",UNIT["foot",0.3048]]')


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
    where = grid(pixel=0.25, left=1e6, top=9e5, crs=crs)
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


# Rasters without a geotransform


RPC = {f"{axis}_OFF": "100" for axis in ("LINE", "SAMP", "HEIGHT", "LAT", "LONG")}
RPC |= {key.replace("OFF", "SCALE"): value for key, value in RPC.items()}
for coefficients in ("LINE_NUM", "LINE_DEN", "SAMP_NUM", "SAMP_DEN"):
    RPC[f"{coefficients}_COEFF"] = " ".join(["1"] * 20)


def placed_otherwise(path, crs=None, gcps=None, **tags):
    size = {"width": 4, "height": 4, "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", **size, crs=crs) as dataset:
        dataset.write(np.ones((1, 4, 4), np.uint8))
        if gcps:
            dataset.gcps = gcps
        for namespace, values in tags.items():
            dataset.update_tags(ns=namespace, **values)
    return str(path)


def corner_points(step):
    return [GroundControlPoint(r, c, 9 + c * step, 47 - r * step) for r in (0, 4) for c in (0, 4)]


@pytest.mark.parametrize(
    ("placement", "said"),
    [
        ({"gcps": (corner_points(0.5), UTM)}, "control points.*gdalwarp -t_srs EPSG:32632"),
        ({"gcps": (corner_points(1e-5), DEGREES)}, "control points.*gdalwarp -t_srs EPSG:CODE"),
        ({"RPC": RPC}, "RPCs.*gdalwarp -rpc -to RPC_DEM=DTM"),
        (
            {"GEOLOCATION": {"X_DATASET": "x.tif", "Y_DATASET": "y.tif", "X_BAND": "1"}},
            "geolocation arrays.*gdalwarp -geoloc",
        ),
        ({"crs": UTM}, "is in EPSG:32632 but has no geotransform.*a_ullr"),
    ],
)
def test_a_raster_that_has_to_be_warped_first_is_refused(tmp_path, placement, said):
    path = placed_otherwise(tmp_path / "image.tif", **placement)
    with open_raster(path) as dataset, pytest.raises(GridError, match=said) as error:
        Grid.of(dataset)
    assert "a_srs" not in str(error.value)


def test_pixels_are_a_grid_of_their_own(tmp_path):
    with open_raster(placed_otherwise(tmp_path / "image.tif")) as dataset:
        assert not Grid.of(dataset).is_georeferenced
