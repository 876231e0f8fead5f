"""Every key of the config is described: what it means, its unit and range, its default."""

import json
import re
from pathlib import Path

import jsonschema
import pytest

from cafe_cli.config.choices import READ_BY
from cafe_cli.config.json_schema import config_schema
from cafe_cli.config.load import load_config, parse_config
from cafe_cli.config.page import config_page
from cafe_cli.config.reference import Key, read_reference
from cafe_cli.config.schema import Config
from cafe_cli.config.template import config_template
from cafe_cli.errors import ConfigError
from cafe_cli.system.untrusted import parse_toml

ROOT = Path(__file__).parents[2]
SECTIONS = read_reference()
KEYS = {f"{s.name}.{k.name}".lstrip("."): k for s in SECTIONS for k in s.keys}
NEEDED = {
    "scenes": {"optical": "{id}.tif"},
    "classes": {"id": 0, "name": "ground"},
    "train": {},
    "split": {},
}
"""What a section needs besides one key."""


def kinds(key: Key) -> list[dict]:
    """Return the alternatives of a key's values, and those of the items of lists."""
    found = list(key.schema.get("anyOf", [key.schema]))
    for kind in found:
        found += kind["items"].get("anyOf", [kind["items"]]) if kind.get("type") == "array" else []
    return found


def load(path: str, value: object) -> Config:
    """Load a config that sets one key."""
    section, _, name = path.rpartition(".")
    values = {**NEEDED.get(section, {}), name: value}
    if not section:
        return parse_config(values, "test")
    return parse_config({section: [values] if section == "classes" else values}, "test")


def uncommented(text: str) -> str:
    """Set all keys that a template leaves unset."""
    return re.sub(r"^#(?=\S)", "", text, flags=re.MULTILINE)


def test_all_sections_are_there():
    assert [s.name for s in SECTIONS] == ["", *(n for n in Config.model_fields if n != "root")]
    assert all(s.text for s in SECTIONS)
    assert len(KEYS) > 90


@pytest.mark.parametrize("path", KEYS)
def test_a_key_is_described(path):
    key = KEYS[path]
    assert re.match("[A-Zc]", key.text), "a sentence, or the name cafe"
    assert key.text.endswith((".", ".`"))
    assert "``" not in key.text
    if any(k.get("type") in ("integer", "number") for k in kinds(key)):
        unit_and_range = r"(^|: |, or )[A-Za-z][\w ']*, (\d|above |any )"
        assert re.search(unit_and_range, key.values)
    # Choices and switches need no example; a key without a default needs one to be shown.
    free = [k for k in kinds(key) if not {"enum", "const"} & set(k) and k["type"] != "boolean"]
    assert not free or key.examples
    assert key.required or key.unset or key.default is not None


@pytest.mark.parametrize("path", KEYS)
def test_examples_and_default_are_valid(path):
    key = KEYS[path]
    schema = {"properties": {path: dict(key.schema)}}
    for value in [*key.examples, *([] if key.default in (None, "") else [key.default])]:
        load(path, value)
        jsonschema.validate({path: value}, schema)


def test_the_range_is_that_of_the_code():
    """The words come from the schema, and the schema from what validates."""
    assert KEYS["tile.size"].values == "pixels, 32 to 16384"
    assert KEYS["train.average"].values == "share, 0 to below 1"
    assert KEYS["height.slope"].values == "metres of rise per metre, above 0 to 100"
    assert KEYS["train.learning_rate"].values == "learning rate, above 0"
    assert (
        KEYS["model.attention"].values == '`"auto"`, or pixels, 0 to below 65536, a multiple of 64'
    )
    assert KEYS["train.cache"].values == '`"auto"`, `"none"`, or GB, above 0'
    assert KEYS["scenes.optical"].values == "text, or list of texts"
    assert KEYS["scenes.optical_nodata"].values == "pixel value, any number"
    assert KEYS["scenes.bands"].values == "list: band number, 1 or more"
    assert KEYS["model.pyramid"].values == "`true`, `false`"


@pytest.mark.parametrize("command", [None, *READ_BY])
def test_the_template_loads_as_the_defaults(tmp_path, command):
    path = tmp_path / "cafe.toml"
    path.write_text(config_template(command), encoding="utf-8")
    config = load_config(path)
    assert config.model_copy(update={"root": "."}) == Config()
    # cafe train --from takes these of the model, and the overlap follows the size.
    of_model = {"optical_encoder", "height_encoder", "width", "fusion", "attention"}
    assert not of_model & config.model.model_fields_set
    assert load_config(path, {"tile.size": 1024}).tile.overlap == 256


@pytest.mark.parametrize("command", [None, *READ_BY])
def test_the_template_is_valid_with_everything_set(tmp_path, command):
    path = tmp_path / "cafe.toml"
    path.write_text(uncommented(config_template(command)), encoding="utf-8")
    found = load_config(path)
    values = parse_toml(path.read_text(encoding="utf-8"))
    jsonschema.validate(values, config_schema())
    shown = {
        f"{section}.{key}"
        for section, keys in values.items()
        if section != "root"
        for key in (keys[0] if isinstance(keys, list) else keys)
    }
    if command is None:
        assert shown == set(KEYS) - {"root"}
        assert (found.classes[0].name, found.train.time_limit) == ("building", 5400)
        return
    read = set(READ_BY[command])
    needed = {p for p in shown if KEYS[p].required}
    assert {p for p in shown if p.split(".")[0] not in read} == {p for p in read if "." in p} | {
        p for p in needed if p.split(".")[0] not in read
    }


@pytest.mark.parametrize("command", [None, "train"])
def test_the_template_says_everything(command):
    lines = config_template(command).splitlines()
    text = " ".join(line.removeprefix("# ") for line in lines).replace("`", "")
    assert max(map(len, lines)) <= 100
    for path, key in KEYS.items():
        if command is None or path.startswith(("train.", "model.", "augment.")):
            values = key.values[:1].upper() + key.values[1:]
            about = f"{key.text} {values}. {key.in_words}".replace("`", "")
            assert about in text


def test_the_schema_is_draft_7_and_refuses_what_cafe_refuses():
    schema = json.loads(json.dumps(config_schema()))
    jsonschema.Draft7Validator.check_schema(schema)
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    # Taplo shows nothing of what stands beside a reference, and TOML has no null.
    assert "$ref" not in json.dumps(schema)
    assert '"null"' not in json.dumps(schema)
    for wrong in (
        {"tiles": {}}, {"tile": {"size": 16}}, {"train": {"epoch": 5}}, {"height": {"unit": 1}},
        {"scenes": {"labels": "x"}}, {"classes": [{"id": 0}]}, {"train": {"time_limit": 0}},
        {"split": {"validation": 1.5}}, {"model": {"attention": 100}},
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            parse_config(wrong, "test")
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema, jsonschema.Draft7Validator)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda p: p.stem)
def test_the_schema_takes_the_configs(path):
    values = parse_toml(path.read_text(encoding="utf-8"))
    jsonschema.validate(values, config_schema(), jsonschema.Draft7Validator)


def test_the_page_is_up_to_date():
    text = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert text == config_page(), "run: cafe config --markdown -o docs/config.md --overwrite"


def test_the_page_has_a_row_for_every_key():
    rows = re.findall(r"^\| `(\w+)` \|", config_page(), flags=re.MULTILINE)
    assert rows == [key.name for key in KEYS.values()]
