import hashlib
import itertools
import struct
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyogrio.raw
import pytest
import shapely
from affine import Affine
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from cafe_cli.errors import ConfigError, GridError, InputError
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.window import Window
from cafe_cli.vector.area_of_interest import Area
from cafe_cli.vector.rasterize import rasterize_indices
from tests.support.rasters import LAMBERT, UTM, around, centres, grid

pytestmark = pytest.mark.filterwarnings("ignore:'crs' was not provided")

DRIVERS = {".gpkg": "GPKG", ".shp": "ESRI Shapefile", ".geojson": "GeoJSON", ".fgb": "FlatGeobuf"}
LONLAT = CRS.from_epsg(4326)
GRID = grid(width=40, height=30)
"""0.5 m pixels, x from 300 000, y down from 5 200 000."""
PLAIN = Grid(None, Affine.identity(), 40, 30)
TIE = shapely.Polygon([(2.25, 2), (22.25, 22), (22.25, 2), (2.25, 22)])


def in_crs(geometry, where=GRID):
    """Return a geometry, given in pixels of a grid, in its CRS."""
    return shapely.transform(geometry, lambda xy: np.stack(where.transform @ tuple(xy.T), axis=-1))


def save(path, geometries, crs=UTM, **options):
    columns = {"id": np.arange(len(geometries)), "name": np.full(len(geometries), "a", object)}
    pyogrio.raw.write(
        str(path),
        shapely.to_wkb(np.array(geometries, object)),
        list(columns.values()),
        list(columns),
        driver=DRIVERS[path.suffix],
        **{"geometry_type": "Unknown", "crs": crs and crs.to_wkt(), **options},
    )
    return str(path)


@pytest.fixture
def vector(tmp_path):
    """Write geometries, with two attributes: ``vector(geometries, crs=..., name=...)`` -> path."""

    def write(geometries, crs=UTM, name="aoi.gpkg", **options):
        return save(tmp_path / name, geometries, crs, **options)

    return write


def drawn(shapes, where=PLAIN):
    """Return the area of polygons in pixels."""
    return Area.within(shapely.get_parts(np.array(shapes, object)), where, "a.gpkg")


def bbox(left, bottom, right, top, where=GRID):
    """Return the bounds of pixels in the CRS of a grid."""
    return tuple(in_crs(shapely.box(left, bottom, right, top), where).bounds)


def rectangle(left, top, right, bottom, where=GRID):
    """Return a mask that is True in a rectangle of pixels."""
    mask = np.zeros((where.height, where.width), bool)
    mask[top:bottom, left:right] = True
    return mask


def whole_mask(area, where=GRID):
    return area.mask(where.extent)


def same(area, mask):
    """Whether an area is that of a mask in everything that it says of it."""
    rows, columns = mask.nonzero()
    low = columns.min(), rows.min()
    extent = Window(*low, int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)
    found = area.mask(Window(0, 0, *mask.shape[::-1]))
    return (found == mask).all() and area.extent == extent and area.pixels == mask.sum()


polygons = st.lists(
    st.lists(st.tuples(st.integers(-40, 240), st.integers(-40, 200)), min_size=3, max_size=7).map(
        lambda corners: shapely.Polygon(np.array(corners) / 5)
    ),
    min_size=1,
    max_size=4,
)
windows = st.builds(
    Window, st.integers(-9, 45), st.integers(-9, 35), st.integers(1, 30), st.integers(1, 30)
)


def enclosed(polygon, x, y):
    """Whether a polygon encloses points an odd number of times: triangles from afar tell."""
    afar = np.array([-1234.567, -890.123])
    corners = np.array(polygon.exterior.coords)
    triangles = shapely.polygons([[afar, *edge] for edge in itertools.pairwise(corners)])
    return np.logical_xor.reduce([shapely.contains_xy(t, x, y) for t in triangles])


def drawn_or_not(shapes):
    try:
        return drawn(shapes)
    except GridError:
        assume(False)


