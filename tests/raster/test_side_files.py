"""Attribute tables, styles and statistics: what GDAL and QGIS read of rasters."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from PIL import ImageColor

from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.errors import ConfigError
from cafe_cli.raster.output_files import check_rasters, style_path
from cafe_cli.raster.product import Product, confidence_product, label_product
from cafe_cli.raster.qgis_style import percent_style
from cafe_cli.raster.side_files import attribute_table, side_texts
from cafe_cli.raster.value_counts import count_files, count_values, statistics_tags
from cafe_cli.raster.writer import create_maps, write_geotiff
from tests.support.rasters import TABLE, grid, noise

NAMES = ClassTable(
    (LandClass(0, "grass & <trees>"), LandClass(1, 'Gebäude "neu"'), LandClass(2, "草地"))
)
MANY = ClassTable(tuple(LandClass(n, f"class {n}") for n in range(255)))


def label_values(where, classes=TABLE, seed=0):
    random = np.random.default_rng(seed)
    return random.choice([*range(len(classes)), 255], (where.height, where.width)).astype(np.uint8)


def write_maps(folder, values, where, classes=TABLE):
    products = [label_product(folder / "map.tif", classes), confidence_product(folder / "sure.tif")]
    with create_maps(products, where, True, {}, {}) as (labels, confidence):
        labels.write(values, 1)
        confidence.write(np.where(values == 255, values, values % 101), 1)
    return folder / "map.tif"


def gdal(*command):
    if shutil.which(command[0]) is None:
        pytest.skip("GDAL's programs are not installed")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def rows_of(path):
    """Return the rows of the attribute table that gdalinfo prints, as texts."""
    shown = gdal("gdalinfo", path)
    start = shown.index("<GDALRasterAttributeTable")
    end = "</GDALRasterAttributeTable>"
    root = ElementTree.fromstring(shown[start : shown.index(end) + len(end)])
    assert root.get("tableType") == "thematic"
    fields = [tuple(f.findtext(k) for k in ("Name", "Usage")) for f in root.iter("FieldDefn")]
    assert fields == [
        ("Value", "5"), ("Count", "1"), ("Class", "2"), ("Red", "6"), ("Green", "7"), ("Blue", "8"),
    ]  # fmt: skip
    return [[cell.text for cell in row.iter("F")] for row in root.iter("Row")]


@pytest.mark.parametrize("classes", [TABLE, NAMES, MANY], ids=["few", "names", "255"])
def test_gdal_prints_the_attribute_table(tmp_path, classes):
    where = grid(90, 70)
    values = label_values(where, classes)
    path = write_maps(tmp_path, values, where, classes)
    expected = [
        [str(c.id), str((values == c.id).sum()), c.name, *map(str, ImageColor.getrgb(c.color))]
        for c in classes
    ]
    assert rows_of(path) == expected


def test_classes_without_a_pixel_are_in_the_table(tmp_path):
    path = write_maps(tmp_path, np.full((6, 8), 1, np.uint8), grid())
    assert [row[:3] for row in rows_of(path)] == [
        ["0", "0", "ground"], ["1", "48", "tree"], ["2", "0", "building"]
    ]  # fmt: skip
    empty = write_maps(tmp_path, np.full((6, 8), 255, np.uint8), grid())
    assert [row[1] for row in rows_of(empty)] == ["0", "0", "0"]


def test_counts_beyond_32_bits():
    counts = np.zeros((1, 256), np.int64)
    counts[0, 1] = 40_000_000_000
    text = attribute_table(TABLE, counts)
    root = ElementTree.fromstring(text)
    types = {f.findtext("Name"): f.findtext("Type") for f in root.iter("FieldDefn")}
    assert types["Count"] == "1"  # GFT_Real
    assert "<F>40000000000</F>" in text


@pytest.mark.parametrize("share", [0, 0.3, 0.99999, 1])
def test_statistics_are_those_of_gdal(tmp_path, share):
    where = grid(300, 200)
    values = noise(1, where)[0] % 101
    holes = np.random.default_rng(1).random(values.shape) >= share
    if share == 0.99999:
        holes[0, 0] = True
    values[holes] = 255
    write_maps(tmp_path, values, where, None)
    with rasterio.open(tmp_path / "sure.tif") as dataset:
        tags = {k: v for k, v in dataset.tags(1).items() if k.startswith("STATISTICS")}
    if share == 0:
        assert tags == {}
        return
    valid = values[values != 255].astype(float)
    found = {k.removeprefix("STATISTICS_"): float(v) for k, v in tags.items()}
    assert (found["MINIMUM"], found["MAXIMUM"]) == (valid.min(), valid.max())
    assert found["MEAN"] == pytest.approx(valid.mean())
    assert found["STDDEV"] == pytest.approx(valid.std())
    assert found["VALID_PERCENT"] == pytest.approx(100 * valid.size / values.size, abs=0.01)
    assert (found["VALID_PERCENT"] == 100) == (valid.size == values.size)
    bare = write_copy_without_statistics(tmp_path / "sure.tif")
    computed = json.loads(gdal("gdalinfo", "-json", "-stats", bare))["bands"][0]
    assert computed["mean"] == pytest.approx(found["MEAN"], abs=1e-3)
    assert computed["stdDev"] == pytest.approx(found["STDDEV"], abs=1e-3)


def write_copy_without_statistics(path: Path) -> Path:
    bare = path.with_name("bare.tif")
    with rasterio.open(path) as dataset:
        write_geotiff(bare, dataset.read(), grid(dataset.width, dataset.height), nodata=255)
    return bare


def test_statistics_of_one_value():
    counts = np.zeros(256, np.int64)
    counts[7] = 3
    assert statistics_tags(counts, 4) == {
        "STATISTICS_MAXIMUM": "7", "STATISTICS_MEAN": "7", "STATISTICS_MINIMUM": "7",
        "STATISTICS_STDDEV": "0", "STATISTICS_VALID_PERCENT": "75",
    }  # fmt: skip


@pytest.mark.parametrize(("width", "height"), [(1, 1), (70, 50), (2049, 3), (3, 4097)])
def test_files_are_counted_block_by_block(tmp_path, width, height):
    values = noise(2, grid(width, height))
    write_geotiff(tmp_path / "a.tif", values, grid(width, height))
    expected = [[(band == v).sum() for v in range(256)] for band in values]
    assert np.array_equal(count_values(values), expected)
    twice = count_files([tmp_path / "a.tif"] * 2, 2)
    assert np.array_equal(twice, 2 * np.array(expected))
    assert not count_files([], 2).any()


def test_without_the_side_files_the_names_are_in_the_file(tmp_path):
    path = write_maps(tmp_path, label_values(grid()), grid())
    for other in tmp_path.iterdir():
        if other != path:
            other.unlink()
    with rasterio.open(path) as dataset:
        assert json.loads(dataset.tags()["CLASSES"]) == TABLE.as_json()
        assert dataset.descriptions == ("class",)
        assert dataset.tags(1)["STATISTICS_MAXIMUM"] == "2"
        assert dataset.colormap(1)[1] == (0, 255, 0, 255)


def test_bands_have_names_and_units(tmp_path):
    write_maps(tmp_path, label_values(grid()), grid())
    with rasterio.open(tmp_path / "sure.tif") as dataset:
        assert (dataset.descriptions, dataset.units) == (("confidence",), ("%",))


def test_a_raster_whose_values_nobody_knows_has_no_style(tmp_path):
    product = label_product(tmp_path / "map.tif", None)
    assert side_texts(product, np.zeros((1, 256), np.int64)) == {}
    assert list(side_texts(confidence_product(tmp_path / "a.b.tif"), np.zeros((1, 256)))) == [
        tmp_path / "a.b.qml"
    ]


@pytest.mark.parametrize(
    "pair", [("a.tif", "a.tiff"), ("a.TIF", "a.tif"), ("x/../a.tif", "a.TIFF")]
)
def test_two_rasters_that_would_share_a_style(tmp_path, pair):
    (tmp_path / "x").mkdir()
    with pytest.raises(ConfigError, match=r"would share the style .*a\.qml; give them names"):
        check_rasters([tmp_path / name for name in pair], [], False)
    check_rasters([tmp_path / name for name in pair], [], False, styled=False)
    check_rasters([tmp_path / "a.1.tif", tmp_path / "a.2.tif"], [], False)


# QGIS

LEGEND = """
import json, os, sys
from qgis.core import QgsApplication, QgsRasterLayer
from qgis.PyQt.QtGui import QColor

