from contextlib import contextmanager
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio

from cafe_cli.raster.writer import read_classes
from cafe_cli.scenes.scene import Patch, open_scene
from cafe_cli.tilesets import tile_rasters
from cafe_cli.tilesets.make import tile
from cafe_cli.tilesets.tile_rasters import TileReader, read_tile, tile_path, write_label, write_tile
from cafe_cli.tilesets.tileset import Tile
from tests.support.engines import settings
from tests.support.rasters import TABLE, grid, noise

pytest_plugins = ["tests.support.fixtures"]

SIZE = 32


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize("valid", ["all", "some", "none"])
@pytest.mark.parametrize("known", ["all", "some", "none"])
def test_a_tile_is_read_back_as_it_was_written(tmp_path, dtype, count, valid, known):
    where = grid(SIZE, SIZE)
    random = np.random.default_rng(1)
    shares = {"all": 1.0, "some": 0.5, "none": 0.0}
    optical = noise(count, where, dtype)
    optical_valid = random.random((SIZE, SIZE)) < shares[valid]
    if dtype == "float32":
        optical[:, ~optical_valid] = np.nan
    height_valid = random.random((SIZE, SIZE)) < shares[known]
    height = np.where(height_valid, noise(1, where, "float32")[0], np.float32(0))
    labels = random.choice([0, 1, 2, 255], (SIZE, SIZE)).astype(np.uint8)
    kept = Tile(name="a", split="train", scene="a", row=0, col=0, valid=1, labelled=1)
    patch = Patch(optical, optical_valid, height[None], height_valid)
    write_tile(tmp_path, kept, where, patch, labels, TABLE)
    again, read_labels = read_tile(tmp_path, kept, SIZE)
    assert np.array_equal(again.optical, optical, equal_nan=dtype == "float32")
    assert again.optical.dtype == dtype
    assert np.array_equal(again.optical_valid, optical_valid)
    assert np.array_equal(again.height, height)
    assert np.array_equal(again.height_valid, height_valid)
    assert np.array_equal(read_labels, labels)


@pytest.mark.parametrize("values", [(0, 1, 2, 255), (1,), (255,)])
def test_the_labels_of_a_tile_explain_themselves(tmp_path, values):
    where = grid(SIZE, SIZE)
    labels = np.random.default_rng(1).choice(values, (SIZE, SIZE)).astype(np.uint8)
    kept = Tile(name="a", split="train", scene="a", row=0, col=0, valid=1, labelled=1)
    write_label(tmp_path, kept, where, labels, TABLE)
    path = tile_path(tmp_path, kept, "label")
    with rasterio.open(path) as dataset:
        assert dataset.descriptions == ("class",)
        assert read_classes(dataset) == TABLE
        highest = dataset.tags(1).get("STATISTICS_MAXIMUM")
    known = labels[labels != 255]
    assert highest == (str(known.max()) if known.size else None)
    table = ElementTree.parse(f"{path}.aux.xml").getroot().iter("Row")
    rows = [[cell.text for cell in row.iter("F")][:3] for row in table]
    assert rows == [[str(c.id), str((labels == c.id).sum()), c.name] for c in TABLE]


def test_a_reader_closes_the_scenes_that_it_has_opened(scenes, tmp_path, monkeypatch):
    config = settings().model_copy(update={"root": str(scenes)})
    tileset = tile(config, tmp_path / "tiles", virtual=True)
    states = []

    @contextmanager
    def watched(*arguments):
        with open_scene(*arguments) as scene:
            states.append("open")
            yield scene
        states.append("closed")

    monkeypatch.setattr(tile_rasters, "open_scene", watched)
    with TileReader(tmp_path / "tiles", tileset) as reader:
        for kept in tileset.tiles:
            reader.read(kept)
        assert states == ["open", "open"]
    assert states == ["open", "open", "closed", "closed"]