def test_the_whole():
    area = Area.whole(GRID)
    assert area.extent == GRID.extent
    assert area.pixels == 40 * 30
    assert area.key == "whole"
    assert whole_mask(area).all()
    assert area.touches(Window(39, 29, 1, 1))
    assert not area.touches(Window(40, 0, 5, 5))
    assert not area.mask(Window(40, 0, 5, 5)).any()


@pytest.mark.parametrize("suffix", DRIVERS)
@pytest.mark.parametrize("crs", [UTM, LAMBERT, LONLAT])
def test_every_format_in_every_crs(vector, suffix, crs):
    there = GRID.at(Window(4, 6, 20, 10)).footprint_in(crs)
    area = Area.from_file(vector([there], crs, f"aoi{suffix}"), GRID)
    assert same(area, rectangle(4, 6, 24, 16))


def test_holes_parts_and_overlaps():
    ring = shapely.box(2, 2, 20, 20) - shapely.box(5, 5, 15, 15)
    parts = shapely.MultiPolygon([shapely.box(8, 8, 10, 10), shapely.box(30, 3, 34, 5)])
    area = drawn([ring, parts, shapely.box(18, 10, 25, 12)])
    expected = rectangle(2, 2, 20, 20) & ~rectangle(5, 5, 15, 15)
    expected |= rectangle(8, 8, 10, 10) | rectangle(30, 3, 34, 5) | rectangle(18, 10, 25, 12)
    assert same(area, expected)


def test_a_bow_tie_is_filled_as_drawn():
    area = drawn([TIE])
    x, y = centres(PLAIN)
    assert same(area, shapely.contains_xy(shapely.make_valid(TIE), x, y))


def test_a_centre_on_a_shared_edge_has_one_owner():
    slanted = [(0.5, 0), (20.5, 20), (20.5, 30)]
    left = shapely.Polygon([(0, 0), *slanted, (0, 30)])
    right = shapely.Polygon([*slanted, (40, 30), (40, 0)])
    masks = [whole_mask(drawn([side])) for side in (left, right)]
    assert (masks[0] ^ masks[1]).all()


@given(shapes=polygons, window=windows)
@settings(max_examples=50)
def test_a_pixel_is_wanted_if_its_centre_is_inside(shapes, window):
    area = drawn_or_not(shapes)
    x, y = np.meshgrid(
        np.arange(window.col, window.right) + 0.5,
        np.arange(window.row, window.bottom) + 0.5,
    )
    inside = np.any([enclosed(shape, x, y) for shape in shapes], axis=0)
    inside &= (x > 0) & (x < 40) & (y > 0) & (y < 30)
    edges = shapely.union_all([shape.boundary for shape in shapes])
    near = shapely.dwithin(edges, shapely.points(x, y), 1e-3)
    assert (area.mask(window) == inside)[~near].all()


@given(shapes=polygons, window=windows)
@settings(max_examples=50)
def test_a_window_is_cut_out_of_the_whole(shapes, window):
    area = drawn_or_not(shapes)
    padded = np.pad(whole_mask(area), 50)
    cut = padded[window.slices(Window(-50, -50, 1, 1))]
    found = area.mask(window)
    assert (found == cut).all()
    assert area.touches(window) or not found.any()


@given(shapes=polygons)
@settings(max_examples=50)
def test_extent_and_number_of_pixels(shapes):
    area = drawn_or_not(shapes)
    assert same(area, whole_mask(area))


@pytest.mark.slow
@given(shapes=polygons, others=polygons)
@settings(max_examples=50)
def test_an_intersection_is_what_both_want(shapes, others):
    one, other = drawn_or_not(shapes), drawn_or_not(others)
    both = whole_mask(one) & whole_mask(other)
    if not both.any():
        with pytest.raises(GridError, match=r"a\.gpkg and a\.gpkg have no common pixel in"):
            one.intersection(other)
        return
    area = one.intersection(other)
    assert same(area, both)
    assert area.key == other.intersection(one).key


