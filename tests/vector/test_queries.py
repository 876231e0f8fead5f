"""Layers that are queries: those that end are read, the others are refused within seconds."""

import sqlite3

import numpy as np
import pyogrio.raw
import pytest
import shapely

from cafe_cli.errors import InputError
from cafe_cli.vector import queries
from cafe_cli.vector.layers import find_layer, list_layers


@pytest.fixture
def package(tmp_path):
    """Write a GeoPackage with one polygon, and return a function that adds a view of a query."""
    path = tmp_path / "v.gpkg"
    box = np.array([shapely.to_wkb(shapely.box(0, 0, 9, 9))], object)
    kinds = np.array([1])
    pyogrio.raw.write(
        str(path), box, [kinds], ["kind"], driver="GPKG", layer="town", geometry_type="Polygon",
        crs="EPSG:32632",
    )  # fmt: skip

    def add(query: str) -> str:
        with sqlite3.connect(path) as db:
            db.execute(f"CREATE VIEW odd AS {query}")
            db.execute(
                "INSERT INTO gpkg_contents (table_name, data_type, identifier, srs_id) "
                "VALUES ('odd', 'features', 'odd', 32632)"
            )
            db.execute(
                "INSERT INTO gpkg_geometry_columns VALUES ('odd', 'geom', 'POLYGON', 32632, 0, 0)"
            )
        return str(path)

    return add


COUNT = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n{end}) "
ENDLESS = {
    "rows without end": COUNT.format(end="") + "SELECT i AS fid, geom, kind FROM town, n",
    "steps without end": COUNT.format(end="") + "SELECT i AS fid, geom FROM town, n WHERE i < 0",
    "distinct rows": COUNT.format(end="").replace(" ALL", "") + "SELECT i, geom FROM town, n",
    "unknown function": COUNT.format(end="") + "SELECT ST_Odd(i) AS fid, geom FROM town, n",
}  # fmt: skip


@pytest.mark.parametrize("query", ENDLESS.values(), ids=ENDLESS)
def test_views_that_never_end(package, monkeypatch, query):
    monkeypatch.setattr(queries, "_MOST_FEATURES", 10_000)
    monkeypatch.setattr(queries, "_MOST_STEPS", 3)
    path = package(query)
    with pytest.raises(InputError, match=r"has a view, odd, whose query gives more than 10,000"):
        find_layer(path, "odd")


@pytest.mark.parametrize(
    "query",
    ["SELECT fid, geom, kind FROM town", "SELECT fid, geom, kind FROM town WHERE kind > 5",
     COUNT.format(end=" WHERE i < 50") + "SELECT i AS fid, geom, kind FROM town, n"],
)  # fmt: skip
def test_views_that_end(package, query):
    assert find_layer(package(query), "odd").name == "odd"


def test_sql_in_a_virtual_data_source(package, tmp_path):
    source = package("SELECT fid, geom FROM town")
    text = (
        '<OGRVRTDataSource><OGRVRTLayer name="x"><SrcDataSource>{}</SrcDataSource>{}'
        "</OGRVRTLayer></OGRVRTDataSource>"
    )
    (tmp_path / "a.vrt").write_text(text.format(source, "<SrcSQL>SELECT * FROM odd</SrcSQL>"))
    with pytest.raises(InputError, match=r"a\.vrt holds an SQL query, which may never end"):
        list_layers(str(tmp_path / "a.vrt"))
    (tmp_path / "b.vrt").write_text(text.format(source, "<SrcLayer>town</SrcLayer>"))
    assert [name for name, _ in list_layers(str(tmp_path / "b.vrt"))] == ["x"]
