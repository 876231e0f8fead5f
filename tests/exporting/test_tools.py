"""What other programs take: the input of their files, and what they cannot feed."""

import re

import pytest

from cafe_cli.config.schema import HeightSettings
from cafe_cli.errors import ConfigError
from cafe_cli.exporting.export import ExportOptions, dry_run, export

pytest_plugins = ["tests.support.fixtures"]


def test_default_windows_of_tools(make_model, tmp_path):
    model = make_model(attention=64)
    assert dry_run(model, tmp_path / "m.onnx", ExportOptions("geodeep")).facts["windows"] == {
        "size": 512, "overlap": 128,
    }  # fmt: skip
    large = make_model({"window": 700}, attention=64)
    found = dry_run(large, tmp_path / "m.onnx", ExportOptions("deepness")).facts
    assert found["windows"] == {"size": 704, "overlap": 176}
    assert found["bands"] == ["red", "green", "blue", "height"]
    whole = make_model({"window": 96})
    found = dry_run(whole, tmp_path / "m.onnx", ExportOptions("geodeep")).facts
    assert found["windows"] == {"size": 96, "overlap": 24}


def test_the_order_of_other_bands_stays(make_model, tmp_path):
    model = make_model({"band_names": ("nir", "red", "green")})
    found = dry_run(model, tmp_path / "m.onnx", ExportOptions("geodeep")).facts
    assert found["bands"] == ["nir", "red", "green"]


FAULTS = [
    ({"target": "geodeep"}, {"optical_bands": 4}, {}, "exactly 3 bands, the model takes 4 (red, "),
    ({"target": "geodeep"}, {"optical_bands": 1}, {}, "exactly 3 bands, the model takes 1 (red)"),
    ({"target": "geodeep"}, {}, {"dtype": "uint16"}, "trained on uint16, and GeoDeep feeds 8 bits"),
    ({"target": "deepness"}, {}, {"dtype": "float32"}, "on float32, and Deepness (QGIS) feeds 8"),
    ({"target": "deepness"}, {}, {"dtype": "int16"}, "on int16, and Deepness (QGIS) feeds 8 bits"),
    ({"target": "deepness"}, {}, {"height": HeightSettings(ground="none")}, "pass --no-heights"),
    ({"target": "deepness", "logits": True}, {}, {}, "leave out --logits"),
    ({"target": "geodeep", "logits": True}, {}, {}, "GeoDeep needs probabilities"),
    ({"target": "deepness", "window": 100}, {}, {}, "--window 100 has to be a multiple of 32"),
    ({"target": "deepness", "window": 0}, {}, {}, "e.g. --window 32"),
    ({"target": "geodeep", "window": 8192}, {}, {}, "up to 4096, e.g. --window 4096"),
    ({"target": "geodeep", "window": 64, "overlap": 40}, {}, {}, "--overlap 40 has to be 0 to 32"),
    ({"target": "geodeep", "overlap": -1}, {}, {}, "--overlap -1 has to be 0 to 32 pixels"),
    ({"window": 256}, {}, {}, "windows of any size: leave out --window"),
    ({"overlap": 8}, {}, {}, "windows of any size"),
    ({"heights": False}, {}, {}, "--no-heights is for files for Deepness"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "network", "card", "says"), FAULTS, ids=str)
def test_what_cannot_be(make_model, tmp_path, options, network, card, says):
    model, out = make_model(card, **network), tmp_path / "m.onnx"
    with pytest.raises(ConfigError, match=re.escape(says)):
        export(model, out, ExportOptions(**options))
    assert not out.exists()
    (found,) = dry_run(model, out, ExportOptions(**options)).findings
    assert says in found.message
