"""Many maps: paired by patterns, or those of the scenes of a config, on the ground of a split."""

import json
import shutil

import numpy as np
import pyogrio.raw
import pytest
import shapely

from cafe_cli.config.load import parse_config
from cafe_cli.config.schema import LabelSettings
from cafe_cli.errors import ConfigError, GridError, InputError, LabelError
from cafe_cli.evaluation import reference
from cafe_cli.evaluation.counting import CountSettings
from cafe_cli.evaluation.evaluate import evaluate
from cafe_cli.evaluation.pooled import evaluate_pairs, evaluate_scenes
from cafe_cli.tilesets.make import tile
from tests.support.elsewhere import run_elsewhere
from tests.support.maps import mosaic
from tests.support.rasters import TABLE, UTM, grid, noise, write

PLACES = {name: grid(160, 128, left=300_000 + 1000 * i) for i, name in enumerate("abcd")}
ERRORS = dict(zip("abcd", (0.1, 0.4, 0.2, 0.3), strict=True))  # share of wrong pixels of each map


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """Four scenes with maps of different worth, named like their orthophotos."""
    folder = tmp_path_factory.mktemp("town")
    (folder / "maps").mkdir()
    for seed, (name, where) in enumerate(PLACES.items()):
        random = np.random.default_rng(seed)
        labels = np.kron(random.integers(0, 3, (16, 20)), np.ones((8, 8))).astype(np.uint8)
        write(folder / f"{name}_ortho.tif", noise(3, where), where)
        write(folder / f"{name}_labels.tif", labels, where, nodata=255)
        wrong = random.random(labels.shape) < ERRORS[name]
        write(
            folder / "maps" / f"{name}_ortho.tif", np.where(wrong, (labels + 1) % 3, labels), where
        )
    return folder


def config(root, **sections):
    values = {
        "root": str(root),
        "scenes": {"optical": "{id}_ortho.tif", "labels": "{id}_labels.tif"},
        "classes": [{"id": c.id, "name": c.name, "color": c.color} for c in TABLE],
        "tile": {"size": 32, "overlap": 0},
        **sections,
    }
    return parse_config(values, "test")


def single(town, name):
    return evaluate(
        str(town / "maps" / f"{name}_ortho.tif"), str(town / f"{name}_labels.tif"), classes=TABLE
    )


def summed(scores):
    return np.sum([s.confusion for s in scores], axis=0).tolist()


def plain(confusion):
    return [list(row) for row in confusion]


NAMES = ["maps", "maps/*.tif", "maps/{id}_ortho.tif", "@"]


@pytest.mark.parametrize("name", NAMES)
def test_all_scenes_pooled_and_one_by_one(town, tmp_path, name):
    (tmp_path / "list").write_text("\n".join(str(p) for p in (town / "maps").iterdir()))
    found = evaluate_scenes(
        f"@{tmp_path / 'list'}" if name == "@" else f"{town}/{name}", config(town)
    )
    assert list(found.scenes) == ["b", "d", "c", "a"]  # the worst first
    for scene, scores in found.scenes.items():
        assert scores == single(town, scene)
    assert plain(found.pooled.confusion) == summed(found.scenes.values())
    stored = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert [row["scene"] for row in stored["scenes"]] == ["b", "d", "c", "a"]
    assert stored["pixels"] == sum(row["pixels"] for row in stored["scenes"]) == 4 * 160 * 128


def test_maps_may_be_named_like_scenes(town, tmp_path):
    for name in "ac":
        (tmp_path / f"{name}.tif").symlink_to(town / "maps" / f"{name}_ortho.tif")
    found = evaluate_scenes(str(tmp_path), config(town))
    assert list(found.scenes) == ["c", "a"]


def test_one_map_of_all_scenes(town, tmp_path):
    whole = tmp_path / "whole.tif"
    mosaic([str(town / "maps" / f"{name}_ortho.tif") for name in "abc"], whole)
    found = evaluate_scenes(str(whole), config(town))
    assert list(found.scenes) == ["b", "c", "a"]  # it does not reach d
    assert found.scenes["b"] == single(town, "b")
    with pytest.raises(InputError, match=r"1 of 4 scenes have no map: d"):
        evaluate_scenes(str(whole), config(town, split={"validation": 0.25}), split="train")


