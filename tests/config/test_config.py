import math
import re
import tomllib
from pathlib import Path

import pytest

from cafe_cli import __version__
from cafe_cli.config.load import dump_config, load_config, parse_assignment, parse_config
from cafe_cli.config.provenance import read_beside, save_beside
from cafe_cli.config.schema import Config, HeightSettings
from cafe_cli.errors import ConfigError
from cafe_cli.scenes.discovery import find_scenes

CONFIGS = Path(__file__).parents[2] / "configs"
CLASSES = [{"id": 0, "name": "ground"}, {"id": 1, "name": "tree", "values": [3, 4]}]
VAIHINGEN_TRAIN = {1, 3, 5, 7, 11, 13, 15, 17, 21, 23, 26, 28, 30, 32, 34, 37}
VAIHINGEN_TEST = {2, 4, 6, 8, 10, 12, 14, 16, 20, 22, 24, 27, 29, 31, 33, 35, 38}
# Row -> the first and the last column of training and of test patches.
POTSDAM_TRAIN = {2: (10, 12), 3: (10, 12), 4: (10, 12), 5: (10, 12), 6: (7, 12), 7: (7, 12)}
POTSDAM_TEST = {2: (13, 14), 3: (13, 14), 4: (13, 15), 5: (13, 15), 6: (13, 15), 7: (13, 13)}


def patches(rows: dict[int, tuple[int, int]]) -> set[str]:
    return {f"{r}_{c}" for r, (first, last) in rows.items() for c in range(first, last + 1)}


@pytest.fixture
def toml(tmp_path):
    """Write a config file."""

    def write(text, name="cafe.toml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refusal(path, overrides=None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_a_file_everything_has_its_default():
    config = load_config()
    assert config.model_copy(update={"root": "."}) == Config()
    assert config.root == str(Path.cwd())
    assert (config.scenes, config.classes, config.height.kind) == (None, (), "dsm")
    assert (config.tile.size, config.tile.stride, config.labels.ignore) == (512, 384, None)


def test_a_file_that_is_not_there_or_not_toml(tmp_path, toml):
    assert "No such file" in refusal(tmp_path / "none.toml")
    assert "Is a directory" in refusal(tmp_path)
    assert "not valid TOML" in refusal(toml("[tile\nsize = 3"))
    path = tmp_path / "latin.toml"
    path.write_bytes(b'root = "\xe9"')
    assert "not valid TOML" in refusal(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tiles]\nsize = 64", "unknown key 'tiles', did you mean 'tile'?"),
        ("[train]\nepoch = 5", "unknown key 'train.epoch', did you mean 'epochs'?"),
        ("[scenes]\noptical = 'a'\nelevations = 'b'", "did you mean 'elevation'?"),
        ('[[classes]]\nid = 0\nname = "a"\ncolour = "#ffffff"', "did you mean 'color'?"),
        ("[predict]\nzzz = 1", "unknown key 'predict.zzz', known: window, overlap, blend, tta"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_right_one(toml, text, message):
    assert message in refusal(toml(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optical = 'ortho.tif'", "unknown key 'optical', it belongs to [scenes]"),
        ("[tile]\nepochs = 5", "unknown key 'tile.epochs', it belongs to [train]"),
        ("[augment]\nunit = 'foot'", "'augment.unit', it belongs to [height] or [split]"),
        ("[tile]\nname = 'ground'", "unknown key 'tile.name', it belongs to [classes]"),
        ("[predict]\nscale = 2", "it belongs to [augment]; or did you mean 'scales'?"),
        ("[tile]\ntrain = 5", "unknown key 'tile.train', known: gsd, size"),
    ],
)
def test_a_key_under_the_wrong_header_is_named_with_the_right_one(toml, text, message):
    assert message in refusal(toml(text))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[tile]\nsize = 16", ["tile.size", "32", "got 16"]),
        ("[tile]\nsize = 64\noverlap = 64", ["tile", "overlap 64", "tile size 64"]),
        ("[split]\nvalidation = 1.5", ["split.validation", "got 1.5"]),
        ("[height]\nunit = 'yard'", ["height.unit", "us-foot", "got 'yard'"]),
        ("[height]\ncell = 0", ["height.cell", "got 0"]),
        ("[scenes]\nlabels = 'x'", ["'scenes.optical' is missing"]),
        ("[scenes]\noptical = 'x'\nbands = [0]", ["scenes.bands.0", "got 0"]),
        ("[scenes]\noptical = 'x'\nbands = []", ["scenes.bands", "at least 1"]),
        ("[labels]\nignore_colors = ['black']", ["labels.ignore_colors.0", "got 'black'"]),
        ("[train]\nepochs = 'many'", ["train.epochs", "got 'many'"]),
        ("tile = 5", ["tile", "got 5"]),
        ("root = 5", ["root", "got 5"]),
        ("[tile]\nsize = 8\n[train]\nepochs = 0", ["tile.size", "train.epochs"]),
    ],
)
def test_a_wrong_value_is_named_with_its_place(toml, text, parts):
    message = refusal(toml(text))
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    "name", ["unlabelled", "Unlabelled", "ignore", " IGNORE", "(none)", "*", ""]
)
def test_no_class_is_called_like_no_class(name):
    classes = [{"id": 0, "name": "tree"}, {"id": 1, "name": name}]
    with pytest.raises(
        ConfigError, match=rf"{re.escape(repr(name))}.*another name.*labels\.ignore"
    ):
        parse_config({"classes": classes}, "test")


