import tomllib

import numpy as np
import pytest
import rasterio

from cafe_cli.raster.categories import propose_classes
from cafe_cli.raster.writer import class_tags, create_cog
from tests.support.rasters import TABLE, grid

PLACE = grid()
VALUES = np.zeros((6, 8), np.uint8)
CATEGORIES = """<CategoryNames>
<Category>bare</Category><Category/><Category>a &quot;b&quot;</Category>
</CategoryNames>"""
RAT = """<GDALRasterAttributeTable>
<FieldDefn index="0"><Name>{0}</Name><Type>0</Type><Usage>{1}</Usage></FieldDefn>
<FieldDefn index="1"><Name>Count</Name><Type>0</Type><Usage>1</Usage></FieldDefn>
<FieldDefn index="2"><Name>{2}</Name><Type>2</Type><Usage>{3}</Usage></FieldDefn>
<Row index="0"><F>11</F><F>7</F><F>Open Water</F></Row>
<Row index="1"><F>21.0</F><F>7</F><F>Developed</F></Row>
<Row index="2"><F>255</F><F>7</F><F>Nothing</F></Row>
</GDALRasterAttributeTable>"""


def proposed(path):
    rows = tomllib.loads(propose_classes(str(path)))["classes"]
    return [(r["id"], r["name"], r.get("color"), r["values"]) for r in rows]


def beside(path, text):
    path = path + ".aux.xml"
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'<PAMDataset><PAMRasterBand band="1">{text}</PAMRasterBand></PAMDataset>')


def test_category_names_and_colours(write):
    path = write("a.tif", VALUES, PLACE)
    beside(path, CATEGORIES)
    assert proposed(path) == [(0, "bare", None, [0]), (1, 'a "b"', None, [2])]
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {0: (1, 2, 3, 255), 2: (255, 0, 16, 255)})
    beside(path, CATEGORIES)
    assert [row[2] for row in proposed(path)] == ["#010203", "#ff0010"]


@pytest.mark.parametrize(
    "columns", [("Value", 5, "Land", 2), ("Value", 0, "Class_Name", 0), ("Code", 5, "NAME", 0)]
)
def test_raster_attribute_tables(write, columns):
    path = write("a.tif", VALUES, PLACE)
    beside(path, RAT.format(*columns))
    assert proposed(path) == [(0, "Open Water", None, [11]), (1, "Developed", None, [21])]


def test_maps_of_cafe(tmp_path):
    with create_cog(tmp_path / "map.tif", PLACE, False, TABLE) as dataset:
        dataset.write(VALUES, 1)
        dataset.update_tags(**class_tags(TABLE))
    assert [row[:3] for row in proposed(tmp_path / "map.tif")] == [
        (c.id, c.name, c.color) for c in TABLE
    ]


@pytest.mark.parametrize("text", ["", "<", RAT.format("Value", 5, "Other", 0)])
def test_rasters_that_name_nothing(write, text):
    path = write("a.tif", VALUES, PLACE)
    beside(path, text)
    assert propose_classes(path) == ""
