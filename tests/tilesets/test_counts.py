"""The plan's counts of pixels are those of the tiles that are cut."""

import json

import numpy as np
import pyogrio.raw
import pytest
import shapely

from cafe_cli.checks.check import check
from cafe_cli.classes import NODATA
from cafe_cli.config.load import parse_config
from cafe_cli.config.schema import TileSettings
from cafe_cli.raster.window import Window, blocks
from cafe_cli.splits.assign import SPLITS, divide_into_blocks
from cafe_cli.splits.tiling import scoring_windows, training_windows
from cafe_cli.tilesets.counts import CellCounter, enough_pixels
from cafe_cli.tilesets.make import tile
from cafe_cli.tilesets.plan import plan
from tests.support.rasters import TABLE, UTM, grid, noise
from tests.support.rasters import write as write_to

WHERE = grid(203, 171)
SETTINGS = {
    "scenes": {"optical": "{id}_ortho.tif", "labels": "{id}_labels.tif"},
    "classes": [{"id": c.id, "name": c.name, "color": c.color} for c in TABLE],
    "labels": {"absent": ["ground", "tree", "building"]},
    "tile": {"size": 32, "overlap": 8},
    "split": {"buffer": 4, "validation": 0.3},
}


def settings(root, **changes):
    values = json.loads(json.dumps({"root": str(root), **SETTINGS}))
    for name, section in changes.items():
        values[name] = {**values.get(name, {}), **section}
    return parse_config(values, "test")


def sparse(where, seed=0):
    """Return labels of which most tiles have few: three classes in some squares of 10 pixels."""
    squares = np.random.default_rng(seed).choice(
        [0, 1, 2, 255], (40, 40), p=[0.04, 0.03, 0.03, 0.9]
    )
    return np.kron(squares, np.ones((10, 10)))[: where.height, : where.width].astype(np.uint8)


def deliver(folder, dtype="uint8", masked=True):
    """Write an image with voids at its borders and inside, and sparse labels."""
    valid = np.ones((WHERE.height, WHERE.width), bool)
    valid[:60, :50] = valid[:, 180:] = valid[100:120, 90:140] = False
    image = noise(3, WHERE, dtype)
    if dtype.startswith("float"):
        image[:, ~valid] = np.nan
    write_to(folder / "a_ortho.tif", image, WHERE, **({"mask": valid} if masked else {}))
    write_to(folder / "a_labels.tif", sparse(WHERE), WHERE)
    return folder


def draw(path):
    """Draw a triangle that validates, and a box that tests."""
    shapes = {
        "validation": shapely.Polygon([(0, 90), (90, 90), (0, 171)]),
        "test": shapely.box(110, 20, 170, 70),
    }
    placed = [
        shapely.transform(s, lambda xy: np.array([WHERE.transform @ tuple(p) for p in xy]))
        for s in shapes.values()
    ]
    pyogrio.raw.write(
        str(path), shapely.to_wkb(placed), [np.array(list(shapes), object)], ["split"],
        driver="GPKG", geometry_type="Polygon", crs=UTM.to_wkt(),
    )  # fmt: skip
    return str(path)


@pytest.mark.parametrize("tiling", [(32, 24, 64), (32, 32, 32), (64, 7, 100), (256, 200, 512)])
def test_counts_of_windows_are_those_of_their_pixels(tiling):
    size, stride, side = tiling
    random = np.random.default_rng(1)
    ids = random.choice([0, 1, 2, NODATA], (171, 203)).astype(np.uint8)
    valid = random.random(ids.shape) < 0.7
    counter = CellCounter.of(203, 171, tiling, 3)
    total = counter.empty()
    for block in divide_into_blocks(203, 171, side):
        own = counter.within(block)
        counts = own.empty()
        for part in blocks(block.width, block.height, 50):
            here = part.shift(block.col, block.row)
            own.add(counts, here, ids[here.slices()], valid[here.slices()])
        counter.put(total, block, counts)
    extent = Window(0, 0, 203, 171)
    windows = list(training_windows(extent, size, stride, []))
    for block in [extent, *divide_into_blocks(203, 171, side)]:
        windows += [window for pair in scoring_windows(block, size) for window in pair]
    expected = []
    for window in windows:
        inside = window.intersection(extent).slices()
        shown = ids[inside][valid[inside]]
        expected.append([(shown == kind).sum() for kind in (0, 1, 2, NODATA)])
    assert np.array_equal(counter.table(total).of(windows), expected)


def test_which_tiles_have_enough():
    shares = np.array([0.49, 0.5, 0.9]), np.array([0.9, 0.05, 0.04])
    assert enough_pixels("train", *shares, TileSettings()).tolist() == [False, True, False]
    assert enough_pixels("test", *shares, TileSettings()).all()
    assert not enough_pixels("validation", np.ones(1), np.zeros(1), TileSettings()).any()


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ({}, {}),
        ({}, {"tile": {"min_labelled": 0.15}}),
        ({}, {"tile": {"min_valid": 0.95, "overlap": 0}}),
        ({"masked": False}, {"tile": {"size": 96, "overlap": 32, "min_labelled": 0.1}}),
        ({"dtype": "float32", "masked": False}, {"split": {"validation": 0.2, "test": 0.2}}),
        ({"masked": False}, {"tile": {"gsd": 0.7, "min_labelled": 0.1}}),
        ({}, {"tile": {"gsd": 0.37}, "split": {"buffer": 0}}),
        ({}, {"split": {"folds": 3, "fold": 1}}),
        ({}, {"tile": {"size": 256, "min_valid": 0.1, "min_labelled": 0}}),
    ],
)  # fmt: skip
def test_tile_keeps_what_check_announces(tmp_path, kind, changes):
    deliver(tmp_path, **kind)
    config = settings(tmp_path, **changes)
    planned, made = plan(config), tile(config, tmp_path / "tiles")
    announced = check(config).facts["tiles"]
    for split in SPLITS:
        assert announced[split] == planned.number[split] == len(made.of(split))
        assert planned.pixels[split].tolist() == list(made.pixels[split].values())
    minimum = config.tile
    for kept in made.of("train"):
        assert kept.valid >= minimum.min_valid
        assert kept.labelled >= minimum.min_labelled
    assert all(kept.labelled for kept in made.tiles if kept.split != "train")


def test_labels_outside_the_polygons_of_a_split_do_not_count(tmp_path):
    deliver(tmp_path)
    config = settings(
        tmp_path,
        split={"file": draw(tmp_path / "split.gpkg"), "buffer": 0},
        tile={"min_labelled": 0.08},
    )
    planned, made = plan(config), tile(config, tmp_path / "tiles")
    assert planned.number == {split: len(made.of(split)) for split in SPLITS}
    assert all(planned.number.values())
    assert planned.thin["train"]
    for split in SPLITS:
        assert planned.pixels[split].tolist() == list(made.pixels[split].values())
