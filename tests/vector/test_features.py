"""Features of vector files in pixel coordinates."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyogrio.raw
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.warp import transform

from cafe_cli.errors import GridError, InputError, LabelError
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.window import Window
from cafe_cli.vector.features import read_features
from cafe_cli.vector.geometry import subdivide
from cafe_cli.vector.layers import is_vector
from cafe_cli.vector.rasterize import rasterize, rasterize_indices
from tests.support.rasters import LAMBERT, UTM, around, centres, grid

pytestmark = pytest.mark.filterwarnings("ignore:'crs' was not provided")

DRIVERS = {".gpkg": "GPKG", ".shp": "ESRI Shapefile", ".geojson": "GeoJSON", ".fgb": "FlatGeobuf"}
LONLAT = CRS.from_epsg(4326)
POLAR = CRS.from_epsg(3413)
HERE = (300_000.0, 5_200_000.0)
GRID = grid(width=40, height=30)
"""0.5 m pixels, x from 300 000, y down from 5 200 000."""


def box(left, top, right, bottom, where=GRID):
    """Return a rectangle, given in pixels of a grid, in its CRS."""
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return shapely.Polygon([where.transform @ corner for corner in corners])


def column(values):
    """Return an array as pyogrio wants it."""
    texts = any(v is None or isinstance(v, str) for v in values)
    return values if isinstance(values, np.ndarray) else np.array(values, object if texts else None)


@pytest.fixture
def vector(tmp_path):
    """Write features: ``vector(geometries, values, name=..., crs=..., **options)`` -> path."""

    def write(geometries, values=None, name="labels.gpkg", crs=UTM, **options):
        path = tmp_path / name
        columns = {} if values is None else values if isinstance(values, dict) else {"v": values}
        pyogrio.raw.write(
            str(path),
            shapely.to_wkb(np.array(geometries, object)),
            [column(c) for c in columns.values()],
            list(columns),
            driver=DRIVERS[path.suffix],
            **{"geometry_type": "Unknown", "crs": crs and crs.to_wkt(), **options},
        )
        return str(path)

    return write


def cells(features, window=GRID.extent, all_touched=False):
    """Return the pixels (height, width) that features cover."""
    return rasterize_indices(features.geometries, window, all_touched) >= 0


def array(*geometries):
    return np.array(geometries, object)


@pytest.mark.parametrize(
    "path",
    [
        "a.gpkg", "dir/A.GPKG", "a.shp", "a.geojson", "a.json", "a.fgb", "a.gml", "a.kml",
        "a.parquet", "a.gdb", "a.gdb/", "/vsizip/a.zip/b.shp", "a.shp.zip", "s3://bucket/a.fgb",
        "https://host/a.gpkg?sig=a.tif", "/vsicurl/https://host/a.geojson",
    ],
)  # fmt: skip
def test_vectors_are_known_by_their_names(path):
    assert is_vector(path)


@pytest.mark.parametrize(
    "path",
    ["a.tif", "a.vrt", "a.zip", "a", "gpkg", "https://host/a.tif?from=a.gpkg", "GPKG:a.gpkg:dsm"],
)
def test_rasters_are_no_vectors(path):
    assert not is_vector(path)


@pytest.mark.parametrize("suffix", DRIVERS)
@pytest.mark.parametrize("crs", [UTM, LAMBERT, LONLAT])
def test_every_format_in_every_crs(vector, suffix, crs):
    there = GRID.footprint_in(crs)
    path = vector([there, there], [7, 3], f"a{suffix}", crs)
    features = read_features(path, GRID)
    assert features.path == path
    assert sorted(features.values) == [3, 7]  # FlatGeobuf sorts by place
    assert cells(features).all()


def test_geometries_come_in_pixels(vector):
    (found,) = read_features(vector([box(2, 1, 7.25, 4)]), GRID).geometries
    assert found.equals(shapely.box(2, 1, 7.25, 4))


def test_features_keep_the_order_of_the_file(vector):
    path = vector([box(i, i, i + 3, i + 3) for i in range(9)], list(range(9)))
    features = read_features(path, GRID)
    assert features.values == list(range(9))
    assert [g.bounds[0] for g in features.geometries] == list(range(9))


def test_only_what_touches_the_raster_is_read(vector):
    beside, edge = box(41, 0, 44, 3), box(-3, 0, 0, 3)
    corner = shapely.Polygon([GRID.transform @ p for p in [(45, 0), (45, 40), (39, 40)]])
    path = vector([beside, box(39, 0, 42, 3), edge, corner], [1, 2, 3, 4])
    assert read_features(path, GRID).values == [2]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (np.array([1, 2, -3]), [1, 2, -3]),
        (np.array([1.0, 2.5, np.nan]), [1, 2.5, None]),
        (["a ", None, "  "], ["a", None, None]),
        (["5", "05", "x"], ["5", "05", "x"]),
        (np.array([True, False, True]), [1, 0, 1]),
        (
            np.array(["2020-01-01", "2021-01-01", "NaT"], "datetime64[D]"),
            ["2020-01-01", "2021-01-01", None],
        ),
    ],
)
def test_values_of_every_type(vector, column, values):
    found = read_features(vector([box(0, 0, 5, 5)] * 3, column), GRID).values
    assert found == values
    assert [type(f) for f in found] == [type(v) for v in values]


def test_without_attributes_there_is_no_value(vector):
    assert read_features(vector([box(0, 0, 5, 5)]), GRID).values == [None]


def test_points_lines_and_parts(vector):
    point = shapely.Point(GRID.transform @ (3.5, 2.5))
    line = shapely.LineString([GRID.transform @ (10.2, 5.5), GRID.transform @ (14.9, 5.5)])
    parts = shapely.MultiPolygon([box(20, 10, 22, 12), box(30, 10, 31, 12)])
    both = shapely.GeometryCollection([point, parts])
    features = read_features(vector([point, line, parts, both], [1, 2, 3, 4]), GRID)
    rasterized = rasterize(features.geometries[:3], [1, 2, 3], GRID.extent)
    assert rasterized[2, 3] == 1
    assert rasterized[5, 10:15].tolist() == [2] * 5
    assert (rasterized[10:12, 20:22] == 3).all()
    assert (rasterized[10:12, 30] == 3).all()
    assert (rasterized != 255).sum() == 1 + 5 + 4 + 2
    every, _ = subdivide(features.geometries[3:])
    assert (rasterize_indices(every, GRID.extent) >= 0).sum() == 1 + 4 + 2


def test_heights_of_vertices_count_for_nothing(vector):
    flat = box(3, 3, 9, 9)
    path = vector([shapely.force_3d(flat, 512.0)], geometry_type="Polygon Z")
    assert read_features(path, GRID).geometries[0].equals(shapely.box(3, 3, 9, 9))


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp"])
def test_features_without_geometry_are_left_out(vector, suffix):
    geometries = [None, shapely.Polygon(), box(3, 3, 9, 9)]
    path = vector(geometries, [1, 2, 3], f"a{suffix}", geometry_type="Polygon")
    assert read_features(path, GRID).values == [3]


def test_broken_geometries_are_left_out_and_said(vector, caplog):
    endless = shapely.LineString([(300_001, 5_199_999), (np.inf, 5_199_998)])
    path = vector([endless, box(3, 3, 9, 9)], [1, 2])
    assert read_features(path, GRID).values == [2]
    read_features(path, GRID)
    assert caplog.messages == [f"{path}: 1 features with broken geometries are left out"]


def test_a_bow_tie_is_rasterized_as_drawn(vector):
    tie = shapely.Polygon([GRID.transform @ p for p in [(2, 2), (12, 12), (12, 2), (2, 12)]])
    features = read_features(vector([tie]), GRID)
    rasterized = cells(features)
    assert rasterized[7, 3]
    assert rasterized[7, 10]
    assert not rasterized[3, 7]
    assert not rasterized[10, 7]
    assert cells(features, all_touched=True).sum() > rasterized.sum()


def test_a_hole_is_a_hole(vector):
    ring = box(2, 2, 20, 20).difference(box(5, 5, 15, 15))
    rasterized = cells(read_features(vector([ring]), GRID))
    assert rasterized.sum() == 18 * 18 - 10 * 10
    assert not rasterized[5:15, 5:15].any()


def agrees(features, where, polygon, crs):
    """Whether the pixels are those whose centres, transformed one by one, lie in a polygon."""
    x, y = centres(where, crs)
    inside = shapely.contains_xy(polygon, x, y)
    step = shapely.distance(shapely.points(x[0, 0], y[0, 0]), shapely.points(x[1, 1], y[1, 1]))
    near = shapely.dwithin(shapely.boundary(polygon), shapely.points(x, y), step / 30)
    rasterized = cells(features, where.extent)
    assert 0 < inside.sum() < inside.size
    return (rasterized == inside)[~near].all()


@given(
    crs=st.sampled_from([UTM, LAMBERT, LONLAT]),
    angle=st.sampled_from([0.0, 30.0, -101.0]),
    flip=st.sampled_from([1, -1]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=50)
def test_a_polygon_covers_the_centres_in_it(tmp_path_factory, crs, angle, flip, seed):
    where = around(*HERE, 20, 0.5, LAMBERT, angle, flip)
    x, y = centres(where, crs)
    random = np.random.default_rng(seed)
    rows, columns = random.integers(0, 40, (2, 6))
    places = np.stack([x[rows, columns], y[rows, columns]], axis=-1)
    polygon = shapely.convex_hull(shapely.multipoints(places))
    if polygon.area == 0:
        return
    path = tmp_path_factory.mktemp("v") / "a.fgb"
    pyogrio.raw.write(
        str(path), shapely.to_wkb([polygon]), [], [], driver="FlatGeobuf",
        geometry_type="Polygon", crs=crs.to_wkt(),
    )  # fmt: skip
    assert agrees(read_features(str(path), where), where, polygon, crs)


def test_long_edges_are_bent(vector):
    # A parallel leaves the chord between two places 400 km apart by 5 km here.
    where = around(500_000, 6_600_000, 400_000, 4000)
    x, y = centres(where, LONLAT)
    polygon = shapely.box(x.min() + 0.1, y.min(), x.max() - 0.1, (y.min() + y.max()) / 2)
    features = read_features(vector([polygon], crs=LONLAT), where)
    assert agrees(features, where, polygon, LONLAT)
    (corners,) = shapely.transform(
        array(polygon), lambda xy: np.stack(centres_of(xy, LONLAT, where), axis=-1)
    )
    assert not agrees(replace(features, geometries=array(corners)), where, polygon, LONLAT)


def centres_of(xy, crs, where):
    return ~where.transform @ np.array(transform(crs, where.crs, *xy.T))


def test_a_continent_on_a_county(vector):
    x, _ = centres(GRID, LONLAT)
    middle = float(x.mean())
    west = shapely.box(-179, -89, middle, 89)
    assert agrees(read_features(vector([west], crs=LONLAT), GRID), GRID, west, LONLAT)


def test_a_continent_that_overlaps_itself_on_a_county(vector):
    x, y = (float(a.mean()) for a in centres(GRID, LONLAT))
    tie = shapely.Polygon([(x - 80, y - 40), (x + 80, y + 40), (x + 80, y - 40), (x - 80, y + 40)])
    rasterized = cells(read_features(vector([tie], crs=LONLAT), GRID))
    assert rasterized[15, 0]
    assert rasterized[15, 39]
    assert not rasterized[0, 20]
    assert not rasterized[29, 20]


def test_what_reaches_far_and_what_does_not(vector):
    x, y = (float(a.mean()) for a in centres(GRID, LONLAT))
    near, west, far = box(30, 2, 34, 6), shapely.box(-179, -89, x, 89), shapely.box(50, 5, 60, 9)
    (near,) = shapely.transform(array(near), lambda xy: np.transpose(transform(UTM, LONLAT, *xy.T)))
    road = shapely.LineString([(x - 60, y), (x + 60, y)])
    drawn = [far, near, west, shapely.MultiPolygon([near, far]), road, near]
    features = read_features(vector(drawn, list(range(6)), crs=LONLAT), GRID)
    assert features.values == [1, 2, 3, 4, 5]
    kinds = ["Polygon", "Polygon", "Polygon", "LineString", "Polygon"]
    assert [geometry.geom_type for geometry in features.geometries] == kinds
    assert rasterize(features.geometries, features.values, GRID.extent)[4, 32] == 5
    assert rasterize(features.geometries[:2], [1, 2], GRID.extent)[4, [2, 32]].tolist() == [2, 1]
    assert rasterize(features.geometries[3:4], [4], GRID.extent)[14:16, 5].min() == 4


def test_the_parts_of_a_feature_stay_together(vector):
    both = shapely.MultiPolygon([GRID.at(Window(c, 3, 4, 4)).footprint_in(LAMBERT) for c in (2, 9)])
    features = read_features(vector([both, both], [1, 2], crs=LAMBERT), GRID)
    assert features.values == [1, 2]
    assert cells(replace(features, geometries=features.geometries[:1])).sum() == 32


def test_a_spike_across_the_raster_is_no_ground(vector):
    x, y = (float(a.mean()) for a in centres(GRID, LONLAT))
    edge = [(-80, -40), (-70, -40), (-70, 0), (10, 0), (-70, 0), (-70, 40), (-80, 40)]
    spiked = shapely.Polygon([(x + a, y + b) for a, b in edge])
    assert read_features(vector([spiked], crs=LONLAT), GRID, required=False).values == []


def test_a_raster_around_the_pole(vector):
    where = Grid(POLAR, grid(60, 60, 50_000, -1_500_000, 1_500_000).transform, 60, 60)
    cap = shapely.box(-180, 84, 180, 90)
    assert agrees(read_features(vector([cap], crs=LONLAT), where), where, cap, LONLAT)


def test_a_raster_across_the_date_line(vector):
    where = grid(40, 40, 5000, 750_000, 5_100_000, crs=CRS.from_epsg(32660))
    east, west = shapely.box(178, 44, 180, 45.5), shapely.box(-180, 44, -179.5, 45.5)
    features = read_features(vector([east, west], crs=LONLAT), where)
    both = shapely.MultiPolygon([east, west])
    assert agrees(features, where, both, LONLAT)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("crs", "county"),
    [
        (UTM, shapely.box(200_000, 5_000_000, 800_000, 5_600_000)),
        (CRS.from_epsg(2056), shapely.box(2_500_000, 1_100_000, 2_800_000, 1_250_000)),
    ],
)
@pytest.mark.parametrize("pixel", [1.0, 0.5])
def test_a_county_on_a_raster_of_the_world(vector, crs, county, pixel):
    # Most of the raster has no place in the projection, or a wrong one.
    where = grid(360, 180, pixel, -180 * pixel, 90 if pixel == 1 else 60, LONLAT)
    features = read_features(vector([county], crs=crs), where)
    x, y = county.exterior.segmentize(10_000).coords.xy
    outline = shapely.Polygon(np.stack(transform(crs, LONLAT, x, y), axis=-1))
    assert agrees(features, where, outline, LONLAT)


@pytest.mark.parametrize("srs", [None, 0, -1])
def test_without_crs_on_both_sides_coordinates_are_taken_as_they_are(vector, srs):
    plane = replace(GRID, crs=None)
    path = vector([box(3, 3, 9, 9)])
    if srs is None:
        path = vector([box(3, 3, 9, 9)], name="a.shp", crs=None, geometry_type="Polygon")
    else:
        with sqlite3.connect(path) as database:
            database.execute(f"update gpkg_geometry_columns set srs_id = {srs}")
            database.execute(f"update gpkg_contents set srs_id = {srs}")
        database.close()
    assert cells(read_features(path, plane)).sum() == 36


def test_plain_pixels(vector):
    plain = Grid(None, type(GRID.transform).identity(), 20, 10)
    path = vector([shapely.box(2, 3, 5, 7)], name="a.fgb", crs=None)
    rasterized = cells(read_features(path, plain), plain.extent)
    assert rasterized[3:7, 2:5].all()
    assert rasterized.sum() == 12


# --- errors ---------------------------------------------------------------------------------------


def test_a_missing_file():
    with pytest.raises(InputError, match=r"^nowhere\.gpkg does not exist$"):
        read_features("nowhere.gpkg", GRID)


@pytest.mark.parametrize("name", ["a.gpkg", "a.shp", "a.fgb", "a.geojson"])
def test_what_is_no_vector_file(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"no features " * 100)
    with pytest.raises(InputError, match=f"cannot open .*{name} as vectors: "):
        read_features(str(path), GRID)


def test_a_geopackage_of_rasters(tmp_path):
    package = tmp_path / "a.gpkg"
    size = {"width": 300, "height": 300, "count": 3, "dtype": "uint8"}
    place = {"crs": UTM, "transform": GRID.transform}
    with rasterio.open(package, "w", driver="GPKG", **size, **place) as dataset:
        dataset.write(np.ones((3, 300, 300), np.uint8))
    with pytest.raises(InputError, match=r"as vectors: .*holds rasters.*gdal_translate"):
        read_features(str(package), GRID)


@pytest.mark.parametrize("suffix", [".fgb", ".shp"])
def test_a_damaged_file(vector, suffix):
    path = vector([box(2, 2, 9, 9)] * 3, [1, 2, 3], f"a{suffix}", geometry_type="Polygon")
    Path(path).write_bytes(Path(path).read_bytes()[:-60])
    with pytest.raises(InputError, match=f"cannot read .*a{suffix}: .*truncated or damaged"):
        read_features(path, GRID)


@pytest.fixture
def layers(vector):
    vector([box(2, 2, 9, 9)], [1], layer="roads")
    return vector([box(2, 2, 5, 5)], [2], layer="houses", append=True)


def test_a_layer_is_chosen(layers):
    assert read_features(layers, GRID, layer="houses").values == [2]
    assert read_features(layers, GRID, layer="roads").values == [1]


def test_several_layers_and_none_is_named(layers):
    with pytest.raises(InputError, match=r"several layers, set labels\.layer .*: roads, houses"):
        read_features(layers, GRID)


def test_a_layer_that_is_not_there(layers):
    with pytest.raises(InputError, match="no layer 'house'; it has: roads, houses"):
        read_features(layers, GRID, layer="house")


def test_tables_without_geometries_are_no_layers(vector):
    path = vector([box(2, 2, 9, 9)], [1], layer="roads")
    with sqlite3.connect(path) as database:
        database.execute("create table styles (id integer primary key, name text)")
        database.execute(
            "insert into gpkg_contents (table_name, data_type, identifier) "
            "values ('styles', 'attributes', 'styles')"
        )
    database.close()
    assert read_features(path, GRID).values == [1]
    with sqlite3.connect(path) as database:
        database.execute("delete from gpkg_contents where table_name = 'roads'")
        database.execute("delete from gpkg_geometry_columns")
    database.close()
    with pytest.raises(InputError, match="no layer with geometries"):
        read_features(path, GRID)


@pytest.fixture
def columns(vector):
    return vector([box(2, 2, 9, 9)], {"code": [4], "name": ["tree"]})


def test_an_attribute_is_chosen(columns):
    assert read_features(columns, GRID, "code").values == [4]
    assert read_features(columns, GRID, "name").values == ["tree"]


def test_several_attributes_and_none_is_named(columns):
    with pytest.raises(LabelError, match=r"set labels\.attribute to the one .*: code, name"):
        read_features(columns, GRID)


def test_an_attribute_that_is_not_there(columns, vector):
    with pytest.raises(LabelError, match=r"no attribute 'nam'; did you mean 'name'.*: code, name"):
        read_features(columns, GRID, "nam")
    with pytest.raises(LabelError, match="no attribute 'xyz'; it has: code, name"):
        read_features(columns, GRID, "xyz")
    with pytest.raises(LabelError, match="no attribute 'xyz'; it has: no attributes"):
        read_features(vector([box(2, 2, 9, 9)], name="b.gpkg"), GRID, "xyz")


def test_a_crs_on_one_side_only(vector):
    path = vector([box(2, 2, 9, 9)], name="a.shp", crs=None, geometry_type="Polygon")
    message = r"a\.shp has no CRS while x\.tif is in EPSG:32632; .*ogr2ogr -a_srs EPSG:CODE"
    with pytest.raises(GridError, match=message):
        read_features(path, GRID, name="x.tif")
    path = vector([box(2, 2, 9, 9)])
    message = r"the raster has no CRS while .*gpkg is in EPSG:32632; .*gdal_edit\.py -a_srs"
    with pytest.raises(GridError, match=message):
        read_features(path, replace(GRID, crs=None))


@pytest.mark.parametrize("crs", [UTM, LAMBERT])
def test_features_elsewhere(vector, crs):
    there = grid(40, 30, left=310_000).footprint_in(crs)
    message = (
        r"does not overlap x\.tif: in EPSG:32632 .* x 3(10000|09998).* to 3100.*second x 300000 to"
    )
    with pytest.raises(GridError, match=message):
        read_features(vector([there], [1], crs=crs), GRID, name="x.tif")
    assert read_features(vector([there], [1], crs=crs), GRID, required=False).values == []


def test_features_around_the_raster_but_none_in_it(vector):
    path = vector([box(-60, -60, -50, -50), box(60, 60, 70, 70)])
    with pytest.raises(GridError, match=r"no feature of .* lies inside the raster, although their"):
        read_features(path, GRID)


def test_no_features_at_all(vector):
    with pytest.raises(GridError, match="no feature with a geometry"):
        read_features(vector([None], geometry_type="Polygon"), GRID)


def test_geojson_that_does_not_say_its_crs(vector):
    path = vector([box(2, 2, 9, 9)], name="a.geojson", crs=None)
    with pytest.raises(GridError, match=r"EPSG:4326, but .* 300001, .* are not degrees.*ogr2ogr"):
        read_features(path, GRID)


@pytest.mark.parametrize("far", [1e9, 1e15])
def test_features_that_cannot_be_transformed(vector, far):
    where = grid(36, 18, 10.0, -180, 90, LONLAT)
    everywhere = shapely.box(-far, -far, far, far)
    path = vector([everywhere])
    for _ in range(3):  # GDAL says it a few times only
        with pytest.raises(GridError, match=r"cannot transform .* from EPSG:32632 to EPSG:4326"):
            read_features(path, where)
