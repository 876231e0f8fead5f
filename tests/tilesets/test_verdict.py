"""What is said of plans that lack tiles, with remedies that hold when they are followed."""

import json
import re

import numpy as np
import pytest

from cafe_cli.checks.check import check
from cafe_cli.config.load import parse_config
from cafe_cli.tilesets.plan import plan
from cafe_cli.tilesets.verdict import judge_classes, judge_tiles
from tests.support.rasters import TABLE, grid, noise
from tests.support.rasters import write as write_to

SETTINGS = {
    "scenes": {"optical": "{id}_ortho.tif", "labels": "{id}_labels.tif"},
    "classes": [{"id": c.id, "name": c.name, "color": c.color} for c in TABLE],
    "tile": {"size": 32, "overlap": 0},
}


def settings(root, **changes):
    values = json.loads(json.dumps({"root": str(root), **SETTINGS}))
    for name, section in changes.items():
        values[name] = {**values.get(name, {}), **section}
    return parse_config(values, "test")


def deliver(folder, count, width, height, labels=None):
    """Write scenes side by side."""
    for i in range(count):
        where = grid(width, height, left=300_000 + 1000 * i)
        squares = np.random.default_rng(i).choice([0, 1, 2], (99, 99), p=[0.5, 0.3, 0.2])
        own = np.kron(squares, np.ones((8, 8)))[:height, :width] if labels is None else labels
        write_to(folder / f"s{i:02}_ortho.tif", noise(3, where), where)
        write_to(folder / f"s{i:02}_labels.tif", own.astype(np.uint8), where)
    return folder


def remedies(message):
    """Return the changes that a message names, each with its tiles for training and others."""
    found = []
    for part in re.split(r"; |, or ", message):
        if match := re.match(r"(.*) leaves (\d+) of \d+ tiles for training(.*)", part):
            changes = {}
            for setting in match[1].split(" with "):
                name, value = setting.split(" = ")
                section, key = name.split(".")
                changes.setdefault(section, {})[key] = json.loads(value.replace("'", '"'))
            held = {s: int(n) for n, s in re.findall(r"(\d+) for (\w+)", match[3])}
            found.append((changes, {"train": int(match[2]), "validation": 0, "test": 0, **held}))
    return found


def follow(root, config, message):
    """Plan what a message advises, and compare; return the number of remedies."""
    named = remedies(message)
    for changes, number in named:
        values = config.model_dump(mode="json", exclude_none=True)
        for section, own in changes.items():
            values[section] = {**values[section], **own}
        assert plan(parse_config(values, "test")).number == number
    return len(named)


def said(config):
    planned = plan(config)
    return [(f.level, f.message) for f in judge_tiles(planned, config)]


@pytest.mark.parametrize(
    ("size", "changes", "level", "cause"),
    [
        ((1, 160, 160), {}, "warning", r"9 of 25 training tiles are left: 16 touch ground for val"),
        (
            (1, 120, 120), {"split": {"buffer": 60, "block": 60}}, "error",
            r"none of 16 tiles of 32 px is left for training: 16 touch .* buffer of 60 px",
        ),
        (
            (3, 96, 96), {"split": {"test": 0.3, "validation": 0.3}, "tile": {"overlap": 16}},
            None, "",
        ),
        (
            (4, 100, 100), {"tile": {"size": 256, "overlap": 64}}, "error",
            r"none of 4 tiles of 256 px is left for training: 3 have too few valid or labelled",
        ),
        ((1, 100, 100), {}, "warning", "no tile for validation"),
        ((3, 64, 64), {"split": {"validation": 0.0}}, "warning", "no tile for validation"),
        (
            (2, 64, 64), {"split": {"test": 0.2}}, "warning", "no tile for test",
        ),
    ],
)  # fmt: skip
def test_remedies_hold(tmp_path, size, changes, level, cause):
    config = settings(deliver(tmp_path, *size), **changes)
    found = said(config)
    if level is None:
        assert found == []
        return
    ((got, message),) = found
    assert got == level
    assert re.match(cause, message)
    assert follow(tmp_path, config, message)


@pytest.mark.parametrize("kind", ["named", "one scene"])
def test_where_nothing_helps(tmp_path, kind):
    deliver(tmp_path, 1, 32, 32)
    split = {"validation_scenes": ["s00"]} if kind == "named" else {}
    config = settings(tmp_path, split=split)
    ((level, message),) = said(config)
    assert level == ("error" if split else "warning")
    assert "no other value of split.unit" in message
    assert remedies(message) == []


@pytest.mark.parametrize(
    ("count", "width", "height", "changes"),
    [
        (18, 160, 160, {}),
        (1, 640, 640, {"tile": {"size": 64, "overlap": 16}}),
        (2, 320, 320, {"split": {"block": 32}}),
        (1, 400, 320, {"split": {"folds": 4, "buffer": 0}}),
    ],
)
def test_healthy_plans_are_not_judged(tmp_path, count, width, height, changes):
    config = settings(deliver(tmp_path, count, width, height), **changes)
    planned = plan(config)
    assert list(judge_tiles(planned, config)) == list(judge_classes(planned, config)) == []
    assert planned.candidates - planned.near_held_out == planned.number["train"]


@pytest.mark.parametrize("cause", ["labelled", "valid", "none"])
def test_a_class_that_only_left_out_tiles_show(tmp_path, cause):
    """The trees lie in the first tile, which is left out."""
    labels = np.zeros((64, 128))
    labels[:5, :5] = 1
    labels[32:, 32:64] = 2
    if cause == "labelled":
        labels[5:32, :32] = labels[:5, 5:32] = 255
    deliver(tmp_path, 2, 128, 64, labels)
    where, valid = grid(128, 64, left=300_000), np.ones((64, 128), bool)
    if cause == "valid":
        valid[5:32, :32] = False
    write_to(tmp_path / "s00_ortho.tif", noise(3, where), where, mask=valid)
    config = settings(tmp_path, scenes={"only": ["s00"]}, split={"validation": 0.0})
    found = [f for f in judge_classes(plan(config), config) if f.level == "error"]
    if cause == "none":
        assert not found
        return
    assert [f.message.split(":")[0] for f in found] == ["no tile shows 'tree', which the labels do"]
    assert found[0] in check(config).findings


@pytest.mark.parametrize("kind", ["train", "validation"])
def test_a_class_in_one_split_only(tmp_path, kind):
    deliver(tmp_path, 2, 128, 64)
    where = grid(128, 64, left=300_000)
    two = np.kron(np.tile([0, 2], (8, 8)), np.ones((8, 8))).astype(np.uint8)
    write_to(tmp_path / "s00_labels.tif", two, where)
    other = "s00" if kind == "validation" else "s01"
    config = settings(tmp_path, split={"validation_scenes": [other]})
    found = [f.message for f in judge_classes(plan(config), config)]
    lacks = "no training tile shows tree: it will not be learnt"
    assert found == ([] if kind == "validation" else [lacks])


def test_scenes_too_large_to_be_counted_again(tmp_path, monkeypatch):
    config = settings(deliver(tmp_path, 1, 100, 100))
    ((_, small),) = said(config)
    monkeypatch.setattr("cafe_cli.tilesets.verdict._MOST_PIXELS", 100)
    ((_, large),) = said(config)
    assert "split.block = 32 leaves" in small
    assert "no other value" in large
