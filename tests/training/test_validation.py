import pytest

from cafe_cli.tilesets.tileset import load_tileset
from cafe_cli.training.validation import describe_shared_scenes

pytest_plugins = ["tests.support.fixtures"]


@pytest.fixture
def with_scenes(tileset):
    """Return a function: the tile set with the tiles of each split in other scenes."""
    info = load_tileset(tileset)

    def change(training, validation):
        scenes = {"train": training, "validation": validation}
        tiles = [
            tile.model_copy(update={"scene": scene})
            for split, names in scenes.items()
            for tile, scene in zip(info.of(split), names, strict=False)
        ]
        return info.model_copy(update={"tiles": tuple(tiles)})

    return change


def test_whole_scenes_validate(with_scenes):
    assert describe_shared_scenes(with_scenes("ab", "cd")) == ""
    assert describe_shared_scenes(with_scenes("ab", "")) == ""


def test_scenes_train_and_validate(with_scenes):
    alone = describe_shared_scenes(with_scenes("aa", "a"))
    assert "these scores are optimistic: expect lower ones on other ground." in alone
    assert "split.unit" not in alone
    several = describe_shared_scenes(with_scenes("ab", "b"))
    assert several.startswith(alone)
    assert several.endswith('cut the tiles with split.unit = "scene".')