@pytest.mark.parametrize(
    "split",
    [
        {"test_scenes": ["b", "d"], "validation": 0.2},
        {"test": 0.3, "validation": 0.2, "block": 32, "buffer": 0},
        {"test": 0.25, "validation": 0.25, "unit": "scene"},
        {"test_scenes": ["a"], "folds": 3, "fold": 1, "block": 32},
        {"file": "split.csv"},
        {"file": "split.gpkg", "buffer": 4},
    ],
    ids=["scenes", "blocks", "whole", "folds", "table", "polygons"],
)
def test_the_ground_of_a_split_is_that_of_the_tile_set(town, tmp_path, split):
    (town / "split.csv").write_text("scene,split\na,test\nb,val\nc,train\nd,test\n")
    draw_split(town / "split.gpkg")
    settings = config(town, split={"seed": 3, **split})
    cut = tile(settings, tmp_path / "tiles")
    for part in ("validation", "test"):
        found = evaluate_scenes(str(town / "maps"), settings, split=part)
        assert set(found.scenes) == cut.scenes_of(part)
        counts = {name: row.pixels for name, row in found.pooled.classes.items()}
        assert counts == {name: cut.pixels[part][name] for name in TABLE.names}
        assert 0 < found.pooled.pixels < 4 * 160 * 128
    trained = evaluate_scenes(str(town / "maps"), settings, split="train")
    assert set(trained.scenes) == cut.scenes_of("train")


def draw_split(path):
    def box(name, left, top, right, bottom):
        corners = [PLACES[name].transform @ at for at in ((left, top), (right, bottom))]
        return shapely.box(*np.sort(corners, axis=0).ravel())

    drawn = {"test": box("a", 3, 5, 70, 50), "val": box("a", 110, 70, 150, 120)}
    more = {"test": box("c", 40, 40, 90, 90)}
    pyogrio.raw.write(
        path,
        shapely.to_wkb(np.array([*drawn.values(), *more.values()], object)),
        [np.array([*drawn, *more], object)],
        ["split"],
        driver="GPKG",
        geometry_type="Polygon",
        crs=UTM.to_wkt(),
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"split": "test"},
        {"split": "train", "settings": CountSettings(erode=1, distances=(1, 2), block=32)},
        {"ignored": ["tree"], "others": ["copies"]},
    ],
    ids=["all", "test", "train", "two"],
)
def test_other_processes_score_the_same(town, monkeypatch, options):
    monkeypatch.setattr(reference, "_BLOCK", 50)
    monkeypatch.chdir(town)
    (town / "copies").mkdir(exist_ok=True)
    for name in "abcd":
        source = f"{name}_labels.tif" if name == "c" else f"maps/{name}_ortho.tif"
        shutil.copy(source, f"copies/{name}_ortho.tif")
    settings = config(town, split={"test": 0.3, "validation": 0.2, "block": 32, "buffer": 0})
    here = evaluate_scenes("maps", settings, **options)
    elsewhere = evaluate_scenes("maps", settings, **options, run=run_elsewhere)
    assert json.dumps(elsewhere.as_json(True)) == json.dumps(here.as_json(True))


def test_named_scenes_need_no_labels_of_the_others(town, tmp_path):
    for path in town.glob("*.tif"):
        if path.name != "a_labels.tif":
            (tmp_path / path.name).symlink_to(path)
    write(tmp_path / "a_labels.tif", np.full((128, 160), 9, np.uint8), PLACES["a"])  # no class
    settings = config(tmp_path, split={"test_scenes": ["b"]})
    assert evaluate_scenes(str(town / "maps"), settings, split="test").pooled == single(town, "b")


def test_scenes_without_a_map(town, tmp_path, caplog):
    for name in "abc":
        (tmp_path / f"{name}_ortho.tif").symlink_to(town / "maps" / f"{name}_ortho.tif")
    settings = config(town, split={"test_scenes": ["b", "c", "d"]})
    with caplog.at_level("INFO", "cafe"):
        assert list(evaluate_scenes(str(tmp_path), settings).scenes) == ["b", "c", "a"]
    assert "1 of 4 scenes have no map: d; they are not scored" in caplog.text
    with pytest.raises(InputError, match=r"1 of 3 scenes have no map: d; .*--partial"):
        evaluate_scenes(str(tmp_path), settings, split="test")
    found = evaluate_scenes(str(tmp_path), settings, split="test", partial=True)
    assert list(found.scenes) == ["b", "c"]
    with pytest.raises(InputError, match=r"none of 1 scenes has a map there.*: d; "):
        evaluate_scenes(str(tmp_path), config(town, split={"test_scenes": ["d"]}), split="test")