@pytest.mark.parametrize("block", [2048, 3])
def test_keys_stay_what_they_are_in_maps_that_exist(monkeypatch, block):
    """``--resume`` compares them with those in journals and provenance files."""
    monkeypatch.setattr("cafe_cli.vector.area_of_interest._BLOCK", block)
    area = drawn([shapely.box(2, 3, 7, 6), shapely.box(9, 4, 12, 40)])
    runs = [(3, 2, 7), *((row, *run) for row in (4, 5) for run in ((2, 7), (9, 12)))]
    runs += [(row, 9, 12) for row in range(6, 30)]
    packed = b"".join(struct.pack("<3q", *run) for run in runs)
    assert area.key == hashlib.sha256(packed).hexdigest()


@given(shapes=polygons, others=polygons)
@settings(max_examples=50)
def test_keys_are_those_of_the_pixels(shapes, others):
    one, other = drawn_or_not(shapes), drawn_or_not(others)
    assert (one.key == other.key) == (whole_mask(one) == whole_mask(other)).all()


@pytest.mark.parametrize(
    "shape", [TIE, shapely.Point(20, 15).buffer(9.3), shapely.box(3.5, 3, 9.5, 4)]
)
def test_the_pixels_are_those_of_labels(shape):
    rasterized = rasterize_indices(np.array([shape], object), PLAIN.extent) >= 0
    assert same(drawn([shape]), rasterized)


def test_large_scenes_and_many_polygons():
    # More than a band of rows and a cell, with gaps between.
    where = replace(PLAIN, width=3000, height=2000)
    area = Area.from_bbox((2000, 1000, 2003, 1700), where)
    assert area.extent == Window(2000, 1000, 3, 700)
    assert area.mask(Window(1990, 990, 20, 20)).sum() == 3 * 10
    assert not area.touches(Window(0, 0, 2000, 2000))
    assert area.touches(Window(1500, 1690, 501, 50))


@pytest.mark.slow
def test_scenes_of_several_blocks():
    # Blocks of 2048 pixels are rasterized one by one; a polygon of 20,000 corners is cut up.
    where = replace(PLAIN, width=4500, height=2500)
    disc = shapely.Point(2500, 1300).buffer(1100, 5000)
    ring = disc - shapely.Point(2500, 1300).buffer(700, 5000)
    area = drawn([ring], where)
    x, y = np.meshgrid(np.arange(4500) + 0.5, np.arange(2500) + 0.5)
    away = np.hypot(x - 2500, y - 1300)
    clear = np.minimum(abs(away - 700), abs(away - 1100)) > 0.01
    mask = whole_mask(area, where)
    assert (mask == ((away > 700) & (away < 1100)))[clear].all()
    assert area.extent == Window(1400, 200, 2200, 2200)
    assert area.pixels == mask.sum()
    window = Window(1990, 1990, 120, 120)
    assert (area.mask(window) == mask[window.slices()]).all()
    assert not area.touches(Window(2300, 1100, 400, 400))
    assert area.key != drawn([disc], where).key
    assert area.key == drawn([ring & shapely.box(0, 0, 2500, 2500), ring], where).key


def test_memory_is_bounded_by_blocks():
    where = replace(PLAIN, width=6000, height=6000)
    polygons = [shapely.Point(3000, 3000).buffer(2900)]
    tracemalloc.start()
    try:
        area = drawn(polygons, where)
        assert area.mask(Window(0, 0, 6000, 500)).any()
        assert tracemalloc.get_traced_memory()[1] < 6000 * 6000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("left", "top"), [(0, 0), (4_000_000, 6_000_123), (2**24 - 70, 2**24 - 50)]
)
def test_a_small_area_of_a_map_service_that_covers_the_world(left, top):
    where = replace(PLAIN, width=2**24, height=2**24)
    disc = shapely.Point(left + 30, top + 25).buffer(20)
    tracemalloc.start()
    try:
        area = drawn([disc], where)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    near = drawn([shapely.Point(30, 25).buffer(20)], replace(PLAIN, width=100, height=100))
    assert area.extent == near.extent.shift(left, top)
    assert area.pixels == near.pixels
    assert (area.mask(area.extent) == near.mask(near.extent)).all()
    assert area.touches(Window(left + 20, top + 20, 10, 10))
    assert not area.touches(Window(left - 9000, top, 8000, 64))
    with pytest.raises(GridError, match="no pixel"):
        drawn([shapely.Point(-500, -500).buffer(20)], where)


