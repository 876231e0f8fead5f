"""Which ground trains, validates and tests: from the config to windows."""

import json

import numpy as np
import pyogrio.raw
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from cafe_cli.config.load import parse_config
from cafe_cli.errors import ConfigError, InputError, LabelError
from cafe_cli.splits.assign import SPLITS
from cafe_cli.tilesets.make import tile
from cafe_cli.tilesets.plan import plan
from tests.support.rasters import TABLE, UTM, grid, noise
from tests.support.rasters import write as write_to

SETTINGS = {
    "scenes": {"optical": "{id}_ortho.tif", "labels": "{id}_labels.tif"},
    "classes": [{"id": c.id, "name": c.name, "color": c.color} for c in TABLE],
    "tile": {"size": 32, "overlap": 0},
    "split": {"buffer": 4},
}
PLACES = {name: grid(160, 128, left=300_000 + 1000 * i) for i, name in enumerate("abcd")}


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """Four scenes; the third class occurs in few places."""
    folder = tmp_path_factory.mktemp("town")
    for seed, (name, where) in enumerate(PLACES.items()):
        labels = np.random.default_rng(seed).choice([0, 1, 2], (16, 20), p=[0.55, 0.4, 0.05])
        labels = np.kron(labels, np.ones((8, 8))).astype(np.uint8)
        write_to(folder / f"{name}_ortho.tif", noise(3, where), where)
        write_to(folder / f"{name}_labels.tif", labels, where)
    return folder


def config(root, **changes):
    values = json.loads(json.dumps({"root": str(root), **SETTINGS}))
    for name, section in changes.items():
        values[name] = {**values.get(name, {}), **section}
    return parse_config(values, "test")


def seen(planned, scene, split, part="window"):
    """Count how often each pixel of a scene is in a tile of a split."""
    where = PLACES[scene]
    counts = np.zeros((where.height, where.width), int)
    for t in planned.of(scene):
        if t.split == split:
            window = getattr(t, part)
            counts[window.slices()] += 1
    return counts


def splits_of(planned):
    return {split: {t.scene for t in planned.tiles if t.split == split} for split in SPLITS}


def check_apart(planned):
    """No pixel is shown by tiles of two splits, none is scored twice."""
    for scene in PLACES:
        shown = [seen(planned, scene, split) > 0 for split in SPLITS]
        assert np.sum(shown, axis=0).max() <= 1
        for split in SPLITS[1:]:
            assert seen(planned, scene, split, "scored").max() <= 1


# Shares, folds, units


def test_shares_of_validation_and_test(town):
    planned = plan(config(town, split={"validation": 0.25, "test": 0.25, "block": 32}))
    check_apart(planned)
    for split in ("validation", "test"):
        scored = sum(seen(planned, name, split, "scored").sum() for name in PLACES)
        assert scored / (4 * 160 * 128) == pytest.approx(0.25, abs=0.06)


@pytest.mark.slow
@settings(max_examples=8)
@given(st.integers(2, 5), st.integers(0, 3))
def test_folds_validate_everything_once(town, folds, seed):
    total = np.zeros((4, 128, 160), int)
    for fold in range(folds):
        split = {"folds": folds, "fold": fold, "block": 32, "seed": seed}
        planned = plan(config(town, split=split))
        check_apart(planned)
        total += [seen(planned, name, "validation", "scored") for name in PLACES]
        assert not any(t.split == "test" for t in planned.tiles)
    assert (total == 1).all()


def test_folds_leave_the_test_ground_alone(town):
    tests = []
    for fold in range(2):
        split = {"folds": 2, "fold": fold, "block": 32, "test": 0.2}
        planned = plan(config(town, split=split))
        check_apart(planned)
        tests.append([seen(planned, name, "test") for name in PLACES])
    assert np.array_equal(*tests)
    assert np.any(tests)


def test_whole_scenes_are_assigned(town):
    planned = plan(config(town, split={"unit": "scene", "validation": 0.25, "test": 0.25}))
    where = splits_of(planned)
    assert [len(where[s]) for s in SPLITS] == [2, 1, 1]
    assert set.union(*where.values()) == set("abcd")


def test_scenes_that_are_named_come_first(town):
    split = {"validation_scenes": ["c"], "test": 0.34, "unit": "scene"}
    where = splits_of(plan(config(town, split=split)))
    assert where["validation"] == {"c"}
    assert len(where["test"]) == 1
    assert len(where["train"]) == 2


def test_a_fold_without_ground(town):
    split = {"folds": 5, "fold": 4, "unit": "scene"}
    with pytest.raises(ConfigError, match=r"fold 4 of 5 has no ground: there are 4 scenes with"):
        plan(config(town, split=split))


def test_a_split_may_name_scenes_that_are_left_out(town):
    split = {"validation_scenes": ["b", "z"], "test_scenes": ["c", "y"]}
    where = splits_of(plan(config(town, split=split, scenes={"only": ["a", "b"]})))
    assert where == {"train": {"a"}, "validation": {"b"}, "test": set()}
    with pytest.raises(ConfigError, match=r"validation_scenes names 'z'; the scenes are a, b, c"):
        plan(config(town, split=split))


