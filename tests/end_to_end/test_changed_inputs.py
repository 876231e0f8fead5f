"""Inputs that change while they are read: an error, and nothing under the name of an output."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio.shutil

from cafe_cli.config.schema import PredictSettings
from cafe_cli.errors import InputError, OutputError
from cafe_cli.inference.job import PredictInput
from cafe_cli.tilesets import cache
from cafe_cli.tilesets.make import tile
from cafe_cli.tilesets.tileset import load_tileset
from cafe_cli.training.train import TrainCallbacks, train
from tests.support.engines import predict, settings, town, write, write_town
from tests.support.maps import mosaic

pytest_plugins = ["tests.support.fixtures"]
pytestmark = pytest.mark.slow

SMALL = PredictSettings(window=64, overlap=32, engine="torch")


def nested(folder: Path, name: str) -> str:
    """Return a virtual raster of a virtual raster of a file."""
    for number in (1, 2):
        target = folder / f"{Path(name).stem}_{number}.vrt"
        rasterio.shutil.copy(name, target, driver="VRT")
        name = str(target)
    return name


def write_over(path: str) -> None:
    """Replace the content of a raster in place by another of the same size."""
    content = bytearray(Path(path).read_bytes())
    content[-2000:] = bytes(2000)
    Path(path).write_bytes(content)


def replace(path: str) -> None:
    """Put another file in the place of a raster."""
    write_over_copy = f"{path}.new"
    Path(write_over_copy).write_bytes(Path(path).read_bytes())
    write_over(write_over_copy)
    os.replace(write_over_copy, path)


@pytest.fixture
def scene(tmp_path):
    image, metres, _ = town(400, 100)
    return write(tmp_path / "ortho.tif", image), write(tmp_path / "dsm.tif", metres)


@pytest.mark.parametrize(
    ("virtual", "stream", "change"),
    [(False, 0, write_over), (False, 1, replace), (True, 0, replace), (True, 1, write_over)],
)
def test_predict(virtual, stream, change, scene, model, tmp_path):
    names = [nested(tmp_path, name) if virtual else name for name in scene[: stream + 1]]
    names = [*names, *scene[stream + 1 :]]
    source, out = PredictInput((names[0],), (names[1],)), tmp_path / "map.tif"
    changed = []

    def change_once(meter):
        if not changed and meter.run:
            changed.append(change(scene[stream]))

    with pytest.raises(InputError, match=f"{scene[stream]} was changed while it was read"):
        predict(model, source, out, settings=SMALL, progress=change_once)
    assert changed
    assert not out.exists()
    with pytest.raises(OutputError, match=r"cannot resume .*input .*changed|input .* was"):
        predict(model, source, out, settings=SMALL, resume=True)
    predict(model, source, out, settings=SMALL, overwrite=True)
    predict(model, source, tmp_path / "fresh.tif", settings=SMALL)
    with rasterio.open(out) as one, rasterio.open(tmp_path / "fresh.tif") as other:
        assert np.array_equal(one.read(), other.read())


@pytest.mark.parametrize("virtual", [False, True])
def test_mosaic(virtual, tmp_path):
    labels = write(tmp_path / "a.tif", np.zeros((1, 200, 200), np.uint8))
    name = nested(tmp_path, labels) if virtual else labels
    with pytest.raises(InputError, match=r"a.tif was changed while it was read"):
        mosaic([name], tmp_path / "map.tif", progress=lambda done, total: write_over(labels))
    assert not [path for path in tmp_path.iterdir() if "map" in path.name]


@pytest.mark.parametrize("stream", ["ortho", "dsm", "labels"])
def test_tile(stream, tmp_path):
    write_town(tmp_path, "a", 128, 192)
    write_town(tmp_path, "b", 64, 320, seed=2, origin=(0, 1000))
    config = settings().model_copy(update={"root": str(tmp_path)})
    path = str(tmp_path / f"a_{stream}.tif")
    done = []

    def change_last(count, total):
        if count == total and not done:
            done.append(write_over(path))

    with pytest.raises(InputError, match=f"a_{stream}.tif was changed while it was read"):
        tile(config, tmp_path / "tiles", progress=change_last)
    assert not (tmp_path / "tiles").exists()


def test_a_virtual_tile_set_knows_the_files_behind_virtual_rasters(tmp_path):
    write_town(tmp_path, "a", 128, 192)
    write_town(tmp_path, "b", 64, 320, seed=2, origin=(0, 1000))
    for name in "ab":
        rasterio.shutil.copy(
            tmp_path / f"{name}_ortho.tif", tmp_path / f"{name}_ortho.vrt", driver="VRT"
        )
    config = settings(scenes__optical="{id}_ortho.vrt")
    config = config.model_copy(update={"root": str(tmp_path)})
    tile(config, tmp_path / "tiles", virtual=True)
    scene = load_tileset(tmp_path / "tiles").virtual.scenes["a"]
    scene.check_unchanged()
    write_over(str(tmp_path / "a_ortho.tif"))
    with pytest.raises(InputError, match=r"a_ortho.tif was changed or moved"):
        scene.check_unchanged()


@pytest.mark.parametrize("kind", ["image", "label"])
def test_train_without_a_cache(kind, tileset, tmp_path):
    shutil.copytree(tileset, tmp_path / "tiles", ignore=shutil.ignore_patterns("cache"))
    tile = next((tmp_path / "tiles/train" / kind).glob("*.tif"))
    config = settings(train__cache="none", train__epochs=1)

    def change(step, total, loss):
        write_over(str(tile))

    report = TrainCallbacks(step=change)
    with pytest.raises(InputError, match=r"tiles of .* were changed since training began"):
        train(tmp_path / "tiles", tmp_path / "run", config, device="cpu", report=report)
    assert not (tmp_path / "run/best.safetensors").exists()


def test_the_cache_of_tiles(tileset, tmp_path):
    shutil.copytree(tileset, tmp_path / "tiles", ignore=shutil.ignore_patterns("cache"))
    tile = next((tmp_path / "tiles/train/image").iterdir())
    with pytest.raises(InputError, match=r"tiles of .* were changed while they were decoded"):
        cache.prepare(
            tmp_path / "tiles",
            load_tileset(tmp_path / "tiles"),
            progress=lambda done, total: os.utime(tile),
        )
    assert not (tmp_path / "tiles/cache").exists()