application = QgsApplication([], False)
application.initQgis()
found = {}
for path in sys.argv[1:]:
    layer = QgsRasterLayer(path, path)
    items = [(label, color.name(QColor.HexRgb)) for label, color in layer.legendSymbologyItems()]
    bands = [layer.bandName(band + 1) for band in range(layer.bandCount())]
    found[path] = [layer.isValid(), layer.renderer().type(), items, bands]
sys.stdout.write(json.dumps(found))
sys.stdout.flush()
os._exit(0)  # QGIS may crash while it ends
"""


def legends(*paths):
    """Return what QGIS makes of rasters: (type of renderer, legend, names of the bands) of each."""
    python = shutil.which("python3", path=os.defpath)
    environment = {"PATH": os.defpath, "QT_QPA_PLATFORM": "offscreen", "LC_ALL": "C.UTF-8"}
    known = subprocess.run(
        [str(python), "-c", "import qgis.core"], env=environment, capture_output=True, check=False
    )
    if python is None or known.returncode:
        pytest.skip("QGIS is not installed")
    command = [python, "-c", LEGEND, *map(str, paths)]
    shown = subprocess.run(command, env=environment, capture_output=True, check=True)
    found = json.loads(shown.stdout)
    assert all(valid for valid, *_ in found.values())
    return [tuple(found[str(path)][1:]) for path in paths]


@pytest.mark.slow
def test_qgis_shows_the_classes_and_nothing_else(tmp_path):
    where = grid(90, 70)
    folders = []
    for number, classes in enumerate((TABLE, NAMES, MANY)):
        folders.append(tmp_path / f"{number}.x")
        folders[-1].mkdir()
        write_maps(folders[-1], label_values(where, classes), where, classes)
    shown = legends(*(folder / "map.tif" for folder in folders), folders[0] / "sure.tif")
    for (kind, legend, bands), classes in zip(shown, (TABLE, NAMES, MANY), strict=False):
        assert (kind, bands) == ("paletted", ["Band 1: class"])
        assert legend == [[c.name, c.color] for c in classes]
    kind, legend, bands = shown[-1]
    assert (kind, bands) == ("singlebandpseudocolor", ["Band 1: confidence"])
    assert [label for label, _ in legend] == ["0 %", "25 %", "50 %", "75 %", "100 %"]


@pytest.mark.slow
def test_qgis_names_the_bands_of_probabilities(tmp_path):
    where, path = grid(40, 30), tmp_path / "p.tif"
    write_geotiff(path, noise(3, where) % 101, where, nodata=255)
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = NAMES.names
    product = Product("probabilities", path, 3, None, NAMES.names, "%")
    for side, text in side_texts(product, np.zeros((3, 256), np.int64)).items():
        side.write_text(text, encoding="utf-8")
    [(kind, legend, bands)] = legends(path)
    assert bands == [f"Band {n}: {name}" for n, name in enumerate(NAMES.names, 1)]
    assert (kind, legend[-1][0]) == ("singlebandpseudocolor", "100 %")
    assert style_path(path).read_text() == percent_style()
