"""STAC items: valid, and true to the files that they describe."""

import hashlib
import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS
from shapely.geometry import shape

from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.errors import ConfigError
from cafe_cli.raster.acquired import Acquired
from cafe_cli.raster.footprint import footprint
from cafe_cli.raster.product import confidence_product, label_product
from cafe_cli.raster.stac import ModelFacts, item_text, require_pystac
from cafe_cli.raster.writer import create_maps
from tests.support.rasters import LAMBERT, TABLE, grid

pystac = pytest.importorskip("pystac")
validation = pytest.importorskip("pystac.validation")
pytest.importorskip("jsonschema")

NOON = datetime(2024, 6, 1, 12, tzinfo=UTC)
MOMENT = Acquired(NOON, NOON)
SPAN = Acquired(datetime(2024, 1, 1, tzinfo=UTC), NOON)
NAMES = ClassTable((LandClass(0, "Gebäude"), LandClass(1, "gebaude"), LandClass(2, "草地")))
FOREIGN = CRS.from_string("+proj=laea +lat_0=52 +lon_0=10 +x_0=0 +y_0=0 +ellps=GRS80 +units=m")


def maps(folder: Path, where, classes=TABLE):
    products = [
        label_product(folder / "map.tif", classes),
        confidence_product(folder / "c" / "sure 1#.tif"),
    ]
    values = np.random.default_rng(0).choice([0, 1, 2, 255], (where.height, where.width))
    with create_maps(products, where, True, {"CAFE_VERSION": "1"}, {}) as writers:
        for writer in writers:
            writer.write(values.astype(np.uint8), 1)
    return products, values


def check(item: dict) -> None:
    """Validate an item by STAC's schema, which pystac bundles; those of extensions are online."""
    validation.validate_dict({**item, "stac_extensions": []})


@pytest.mark.parametrize("acquired", [MOMENT, SPAN], ids=["moment", "span"])
@pytest.mark.parametrize("crs", [None, LAMBERT, FOREIGN], ids=["none", "epsg", "wkt"])
def test_an_item_is_valid(tmp_path, acquired, crs):
    where = grid(40, 30, left=700_000, top=6_600_000, crs=crs)
    products, _ = maps(tmp_path, where)
    text = item_text(products, where, acquired)
    assert text == item_text(products, where, acquired)
    item = json.loads(text)
    check(item)
    properties = item["properties"]
    if acquired is MOMENT:
        assert properties["datetime"] == "2024-06-01T12:00:00Z"
    else:
        assert properties["datetime"] is None
        assert properties["start_datetime"] == "2024-01-01T00:00:00Z"
        assert properties["end_datetime"] == "2024-06-01T12:00:00Z"
    assert properties["cafe:version"] == "1"
    assert properties["proj:shape"] == [30, 40]
    assert (item["geometry"] is None) == (crs is None)
    assert properties.get("proj:code") == ("EPSG:2154" if crs == LAMBERT else None)
    assert ("proj:wkt2" in properties) == (crs == FOREIGN)


@pytest.mark.parametrize("lost", ["datetime", "geometry", "id", "assets"])
def test_the_schema_would_notice(tmp_path, lost):
    products, _ = maps(tmp_path, grid())
    item = json.loads(item_text(products, grid(), MOMENT))
    check(item)
    del (item["properties"] if lost == "datetime" else item)[lost]
    with pytest.raises(pystac.errors.STACValidationError):
        check(item)


