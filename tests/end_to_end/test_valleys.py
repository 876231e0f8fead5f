"""A network that sees how high the ground lies above the floor of its valley, all the way."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from safetensors.numpy import load_file, save_file

from cafe_cli.config.schema import HeightSettings
from cafe_cli.errors import GridError, InputError, ModelFileError
from cafe_cli.exporting.export import export
from cafe_cli.inference.job import PredictInput, PredictOutput
from cafe_cli.inference.predict import dry_run
from cafe_cli.model.stored import read_card
from cafe_cli.scenes.discovery import SceneFiles
from cafe_cli.scenes.inspection import inspect_scene
from cafe_cli.scenes.valley_floor import HIGHEST
from cafe_cli.splits.assign import SPLITS
from cafe_cli.tilesets import cache
from cafe_cli.tilesets.make import tile
from cafe_cli.tilesets.tile_rasters import TileReader, tile_path
from cafe_cli.tilesets.tileset import load_tileset
from cafe_cli.training.report.run import BEST
from cafe_cli.training.train import train
from tests.support.engines import cut, predict, settings, town, write
from tests.support.rasters import read

pytestmark = pytest.mark.slow
VALLEY = {"height__kind": "dsm", "height__valley_radius": 20, "height__max_window": 20}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two scenes on a slope."""
    made = tmp_path_factory.mktemp("valleys")
    for number, (name, width) in enumerate({"a": 192, "b": 128}.items()):
        image, metres, labels = town(128, width, seed=number)
        origin = (0, 1000 * number)
        slope = np.arange(width, dtype=np.float32) / 10 + 100
        write(made / f"{name}_ortho.tif", image, origin)
        write(made / f"{name}_dsm.tif", metres + slope, origin)
        write(made / f"{name}_ndsm.tif", metres, origin)
        write(made / f"{name}_labels.tif", labels, origin, nodata=255)
    return made


@pytest.fixture(scope="module")
def tiles(folder):
    return cut(folder, folder / "tiles", **VALLEY)


@pytest.fixture(scope="module")
def model(folder, tiles):
    train(tiles, folder / "run", settings(**VALLEY), device="cpu")
    return folder / "run" / BEST


def source(folder, name="b", heights="dsm", **changes):
    return PredictInput(
        (str(folder / f"{name}_ortho.tif"),), (str(folder / f"{name}_{heights}.tif"),), **changes
    )


def patches(folder):
    tileset = load_tileset(folder)
    with TileReader(folder, tileset) as reader:
        return [reader.read(one)[0] for split in SPLITS for one in tileset.of(split)]


def test_tiles_hold_both_planes(folder, tiles):
    info = load_tileset(tiles)
    for patch in patches(tiles):
        assert patch.heights.shape == (2, 64, 64)
        assert 0 <= patch.heights[1].min() < patch.heights[1].max() <= HIGHEST
    assert len(info.height_statistics.mean) == 2
    assert 0 < info.height_statistics.mean[1] < 5
    kept = cache.prepare(tiles, info).of("train").height
    first = patches(tiles)[0].heights
    assert kept.shape[1:] == first.shape
    assert np.array_equal(kept[0], first)
    first = tile_path(tiles, info.of("train")[0], "height")
    with rasterio.open(first) as dataset:
        assert dataset.count == 2


def test_a_virtual_tile_set_is_the_same(folder, tiles):
    made = folder / "virtual"
    config = settings(**VALLEY).model_copy(update={"root": str(folder)})
    tile(config, made, virtual=True)
    assert {path.name for path in (made / "ground" / "valley_floor").iterdir()} == {
        "a.tif", "b.tif"
    }  # fmt: skip
    for one, other in zip(patches(made), patches(tiles), strict=True):
        assert np.allclose(one.heights, other.heights, atol=1e-4)
    tile(config, made, virtual=True, overwrite=True)  # no file in it is foreign


def test_the_card_and_the_weights_have_two_planes(model):
    card = read_card(model)
    assert card.architecture.height_planes == card.height.planes == 2


