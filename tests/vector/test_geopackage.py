"""A GeoPackage that lost a part while it was written is told from a whole one."""

import sqlite3
from contextlib import closing

import numpy as np
import pytest
import shapely
from pyogrio.raw import write as write_vectors

from cafe_cli.vector.geopackage import check_geopackage


@pytest.fixture(params=["areas", 'a "b" c'])
def package(tmp_path, request):
    path = tmp_path / "a b?.gpkg"
    boxes = shapely.to_wkb(shapely.box(np.arange(500), 0, np.arange(500) + 1, 1))
    for layer in (request.param, "other"):
        write_vectors(
            str(path), boxes, [np.arange(500)], ["n"], layer=layer, driver="GPKG",
            geometry_type="Polygon", crs="EPSG:25832",
        )  # fmt: skip
    return path


def execute(path, text):
    with closing(sqlite3.connect(path)) as database:
        database.execute(text)
        database.commit()


def test_a_whole_one(package):
    before = package.read_bytes()
    check_geopackage(package)
    assert package.read_bytes() == before


@pytest.mark.parametrize(
    "fault",
    ["DELETE FROM rtree_other_geom_rowid WHERE rowid = 7", "DROP TABLE rtree_other_geom_rowid"],
)
def test_a_spatial_index_that_lacks_features(package, fault):
    execute(package, fault)
    with pytest.raises(OSError, match=r"cannot be read back: (other|no such table)"):
        check_geopackage(package)


@pytest.mark.parametrize("place", [0, 4096, -4096])
def test_a_damaged_page(package, place):
    content = bytearray(package.read_bytes())
    content[place : place + 64 if place + 64 else None] = b"\xff" * 64
    package.write_bytes(content)
    with pytest.raises(OSError, match="cannot be read back"):
        check_geopackage(package)


def test_a_cut_off_file(package):
    content = package.read_bytes()
    package.write_bytes(content[: len(content) // 2])
    with pytest.raises(OSError, match="cannot be read back"):
        check_geopackage(package)
