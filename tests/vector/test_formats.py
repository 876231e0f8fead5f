"""Vector files that would run a program, or fetch from a server, and those that are read."""

import sqlite3
from contextlib import closing

import numpy as np
import pyogrio.raw
import pytest
import shapely

from cafe_cli.errors import GridError, InputError
from cafe_cli.vector import formats, queries
from cafe_cli.vector.features import refuse_empty
from cafe_cli.vector.layers import find_layer, list_layers
from cafe_cli.vector.queries import check_views
from tests.support.rasters import grid

LAYER = "<OGRVRTDataSource><OGRVRTLayer name='a'>{}</OGRVRTLayer></OGRVRTDataSource>"


def write(path, driver, crs="EPSG:32632", shape=None, **more):
    left, bottom, right, top = grid().bounds
    shape = shape or shapely.box(left + 1, bottom + 1, right - 1, top - 1)
    pyogrio.raw.write(
        path, shapely.to_wkb(np.array([shape])), [np.array([1], np.int32)], ["class"],
        driver=driver, geometry_type=shape.geom_type, crs=crs, **more,
    )  # fmt: skip
    return str(path)


@pytest.mark.parametrize(
    ("driver", "suffix"),
    [("GPKG", "gpkg"), ("GeoJSON", "geojson"), ("FlatGeobuf", "fgb"), ("GML", "gml"),
     ("ESRI Shapefile", "shp"), ("KML", "kml"), ("LIBKML", "kml"), ("MapInfo File", "tab"),
     ("SQLite", "sqlite"), ("OpenFileGDB", "gdb"), ("GeoJSONSeq", "geojsonl")],
)  # fmt: skip
def test_formats_that_are_read(driver, suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    degrees = suffix in ("kml", "geojsonl")
    write(path, driver, *(("EPSG:4326", shapely.box(8, 47, 9, 48)) if degrees else ()))
    assert find_layer(str(path), None).path == str(path)
    assert pyogrio.read_info(path)["driver"] in formats.FORMATS


@pytest.mark.parametrize(
    "name", ["GPSBABEL:gpx:a.gpx", "gpsbabel:x:y", "ADBC:a.so", " ADBC:x", "MEM:::DATAPOINTER=1"]
)
def test_names_that_run_programs(name):
    with pytest.raises(InputError, match="would run a program or load a library"):
        list_layers(name)


@pytest.mark.parametrize("suffix", ["geojson", "json", "gml", "xml", "txt", "gpkg", "kml"])
@pytest.mark.parametrize(
    "text",
    ['{"type": "gdal_streamed_alg", "command_line": "gdal vector read a.gpkg"}',
     "<OGRWFSDataSource><URL>http://127.0.0.1:9/</URL></OGRWFSDataSource>",
     "<OGRCSWDataSource><URL>http://127.0.0.1:9/</URL></OGRCSWDataSource>",
     "<OGROAPIFDataSource><URL>http://127.0.0.1:9/</URL></OGROAPIFDataSource>"],
)  # fmt: skip
def test_files_that_say_what_to_run_or_fetch(text, suffix, tmp_path):
    path = tmp_path / f"labels.{suffix}"
    path.write_text(text)
    with pytest.raises(InputError, match="holds no data: it says where to fetch it"):
        list_layers(str(path))


@pytest.mark.parametrize(
    "source",
    ["PG:dbname=a", "WFS:http://127.0.0.1:9/", "OAPIF:http://127.0.0.1:9/", "ES:http://127.0.0.1"],
)
def test_virtual_sources_that_name_a_service(source, tmp_path):
    path = tmp_path / "labels.vrt"
    path.write_text(LAYER.format(f"<SrcDataSource>{source}</SrcDataSource>"))
    with pytest.raises(InputError, match="names a service or a database"):
        list_layers(str(path))


@pytest.mark.parametrize("suffix", ["geojson", "gml", "txt"])
def test_virtual_sources_that_lead_to_a_server_unannounced(suffix, tmp_path):
    path = tmp_path / f"labels.{suffix}"
    path.write_text(LAYER.format("<SrcDataSource>/vsicurl/http://127.0.0.1:9/a</SrcDataSource>"))
    with pytest.raises(InputError, match=r"would read from a server, 127\.0\.0\.1"):
        list_layers(str(path))


def test_virtual_sources_of_local_files(tmp_path):
    write(tmp_path / "a.gpkg", "GPKG", layer="a")
    path = tmp_path / "labels.vrt"
    path.write_text(LAYER.format("<SrcDataSource relativeToVRT='1'>a.gpkg</SrcDataSource>"))
    assert [name for name, _ in list_layers(str(path))] == ["a"]


def test_a_driver_that_is_not_listed(tmp_path):
    with pytest.raises(InputError, match=r"of a format that is not read \(HTTP\)"):
        formats.check_format(str(tmp_path / "a.geojson"), "HTTP")
    formats.check_format("PG:dbname=a", "PostgreSQL")


# What fuzzing found.


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:2154", "EPSG:32632"])
@pytest.mark.parametrize(
    "shape",
    [shapely.Point(8, 47), shapely.LineString([(8, 47), (8, 48)]),
     shapely.LineString([(8, 47), (9, 47)]), shapely.Point(0, 0)],
    ids=["point", "upright", "level", "origin"],
)  # fmt: skip
def test_an_extent_without_area_elsewhere(shape, crs, tmp_path):
    path = write(tmp_path / "a.gpkg", "GPKG", crs, shape)
    with pytest.raises(GridError, match="does not overlap the scene"):
        refuse_empty(path, grid(), None, "the scene", gaps=False)


@pytest.mark.parametrize("far", [1e13, 1e300, 1.7e308])
def test_coordinates_without_end(far, tmp_path):
    line = shapely.LineString([(-far, 4), (far, 4)])
    path = write(tmp_path / "a.gpkg", "GPKG", shape=line)
    with pytest.raises(GridError, match=r"coordinates such as -.*nowhere on Earth"):
        refuse_empty(path, grid(), None, "the scene", gaps=False)


@pytest.mark.parametrize("old", [b"viewname", b"querytext"])
def test_a_database_whose_texts_are_not_utf8(old, tmp_path):
    path = write(tmp_path / "a.gpkg", "GPKG", layer="labels")
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE VIEW viewname AS SELECT 'querytext' AS a, * FROM labels")
    content = (tmp_path / "a.gpkg").read_bytes()
    (tmp_path / "a.gpkg").write_bytes(content.replace(old, b"\xd1" + old[1:]))
    check_views(path)
    check_views(path, "viewname")


def test_an_endless_view_beside_a_name_that_is_not_utf8(tmp_path, monkeypatch):
    monkeypatch.setattr(queries, "_MOST_STEPS", 20)
    path = write(tmp_path / "a.gpkg", "GPKG", layer="labels")
    numbers = "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t)"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE VIEW viewname AS SELECT * FROM labels")
        db.execute(f"CREATE VIEW endless AS {numbers} SELECT x FROM t WHERE x < 0")
    content = (tmp_path / "a.gpkg").read_bytes()
    (tmp_path / "a.gpkg").write_bytes(content.replace(b"viewname", b"\xd1iewname"))
    with pytest.raises(InputError, match="has a view, endless, whose query gives more than"):
        check_views(path)