def test_the_key_of_an_area_stays_what_it_was():
    """It is in the journals of interrupted runs: of rows, first columns and columns after."""
    area = drawn([shapely.box(3, 2, 7, 5)])
    runs = np.array([[row, 3, 7] for row in (2, 3, 4)], "<i8")
    assert area.key == hashlib.sha256(runs.tobytes()).hexdigest()


def test_windows_between_polygons_touch_nothing():
    where = replace(PLAIN, width=1000, height=1000)
    area = drawn([shapely.box(0, 0, 50, 50), shapely.box(900, 900, 950, 950)], where)
    assert not area.touches(Window(100, 100, 700, 700))
    assert not area.touches(Window(700, 0, 300, 300))
    assert area.touches(Window(40, 40, 500, 500))


def test_threads_share_an_area():
    area = drawn([TIE])
    asked = [Window(col, row, 7, 5) for col in range(0, 35, 3) for row in range(0, 25, 3)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(area.mask, asked))
    assert all((f == whole_mask(area)[w.slices()]).all() for f, w in zip(found, asked, strict=True))


def test_the_same_pixels_from_a_file_and_a_box(vector):
    area = Area.from_bbox(bbox(4, 6, 24, 16), GRID)
    path = vector([in_crs(shapely.box(3.9, 5.7, 14, 16.2)), in_crs(shapely.box(14, 6, 24, 16))])
    assert area.key == Area.from_file(path, GRID).key
    for other in [(4, 6, 24, 17), (4, 7, 24, 17), (5, 6, 25, 16)]:
        assert area.key != Area.from_bbox(bbox(*other), GRID).key


def test_a_box_in_the_crs_of_the_scene():
    area = Area.from_bbox(bbox(4.4, 6, 24, 40), GRID)
    assert same(area, rectangle(4, 6, 24, 30))


def test_a_box_around_the_scene_is_the_whole():
    assert Area.from_bbox(bbox(-9, -9, 90, 90), GRID).key == "whole"
    assert Area.from_bbox((-180, -90, 180, 90), GRID, "EPSG:4326").key == "whole"


@pytest.mark.parametrize("angle", [0, 30, -101])
@pytest.mark.parametrize("flip", [1, -1])
@pytest.mark.parametrize("crs", [UTM, LONLAT])
def test_a_box_on_a_turned_grid(angle, flip, crs):
    where = around(300_000, 5_200_000, 20, 0.5, LAMBERT, angle, flip)
    x, y = centres(where, crs)
    bounds = np.quantile(x, 0.3), np.quantile(y, 0.2), np.quantile(x, 0.8), np.quantile(y, 0.9)
    bounds = tuple(b + (x[0, 1] - x[0, 0]) / 7 for b in bounds)
    inside = (x > bounds[0]) & (x < bounds[2]) & (y > bounds[1]) & (y < bounds[3])
    area = Area.from_bbox(bounds, where, crs.to_string())
    assert (whole_mask(area, where) != inside).sum() <= 1  # centres closer than a hundredth


def test_long_edges_of_a_box_are_bent():
    # A parallel leaves the chord between two places 400 km apart by 5 km here.
    where = around(500_000, 6_600_000, 400_000, 4000)
    x, y = centres(where, LONLAT)
    bounds = x.min(), y.min(), x.max(), float(y.mean())
    area = Area.from_bbox(bounds, where, "EPSG:4326")
    assert (whole_mask(area, where) == (y < bounds[3])).mean() > 0.999


