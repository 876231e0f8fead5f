import pytest

from cafe_cli.config.schema import AugmentSettings, TrainSettings
from cafe_cli.errors import ConfigError, InputError, LabelError, OutputError
from cafe_cli.tilesets.make import tile
from cafe_cli.tilesets.tileset import load_tileset
from cafe_cli.training import preflight
from tests.support.engines import settings, write_town

pytest_plugins = ["tests.support.fixtures"]


@pytest.fixture
def info(tileset):
    return load_tileset(tileset)


def with_pixels(info, **training):
    pixels = {**info.pixels, "train": {**info.pixels["train"], **training}}
    return info.model_copy(update={"pixels": pixels})


def test_nothing_to_say(tileset, info):
    assert preflight.warnings(tileset, info, settings().train) == []
    preflight.check_tiles(tileset, info)


def test_batch_larger_than_the_tile_set(tileset, info):
    (message,) = preflight.warnings(tileset, info, TrainSettings(batch_size=50))
    assert message.startswith("train.batch_size is 50, but there are 6 training tiles: every step")


def test_class_without_training_pixels(tileset, info):
    (message,) = preflight.warnings(tileset, with_pixels(info, tree=0), settings().train)
    assert message.startswith("class tree has no pixel in the training tiles (6,656 elsewhere)")


def test_class_that_is_nowhere_was_meant_to_be(tileset, info):
    nowhere = {split: {**counts, "tree": 0} for split, counts in info.pixels.items()}
    empty = info.model_copy(update={"pixels": nowhere})
    assert preflight.warnings(tileset, empty, settings().train) == []


def test_no_labels(tileset, info):
    with pytest.raises(InputError, match="no pixel of its 6 training tiles has a label"):
        preflight.check_tiles(tileset, with_pixels(info, tree=0, ground=0, building=0))


def test_training_labels_of_one_class(tileset, info):
    with pytest.raises(LabelError, match=r"training tiles show one class only, 'ground'.*split"):
        preflight.check_tiles(tileset, with_pixels(info, tree=0, building=0))


def test_patience_without_validation(info):
    without = info.model_copy(update={"tiles": tuple(info.of("train"))})
    with pytest.raises(
        ConfigError, match=r"train\.patience is 3, but there are no validation tiles"
    ):
        preflight.check_patience(without, TrainSettings(patience=3))
    preflight.check_patience(without, TrainSettings(patience=0))
    preflight.check_patience(info, TrainSettings(patience=3))


def test_colours_of_a_class_that_is_not_there(info):
    preflight.check_augmentation(info, AugmentSettings(class_light_of=info.classes.names))
    with pytest.raises(ConfigError, match=r"class_light_of names 'lake', but the classes of"):
        preflight.check_augmentation(info, AugmentSettings(class_light_of=("lake",)))


@pytest.mark.parametrize(
    ("changes", "processes", "message"),
    [
        ({"batch_size": 2}, 3, "6 training tiles in batches of 2 cannot be shared among 3 devices"),
        ({"batch_size": 8}, 8, "in batches of 8 .* among 8 devices: .* no more than there are til"),
        ({"accumulate": 9}, 1, r"train.accumulate is 9, but a step has 6 tile\(s\) on a device"),
        ({"accumulate": 4, "batch_size": 6}, 2, r"accumulate is 4, but a step has 3 tile\(s\)"),
    ],
)
def test_steps_that_cannot_be_shared(changes, processes, message):
    with pytest.raises(ConfigError, match=message):
        preflight.check_shares(6, TrainSettings(**changes), processes)


def test_steps_that_can_be_shared():
    preflight.check_shares(6, TrainSettings(batch_size=6, accumulate=3), 2)
    preflight.check_shares(6, TrainSettings(batch_size="auto"), 4)
    preflight.check_shares(6, TrainSettings(batch_size=6), 6)  # a tile for each
    preflight.check_shares(6, TrainSettings(batch_size=7), 1)  # larger than the tile set


@pytest.mark.parametrize(("training", "size"), [(6, 9), (3, 8)])
def test_one_reason_is_enough_not_to_share(training, size):
    """A batch that is no multiple of the processes, or a process that would get no tile."""
    with pytest.raises(ConfigError, match=f"{training} training tiles in batches of {size} cannot"):
        preflight.check_shares(training, TrainSettings(batch_size=size), 4)


@pytest.mark.parametrize("changes", [{"batch_size": 1}, {"batch_size": 6, "accumulate": 4}])
def test_one_small_tile_at_a_time(info, changes):
    small = TrainSettings(crop=32, **changes)
    with pytest.raises(ConfigError, match="one tile of 32 px at a time cannot be normalised: rais"):
        preflight.check_normalisation(info, small, 1)
    preflight.check_normalisation(info, small, 2)
    preflight.check_normalisation(info, small.model_copy(update={"crop": 33}), 1)


def test_what_a_tile_set_keeps_is_no_place_for_a_run(tileset):
    for name in ("cache", "cache/run", "test"):
        with pytest.raises(OutputError, match=f"{name} belongs to the tile set"):
            preflight.check_output(tileset / name, tileset, True)
    preflight.check_output(tileset / "runs", tileset, False)


def test_an_empty_folder_is_as_good_as_none(tileset, tmp_path):
    preflight.check_output(tmp_path, tileset, False)


def test_views_of_what_was_changed(tmp_path):
    write_town(tmp_path, "a", 64, 64)
    folder = tmp_path / "tiles"
    config = settings(split__validation_scenes=[], split__validation=0)
    tile(config.model_copy(update={"root": str(tmp_path)}), folder, virtual=True)
    preflight.check_tiles(folder, load_tileset(folder))
    (tmp_path / "a_labels.tif").touch()
    with pytest.raises(InputError, match=r"a_labels\.tif was changed or moved after the virtual"):
        preflight.check_tiles(folder, load_tileset(folder))
