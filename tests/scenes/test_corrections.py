"""Corrections of labels in a tile set: a town of 128 x 128 px whose older labels are all there."""

import logging

import numpy as np
import pyogrio.raw
import pytest
import rasterio
import shapely

from cafe_cli.checks.check import check
from cafe_cli.errors import ConfigError, GridError, InputError, LabelError
from cafe_cli.scenes.discovery import find_scenes
from cafe_cli.scenes.scene import open_scene
from cafe_cli.tilesets.make import tile
from cafe_cli.tilesets.tile_rasters import inspect_config_scene
from cafe_cli.tilesets.tileset import load_tileset
from tests.support.engines import PIXEL, cut, settings, write, write_town

SIDE = 128
LEFT, TOP = 500_000, 5_200_000  # of rasters that `write` writes
CORNER = (slice(0, 32), slice(0, 48))


@pytest.fixture
def folder(tmp_path):
    write_town(tmp_path, "a", SIDE, SIDE, seed=1)
    write_town(tmp_path, "b", SIDE, SIDE, seed=2, origin=(0, 1000))
    return tmp_path


def older(folder, name="a"):
    with rasterio.open(folder / f"{name}_labels.tif") as dataset:
        return dataset.read(1)


def raster(folder, name, value, place=CORNER, **profile):
    """Write a raster of corrections: a value in one place, 255 elsewhere."""
    values = np.full((1, SIDE, SIDE), 255, np.uint8)
    values[0][place] = value
    return write(folder / name, values, nodata=255, **profile)


def vector(folder, name, *features, crs="EPSG:32632", column="class"):
    """Write boxes in pixels of scene a, (left, top, right, bottom, class)."""
    boxes = [
        shapely.box(LEFT + x0 * PIXEL, TOP - y1 * PIXEL, LEFT + x1 * PIXEL, TOP - y0 * PIXEL)
        for x0, y0, x1, y1, _ in features
    ]
    values = np.array([feature[-1] for feature in features], object)
    pyogrio.raw.write(
        folder / name, shapely.to_wkb(boxes), [values], [column], geometry_type="Polygon", crs=crs
    )


def read(folder, corrections, scene="a", **changes):
    config = settings(scenes__corrections=corrections, **changes)
    config = config.model_copy(update={"root": str(folder)})
    files = {f.id: f for f in find_scenes(config.scenes, config.root)}[scene]
    with open_scene(inspect_config_scene(files, config)) as opened:
        return opened.read_labels(opened.grid.extent, config.class_table, config.labels)


def test_a_raster_on_top(folder):
    raster(folder, "new.tif", 2)
    found, expected = read(folder, "new.tif"), older(folder)
    expected[CORNER] = 2
    assert np.array_equal(found.ids, expected)
    assert found.tally.corrected == 32 * 48


def test_vectors_on_top(folder):
    vector(folder, "new.gpkg", (0, 0, 48, 32, "tree"), (100, 100, 128, 128, "ground"))
    expected = older(folder)
    expected[CORNER], expected[100:, 100:] = 2, 0
    assert np.array_equal(read(folder, "new.gpkg").ids, expected)


@pytest.mark.parametrize("names", [("1.tif", "2.gpkg"), ("2.gpkg", "1.tif"), ("1.tif", "3.tif")])
def test_the_last_file_wins(folder, names):
    raster(folder, "1.tif", 0)
    raster(folder, "3.tif", 1)
    vector(folder, "2.gpkg", (0, 0, 48, 32, "tree"))
    value = {"1.tif": 0, "2.gpkg": 2, "3.tif": 1}[names[-1]]
    assert (read(folder, names).ids[CORNER] == value).all()


def test_files_of_a_pattern_are_laid_in_the_order_of_their_names(folder):
    raster(folder, "new_2026.tif", 1)
    raster(folder, "new_2025.tif", 2)
    assert (read(folder, "new_*.tif").ids[CORNER] == 1).all()


def test_another_grid(folder):
    values = np.full((1, 16, 24), 2, np.uint8)
    write(folder / "new.tif", values, nodata=255, pixel=2 * PIXEL)
    expected = older(folder)
    expected[CORNER] = 2
    assert np.array_equal(read(folder, "new.tif").ids, expected)


