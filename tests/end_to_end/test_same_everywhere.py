"""A window has the same pixels in tile, train and predict, and with any number of threads."""

from functools import partial

import numpy as np
import pytest
import torch

from cafe_cli import errors
from cafe_cli.config.load import parse_config
from cafe_cli.inference.job import PredictInput
from cafe_cli.inference.scene_input import height_settings
from cafe_cli.inference.tiling import WindowGrid
from cafe_cli.inference.window_reader import WindowReader
from cafe_cli.model.architecture import Architecture
from cafe_cli.model.card import ModelCard
from cafe_cli.model.inputs import to_tensors
from cafe_cli.scenes.discovery import find_scenes
from cafe_cli.scenes.inspection import inspect_scene
from cafe_cli.scenes.scene import open_scene
from cafe_cli.splits.assign import SPLITS
from cafe_cli.system.threads import in_order
from cafe_cli.tilesets import tile_rasters
from cafe_cli.tilesets.make import tile
from cafe_cli.tilesets.tile_rasters import TileReader, read_tile
from cafe_cli.tilesets.tileset import load_tileset
from cafe_cli.training.data.dataset import TileDataset
from cafe_cli.training.data.sampler import SampleKey
from tests.support.engines import ensemble_of
from tests.support.rasters import LAMBERT, TABLE, around, centres, grid, noise
from tests.support.rasters import write as write_to

pytestmark = pytest.mark.slow

SIZE = 32
WHERE = grid(224, 160)


