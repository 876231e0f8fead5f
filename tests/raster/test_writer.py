"""Writing GeoTIFFs and COGs, and creation options."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError

from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.errors import ConfigError, InputError, OutputError
from cafe_cli.raster.creation_options import check_creation_options
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.reader import (
    open_raster,
)
from cafe_cli.raster.writer import (
    class_tags,
    convert_to_cog,
    create_cog,
    read_classes,
    write_geotiff,
)
from tests.support.rasters import HOLE, TABLE, grid, noise, read

NEEDS_GDAL = pytest.mark.skipif(
    shutil.which("gdalinfo") is None, reason="GDAL's programs are not installed"
)


# Writing


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_a_tile_is_read_back_as_it_was_written(tmp_path, dtype, count):
    values = noise(count, grid(), dtype)
    write_geotiff(tmp_path / "a.tif", values, grid())
    with rasterio.open(tmp_path / "a.tif") as dataset:
        assert np.array_equal(dataset.read(), values)
        assert dataset.dtypes[0] == dtype
        assert ColorInterp.alpha not in dataset.colorinterp
        assert (dataset.read_masks() == 255).all()
        assert Grid.of(dataset) == grid()


def test_a_tile_can_have_a_mask(tmp_path):
    write_geotiff(tmp_path / "a.tif", noise(3, grid()), grid(), mask=~HOLE)
    with rasterio.open(tmp_path / "a.tif") as dataset:
        assert np.array_equal(dataset.dataset_mask() > 0, ~HOLE)
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]


def test_a_tile_that_cannot_be_written(tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        write_geotiff(tmp_path / "none" / "a.tif", noise(1, grid()), grid())


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from tests.support.rasters import TABLE, grid, noise
from cafe_cli.raster.writer import create_cog, write_geotiff
from cafe_cli.errors import OutputError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
where = grid(600, 600)
try:
    if sys.argv[2] == "tile":
        write_geotiff(Path(sys.argv[1]), noise(1, where), where)
    else:
        with create_cog(Path(sys.argv[1]), where, False, TABLE) as dataset:
            dataset.write(noise(1, where))
except OutputError as error:
    sys.exit(str(error))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tile", "cog"])
@pytest.mark.parametrize("limit", [1_000, 300_000])
def test_a_full_disk_is_noticed(tmp_path, kind, limit):
    """600 x 600 random bytes do not fit in 300 kB; a COG of them not even when they do, once."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "a.tif"), kind, str(limit)]
    paths = str(Path(__file__).parents[2])
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        check=False,
    )
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    if kind == "cog":
        assert list(tmp_path.iterdir()) == []


def write_cog(path, where, classes=TABLE, overwrite=False, **options):
    values = noise(1, where)[0] % len(TABLE)
    with create_cog(path, where, overwrite, classes, **options) as dataset:
        dataset.write(values, 1)
    return values


def gdalinfo(path):
    shown = subprocess.run(["gdalinfo", "-json", path], capture_output=True, check=True)
    return json.loads(shown.stdout)


@NEEDS_GDAL
def test_gdalinfo_of_a_label_raster(tmp_path, request):
    where = grid(1500, 700)
    write_cog(tmp_path / "a.tif", where, CAFE="x")
    info = gdalinfo(tmp_path / "a.tif")
    band = info["bands"][0]
    assert info["metadata"]["IMAGE_STRUCTURE"]["LAYOUT"] == "COG"
    assert info["metadata"][""]["CAFE"] == "x"
    assert info["geoTransform"] == list(where.transform.to_gdal())
    assert (band["noDataValue"], band["block"], band["type"]) == (255, [512, 512], "Byte")
    assert [tuple(o["size"]) for o in band["overviews"]] == [(750, 350), (375, 175)]
    entries = band["colorTable"]["entries"]
    assert entries[1] == [0, 255, 0, 255]
    assert band["colorInterpretation"] == "Palette"
    text = subprocess.run(
        ["gdalinfo", tmp_path / "a.tif"], capture_output=True, text=True, check=True
    )
    assert "2: building" in text.stdout
    assert 'ID["EPSG",32632]' in text.stdout


def test_a_cog_holds_what_was_written(tmp_path):
    where = grid(1030, 513)
    values = write_cog(tmp_path / "a.tif", where)
    assert np.array_equal(read(tmp_path / "a.tif")[0], values)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["a.qml", "a.tif", "a.tif.aux.xml"]
    with open_raster(str(tmp_path / "a.tif")) as dataset:
        assert read_classes(dataset) == TABLE


def test_overviews_of_labels_are_labels(tmp_path):
    where = grid(1024, 1024)
    values = np.where(noise(1, where)[0] < 128, 0, 2).astype(np.uint8)
    with create_cog(tmp_path / "a.tif", where, False, TABLE) as dataset:
        dataset.write(values, 1)
    with rasterio.open(tmp_path / "a.tif", overview_level=0) as dataset:
        assert set(np.unique(dataset.read())) == {0, 2}


def test_what_is_never_written_is_nodata(tmp_path):
    with create_cog(tmp_path / "a.tif", grid(1100, 10), False, None) as dataset:
        dataset.write(np.full((1, 10, 5), 7, np.uint8), window=((0, 10), (0, 5)))
    values = read(tmp_path / "a.tif")[0]
    assert (values[:, :5] == 7).all()
    assert (values[:, 5:] == 255).all()