def test_vector_labels_are_corrected_too(folder):
    vector(folder, "old.gpkg", (0, 0, 128, 128, "building"))
    raster(folder, "new.tif", 2)
    found = read(folder, "new.tif", scenes__labels="old.gpkg", scenes__only=["a"])
    assert (found.ids[CORNER] == 2).all()
    assert (found.ids[32:] == 1).all()


def test_ground_without_a_correction_keeps_its_label(folder):
    vector(folder, "old.gpkg", (0, 0, 128, 64, "building"))
    vector(folder, "new.gpkg", (0, 0, 16, 16, "tree"))
    found = read(
        folder, "new.gpkg", scenes__labels="old.gpkg", scenes__only=["a"],
        labels__unlabelled="ground",
    )  # fmt: skip
    assert np.unique(found.ids[:64], return_counts=True)[1].tolist() == [64 * 128 - 256, 256]
    assert (found.ids[64:] == 0).all()


@pytest.mark.parametrize("name", ["{id}_new.tif", "new.gpkg"])
def test_a_scene_without_corrections(folder, name):
    raster(folder, "a_new.tif", 2)
    vector(folder, "new.gpkg", (0, 0, 48, 32, "tree"))
    assert read(folder, name).tally.corrected == 32 * 48
    assert np.array_equal(read(folder, name, scene="b").ids, older(folder, "b"))


@pytest.mark.parametrize("virtual", [False, True])
def test_tiles_have_them(folder, virtual, caplog):
    raster(folder, "new.tif", 2)
    config = settings(scenes__corrections="new.tif").model_copy(update={"root": str(folder)})
    with caplog.at_level(logging.INFO, "cafe"):
        tile(config, folder / "tiles", virtual=virtual)
    assert "corrections label 1,536 pixels" in caplog.text
    tileset = load_tileset(folder / "tiles")
    plain = load_tileset(cut(folder, folder / "plain"))
    trees, before = (sum(counts["tree"] for counts in t.pixels.values()) for t in (tileset, plain))
    assert trees - before == int((older(folder)[CORNER] != 2).sum())


def test_check_says_how_many(folder):
    raster(folder, "new.tif", 2)
    config = settings(scenes__corrections="new.tif").model_copy(update={"root": str(folder)})
    report = check(config)
    notes = [finding.message for finding in report.findings if finding.level == "note"]
    says = "the corrections label 1,536 of the 16,384 sampled pixels"
    assert any(message.startswith(says) for message in notes)
    assert report.ok


def test_corrections_that_lie_elsewhere(folder, caplog):
    raster(folder, "new.tif", 2, origin=(50_000, 0))
    cut(folder, folder / "tiles", scenes__corrections="new.tif")
    assert "scenes.corrections label no pixel of any scene" in caplog.text


@pytest.mark.parametrize(
    ("corrections", "error", "says"),
    [
        ("{id}_new.tif", InputError, r"no file matches scenes\.corrections = .*new\.tif"),
        ("*.geojson", InputError, r"no file matches scenes\.corrections"),
        ("{other}.tif", ConfigError, r"\{other\} does not occur in scenes\.optical"),
    ],
)
def test_no_file(folder, corrections, error, says):
    with pytest.raises(error, match=says):
        read(folder, corrections)


def test_no_labels_to_correct(folder):
    raster(folder, "new.tif", 2)
    config = settings(scenes__corrections="new.tif", scenes__labels=None)
    with pytest.raises(ConfigError, match="need older labels to correct"):
        find_scenes(config.scenes, str(folder))


@pytest.mark.parametrize("kind", ["raster", "vector"])
def test_a_value_without_a_class(folder, kind):
    if kind == "raster":
        raster(folder, "new.tif", 7)
    else:
        vector(folder, "new.gpkg", (0, 0, 48, 32, "treee"))
    name = "new.tif" if kind == "raster" else "new.gpkg"
    with pytest.raises(LabelError, match="7" if kind == "raster" else "treee"):
        cut(folder, folder / "tiles", scenes__corrections=name)


def test_vectors_without_a_crs(folder):
    with pytest.warns(UserWarning, match="crs"):
        vector(folder, "new.shp", (0, 0, 48, 32, "tree"), crs=None)
    with pytest.raises(GridError, match="has no CRS"):
        read(folder, "new.shp")
