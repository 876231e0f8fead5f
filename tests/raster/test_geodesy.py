"""Metres per unit of a CRS, against the known scale of projections."""

import math

import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.warp import transform

from cafe_cli.raster.geodesy import to_geocentric, unit_metres

MERCATOR = CRS.from_epsg(3857)


def place(crs, longitude, latitude):
    (x,), (y,) = transform("EPSG:4326", crs, [longitude], [latitude])
    return x, y


def on_the_ground(crs, longitude, latitude):
    crs = CRS.from_user_input(crs)
    return unit_metres(crs, place(crs, longitude, latitude))


@pytest.mark.parametrize("latitude", [-45, 20, 50, 60, 70])
@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:3395"])
def test_a_unit_of_mercator_shrinks_with_the_cosine_of_the_latitude(crs, latitude):
    assert on_the_ground(crs, 9, latitude) == pytest.approx(
        math.cos(math.radians(latitude)), rel=5e-3
    )


@pytest.mark.parametrize(
    ("crs", "longitude", "latitude", "expected"),
    [
        ("EPSG:32661", 30, 89, 1 / 0.9941),
        ("EPSG:32661", 30, 60, 1 / 1.065),
        ("EPSG:3031", -60, -50, 1 / 1.1016),
        ("EPSG:3413", 10, 55, 1 / 1.066),
        ("EPSG:3034", 25, 70, 1 / 1.0346),
    ],
)
def test_the_scale_of_a_polar_or_continental_projection(crs, longitude, latitude, expected):
    assert on_the_ground(crs, longitude, latitude) == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("pole", ["EPSG:32661", "EPSG:3413", "EPSG:3031"])
def test_the_pole_itself_has_a_scale(pole):
    crs = CRS.from_user_input(pole)
    latitude = -90 if pole == "EPSG:3031" else 90
    x, y = place(crs, 0, latitude)
    assert unit_metres(crs, (x, y)) == pytest.approx(unit_metres(crs, (x + 1e4, y)), rel=1e-5)


@pytest.mark.parametrize(
    ("crs", "longitude", "latitude", "unit"),
    [
        ("EPSG:25832", 9, 50, 1),
        ("EPSG:25832", 12, 50, 1),
        ("EPSG:2154", 3, 43, 1),
        ("EPSG:2056", 8, 47, 1),
        ("EPSG:27700", -6, 57, 1),
        ("EPSG:3035", 25, 60, 1),
        ("EPSG:2994", -123, 44, 0.3048),
        ("EPSG:2274", -86, 36, 1200 / 3937),
        ("EPSG:25832+7837", 9, 50, 1),
    ],
)
def test_a_national_grid_keeps_its_linear_unit(crs, longitude, latitude, unit):
    assert on_the_ground(crs, longitude, latitude) == pytest.approx(unit, rel=1e-12)


def test_grads_are_shorter_than_degrees():
    grads, degrees = CRS.from_epsg(4807), CRS.from_epsg(4326)
    assert unit_metres(grads, (0, 50)) == pytest.approx(0.9 * unit_metres(degrees, (0, 45)))


def test_a_crs_that_has_no_place_on_earth_keeps_its_unit():
    site = CRS.from_wkt('LOCAL_CS["Site",UNIT["foot",0.3048]]')
    assert unit_metres(site, (1e6, 1e6)) == 0.3048
    assert unit_metres(MERCATOR, (1e30, 1e30)) == 1
    assert unit_metres(None, (3, 4)) == 1


def test_points_beside_the_date_line_are_close():
    west, east = to_geocentric(CRS.from_epsg(4326), [(179.999, -17), (-179.999, -17)])
    assert np.linalg.norm(west - east) == pytest.approx(213, abs=1)


def test_a_degree_of_latitude_at_the_equator_is_a_chord_of_the_ellipsoid():
    one, other = to_geocentric(CRS.from_epsg(4326), [(0, -0.5), (0, 0.5)])
    assert np.linalg.norm(one - other) == pytest.approx(110_574, abs=3)