def test_a_split_without_ground(town):
    with pytest.raises(ConfigError, match=r"'test'; .*split.test_scenes, split.test or split.file"):
        evaluate_scenes(str(town / "maps"), config(town), split="test")


def test_configs_without_scenes(town):
    bare = parse_config({"classes": [{"id": 0, "name": "x"}]}, "test")
    with pytest.raises(ConfigError, match=r"without REFERENCE, .* \[scenes\]"):
        evaluate_scenes(str(town / "maps"), bare)


def test_a_map_that_lies_elsewhere(town, tmp_path):
    write(tmp_path / "a_ortho.tif", np.zeros((9, 9), np.uint8), grid(9, 9, left=9e5))
    with pytest.raises(GridError, match="does not overlap"):
        evaluate_scenes(str(tmp_path), config(town))


def test_a_scene_without_prediction_is_an_error(town, tmp_path):
    for name in "ab":
        (tmp_path / f"{name}_ortho.tif").symlink_to(town / "maps" / f"{name}_ortho.tif")
    write(tmp_path / "c_ortho.tif", np.full((128, 160), 255, np.uint8), PLACES["c"])
    with pytest.raises(LabelError, match=r"c_ortho.tif has no class on any of the 20480 .*scene c"):
        evaluate_scenes(str(tmp_path), config(town))


def test_two_maps_of_one_name(town, tmp_path):
    for folder in "xy":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.tif").symlink_to(town / "maps" / "a_ortho.tif")
    with pytest.raises(InputError, match=r"x/a.tif and .*y/a.tif both match scene a"):
        evaluate_scenes(f"{tmp_path}/*/*.tif", config(town))


# Pairs of patterns


def test_pairs(town):
    found = evaluate_pairs(
        f"{town}/maps/{{id}}_ortho.tif", f"{town}/{{id}}_labels.tif", classes=TABLE
    )
    assert list(found.scenes) == ["b", "d", "c", "a"]
    assert found.pooled == evaluate_scenes(f"{town}/maps", config(town)).pooled


def test_other_processes_score_the_same_pairs(town, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "_BLOCK", 50)
    for name, where in PLACES.items():
        left, top = where.transform @ (20, 10)
        squares = [shapely.box(left + i, top - 40, left + i + 9, top) for i in range(0, 60, 10)]
        pyogrio.raw.write(
            tmp_path / f"{name}.gpkg", shapely.to_wkb(np.array(squares, object)),
            [np.arange(6) % 3], ["class"], driver="GPKG", geometry_type="Polygon",
            crs=UTM.to_wkt(),
        )  # fmt: skip
    heights = write(tmp_path / "h.tif", noise(1, PLACES["a"], "float32"), grid(9000, 128))
    names = f"{town}/maps/{{id}}_ortho.tif", f"{tmp_path}/{{id}}.gpkg"
    options = {
        "classes": TABLE,
        "labels": LabelSettings(attribute="class"),
        "settings": CountSettings(heights=str(heights)),
    }
    here = evaluate_pairs(*names, **options)
    assert len(here.scenes) == 4
    assert here.pooled.pixels == 4 * 6 * 9 * 40 * 4
    assert evaluate_pairs(*names, **options, run=run_elsewhere).as_json() == here.as_json()


def test_a_folder_of_maps_and_zero_padded_references(town, tmp_path):
    for folder in ("maps", "labels"):
        (tmp_path / folder).mkdir()
    for number, name in enumerate("abc", start=1):
        (tmp_path / "maps" / f"{number}.tif").symlink_to(town / "maps" / f"{name}_ortho.tif")
        (tmp_path / "labels" / f"s{number:02}.tif").symlink_to(town / f"{name}_labels.tif")
    found = evaluate_pairs(f"{tmp_path}/maps", f"{tmp_path}/labels/s{{n:02}}.tif", classes=TABLE)
    assert list(found.scenes) == ["2", "3", "1"]