def test_no_scene_both_validates_and_tests(toml):
    text = '[split]\nvalidation_scenes = ["a", "b"]\ntest_scenes = ["b"]'
    assert "both name b" in refusal(toml(text))


@pytest.mark.parametrize(
    ("first", "second", "ignored"),
    [
        ("#ff0000", "#FF0000", "#000000"),
        ("#ff0000", "", "#000000"),
        ("#000000", "#ff0000", "#000000"),
    ],
)
def test_color_labels_need_colors_that_differ(first, second, ignored):
    classes = [{"id": 0, "name": "a", "color": first}, {"id": 1, "name": "b", "color": second}]
    labels = {"encoding": "colors", "ignore_colors": [ignored]}
    with pytest.raises(ConfigError, match="every class needs its own color"):
        parse_config({"classes": classes, "labels": labels}, "test")
    parse_config({"classes": classes}, "test")


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("train.epochs=20", "train.epochs", 20),
        ("train.learning_rate = 1e-3", "train.learning_rate", 0.001),
        ("model.pyramid=false", "model.pyramid", False),
        ("model.weights=none", "model.weights", "none"),
        ('model.weights="none"', "model.weights", "none"),
        ("scenes.only=['1', '2']", "scenes.only", ["1", "2"]),
        ("scenes.optical=top/a=b_{id}.tif", "scenes.optical", "top/a=b_{id}.tif"),
        ("height.nodata=-9999", "height.nodata", -9999),
        ("scenes.labels=", "scenes.labels", ""),
    ],
)
def test_an_assignment_is_toml_or_else_a_string(text, key, value):
    assert parse_assignment(text) == (key, value)


@pytest.mark.parametrize("text", ["train.epochs", "=5", " =5", ""])
def test_an_assignment_without_key_or_value(text):
    with pytest.raises(ConfigError, match=r"section\.key=value"):
        parse_assignment(text)


def test_options_lie_over_the_file(toml):
    path = toml("[train]\nepochs = 3\nseed = 7")
    config = load_config(path, {"train.epochs": 5, "tile.size": 64, "tile.overlap": 0})
    assert (config.train.epochs, config.train.seed, config.tile.size) == (5, 7, 64)
    assert "did you mean 'seed'?" in refusal(path, {"train.sed": 1})
    assert "'epochs' is not a section" in refusal(path, {"train.epochs.x": 1})


def test_what_is_dumped_loads_to_the_same(toml):
    changes = {
        "scenes": {"optical": "a{id}.tif", "bands": (3, 1), "only": ("1",)},
        "classes": CLASSES,
        "height": {"nodata": -32767.5},
        "train": {"learning_rate": 3e-5, "crop": 64},
    }
    config = parse_config({"root": "/data", **changes}, "test")
    assert load_config(toml(dump_config(config))) == config
    assert "crop" not in tomllib.loads(dump_config(Config()))["train"]


@pytest.mark.parametrize("nodata", [math.nan, -math.inf])
def test_nodata_that_is_no_number_survives(toml, nodata):
    height = HeightSettings(nodata=nodata)
    again = load_config(toml(dump_config(Config(height=height)))).height
    from_json = HeightSettings.model_validate_json(height.model_dump_json())
    assert repr(again.nodata) == repr(from_json.nodata) == repr(nodata)