def test_maps_are_the_same_on_both_engines(folder, model, tmp_path):
    export(model, tmp_path / "model.onnx", scene=source(folder))
    predict(model, source(folder), tmp_path / "torch.tif")
    predict(tmp_path / "model.onnx", source(folder), tmp_path / "onnx.tif")
    maps = [read(tmp_path / f"{engine}.tif") for engine in ("torch", "onnx")]
    assert (maps[0] == maps[1]).mean() > 0.999


@pytest.mark.parametrize("heights", ["ndsm", None])
def test_maps_of_scenes_that_do_not_tell_the_ground(folder, model, tmp_path, heights, caplog):
    given = source(folder, heights="ndsm", height_kind="ndsm")
    if heights is None:
        given = PredictInput(given.optical)
    predict(model, given, tmp_path / "map.tif")
    assert (read(tmp_path / "map.tif") != 255).all()
    assert ("above the floor of its valley" in caplog.text) == (heights is not None)


@pytest.mark.parametrize("terrain", [False, True])
def test_a_dry_run_compares_heights_above_ground(folder, model, tmp_path, terrain):
    """Neither it nor the check of a scene needs the floors of its valleys."""
    given = source(folder, "a")
    if terrain:
        ground = np.arange(192, dtype=np.float32) / 10 + 88
        dtm = write(folder / "a_dtm.tif", np.broadcast_to(ground, (1, 128, 192)))
        given = replace(given, dtm=(dtm,))
    report = dry_run([model], given, PredictOutput(tmp_path / "map.tif"))
    errors = [f.message for f in report.findings if f.level == "error"]
    assert len(errors) == terrain  # 12 to 20 m above this terrain, 0 to 8 m above the ground
    assert all("heights" in message for message in errors)


def test_pixels_of_unknown_size(folder, tmp_path):
    with rasterio.open(folder / "a_ortho.tif") as image, rasterio.open(folder / "a_dsm.tif") as dsm:
        kinds = {"ortho": image.read(), "dsm": dsm.read(), "dtm": dsm.read()}
    for kind, values in kinds.items():
        profile = {"count": len(values), "height": 128, "width": 192, "dtype": values.dtype}
        with rasterio.open(tmp_path / f"{kind}.tif", "w", driver="GTiff", **profile) as dataset:
            dataset.write(values)
    paths = (str(tmp_path / f"{kind}.tif") for kind in ("ortho", "dsm", "dtm"))
    files = SceneFiles("a", *((path,) for path in paths))
    with pytest.raises(GridError, match=r"floors of valleys .* cannot be found.*--pixel-s"):
        inspect_scene(files, HeightSettings(valley_radius=20))
    assert inspect_scene(files, HeightSettings(valley_radius=20), pixel_size=0.5).heights


def test_tiles_of_another_radius(tiles, folder, tmp_path):
    plain = cut(folder, tmp_path / "plain", height__kind="dsm", height__max_window=20)
    mixed = shutil.copytree(tiles, tmp_path / "mixed")
    for one in load_tileset(plain).of("train"):
        shutil.copy(tile_path(plain, one, "height"), tile_path(mixed, one, "height"))
    with pytest.raises(InputError, match=r"has 1 bands, tileset.json says 2: the tile set was"):
        patches(mixed)


def test_a_card_of_other_planes(model, tmp_path):
    text = read_card(model).model_dump_json()
    changed = text.replace('"valley_radius":20.0', '"valley_radius":0.0')
    assert changed != text
    save_file(load_file(model), tmp_path / "m.safetensors", {"cafe": changed})
    with pytest.raises(ModelFileError, match="2 planes of heights is described with 1"):
        read_card(tmp_path / "m.safetensors")


def test_a_model_of_one_plane_goes_on_with_two(folder, tiles, tmp_path):
    plain = cut(folder, tmp_path / "plain", height__kind="dsm", height__max_window=20)
    one_plane = {k: v for k, v in VALLEY.items() if k != "height__valley_radius"}
    train(plain, tmp_path / "first", settings(**one_plane), device="cpu")
    start = str(tmp_path / "first" / BEST)
    train(tiles, tmp_path / "second", settings(**VALLEY, train__from_model=start), device="cpu")
    assert read_card(tmp_path / "second" / BEST).architecture.height_planes == 2
