import json
import math

import numpy as np
import pytest
import rasterio

from cafe_cli.checks.raster import describe_raster
from tests.support.rasters import around, noise

X, Y = 300_000.0, 5_200_000.0


@pytest.mark.parametrize(
    ("options", "mask"),
    [
        ({}, "none"),
        ({"nodata": 0}, "nodata"),
        ({"alpha": 4}, "alpha"),
        ({"mask": np.full((60, 60), 255, np.uint8)}, "mask"),
    ],
)
def test_describes_masks(write, options, mask):
    where = around(X, Y, 30, 0.5)
    with rasterio.open(write("a.tif", noise(4, where), where, **options)) as dataset:
        assert describe_raster(dataset).mask == mask


def test_describes_a_raster(write):
    where = around(X, Y, 30, 0.5, angle=30)
    options = {"tiled": True, "blockxsize": 16, "blockysize": 32, "compress": "deflate"}
    path = write("dsm.tif", noise(1, where, "float32"), where, nodata=math.nan, **options)
    with rasterio.open(path) as dataset:
        facts = describe_raster(dataset).as_json()
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["pixel"] == pytest.approx([0.5, 0.5])
    assert facts["rotation"] == pytest.approx(30)
    assert facts["gsd"] == pytest.approx(0.5)
    some = (
        "path",
        "width",
        "height",
        "crs",
        "dtype",
        "nodata",
        "block",
        "overviews",
        "compression",
    )
    assert [facts[key] for key in some] == [
        path, 60, 60, "EPSG:32632", "float32", "nan", [32, 16], [], "DEFLATE",
    ]  # fmt: skip