def deliver(folder, dtype):
    """Write an orthophoto with a mask, labels, and heights with voids on another grid and unit."""
    x, y = (c.mean() for c in centres(WHERE))
    random = np.random.default_rng(4)
    surface, terrain = around(x + 5, y, 130, 0.7, LAMBERT, 12), around(x, y, 200, 5.0)
    column, row = np.meshgrid(np.arange(surface.width), np.arange(surface.height))
    heights = (300 + column / 15 + row / 30 + 6 * ((column // 14 + row // 17) % 3 == 0)) / 0.3048
    heights += random.normal(0, 0.1, heights.shape)
    heights[random.random(heights.shape) > 0.97] = -9999
    heights[60:80, 50:90] = -9999
    ground = np.full((terrain.height, terrain.width), 300, np.float32)
    holes = random.random((WHERE.height, WHERE.width)) > 0.02
    labels = np.kron(random.integers(0, 3, (10, 14)), np.ones((16, 16))).astype(np.uint8)
    write_to(folder / "ortho.tif", noise(3, WHERE, dtype), WHERE, mask=holes)
    write_to(folder / "dsm.tif", heights.astype(np.float32), surface, nodata=-9999, units="ft")
    write_to(folder / "dtm.tif", ground, terrain, units="m")
    write_to(folder / "labels.tif", labels, WHERE)


def config(folder, ground):
    scenes = {"optical": "ortho.tif", "elevation": "dsm.tif", "labels": "labels.tif"}
    scenes |= {"bands": [3, 1]}
    return parse_config(
        {
            "root": str(folder),
            "scenes": scenes | ({"dtm": "dtm.tif"} if ground == "dtm" else {}),
            "classes": [{"id": c.id, "name": c.name} for c in TABLE],
            "height": {"ground": ground, "cell": 2.0, "max_window": 30.0},
            "tile": {"size": SIZE, "overlap": 8, "min_valid": 0.1, "min_labelled": 0},
            "split": {"buffer": 4, "block": 64},
        },
        "test",
    )


@pytest.fixture(scope="module", params=["estimate", "dtm", "none"])
def delivered(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    deliver(folder, "uint16")
    return folder, config(folder, request.param)


def training_samples(folder, tileset):
    """Yield each tile with the sample that training gets of it."""
    for split in SPLITS[:2]:
        dataset = TileDataset(folder, tileset, split)
        for index, kept in enumerate(tileset.of(split)):
            yield kept, dataset[SampleKey(index, 0)]


def test_training_and_prediction_see_the_same(delivered, tmp_path):
    """Compare tiles, windows of a virtual tile set, and windows of the rows that predict reads."""
    _, settings = delivered
    cut = tile(settings, tmp_path / "tiles", jobs=2)
    seen = tile(settings, tmp_path / "virtual", virtual=True, jobs=1)
    assert seen.tiles == cut.tiles
    assert seen.optical_statistics == cut.optical_statistics
    assert seen.height_statistics == cut.height_statistics
    card = ModelCard(
        architecture=Architecture(classes=3, optical_bands=2), classes=TABLE,
        band_names=("a", "b"), dtype="uint16", gsd=0.5, height=cut.height, window=SIZE, epoch=1,
        scores=None, config={},
    )  # fmt: skip
    (files,) = find_scenes(settings.scenes, settings.root)
    source = PredictInput(files.optical, files.elevation, files.dtm, bands=(3, 1))
    heights = height_settings(source, ensemble_of(card))
    pairs = zip(
        training_samples(tmp_path / "tiles", cut),
        training_samples(tmp_path / "virtual", seen),
        strict=True,
    )
    reader = WindowReader(
        partial(open_scene, inspect_scene(files, heights, source.bands)),
        (64, 64),
        WindowGrid(SIZE, SIZE),
        2,
    )
    columns = range(0, WHERE.width + SIZE, SIZE)
    for (kept, one), (_, other) in pairs:
        assert torch.equal(one.labels, other.labels)
        (strip,) = reader.rows(columns, [kept.row])
        predicted = to_tensors(*strip.at((slice(None), slice(kept.col, kept.col + SIZE))))
        for name, *tensors in zip(
            one.inputs._fields, one.inputs, other.inputs, predicted, strict=True
        ):
            assert all(torch.equal(tensors[0], t) for t in tensors[1:]), name
    samples = [sample for _, sample in training_samples(tmp_path / "tiles", cut)]
    assert 0.5 < np.mean([s.inputs.height_valid.float().mean() for s in samples]) < 1


def test_any_number_of_threads_cuts_the_same(delivered, tmp_path):
    _, settings = delivered
    one, many = (tile(settings, tmp_path / f"{n}", jobs=n) for n in (1, 3))
    assert one == many
    files = sorted(p.relative_to(tmp_path / "1") for p in (tmp_path / "1").rglob("*.tif"))
    assert len(files) > 30
    for path in files:
        assert (tmp_path / "1" / path).read_bytes() == (tmp_path / "3" / path).read_bytes()


# Virtual tile sets


@pytest.fixture
def virtual(tmp_path):
    deliver(tmp_path, "uint8")
    settings = config(tmp_path, "estimate")
    return tmp_path, tile(settings, tmp_path / "set", virtual=True)


def test_a_virtual_tile_set_copies_no_pixels(virtual):
    folder, tileset = virtual
    names = {p.parent.name for p in (folder / "set").rglob("*.tif")}
    assert names <= {"ground", "label"}
    assert load_tileset(folder / "set") == tileset


def test_a_virtual_tile_set_whose_rasters_changed(virtual):
    folder, tileset = virtual
    reader = TileReader(folder / "set", tileset)
    reader.read(tileset.tiles[0])
    (folder / "dsm.tif").write_bytes((folder / "dsm.tif").read_bytes() + b" ")
    reader.read(tileset.tiles[1])  # the reader still has it open
    with pytest.raises(errors.InputError, match=r"dsm\.tif was changed or moved after the virtual"):
        TileReader(folder / "set", tileset).read(tileset.tiles[0])
    (folder / "dsm.tif").unlink()
    with pytest.raises(errors.InputError, match=r"dsm\.tif was changed or moved after the virtual"):
        TileReader(folder / "set", tileset).read(tileset.tiles[0])


def test_threads_inspect_the_scenes_of_a_virtual_tile_set_once(virtual, monkeypatch):
    folder, tileset = virtual
    inspected, original = [], tile_rasters.inspect_scene
    monkeypatch.setattr(
        tile_rasters,
        "inspect_scene",
        lambda files, *args, **options: (
            inspected.append(files.id) or original(files, *args, **options)
        ),
    )
    reader = TileReader(folder / "set", tileset)
    tiles = [*tileset.tiles[:8]]
    expected = [reader.read(kept) for kept in tiles]
    for (patch, labels), (known, truth) in zip(
        in_order(reader.for_thread, TileReader.read, tiles, 3), expected, strict=True
    ):
        assert np.array_equal(patch.height, known.height)
        assert np.array_equal(labels, truth)
    assert len(inspected) == 1


def test_labels_that_the_split_cuts_are_kept(tmp_path):
    """Validation tiles at the end of a block score only the pixels that no tile before them has."""
    deliver(tmp_path, "uint8")
    settings = config(tmp_path, "none")
    settings = settings.model_copy(
        update={"split": settings.split.model_copy(update={"block": 56, "validation": 0.4})}
    )
    one = tile(settings, tmp_path / "cut")
    other = tile(settings, tmp_path / "set", virtual=True)
    reader = TileReader(tmp_path / "set", other)
    assert list((tmp_path / "set/validation/label").iterdir())
    for kept in other.tiles:
        _, labels = read_tile(tmp_path / "cut", kept, SIZE)
        assert np.array_equal(reader.read(kept)[1], labels)
    assert one.pixels == other.pixels