@pytest.mark.parametrize("classes", [TABLE, NAMES, None])
def test_assets_are_what_the_files_are(tmp_path, classes):
    where = grid(40, 30)
    products, values = maps(tmp_path, where, classes)
    item = pystac.Item.from_dict(json.loads(item_text(products, where, MOMENT)))
    assert {key: asset.href for key, asset in item.assets.items()} == {
        "labels": "./map.tif",
        "confidence": "./c/sure%201%23.tif",
    }
    for product in products:
        asset = item.assets[product.name]
        content = product.path.read_bytes()
        assert asset.ext.file.checksum == "1220" + hashlib.sha256(content).hexdigest()
        assert asset.ext.file.size == len(content)
        [band] = asset.ext.raster.bands
        known = values[values != 255]
        assert (band.nodata, band.data_type, band.unit) == (255, "uint8", product.unit or None)
        assert (band.spatial_resolution, band.statistics.maximum) == (0.5, known.max())
        assert band.statistics.mean == pytest.approx(known.mean())
        assert ("classification:classes" in asset.extra_fields) == (product.classes is not None)
    if classes:
        found = item.assets["labels"].ext.classification.classes
        assert [c.title for c in found] == list(classes.names)
        assert [c.color_hint for c in found] == [c.color[1:].upper() for c in classes]
        assert [c.to_dict()["count"] for c in found] == [(values == c.id).sum() for c in classes]


def test_names_of_classes_that_machines_read(tmp_path):
    products, _ = maps(tmp_path, grid(), NAMES)
    item = json.loads(item_text(products, grid(), MOMENT))
    rows = item["assets"]["labels"]["classification:classes"]
    assert [row["name"] for row in rows] == ["geb_ude", "gebaude", "class_2"]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("has_height", [True, False])
def test_the_model_behind_a_map(tmp_path, count, has_height):
    files = [(tmp_path / f"{n} best.safetensors", f"{n}" * 64) for n in range(count)]
    for path, _ in files:
        path.write_bytes(b"12345")
    model = ModelFacts(files, "CaFE", "2.4.1", 7, ("red", "nir"), "uint16", has_height, 256, TABLE)
    products, _ = maps(tmp_path, grid())
    text = item_text(products, grid(), MOMENT, model)
    check(json.loads(text))
    assert "pretrained" not in text
    item = pystac.Item.from_dict(json.loads(text))
    mlm = item.ext.mlm
    assert (mlm.architecture, mlm.total_parameters) == ("CaFE", 7)
    assert mlm.mlm_name == "-".join(["cafe", *(f"{n}_best" for n in range(count))])
    expected = [(["red", "nir"], [-1, 2, 256, 256], "uint16")]
    expected += [(["height"], [-1, 1, 256, 256], "float32")] if has_height else []
    assert [(i.bands, i.input.shape, i.input.data_type) for i in mlm.input] == expected
    assert [c.title for c in mlm.output[0].classes] == list(TABLE.names)
    models = [asset for asset in item.assets.values() if asset.has_role("mlm:model")]
    assert [asset.ext.file.checksum for asset in models] == ["1220" + digest for _, digest in files]
    assert [asset.title for asset in models] == [path.name for path, _ in files]


@pytest.mark.parametrize("flip", [1, -1])
def test_a_footprint_is_counterclockwise_and_covers_the_raster(flip):
    where = grid(4000, 3000, pixel=10, left=300_000, top=5_200_000, crs=LAMBERT)
    where = replace(where, transform=where.transform @ Affine.scale(1, flip))
    found = footprint(where)
    assert found.exterior.is_ccw
    assert found.is_valid
    assert 4 <= len(found.exterior.coords) <= 66
    assert found.minimum_rotated_rectangle.area > 0.9 * found.envelope.area * 0.5


def test_a_footprint_across_the_antimeridian(tmp_path):
    where = grid(100, 100, pixel=1000, left=2_150_000, top=5_800_000, crs=CRS.from_epsg(2193))
    east, west = footprint(where).geoms
    assert east.bounds[2] == 180
    assert west.bounds[0] == -180
    assert east.exterior.is_ccw
    assert west.exterior.is_ccw
    products, _ = maps(tmp_path, where)
    item = json.loads(item_text(products, where, MOMENT))
    check(item)
    assert item["bbox"][0] > 0 > item["bbox"][2]
    assert shape(item["geometry"]).area < 10


def test_without_pystac(monkeypatch):
    monkeypatch.setitem(sys.modules, "pystac.extensions.mlm", None)
    with pytest.raises(ConfigError, match=r"--stac needs pystac: pip install 'pystac>=1\.15\.2'"):
        require_pystac()
