"""Vector files by content: drivers, layers, and geometry types that GEOS does not know."""

import sqlite3
import struct
import zipfile
from contextlib import closing

import numpy as np
import pyogrio
import pyogrio.raw
import pytest
import shapely

from cafe_cli.errors import InputError
from cafe_cli.vector import layers
from cafe_cli.vector.features import read_features
from cafe_cli.vector.layers import find_layer, is_vector, list_layers
from cafe_cli.vector.wkb import as_polygons
from tests.support.rasters import UTM, grid, package

GRID = grid(width=40, height=30)
# The catalogue of these files says what it does because the tests wrote it so.
pytestmark = pytest.mark.filterwarnings("ignore:geometry column type for layer")


def box(left, top, right, bottom):
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return shapely.Polygon([GRID.transform @ corner for corner in corners])


def polygon_wkb(polygon, kind=3):
    points = np.array(polygon.exterior.coords)
    return struct.pack("<BIII", 1, kind, 1, len(points)) + points.astype("<f8").tobytes()


def collection_wkb(kind, parts):
    return struct.pack("<BII", 1, kind, len(parts)) + b"".join(parts)


def circle_wkb():
    """Return a curve polygon: a circle of 5 m around the centre of the grid."""
    points = [(300_005, 5_199_992.5), (300_010, 5_199_997.5), (300_015, 5_199_992.5),
              (300_010, 5_199_987.5), (300_005, 5_199_992.5)]  # fmt: skip
    arc = struct.pack("<BII", 1, 8, 5) + np.array(points, "<f8").tobytes()
    return collection_wkb(10, [arc])


LEFT, RIGHT = box(2, 2, 10, 20), box(10, 2, 20, 20)
TRIANGLES = [
    shapely.Polygon(np.array(LEFT.exterior.coords)[[i, j, k]]) for i, j, k in ((0, 1, 2), (0, 2, 3))
]
SURFACES = {
    "POLYHEDRALSURFACE": collection_wkb(15, [polygon_wkb(LEFT), polygon_wkb(RIGHT)]),
    "TIN": collection_wkb(16, [polygon_wkb(t, 17) for t in TRIANGLES]),
    "TRIANGLE": polygon_wkb(TRIANGLES[0], 17),
}
AREAS = {"POLYHEDRALSURFACE": 18 * 18, "TIN": 8 * 18, "TRIANGLE": 8 * 18 / 2}


def geopackage(path, wkb, declared, *, both=True):
    """Write the layers houses (plain, if `both`) and model, which holds one geometry as WKB."""
    for number, layer in enumerate(("houses", "model") if both else ("model",)):
        pyogrio.raw.write(
            path, shapely.to_wkb(np.array([LEFT], object)), [np.array([1])], ["v"], layer=layer,
            driver="GPKG", geometry_type="Polygon", crs=UTM.to_wkt(), append=number > 0,
            SPATIAL_INDEX="NO",
        )  # fmt: skip
    blob = b"GP\0\1" + struct.pack("<i", 32632) + wkb
    with closing(sqlite3.connect(path)) as database, database:
        for (name,) in database.execute(
            "select name from sqlite_master where type = 'trigger'"
        ).fetchall():
            database.execute(f'drop trigger "{name}"')
        database.execute("update model set geom = ?", (blob,))
        change = (
            "update gpkg_geometry_columns set geometry_type_name = ? where table_name = 'model'"
        )
        database.execute(change, (declared,))
    return str(path)


@pytest.mark.parametrize("kind", SURFACES)
@pytest.mark.parametrize("declares", [True, False])
def test_patches_and_triangles_are_read_as_polygons(tmp_path, kind, declares):
    path = geopackage(tmp_path / "a.gpkg", SURFACES[kind], kind if declares else "GEOMETRY")
    features = read_features(path, GRID, layer="model")
    assert features.values == [1]
    (geometry,) = features.geometries
    assert shapely.make_valid(geometry).area == pytest.approx(AREAS[kind])