def test_settings_that_contradict_each_other(town):
    for split, says in [
        ({"validation": 0.6, "test": 0.4}, "leave nothing for training"),
        ({"folds": 3, "fold": 3}, "fold 3 of 3: they are counted from 0"),
        ({"folds": 3, "validation_scenes": ["a"]}, "choose one"),
    ]:
        with pytest.raises(ConfigError, match=says):
            config(town, split=split)


# Files


def test_a_table_says_where_scenes_go(town, tmp_path):
    table = tmp_path / "split.csv"
    table.write_text("scene,fold1\na,train\nb,val\nc,test\nd,\n")
    split = {"file": str(table), "column": "fold1"}
    assert splits_of(plan(config(town, split=split))) == {
        "train": {"a", "d"}, "validation": {"b"}, "test": {"c"},
    }  # fmt: skip
    table.write_text("scene,split\na,train\nb,val\n")
    only = config(town, split={"file": str(table)}, scenes={"only": ["b", "c"]})
    assert splits_of(plan(only))["validation"] == {"b"}
    with pytest.raises(ConfigError, match=r"split\.column: .* has no 'fold'"):
        plan(config(town, split={"file": str(table), "column": "fold"}))


def draw(path, polygons, crs=UTM, column="split"):
    """Write polygons {split: geometry} as GeoPackage."""
    pyogrio.raw.write(
        str(path), shapely.to_wkb(list(polygons.values())),
        [np.array(list(polygons), object)], [column],
        driver="GPKG", geometry_type="Polygon", crs=crs.to_wkt(),
    )  # fmt: skip
    return str(path)


def test_polygons_say_where_ground_goes(town, tmp_path):
    """A triangle of scene a validates, a box tests; the other scenes have no polygon and train."""
    where = PLACES["a"]
    triangle = shapely.Polygon([where.transform @ p for p in [(0, 0), (64, 0), (0, 64)]])
    box = shapely.Polygon(
        [where.transform @ p for p in [(96, 64), (160, 64), (160, 128), (96, 128)]]
    )
    path = draw(tmp_path / "split.gpkg", {"validation": triangle, "Test": box})
    values = config(town, split={"file": path, "validation": 0.0})
    planned = plan(values)
    check_apart(planned)
    assert (seen(planned, "a", "test", "scored")[64:, 96:] == 1).all()
    assert splits_of(planned)["train"] == set("abcd")
    tileset = tile(values, tmp_path / "tiles")
    labelled = {
        s: sum(tileset.pixels[s].values()) - tileset.pixels[s]["unlabelled"] for s in SPLITS
    }
    assert labelled["test"] == 64 * 64
    assert labelled["validation"] == pytest.approx(64 * 64 / 2, abs=64)
    assert tileset.shared_ground == 0


def test_training_only_where_it_is_drawn(town, tmp_path):
    where = PLACES["a"]
    box = shapely.Polygon([where.transform @ p for p in [(0, 0), (80, 0), (80, 128), (0, 128)]])
    other = shapely.Polygon(
        [where.transform @ p for p in [(120, 0), (160, 0), (160, 128), (120, 128)]]
    )
    path = draw(tmp_path / "split.gpkg", {"train": box, "validation": other})
    values = config(town, split={"file": path}, scenes={"only": ["a"]}, tile={"min_labelled": 0.0})
    tileset = tile(values, tmp_path / "tiles")
    assert {t.col for t in tileset.of("train")} == {0, 32, 64}
    assert max(t.labelled for t in tileset.of("train") if t.col == 64) == 0.5


def test_polygons_elsewhere(town, tmp_path):
    box = shapely.box(0, 0, 10, 10)
    path = draw(tmp_path / "split.gpkg", {"validation": box})
    with pytest.raises(InputError, match="has no polygon inside any scene; check its CRS"):
        plan(config(town, split={"file": path}))
    where = PLACES["a"].footprint
    path = draw(tmp_path / "odd.gpkg", {"holdout": where})
    with pytest.raises(InputError, match=r"not a split: 'holdout' \(1\)"):
        plan(config(town, split={"file": path}))


# Classes


@pytest.mark.slow
def test_a_class_that_no_tile_shows(town, tmp_path):
    classes = [*SETTINGS["classes"], {"id": 3, "name": "water"}]
    values = parse_config({"root": str(town), **SETTINGS, "classes": classes}, "test")
    with pytest.raises(LabelError, match=r"no scene shows 'water': check .* labels\.absent"):
        tile(values, tmp_path / "tiles")
    assert not list(tmp_path.iterdir())
    known = {"root": str(town), **SETTINGS, "classes": classes, "labels": {"absent": ["water"]}}
    assert tile(parse_config(known, "test"), tmp_path / "tiles").pixels["train"]["water"] == 0
    known["labels"] = {"absent": ["lava"]}
    with pytest.raises(LabelError, match=r"labels\.absent names 'lava', which is not a class"):
        tile(parse_config(known, "test"), tmp_path / "other")