def test_a_scene_without_crs():
    plane = replace(GRID, crs=None)
    assert same(Area.from_bbox(bbox(4, 6, 24, 16), plane), rectangle(4, 6, 24, 16))
    assert same(Area.from_bbox((4, 6, 24, 16), PLAIN), rectangle(4, 6, 24, 16))


def test_a_file_without_crs(vector):
    path = vector([shapely.box(4, 6, 24, 16)], None, "a.shp", geometry_type="Polygon")
    assert same(Area.from_file(path, PLAIN), rectangle(4, 6, 24, 16))
    with pytest.raises(GridError, match=r"a\.shp has no CRS while x\.tif is in EPSG:32632; assign"):
        Area.from_file(path, GRID, name="x.tif")


def test_a_crs_for_a_scene_without_one(vector):
    message = r"x\.tif has no CRS while bbox 4 6 24 16 is in EPSG:4326; .* own .*, 0 0 40 30, or as"
    with pytest.raises(GridError, match=message):
        Area.from_bbox((4, 6, 24, 16), PLAIN, "EPSG:4326", name="x.tif")
    with pytest.raises(GridError, match=r"the scene has no CRS while .*aoi\.gpkg is in EPSG:32632"):
        Area.from_file(vector([in_crs(shapely.box(4, 6, 24, 16))]), PLAIN)


def test_a_crs_that_is_none():
    with pytest.raises(ConfigError, match=r"'EPSG:0' is not a CRS; write it like EPSG:25832"):
        Area.from_bbox((4, 6, 24, 16), GRID, "EPSG:0")


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ((5, 1, 2, 3), "bbox 5 1 2 3 is not left .*: left 5 is not below right 2"),
        ((1, 5, 2, 3), "bottom 5 is not below top 3"),
        ((1, 2, 1, 3), "left 1 is not below right 1"),
        ((1, 2, 3, 2), "bottom 2 is not below top 2"),
        ((1, 2, np.nan, 3), "bbox 1 2 nan 3 is not made of four finite numbers"),
        ((-np.inf, 2, 3, 4), "bbox -inf 2 3 4 is not made of four finite numbers"),
    ],
)
def test_bounds_that_are_no_box(bounds, message):
    with pytest.raises(ConfigError, match=message):
        Area.from_bbox(bounds, GRID)


def test_a_box_elsewhere():
    message = (
        r"^bbox 0 0 5 5 does not overlap x\.tif, which covers 300000 5199985 300020 5200000 "
        r"in EPSG:32632; check the numbers and their CRS$"
    )
    with pytest.raises(GridError, match=message):
        Area.from_bbox((0, 0, 5, 5), GRID, name="x.tif")
    with pytest.raises(GridError, match=r"covers 6\.3.* 46\.9.* in EPSG:4326; check"):
        Area.from_bbox((0, 0, 5, 5), GRID, "EPSG:4326")
    with pytest.raises(GridError, match=r"covers 0 0 40 30 in pixel coordinates \(no CRS\); check"):
        Area.from_bbox((50, 60, 70, 80), PLAIN)


def test_a_box_whose_numbers_mean_something_else():
    x, y = centres(GRID, LONLAT)
    west, south, east, north = x.min(), y.min(), x.max(), y.max()
    with pytest.raises(GridError, match=r"in degrees 6\.3\S+ 46\.\S+ .* does: name .* EPSG:4326$"):
        Area.from_bbox((west, south, east, north), GRID)
    with pytest.raises(GridError, match=r"in degrees 6\.3\S+ 46\.\S+ .* does: name .* EPSG:4326$"):
        Area.from_bbox((south, west, north, east), GRID)
    with pytest.raises(GridError, match=r"in EPSG:4326; x comes first: 6\.3\S+ 46\.\S+ .* does$"):
        Area.from_bbox((south, west, north, east), GRID, "EPSG:4326")


