"""``cafe predict --stac``: the item of a map, with the model that made it."""

import hashlib
import json

import numpy as np
import pytest
import rasterio

from cafe_cli.errors import ConfigError, OutputError
from cafe_cli.inference.job import PredictInput
from cafe_cli.raster.stac import StacOptions
from tests.support.engines import TABLE, predict, town, write

pystac = pytest.importorskip("pystac")
validation = pytest.importorskip("pystac.validation")
pytest.importorskip("jsonschema")

pytest_plugins = ["tests.support.fixtures"]


@pytest.fixture
def source(tmp_path):
    image, metres, _ = town(96, 80)
    optical = write(tmp_path / "ortho.tif", image)
    with rasterio.open(optical, "r+") as dataset:
        dataset.update_tags(TIFFTAG_DATETIME="2021:07:03 11:12:13")
    return PredictInput((optical,), (write(tmp_path / "dsm.tif", metres),))


def item_of(folder) -> dict:
    return json.loads((folder / "map.stac.json").read_text(encoding="utf-8"))


def test_the_item_of_a_map(tmp_path, model, source):
    extra = {name: tmp_path / f"{name}.tif" for name in ("confidence", "probabilities", "quality")}
    predict(model, source, tmp_path / "map.tif", stac=StacOptions(), **extra)
    found = item_of(tmp_path)
    validation.validate_dict({**found, "stac_extensions": []})
    assert found["properties"]["datetime"] == "2021-07-03T11:12:13Z"
    assert found["properties"]["cafe:inputs"] == "ortho.tif, dsm.tif"
    assert sorted(found["assets"]) == ["confidence", "labels", "model", "probabilities", "quality"]
    names = [band["name"] for band in found["assets"]["probabilities"]["bands"]]
    assert names == list(TABLE.names)
    item = pystac.Item.from_dict(found)
    for name in ("labels", *extra):
        content = (tmp_path / f"{'map' if name == 'labels' else name}.tif").read_bytes()
        checksum = "1220" + hashlib.sha256(content).hexdigest()
        assert item.assets[name].ext.file.checksum == checksum
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    assert item.assets["model"].ext.file.checksum == "1220" + digest
    assert item.ext.mlm.total_parameters > 0
    quality = item.assets["quality"].ext.classification.classes
    assert quality[0].title == "image and heights"


@pytest.mark.parametrize("jobs", [1, 3])
def test_an_item_does_not_depend_on_the_work(tmp_path, model, source, jobs):
    texts = []
    for count in (2, jobs):
        predict(model, source, tmp_path / "map.tif", stac=StacOptions(), jobs=count, overwrite=True)
        texts.append((tmp_path / "map.stac.json").read_bytes())
    assert texts[0] == texts[1]


def test_a_complete_map_gets_its_item(tmp_path, model, source):
    predict(model, source, tmp_path / "map.tif")
    before = (tmp_path / "map.tif").read_bytes()
    assert not (tmp_path / "map.stac.json").exists()
    predict(model, source, tmp_path / "map.tif", stac=StacOptions("2020"), resume=True)
    assert item_of(tmp_path)["properties"]["start_datetime"] == "2020-01-01T00:00:00Z"
    assert (tmp_path / "map.tif").read_bytes() == before


def test_an_item_goes_with_its_map(tmp_path, model, source):
    (tmp_path / "map.stac.json").write_text("mine")
    with pytest.raises(OutputError, match=r"map\.stac\.json exists, and would be replaced with"):
        predict(model, source, tmp_path / "map.tif")
    predict(model, source, tmp_path / "map.tif", overwrite=True)
    assert not (tmp_path / "map.stac.json").exists()


def test_without_a_date_nothing_is_made(tmp_path, model, source):
    silent = write(tmp_path / "silent.tif", np.zeros((3, 40, 40), np.uint8))
    with pytest.raises(
        ConfigError, match=r"silent\.tif has no acquisition time, .* pass --datetime"
    ):
        predict(model, PredictInput((silent,)), tmp_path / "map.tif", stac=StacOptions())
    with pytest.raises(ConfigError, match="--datetime 'now' is not a date"):
        predict(model, source, tmp_path / "map.tif", stac=StacOptions("now"))
    assert not list(tmp_path.glob("map*"))
