"""``cafe info`` says what any file or folder is."""

import json
import shutil

import numpy as np
import pytest
import shapely
from pyogrio.raw import write as write_vectors

from cafe_cli.errors import InputError, ModelFileError
from cafe_cli.inference.job import PredictInput
from cafe_cli.info import describe
from tests.support.engines import TABLE, predict, town, write
from tests.support.rasters import grid
from tests.support.rasters import write as write_raster

pytest_plugins = ["tests.support.fixtures"]


def test_raster(tmp_path):
    where = grid(30, 20, pixel=0.5, left=500_000, top=5_000_000)
    path = write_raster(tmp_path / "dsm.tif", np.zeros((20, 30), "float32"), where, nodata=-9999)
    facts = describe(path)
    assert facts["kind"] == "raster"
    assert (facts["width"], facts["height"], facts["dtype"]) == (30, 20, "float32")
    assert (facts["crs"], facts["nodata"], facts["gsd"]) == ("EPSG:32632", -9999, 0.5)
    assert facts["bounds"] == [500_000, 4_999_990, 500_015, 5_000_000]


def test_map(tmp_path, model):
    image, _, _ = town(80, 96)
    predict(model, PredictInput((write(tmp_path / "o.tif", image),)), tmp_path / "map.tif")
    facts = describe(str(tmp_path / "map.tif"))
    assert facts["kind"] == "land-cover map"
    assert facts["classes"] == {c.id: f"{c.name} {c.color}" for c in TABLE}
    assert facts["tags"]["CAFE_MODEL"] == model.name
    assert facts["settings"]["models"] == [str(model)]


def test_model(model):
    facts = describe(str(model))
    assert facts["kind"] == "model"
    assert facts["classes"] == {c.id: f"{c.name} {c.color}" for c in TABLE}
    assert facts["bytes"] == model.stat().st_size
    assert facts["architecture"]["classes"] == len(TABLE)


def test_tileset(tileset):
    facts = describe(str(tileset))
    assert facts["kind"] == "tile set"
    assert facts["tiles"] == {"train": 6, "validation": 5, "test": 0}
    assert facts["scenes"] == 2


def test_run(tmp_path):
    rows = ("epoch,step,loss,miou", "1,5,2.0,0.4", "2,10,1.0,0.6", "3,15,0.9,0.5")
    (tmp_path / "history.csv").write_text("\n".join(rows))
    (tmp_path / "config.toml").write_text("[train]\nepochs = 3\n")
    (tmp_path / "last.safetensors").touch()
    facts = describe(str(tmp_path))
    assert facts["kind"] == "training run"
    assert (facts["epochs"], facts["steps"], facts["best_epoch"]) == (3, 15, 2)
    assert facts["validation_miou"] == 0.6
    assert facts["models"] == ["last.safetensors"]
    assert facts["details"] == {"train": {"epochs": 3}}
    assert not facts["has_ended"]


def test_vectors(tmp_path):
    for layer, shape in (("a", shapely.box(0, 0, 2, 3)), ("b", shapely.Point(1, 2))):
        write_vectors(
            str(tmp_path / "v.gpkg"), np.array([shapely.to_wkb(shape)], object), [np.array([1])],
            ["class"], layer=layer, geometry_type=shape.geom_type, crs="EPSG:25832",
        )  # fmt: skip
    layers = describe(str(tmp_path / "v.gpkg"))["layers"]
    assert layers["a"] == {
        "geometry": "Polygon", "features": 1, "crs": "EPSG:25832", "attributes": ["class"],
        "bounds": [0, 0, 2, 3],
    }  # fmt: skip
    assert layers["b"]["geometry"] == "Point"


@pytest.mark.parametrize("name", ["missing.tif", "missing.gpkg", "missing", "empty", "text.tif"])
def test_what_is_nothing_is_one_line(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(InputError) as caught:
        describe(str(tmp_path / name))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_model_is_told(tmp_path, model):
    shutil.copy(model, tmp_path / "m.safetensors")
    (tmp_path / "m.safetensors").write_bytes(model.read_bytes()[:50])
    with pytest.raises(ModelFileError, match=r"m\.safetensors"):
        describe(str(tmp_path / "m.safetensors"))


def test_command(invoke, tileset, model):
    code, said = invoke("info", tileset, model, "--json")
    assert code == 0
    first, second = said.out.split("\n}\n")[:2]
    assert json.loads(first + "}")["kind"] == "tile set"
    assert json.loads(second + "}")["details"]["config"] is not None
    code, said = invoke("info", model)
    assert (code, said.err) == (0, "")
    assert said.out.startswith("kind: model\n")
    assert "config:" not in said.out
    code, said = invoke("-v", "info", model)
    assert "config:" in said.out
    code, said = invoke("info", "missing.tif")
    assert code == 1
    assert len(said.err.strip().splitlines()) == 1
