import numpy as np
import pytest

from cafe_cli.errors import InputError
from cafe_cli.model.inputs import to_tensors
from cafe_cli.scenes.scene import Patch
from cafe_cli.tilesets.tile_rasters import TileReader, tile_path
from cafe_cli.tilesets.tileset import load_tileset
from cafe_cli.training.report import examples
from cafe_cli.training.report.examples import Example
from tests.support.engines import TABLE, cut, tiny_model, town

pytest_plugins = ["tests.support.fixtures"]


def patch(side: int, heights: bool = True, dtype="uint8") -> tuple[Patch, np.ndarray]:
    image, metres, labels = town(side, side, dtype=dtype)
    valid = np.full((side, side), heights)
    optical_valid = np.ones((side, side), bool)
    optical_valid[:, 0] = False
    return Patch(image, optical_valid, np.where(valid, metres[:1], 0), valid), labels[0]


@pytest.mark.parametrize("count", [1, 3, 4, 5, 100, 5000])
@pytest.mark.parametrize("processes", [1, 3])
def test_watched_tiles_are_spread_over_those_of_the_first_process(count, processes):
    chosen = examples.choose_watched(count, processes)
    own = len(range(0, count, processes))
    assert len(set(chosen)) == min(4, own)
    assert all(number % processes == 0 and number < count for number in chosen)
    if own > 4:
        assert min(np.diff(chosen)) * 5 > count // processes * processes - processes


def test_no_validation_tiles():
    assert examples.choose_watched(0) == ()


@pytest.mark.parametrize(("epochs", "times"), [(1, 1), (12, 12), (20, 11), (60, 13), (1000, 13)])
def test_pictures_come_about_twelve_times(epochs, times):
    found = [epoch for epoch in range(1, epochs + 1) if examples.is_due(epoch, epochs)]
    assert len(found) == times
    assert (found[0], found[-1]) == (1, epochs)


def test_panels():
    inside, truth = patch(64)
    found = Example(inside, truth, np.roll(truth, 5)).panels(TABLE)
    assert list(found) == ["image", "height", "truth", "prediction", "errors"]
    assert {(p.shape, str(p.dtype)) for p in found.values()} == {((64, 64, 3), "uint8")}
    assert (found["image"][:, 0] == 255).all()
    assert np.array_equal(found["truth"], TABLE.paint(truth))


def test_without_heights_there_is_no_picture_of_them():
    inside, truth = patch(32, heights=False)
    assert "height" not in Example(inside, truth, truth).panels(TABLE)


@pytest.mark.parametrize("side", [256, 257, 300, 1024])
def test_large_tiles_make_small_pictures(side):
    inside, truth = patch(side)
    found = Example(inside, truth, truth).panels(TABLE)
    assert {p.shape for p in found.values()} == {(256, 256, 3)}


def test_strips(tileset):
    known = load_tileset(tileset)
    own = known.of("validation")
    blank = np.zeros((64, 64), np.uint8)
    found = examples.draw_strips(tileset, known, {3: blank, 1: blank})
    assert list(found) == [own[1].name, own[3].name]
    assert found[own[1].name].shape == (64, 5 * 64 + 4 * 4, 3)
    reader = TileReader(tileset, known)
    assert np.array_equal(
        found[own[1].name][:, :64].transpose(2, 0, 1), reader.read(own[1])[0].optical
    )


def test_tiles_are_predicted_as_in_validation(tileset):
    known, network = load_tileset(tileset), tiny_model()
    chosen = known.of("validation")[:2]
    found = list(examples.predict_tiles(tileset, known, chosen, network.train()))
    for tile, example in zip(chosen, found, strict=True):
        inside, truth = TileReader(tileset, known).read(tile)
        logits = network.eval()(*(part[None] for part in to_tensors(*inside)))
        assert np.array_equal(example.predicted, logits.argmax(dim=1)[0].numpy())
        assert np.array_equal(example.truth, truth)


def test_a_damaged_tile_is_named(scenes, tmp_path):
    folder = cut(scenes, tmp_path / "tiles")
    known = load_tileset(folder)
    tile = known.of("validation")[0]
    tile_path(folder, tile, "image").write_bytes(b"no tile")
    with pytest.raises(InputError, match=tile.name):
        list(examples.predict_tiles(folder, known, [tile], tiny_model()))


def test_centres(tileset, tmp_path):
    crs, found = examples.read_centres(tileset)
    tile = next(
        t for t in load_tileset(tileset).tiles if t.scene == "a" and (t.row, t.col) == (64, 0)
    )
    assert crs == "EPSG:32632"
    assert found[tile.name] == (500_000 + 32 * 0.5, 5_200_000 - 96 * 0.5)
    assert examples.read_centres(tmp_path) == ("", {})