@NEEDS_GDAL
def test_names_are_escaped(tmp_path):
    classes = ClassTable((LandClass(0, "grass & <trees>"), LandClass(1, "Gebäude")))
    write_cog(tmp_path / "a.tif", grid(), classes)
    text = subprocess.run(
        ["gdalinfo", tmp_path / "a.tif"], capture_output=True, text=True, check=True
    )
    assert "0: grass & <trees>" in text.stdout
    assert "1: Gebäude" in text.stdout


def test_an_exception_leaves_nothing_behind(tmp_path):
    def fail():
        with create_cog(tmp_path / "a.tif", grid(), False, TABLE) as dataset:
            dataset.write(noise(1, grid()))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists_is_refused_and_left(tmp_path):
    path = tmp_path / "a.tif"
    path.write_text("old")
    with pytest.raises(OutputError, match="exists; pass --overwrite"):
        write_cog(path, grid())
    assert path.read_text() == "old"
    values = write_cog(path, grid(), overwrite=True)
    assert np.array_equal(read(path)[0], values)
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        write_cog(folder, grid(), overwrite=True)
    assert folder.is_dir()


def test_the_names_of_a_replaced_raster_go_with_it(tmp_path):
    path = tmp_path / "a.tif"
    write_cog(path, grid())
    write_cog(path, grid(), classes=None, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]
    with open_raster(str(path)) as dataset:
        assert read_classes(dataset) is None


@pytest.mark.parametrize("tag", ["{", "[{}]", "5", '[{"id": 3, "name": "a", "color": "#000000"}]'])
def test_a_damaged_class_table_is_named(write, tag):
    path = write("a.tif", noise(1, grid()), grid())
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(CLASSES=tag)
    with (
        open_raster(path) as dataset,
        pytest.raises(InputError, match=r"a\.tif: the CLASSES tag is damaged"),
    ):
        read_classes(dataset)


# Creation options


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"COMPRESS": "ZSTD", "LEVEL": "1"},
        {"compress": "deflate", "Predictor": "yes", "NUM_THREADS": "2"},
        {"OVERVIEWS": "NONE"},
        {"OVERVIEW_RESAMPLING": "nearest", "BLOCKSIZE": "256"},
        {"COMPRESS": "NONE", "BIGTIFF": "YES", "SPARSE_OK": "TRUE"},
    ],
    ids=str,
)
def test_creation_options(tmp_path, options):
    check_creation_options(options)
    values = noise(1, grid(600, 70))
    source = tmp_path / "a.tif"
    write_geotiff(source, values, grid(600, 70))
    convert_to_cog(source, tmp_path / "b.tif", "mode", options, tmp_path / "b.tif")
    assert np.array_equal(read(tmp_path / "b.tif"), values)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"TILED": "YES"}, "--co TILED=YES: choose from BIGTIFF, BLOCKSIZE, COMPRESS, "),
        ({"TILING_SCHEME": "GoogleMapsCompatible"}, "--co TILING_SCHEME=.*: choose from"),
        ({"COMPRESS": "JPEG"}, "--co COMPRESS=JPEG: it can be NONE, LZW, DEFLATE, ZSTD, LZMA$"),
        ({"compress": "a|b"}, r"--co compress=a\|b: it can be NONE"),
        ({"BLOCKSIZE": "x"}, "--co BLOCKSIZE=x: it can be 128, 256, 512, "),
        ({"LEVEL": "99"}, "--co LEVEL=99: it can be 1 to 22$"),
        ({"LEVEL": "²"}, "--co LEVEL=²: it can be"),
        ({"NUM_THREADS": "0"}, "--co NUM_THREADS=0: it can be ALL_CPUS, 1 to 999$"),
        ({"GEOTIFF_VERSION": "1x1"}, "it can be AUTO, 1.0, 1.1$"),
    ],
    ids=str,
)
def test_creation_options_that_cannot_be(options, says):
    with pytest.raises(ConfigError, match=says) as caught:
        check_creation_options(options)
    assert "\n" not in str(caught.value)


def test_a_codec_that_this_gdal_lacks(monkeypatch):
    def without(*_, **__):
        raise RasterioError("missing codec")

    monkeypatch.setattr(rasterio.shutil, "copy", without)
    with pytest.raises(ConfigError, match=r"--co COMPRESS=lzma: this GDAL cannot .* missing codec"):
        check_creation_options({"COMPRESS": "lzma"})


def test_a_codec_that_is_passed_over(monkeypatch):
    """GDAL warns, and compresses otherwise."""
    copy = rasterio.shutil.copy
    monkeypatch.setattr(rasterio.shutil, "copy", lambda a, b, **options: copy(a, b, driver="COG"))
    with pytest.raises(ConfigError, match=r"--co COMPRESS=zstd: .* it uses LZW instead"):
        check_creation_options({"COMPRESS": "zstd"})


def test_a_failure_names_the_output(tmp_path):
    (tmp_path / "a.vrt").write_text("<VRTDataset")
    with pytest.raises(OutputError, match=r"^cannot write [^']*map\.tif: "):
        convert_to_cog(tmp_path / "a.vrt", tmp_path / "b.tif", "mode", {}, tmp_path / "map.tif")


def test_class_tags(tmp_path):
    assert class_tags(None) == {}
    assert '"tree"' in class_tags(TABLE)["CLASSES"]