def test_a_box_that_cannot_be_transformed():
    world = grid(36, 18, 10.0, -180, 90, LONLAT)
    with pytest.raises(GridError, match=r"cannot transform bbox .* from EPSG:32632 to EPSG:4326"):
        Area.from_bbox((-1e15, -1e15, 1e15, 1e15), world, "EPSG:32632")


def test_a_box_between_the_centres():
    message = (
        r"no pixel of x\.tif has its centre in bbox 300002\.06.*, which lies between columns "
        r"4\.125 and 4\.375 and rows 2 and 9 of 40 x 30; draw a larger area"
    )
    with pytest.raises(GridError, match=message):
        Area.from_bbox(bbox(4.125, 2, 4.375, 9), GRID, name="x.tif")


def test_polygons_between_the_centres(vector):
    path = vector([in_crs(shapely.box(n, 3, n + 0.3, 9)) for n in range(5)])
    with pytest.raises(GridError, match=r"in .*aoi\.gpkg, .* columns 0 and 4\.3 and rows 3 and 9"):
        Area.from_file(path, GRID)


def test_polygons_elsewhere(vector):
    path = vector([in_crs(shapely.box(100, 100, 120, 120))])
    message = r"aoi\.gpkg does not overlap x\.tif: in EPSG:32632 .*x 300050 to.*the second x 300000"
    with pytest.raises(GridError, match=message):
        Area.from_file(path, GRID, name="x.tif")


def test_points_and_lines_are_no_area(vector, caplog):
    others = [shapely.Point(3, 3), shapely.LineString([(1, 1), (20, 9)])]
    path = vector([in_crs(g) for g in others])
    message = r"aoi\.gpkg has no polygon inside x\.tif, only 2 points and lines; draw the area"
    with pytest.raises(InputError, match=message):
        Area.from_file(path, GRID, name="x.tif")
    box = shapely.box(4, 6, 24, 16)
    path = vector([in_crs(g) for g in [*others, box]], name="b.gpkg")
    assert same(Area.from_file(path, GRID), rectangle(4, 6, 24, 16))
    assert caplog.messages == [f"{path}: 2 points and lines enclose nothing and are left out"]


def test_layers(vector):
    vector([in_crs(shapely.Point(5, 5))], layer="trees", geometry_type="Point")
    path = vector([in_crs(shapely.box(4, 6, 24, 16))], layer="town", append=True)
    assert same(Area.from_file(path, GRID), rectangle(4, 6, 24, 16))
    vector([in_crs(shapely.box(1, 2, 3, 4))], layer="park", append=True)
    assert same(Area.from_file(path, GRID, "park"), rectangle(1, 2, 3, 4))
    with pytest.raises(InputError, match=r"several layers \(town, park\); copy"):
        Area.from_file(path, GRID)
    lines = [in_crs(shapely.LineString([(1, 1), (9, 9)]))]
    vector(lines, name="b.gpkg", layer="roads", geometry_type="LineString")
    both = vector(lines, name="b.gpkg", layer="rails", append=True, geometry_type="LineString")
    with pytest.raises(InputError, match=r"several layers \(roads, rails\); copy"):
        Area.from_file(both, GRID)
    with pytest.raises(InputError, match="no layer 'city'; it has: trees, town, park"):
        Area.from_file(path, GRID, "city")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.gpkg does not exist"):
        Area.from_file("nowhere.gpkg", GRID)
    (tmp_path / "a.geojson").write_text("no area")
    with pytest.raises(InputError, match=r"cannot open .*a\.geojson as vectors"):
        Area.from_file(str(tmp_path / "a.geojson"), GRID)


def test_areas_of_two_scenes():
    with pytest.raises(ValueError, match="areas of"):
        Area.whole(GRID).intersection(Area.whole(PLAIN.at(Window(0, 0, 9, 9))))
