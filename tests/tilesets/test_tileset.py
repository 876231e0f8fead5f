import json
import math

import pytest

from cafe_cli.config.schema import HeightSettings
from cafe_cli.errors import InputError
from cafe_cli.tilesets.tileset import load_tileset, save_tileset
from tests.support.engines import TABLE

pytest_plugins = ["tests.support.fixtures"]


def test_a_description_that_is_missing_or_damaged(tileset, tmp_path):
    with pytest.raises(InputError, match=r"is not a tile set: cannot read tileset\.json"):
        load_tileset(tmp_path)
    text = (tileset / "tileset.json").read_text()
    for broken, place in ((text[:50], ""), (text.replace('"size": 64', '"size": "x"'), "size")):
        (tmp_path / "tileset.json").write_text(broken)
        with pytest.raises(
            InputError, match=rf"tileset\.json is damaged: {place}.*; run cafe tile"
        ):
            load_tileset(tmp_path)


def test_a_class_table_that_is_damaged(tileset, tmp_path):
    description = json.loads((tileset / "tileset.json").read_text())
    assert description["classes"] == TABLE.as_json()
    for broken, says in (
        (description["classes"][1:], r"class ids are \[1, 2\]"),
        ([{"id": 0}], "a class has no 'name'"),
        ([7], "not subscriptable"),
    ):
        (tmp_path / "tileset.json").write_text(json.dumps({**description, "classes": broken}))
        with pytest.raises(InputError, match=rf"tileset\.json is damaged: classes: .*{says}"):
            load_tileset(tmp_path)


def test_a_description_keeps_nodata_that_is_no_number(tileset, tmp_path):
    height = HeightSettings(nodata=math.nan)
    save_tileset(tmp_path, load_tileset(tileset).model_copy(update={"height": height}))
    assert math.isnan(load_tileset(tmp_path).height.nodata)