@pytest.mark.parametrize("kind", SURFACES)
def test_another_layer_of_patches_or_triangles_does_not_matter(tmp_path, kind):
    path = geopackage(tmp_path / "a.gpkg", SURFACES[kind], kind)
    assert is_vector(path)
    assert [name for name, _ in list_layers(path)] == ["houses", "model"]
    (geometry,) = read_features(path, GRID, layer="houses").geometries
    assert geometry.area == pytest.approx(8 * 18)
    with pytest.raises(InputError, match=r"several layers, set labels\.layer .*: houses, model"):
        find_layer(path, None)


def test_the_only_layer_may_be_one_of_triangles(tmp_path):
    path = geopackage(tmp_path / "a.gpkg", SURFACES["TIN"], "TIN", both=False)
    assert len(read_features(path, GRID).geometries) == 1


@pytest.mark.parametrize("declared", ["CURVEPOLYGON", "SURFACE", "GEOMETRY"])
def test_curves_become_lines(tmp_path, declared):
    path = geopackage(tmp_path / "a.gpkg", circle_wkb(), declared)
    (geometry,) = read_features(path, GRID, layer="model").geometries
    assert geometry.area == pytest.approx(np.pi * 10**2, rel=0.01)  # pixels of 0.5 m


def test_parts_of_collections_become_polygons():
    inner = collection_wkb(7, [SURFACES["TIN"], shapely.Point(1, 2).wkb, LEFT.exterior.wkb])
    found = shapely.from_wkb(as_polygons(collection_wkb(7, [inner, SURFACES["TRIANGLE"]])))
    assert shapely.get_num_geometries(found) == 2
    assert found.area == pytest.approx(8 * 18 / 4 * 1.5)


@pytest.mark.parametrize(
    "wkb", [b"", b"\1", b"\1\x0f\0\0\0\5\0\0\0", b"\1\x63\0\0\0\1\0\0\0" + bytes(40)]
)
def test_bytes_that_are_no_geometry_come_back(wkb):
    assert as_polygons(wkb) == wkb


def test_big_endian_geometries_become_polygons_too():
    points = np.array(TRIANGLES[0].exterior.coords)
    wkb = struct.pack(">BIII", 0, 17, 1, len(points)) + points.astype(">f8").tobytes()
    assert shapely.from_wkb(as_polygons(wkb)).equals(TRIANGLES[0])


@pytest.mark.parametrize("name", ["a.parquet", "A.GeoParquet", "a.feather", "a.dwg"])
def test_a_format_without_a_driver_meets_the_remedy(tmp_path, name):
    (tmp_path / name).write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"no driver for \.\w+ files .*ogr2ogr labels\.gpkg"):
        read_features(str(tmp_path / name), GRID)


def test_a_driver_that_is_there_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(layers.pyogrio, "list_drivers", lambda: {"Parquet": "r"})
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"cannot open .*a\.parquet as vectors"):
        read_features(str(tmp_path / "a.parquet"), GRID)


def test_content_tells_rasters_from_vectors(tmp_path):
    vectors = geopackage(tmp_path / "v.gpkg", LEFT.wkb, "POLYGON")
    one = package(tmp_path / "one.gpkg", ["a"], GRID)
    package(tmp_path / "two.gpkg", ["a", "b"], GRID)
    for name, file in (("v.zip", vectors), ("r.zip", one)):
        with zipfile.ZipFile(tmp_path / name, "w") as packed:
            packed.write(file, f"sub/{file.rpartition('/')[2]}")
    (tmp_path / "damaged.gpkg").write_bytes(b"x" * 99)
    names = ["v.gpkg", "one.gpkg", "two.gpkg", "v.zip", "r.zip", "damaged.gpkg", "none.gpkg"]
    assert [is_vector(str(tmp_path / name)) for name in names] == [
        True, False, False, True, False, True, True,
    ]  # fmt: skip