def test_missing_pairs_are_counted_and_named(town, tmp_path, caplog):
    for name in "abd":
        (tmp_path / f"{name}_ortho.tif").symlink_to(town / "maps" / f"{name}_ortho.tif")
    for name in "abc":
        (tmp_path / f"{name}_labels.tif").symlink_to(town / f"{name}_labels.tif")
    names = f"{tmp_path}/{{id}}_ortho.tif", f"{tmp_path}/{{id}}_labels.tif"
    with pytest.raises(InputError, match=r"1 of 3 maps have no reference: d \(.*d_labels.tif does"):
        evaluate_pairs(*names, classes=TABLE)
    with caplog.at_level("INFO", "cafe"):
        found = evaluate_pairs(*names, classes=TABLE, partial=True)
    assert list(found.scenes) == ["b", "a"]
    assert "1 of 3 references have no map: c" in caplog.text
    (tmp_path / "d_ortho.tif").unlink()
    with pytest.raises(InputError, match=r"1 of 3 references have no map: c; .*--partial"):
        evaluate_pairs(*names, classes=TABLE)


def test_patterns_that_do_not_fit(town):
    with pytest.raises(ConfigError, match=r"\{row\} does not occur in .*maps/\{row\}.tif"):
        evaluate_pairs(f"{town}/maps/a_ortho.tif", f"{town}/{{row}}.tif", classes=TABLE)
    with pytest.raises(InputError, match=r"no file matches the maps = .*/no_\{id\}.tif"):
        evaluate_pairs(f"{town}/no_{{id}}.tif", f"{town}/{{id}}_labels.tif", classes=TABLE)
    for partial in (False, True):
        with pytest.raises(InputError, match=r"4 of 4 maps have no reference"):
            evaluate_pairs(
                f"{town}/{{id}}_ortho.tif", f"{town}/{{id}}.gpkg", classes=TABLE, partial=partial
            )


# Intervals and several maps


def test_blocks_of_all_scenes_give_the_intervals(town):
    found = evaluate_scenes(f"{town}/maps", config(town), settings=CountSettings(block=32)).first
    assert found.pooled.intervals.blocks == 4 * 5 * 4
    assert [row.intervals.blocks for row in found.scenes.values()] == [20] * 4
    low, high = found.pooled.intervals.overall["miou"]
    assert low < found.pooled.scores.miou < high
    assert found.as_json(True)["scenes"][0]["kappa"] == found.scenes["b"].kappa
    assert evaluate_scenes(f"{town}/maps", config(town)).first.pooled.intervals.side == 14


def test_maps_are_compared_on_all_scenes(town, tmp_path):
    for name in "abcd":
        (tmp_path / f"{name}.tif").symlink_to(town / f"{name}_labels.tif")
    settings, other = CountSettings(block=32), f"{tmp_path}/{{id}}.tif"
    found = evaluate_scenes(f"{town}/maps", config(town), others=[other], settings=settings)
    assert found.maps[other].pooled.scores.overall_accuracy == 1
    gain = found.differences[other]["overall_accuracy"]
    assert gain["estimate"] == pytest.approx(1 - found.pooled.overall_accuracy)
    assert 0 < gain["low"] < gain["estimate"] < gain["high"]
    pairs = evaluate_pairs(
        f"{town}/maps/{{id}}_ortho.tif", f"{town}/{{id}}_labels.tif", others=[other],
        classes=TABLE, settings=settings,
    )  # fmt: skip
    assert pairs.differences[other] == found.differences[other]
    assert pairs.as_json()["compared"][0]["scenes"][0]["miou"] == 1
    (tmp_path / "c.tif").unlink()
    with pytest.raises(InputError, match=r"--compare .*: there is no map of c"):
        evaluate_scenes(f"{town}/maps", config(town), others=[other])


def test_classes_are_left_out_of_all_scenes(town):
    found = evaluate_scenes(f"{town}/maps", config(town), ignored=["tree"])
    assert sum(found.pooled.confusion[1]) == 0
    assert summed(found.scenes.values()) == plain(found.pooled.confusion)