def test_the_root_is_seen_from_the_file_and_from_options_seen_from_here(toml, tmp_path):
    assert load_config(toml("")).root == str(tmp_path)
    assert load_config(toml('root = "../data"')).root == str(tmp_path.parent / "data")
    assert load_config(toml('root = "/data"')).root == "/data"
    assert load_config(toml('root = "x"'), {"root": "here"}).root == str(Path.cwd() / "here")
    saved = toml(dump_config(load_config()), "elsewhere.toml")
    assert load_config(saved).root == str(Path.cwd())


def test_classes_become_a_table():
    table = parse_config({"classes": CLASSES}, "test").class_table
    assert (table.names, table[1].values, table[0].values) == (("ground", "tree"), (3, 4), ())
    with pytest.raises(ConfigError, match="no classes"):
        _ = Config().class_table


def deliver(root: Path, config: Config, ids: set[str], names: tuple[str, ...]) -> None:
    """Make the empty files of a benchmark."""
    for scene in ids:
        parts = dict(zip(names, map(int, scene.split("_")), strict=True))
        for pattern in (config.scenes.optical, config.scenes.elevation, config.scenes.labels):
            path = root / pattern.format(**parts)
            path.parent.mkdir(exist_ok=True)
            path.touch()


@pytest.mark.parametrize(
    ("name", "train", "test", "placeholders"),
    [
        ("vaihingen", set(map(str, VAIHINGEN_TRAIN)), set(map(str, VAIHINGEN_TEST)), ("id",)),
        ("potsdam", patches(POTSDAM_TRAIN), patches(POTSDAM_TEST), ("row", "col")),
    ],
)
def test_the_benchmarks_have_their_official_splits(tmp_path, name, train, test, placeholders):
    config = load_config(CONFIGS / f"{name}.toml", {"root": str(tmp_path)})
    deliver(tmp_path, config, train | test, placeholders)
    found = {files.id for files in find_scenes(config.scenes, config.root)}
    held = set(config.split.test_scenes)
    assert (len(train), len(test)) == {"vaihingen": (16, 17), "potsdam": (24, 14)}[name]
    assert held == test
    assert found - held == train - {"7_10"}
    assert config.split.validation_scenes == ()
    assert [c.scored for c in config.class_table] == [True] * 5 + [False]


def test_the_sample_config_finds_its_two_labelled_scenes():
    config = load_config(CONFIGS / "sample.toml")
    assert [files.id for files in find_scenes(config.scenes, config.root)] == ["a", "b"]
    assert len(config.class_table) == 6


@pytest.mark.parametrize(
    "key",
    [
        *(
            f"train.{n}"
            for n in ("learning_rate", "weight_decay", "distill_weight", "dice", "clip")
        ),
        "augment.height_jitter",
        "augment.height_noise",
    ],
)
def test_nothing_is_infinite(key):
    with pytest.raises(ConfigError, match=f"{key}: input should be a finite number"):
        load_config(overrides={key: math.inf})


def test_keys_that_moved_to_the_augmentation_are_named():
    with pytest.raises(ConfigError, match=r"train.height_dropout is now augment.height_dropout"):
        load_config(overrides={"train.height_dropout": 0.2})


def test_a_tile_keeps_one_stream():
    dropped = {"augment.height_dropout": 0.6, "augment.optical_dropout": 0.5}
    with pytest.raises(ConfigError, match=r"height_dropout 0.6 and optical_dropout 0.5 are more"):
        load_config(overrides=dropped)


@pytest.mark.parametrize(
    ("given", "message"),
    [("water", "class_light_of: input should be a list in brackets [(]got 'water'[)]"),
     ([3], "class_light_of.0: input should be text [(]got 3[)]")],
)  # fmt: skip
def test_a_list_is_called_as_in_toml(given, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, {"augment.class_light_of": given})


def test_seeds_that_torch_takes():
    assert load_config(overrides={"train.seed": 2**32 - 1}).train.seed == 2**32 - 1
    with pytest.raises(ConfigError, match=r"train.seed: input should be less than 4294967296"):
        load_config(overrides={"train.seed": 2**32})


def test_a_damaged_provenance_file_is_reported_and_not_used(tmp_path, caplog):
    output = tmp_path / "map.tif"
    assert read_beside(output) == {}
    assert not caplog.records
    save_beside(output, {"window": 512, "model": None, "made": {"by": "a", "of": None}})
    assert read_beside(output) == {"cafe_version": __version__, "window": 512, "made": {"by": "a"}}
    beside = tmp_path / "map.tif.toml"
    for damage in (b"window = ", b"\xff"):
        caplog.clear()
        beside.write_bytes(damage)
        assert read_beside(output) == {}
        (record,) = caplog.records
        assert f"{beside} is damaged and is not used" in record.getMessage()
