"""Rasters that lie too far apart for one grid, and sparse surveys that do not."""

import math

import pytest
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform

from cafe_cli.raster.grid import Grid
from cafe_cli.raster.proximity import find_distant


def sheet(x, y, epsg=25832, side=256, pixel=0.5):
    return Grid(CRS.from_epsg(epsg), Affine(pixel, 0, x, 0, -pixel, y), side, side)


def placed(longitude, latitude, epsg, **options):
    (x,), (y,) = transform("EPSG:4326", f"EPSG:{epsg}", [longitude], [latitude])
    return sheet(x, y, epsg, **options)


def find(*grids):
    return find_distant([f"s{n}.tif" for n in range(1, len(grids) + 1)], grids, grids[0])


@pytest.mark.parametrize(
    "neighbour",
    [(5e5, 5.6e6, 25832), (2.6e6, 1.2e6, 2056), (155e3, 463e3, 28992), (25e3, 2e4, 3068)],
)  # fmt: skip
def test_a_sheet_at_the_origin_has_lost_its_georeference(neighbour):
    x, y, epsg = neighbour
    near = sheet(x, y, epsg)
    found = find(near, sheet(x + 128, y, epsg), sheet(0, 0, epsg))
    assert found.level == "error"
    assert found.where == "s3.tif"
    assert found.message.startswith(f"s3.tif lies {math.hypot(x - 128, y - 128) / 1000:,.0f} km")
    assert "s3.tif has a corner at 0, 0" in found.message


def test_the_sheet_that_names_the_grid_may_be_the_lost_one():
    found = find(sheet(0, 128), sheet(500000, 5600000), sheet(500128, 5600000))
    assert found.where == "s1.tif"


@pytest.mark.parametrize(
    ("west", "east"),
    [
        (placed(179.99, -17, 4326, pixel=5e-6), placed(-180, -17, 4326, pixel=5e-6)),
        (placed(179.99, -17, 3857), placed(-179.99, -17, 3857)),
        (placed(179.99, 66, 3395), placed(-179.99, 66.1, 3395)),
    ],
)
def test_the_date_line_parts_maps_of_both_sides(west, east):
    found = find(west, east)
    assert found.level == "error"
    assert "both sides of the date line" in found.message
    assert "s1.tif" in found.message
    assert "s2.tif" in found.message


def test_a_crs_without_the_date_line_joins_both_sides():
    west, east = placed(179.99, -17, 3460), placed(-179.99, -17, 32701)
    assert find(west, east) is None


@pytest.mark.parametrize("latitude", [0, 47, 70])
def test_coordinates_of_another_zone_are_told(latitude):
    right = placed(9.1, latitude, 25832)
    x, y = right.transform.c, right.transform.f
    found = find(right, sheet(x, y, 25833), sheet(x + 200, y))
    assert found.level == "error"
    assert found.where == "s2.tif"
    assert "check their CRS and zone" in found.message


def test_islands_overseas_are_scenes_of_their_own():
    found = find(placed(2.3, 48.8, 32631), placed(55.5, -21.1, 32740), placed(2.4, 48.8, 32631))
    assert found.level == "error"
    assert found.where == "s2.tif"


def test_little_is_lost_on_a_small_common_grid():
    found = find(sheet(5e5, 5e6, side=10, pixel=1000), sheet(9e5, 5.4e6, side=10, pixel=1000))
    assert found.level == "warning"


def test_a_corridor_and_islands_of_one_survey_are_joined():
    corridor = [sheet(3e5 + 1000 * n, 5e6 + 700 * n, side=500) for n in range(300)]
    assert find(*corridor) is None
    islands = [sheet(5e5 + x, 5e6 + y, side=500) for x, y in ((0, 0), (60_000, 10_000), (9e4, 9e4))]
    assert find(*islands) is None


def test_wide_maps_far_apart_are_joined():
    assert find(sheet(3e5, 5e6, pixel=500), sheet(9e5, 5e6, pixel=500)) is None


def test_rasters_without_a_crs_count_in_metres():
    lost = Grid(None, Affine(0.5, 0, 0, 0, -0.5, 0), 256, 256)
    near = Grid(None, Affine(0.5, 0, 5e5, 0, -0.5, 5.6e6), 256, 256)
    assert find(near, lost).where == "s2.tif"
