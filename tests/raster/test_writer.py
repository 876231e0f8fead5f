"""Creation options; what is written is tested in test_raster.py."""

import numpy as np
import pytest
from rasterio.errors import RasterioError

from cafe_cli.errors import ConfigError, OutputError
from cafe_cli.raster.writer import (
    check_creation_options,
    class_tags,
    convert_to_cog,
    rasterio,
    write_geotiff,
)
from tests.support.rasters import TABLE, grid, noise, read


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
    with pytest.raises(ConfigError, match=r"--co COMPRESS=zstd: .* it takes LZW instead"):
        check_creation_options({"COMPRESS": "zstd"})


def test_a_failure_names_the_output(tmp_path):
    (tmp_path / "a.vrt").write_text("<VRTDataset")
    with pytest.raises(OutputError, match=r"^cannot write [^']*map\.tif: "):
        convert_to_cog(tmp_path / "a.vrt", tmp_path / "b.tif", "mode", {}, tmp_path / "map.tif")


def test_class_tags(tmp_path):
    assert class_tags(None) == {}
    assert '"tree"' in class_tags(TABLE)["CLASSES"]
